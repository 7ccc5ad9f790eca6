"""Text models behind the families: each is exact, or refused by the name of what is not known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from paths import ROOT
from references import RATE, greedy_ids, pruned_ids, until_stop
from tiny_audio_flamingo3 import opened, write
from transformers import (
    GemmaConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)
from typer.testing import CliRunner

from speechprune_ort import PruningOptions, SpeechLLM, UnsupportedModelError
from speechprune_ort.cli.app import app
from speechprune_ort.contract.specs import graph_specs
from speechprune_ort.export import decoder, rotary
from speechprune_ort.export.checkpoint_config import ROTARY
from speechprune_ort.export.families import FAMILIES, load_checkpoint
from speechprune_ort.export.first_layer_qk import BinaryProjection, FloatProjection
from speechprune_ort.export.pipeline import export_bundle
from speechprune_ort.export.precision import plan
from speechprune_ort.export.rotary import rotary_rows
from speechprune_ort.export.work import Work, export_graph

QUESTION = "Who owns the budget?"
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    # Small, so that frequencies of this size of head fall on both sides and between.
    "original_max_position_embeddings": 256,
}
GRANITE = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.4,
    "residual_multiplier": 0.6,
    "logits_scaling": 4.0,
}
KNOWN: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama3-rotary": (LlamaConfig, {"rope_parameters": LLAMA3}),
    "qwen3": (Qwen3Config, {"head_dim": 48}),
    "mistral": (MistralConfig, {"head_dim": 16, "sliding_window": None}),
    "granite": (GraniteConfig, GRANITE),
}


@pytest.fixture(scope="module", params=KNOWN)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    text, changes = KNOWN[request.param]
    return write(tmp_path_factory.mktemp(request.param) / "checkpoint", text, **changes)


def test_a_known_text_model_answers_as_transformers(
    checkpoint: Path, tmp_path: Path, tone: NDArray[np.float32]
) -> None:
    export_bundle(str(checkpoint), tmp_path / "bundle")
    model, reference = SpeechLLM(tmp_path / "bundle", "cpu"), opened(checkpoint)
    samples = tone[: 41 * RATE]
    expected = greedy_ids(reference, samples, QUESTION, 32)
    stops = model.manifest.stop_token_ids
    options = {"sampling_rate": RATE, "max_new_tokens": 32}
    found = model.ask(samples, QUESTION, method="none", **options)
    assert list(found.token_ids) == until_stop(expected, stops)
    assert len(set(expected)) >= 8
    pruning = PruningOptions(method="speechprune", pruning_rate=0.5, positions="original")
    kept = model.listen(samples, sampling_rate=RATE).prune(QUESTION, pruning).indices.tolist()
    expected = pruned_ids(reference, samples, QUESTION, kept, True, 32)
    found = model.ask(
        samples,
        QUESTION,
        method="speechprune",
        pruning_rate=0.5,
        positions="original",
        **options,
    )
    assert list(found.token_ids) == until_stop(expected, stops)


def test_phase_2_reads_the_first_layer_as_the_model_computes_it(checkpoint: Path) -> None:
    loaded = load_checkpoint(str(checkpoint), None, False)
    language_model, dims = loaded.language_model, loaded.dimensions
    attention = language_model.model.layers[0].self_attn
    seen: dict[str, torch.Tensor] = {}

    def remember(name: str) -> Any:
        return lambda _, __, out: seen.__setitem__(name, out.detach())

    for name in ("q", "k"):
        part = getattr(attention, f"{name}_norm", None) or getattr(attention, f"{name}_proj")
        part.register_forward_hook(remember(name))
    embeds = torch.randn(1, 40, dims.hidden)
    with torch.no_grad():
        language_model(inputs_embeds=embeds)
        query, key = FloatProjection(language_model, dims)(embeds[0])
    expected = {name: value.reshape(40, -1, dims.head_dim) for name, value in seen.items()}
    # Where the runtime divides by sqrt(head_dim), the model multiplies by a number of its own.
    torch.testing.assert_close(query / dims.head_dim**0.5, expected["q"] * attention.scaling)
    torch.testing.assert_close(key, expected["k"])


def test_signs_of_a_norm_of_the_heads_are_folded_in(tmp_path: Path) -> None:
    text, changes = KNOWN["qwen3"]
    folder = write(tmp_path / "checkpoint", text, **changes)
    language_model = load_checkpoint(str(folder), None, False).language_model
    attention = language_model.model.layers[0].self_attn
    before = BinaryProjection.of(language_model)
    with torch.no_grad():
        attention.q_norm.weight[::3] *= -1
        attention.k_norm.weight[1] *= -1
    after = BinaryProjection.of(language_model)
    for name, width in (("query", 4), ("key", 2)):
        old, new = (
            getattr(binary, name).reshape(-1, width, attention.head_dim)
            for binary in (before, after)
        )
        turned = np.arange(attention.head_dim) % 3 == 0
        if name == "key":
            turned = np.arange(attention.head_dim) == 1
        np.testing.assert_array_equal(new, np.where(turned, -old, old))


REFUSED: dict[str, tuple[type[PreTrainedConfig], dict[str, Any], str]] = {
    "gemma": (GemmaConfig, {"head_dim": 16}, "text model of .* is 'gemma'"),
    "proportional rotary": (
        LlamaConfig,
        {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1e4}},
        "rotary embeddings of type 'proportional'",
    ),
    "rotary of a part of each head": (
        LlamaConfig,
        {"partial_rotary_factor": 0.5},
        "rotates 0.5 of each head",
    ),
    "heads of 24": (LlamaConfig, {"head_dim": 24}, "are 24 wide"),
    "sliding window of llama": (
        LlamaConfig,
        {"sliding_window": 128},
        "sliding_window .* transformers' llama does not have",
    ),
    "gelu": (LlamaConfig, {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
}


SCALED: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama3": (LlamaConfig, LLAMA3 | {"original_max_position_embeddings": 32}),
    "linear": (Qwen2Config, {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}),
    "yarn": (
        Qwen2Config,
        {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 8.0,
            "original_max_position_embeddings": 32,
        },
    ),
    "dynamic": (Qwen3Config, {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}),
    "longrope": (
        LlamaConfig,
        {
            "rope_type": "longrope",
            "rope_theta": 1e4,
            "factor": 16.0,
            "short_factor": [1.0 + 0.1 * i for i in range(8)],
            "long_factor": [2.0 + 3.0 * i for i in range(8)],
            "original_max_position_embeddings": 512,
        },
    ),
}
"""Rotary embeddings, the prompts of the test longer than what the model was first trained on, where
that changes nothing but the angles."""


@pytest.mark.parametrize("kind", SCALED)
def test_a_scaled_rotary_embedding_is_torchs(tmp_path: Path, kind: str) -> None:
    text, rope = SCALED[kind]
    head = {} if text is LlamaConfig or text is Qwen2Config else {"head_dim": 16}
    folder = write(tmp_path / "checkpoint", text, rope_parameters=rope, **head)
    loaded = load_checkpoint(str(folder), None, False)
    assert loaded.language_model.config.rope_parameters["rope_type"] == kind
    whole = loaded.dimensions.context == 8192
    assert whole == (kind != "longrope")
    assert any("512 positions of 8192" in note for note in loaded.notes) == (not whole)
    chosen = plan("fp32", "cpu")
    work = Work(loaded, chosen, "cpu")
    work.embeds["speech"] = work.random.normal(size=(60, 64)).astype(np.float32)
    specs = graph_specs(loaded.dimensions, chosen.float_dtype, True, False)
    for graph in (rotary.GRAPH, decoder.GRAPH):
        # The verification of every export: logits beyond the first length, gaps in positions.
        row = export_graph(graph, work, specs[graph.name], tmp_path)
        assert row.entry.parity
        assert row.entry.unverified is None
    turned = rotary_rows(loaded.language_model, np.arange(300), "float32")
    plain = (1e4 ** (-np.arange(0, 16, 2) / 16))[None] * np.arange(300)[:, None]
    same = np.allclose(turned["cos"], np.cos(plain), atol=1e-4)
    assert same == (kind == "dynamic"), "the scaling changes nothing: it would prove little"


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_of_a_text_model_is_named(tmp_path: Path, name: str) -> None:
    text, changes, message = REFUSED[name]
    folder = write(tmp_path / "checkpoint", text, **changes)
    with pytest.raises(UnsupportedModelError, match=message):
        load_checkpoint(str(folder), None, False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dither": 0.1}, "dither 0.1"),
        ({"chunk_length": 20}, "frames in chunk_length 2000"),
        ({"hop_length": 80}, "frames in chunk_length 6000"),
        ({"do_normalize": True}, "do_normalize True"),
    ],
)
def test_features_that_the_runtime_would_make_otherwise_are_named(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = write(tmp_path / "checkpoint")
    path = folder / "processor_config.json"
    content = json.loads(path.read_text())
    content["feature_extractor"] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(UnsupportedModelError, match=message):
        load_checkpoint(str(folder), None, False)


def test_every_family_is_listed_with_what_was_checked() -> None:
    listed = json.loads(CliRunner().invoke(app, ["families", "--json"]).stdout)
    assert {row["architecture"] for row in listed["families"]} == set(FAMILIES)
    assert all(row["checked"] and row["tokens_per_second"] for row in listed["families"])
    assert listed["text_models"]["llama"] == list(ROTARY)
    shown = CliRunner().invoke(app, ["families"], env={"COLUMNS": "200"}).stdout
    assert all(architecture in shown for architecture in FAMILIES)
    page = (ROOT / "docs" / "reference" / "families.md").read_text(encoding="utf-8")
    assert all(f"`{architecture}`" in page for architecture in FAMILIES), "docs lack a family"
