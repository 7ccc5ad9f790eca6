"""A decoder's graph and its slots: tokens at any positions, as torch computes them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from bench.byte_tokenizer import byte_tokenizer
from numpy.typing import NDArray
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

from speechprune_ort.contract.specs import DECODER, EMBED_TOKENS, ROTARY, Dimensions, graph_specs
from speechprune_ort.errors import ExportError
from speechprune_ort.export.decoder import export_decoder, require_windows
from speechprune_ort.export.embed_tokens import export_embed_tokens
from speechprune_ort.export.precision import plan
from speechprune_ort.export.rotary import export_rotary
from speechprune_ort.runtime.answering.decoder import Decoder
from speechprune_ort.runtime.answering.runs import Graphs
from speechprune_ort.runtime.ort.device import Device

TOLERANCE = 1e-4  # of logits of about 10
CONTEXT = 512
SCALINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "llama3": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": {"factor": 4.0},
}
SLIDING, WINDOW = "sliding", 6


def language_model(scaling: str = "default", head_dim: int = 16) -> PreTrainedModel:
    """A random Llama, its rotary embedding scaled; or a Mistral whose layers slide."""
    torch.manual_seed(0)
    slides = scaling == SLIDING
    scaling = "default" if slides else scaling
    rope = {"rope_theta": 10_000.0, "rope_type": scaling, **SCALINGS[scaling]}
    if scaling in ("llama3", "yarn"):
        rope["original_max_position_embeddings"] = 64
    cls: Any = MistralConfig if slides else LlamaConfig
    config = cls(
        vocab_size=260, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=head_dim, initializer_range=0.3,
        max_position_embeddings=CONTEXT, rope_parameters=rope, eos_token_id=1, bos_token_id=0,
        **({"sliding_window": WINDOW} if slides else {}),
    )  # fmt: skip
    causal: Any = MistralForCausalLM if slides else LlamaForCausalLM
    made: PreTrainedModel = causal(config).eval().requires_grad_(False)
    return made


def exported(model: PreTrainedModel, folder: Path) -> Decoder:
    """Its graphs, opened, with a cache of 40 positions."""
    dims = Dimensions(
        mel_bins=80, frames=3000, window_tokens=750, hidden=64, layers=2, heads=4, kv_heads=2,
        head_dim=model.config.head_dim, vocab=260, context=CONTEXT,
    )  # fmt: skip
    specs, chosen = graph_specs(dims, "float32"), plan("fp32", "cpu")
    paths = [folder / f"{name}.onnx" for name in (DECODER, EMBED_TOKENS, ROTARY)]
    tokenizer = byte_tokenizer(("<s>", "</s>"), eos_token="</s>", bos_token="<s>")
    export_decoder(model, tokenizer, chosen, "cpu", paths[0], folder / "work")
    export_embed_tokens(model.get_input_embeddings().weight, chosen, specs[EMBED_TOKENS], paths[1])
    export_rotary(model, CONTEXT, specs[ROTARY], paths[2])
    sessions = [ort.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in paths]
    return Decoder(Graphs(*sessions, Device("cpu"), dims, np.dtype("float32")), 40)


def by_torch(
    model: PreTrainedModel, embeds: NDArray[np.float32], ids: list[int], positions: list[int]
) -> NDArray[np.float32]:
    """(vocab,) logits behind a prompt and ids."""
    tail = model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))
    rows = torch.cat([torch.from_numpy(embeds), tail])[None]
    # Without a cache transformers takes gaps for the seams of packed sequences.
    out = model(inputs_embeds=rows, position_ids=torch.tensor([positions]), use_cache=True)
    logits: NDArray[np.float32] = out.logits[0, -1].numpy()
    return logits


@pytest.fixture(scope="module", params=(*SCALINGS, SLIDING))
def pair(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, Decoder]:
    model = language_model(request.param)
    return model, exported(model, tmp_path_factory.mktemp("decoder"))


def test_gaps_leaps_and_rewinds_are_turned_as_torch_turns_them(
    pair: tuple[PreTrainedModel, Decoder],
) -> None:
    model, decoder = pair
    random = np.random.default_rng(0)
    embeds = random.standard_normal((20, 64)).astype(np.float32)
    gaps = np.sort(random.choice(400, 20, replace=False))

    def same(found: NDArray[Any], ids: list[int], after: list[int]) -> None:
        wanted = by_torch(model, embeds, ids, [*gaps, *after])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)

    same(decoder.prefill(embeds, gaps), [], [])
    last = int(gaps[-1])
    # An answer goes on, leaps ahead, is taken back, and goes on at other positions.
    steps = [(5, last + 1), (9, last + 2), (7, last + 50), (8, last + 51)]
    for count, (token, position) in enumerate(steps, 1):
        found = decoder.step(token, position)
        same(found, [t for t, _ in steps[:count]], [p for _, p in steps[:count]])
    decoder.rewind(21)
    same(decoder.step(9, last + 2), [5, 9], [last + 1, last + 2])
    same(decoder.step(7, last + 3), [5, 9, 7], [last + 1, last + 2, last + 3])


def test_a_second_prompt_forgets_the_first_ones_positions(
    pair: tuple[PreTrainedModel, Decoder],
) -> None:
    model, decoder = pair
    embeds = np.random.default_rng(1).standard_normal((12, 64)).astype(np.float32)
    decoder.prefill(embeds, np.arange(100, 112))
    decoder.prefill(embeds, np.arange(0, 36, 3))
    for token, position in ((3, 34), (4, 35)):
        logits = decoder.step(token, position)
    wanted = by_torch(model, embeds, [3, 4], [*range(0, 36, 3), 34, 35])
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=TOLERANCE)


def test_a_prompt_that_is_read_in_blocks_is_what_torch_reads_at_once(
    pair: tuple[PreTrainedModel, Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, decoder = pair
    random = np.random.default_rng(4)
    embeds = random.standard_normal((20, 64)).astype(np.float32)
    gaps = np.sort(random.choice(400, 20, replace=False))
    read: list[int] = []
    runs = decoder._runs
    take = runs.read

    def reading(block: NDArray[Any], row: int, length: int) -> NDArray[np.float32]:
        read.append(len(block))
        return take(block, row, length)

    monkeypatch.setattr(runs, "read", reading)
    monkeypatch.setattr("speechprune_ort.runtime.answering.decoder.BLOCK", 7)
    found = decoder.prefill(embeds, gaps).copy()
    assert read == [7, 7, 6]  # as even as can be: one of few tokens would be as dear as any
    np.testing.assert_allclose(found, by_torch(model, embeds, [], [*gaps]), rtol=0, atol=TOLERANCE)
    last = int(gaps[-1])
    found = decoder.step(5, last + 1)
    wanted = by_torch(model, embeds, [5], [*gaps, last + 1])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)
    assert decoder.length == 21


def test_an_answer_may_end_at_the_models_last_position_and_not_behind_it(
    pair: tuple[PreTrainedModel, Decoder],
) -> None:
    model, decoder = pair
    embeds = np.random.default_rng(2).standard_normal((4, 64)).astype(np.float32)
    at = list(range(CONTEXT - 5, CONTEXT - 1))
    decoder.prefill(embeds, np.array(at))
    found = decoder.step(3, CONTEXT - 1)
    wanted = by_torch(model, embeds, [3], [*at, CONTEXT - 1])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)
    with pytest.raises(ValueError, match="the model has 512 positions"):
        decoder.step(3, CONTEXT)
    assert decoder.length == 5


def test_a_layer_has_one_product_for_queries_keys_and_values(tmp_path: Path) -> None:
    exported(language_model(), tmp_path)
    nodes = ir.load(tmp_path / f"{DECODER}.onnx").graph.all_nodes()
    counts = Counter(node.op_type for node in nodes)
    assert counts["GroupQueryAttention"] == 2
    # Beside it: out of attention, gate, up and down; and the head once.
    assert counts["MatMul"] == 2 * 5 + 1
    assert "RotaryEmbedding" not in counts


def test_a_window_counts_slots_whatever_the_positions(tmp_path: Path) -> None:
    model = language_model(SLIDING)
    decoder = exported(model, tmp_path)
    random = np.random.default_rng(4)
    embeds = random.standard_normal((20, 64)).astype(np.float32)
    # Two layers see twice as far, each a token's own slot and those right before it.
    furthest = 19 - 2 * (WINDOW - 1)
    for positions in (np.arange(20), np.arange(20) * 20):
        before = decoder.prefill(embeds, positions).copy()
        for slot, seen in ((furthest - 1, False), (furthest, True)):
            changed = embeds.copy()
            changed[slot] += 1
            after = decoder.prefill(changed, positions)
            assert (np.abs(after - before).max() > TOLERANCE) == seen
            np.testing.assert_allclose(
                after, by_torch(model, changed, [], positions.tolist()), rtol=0, atol=TOLERANCE
            )


def test_a_layer_whose_window_the_builder_left_out_is_refused(tmp_path: Path) -> None:
    exported(language_model(), tmp_path)
    graph = ir.load(tmp_path / f"{DECODER}.onnx")
    require_windows(graph, (None, None))
    for windows in ((WINDOW, None), (None,)):
        with pytest.raises(ExportError, match="gave the layers sliding windows of"):
            require_windows(graph, windows)


def test_rows_of_a_batch_are_what_each_is_alone(
    pair: tuple[PreTrainedModel, Decoder],
) -> None:
    model, alone = pair
    random = np.random.default_rng(3)
    prompts = [random.standard_normal((size, 64)).astype(np.float32) for size in (9, 14, 9, 1)]
    # The third lies in the slots of the first at other positions; the fourth leaps.
    places = [
        [*range(9)],
        [*range(0, 42, 3)],
        [*range(20, 29)],
        [77],
    ]
    said: list[list[int]] = [[], [], [], []]
    decoder = alone
    decoder.grow(4, 40)

    def same(found: NDArray[Any], row: int) -> None:
        wanted = by_torch(model, prompts[row], said[row], places[row])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE)

    def step(*tokens: tuple[int, int]) -> None:
        for row, token in tokens:
            said[row].append(token)
            places[row].append(places[row][-1] + 1)
        found = decoder.steps({row: (token, places[row][-1]) for row, token in tokens})
        assert set(found) == {row for row, _ in tokens}
        for row, _ in tokens:
            same(found[row], row)

    for row in (0, 1):
        same(decoder.prefill(prompts[row], np.array(places[row]), row), row)
    step((0, 5), (1, 6))
    for row in (2, 3):  # in mid-flight, while the others wait
        same(decoder.prefill(prompts[row], np.array(places[row]), row), row)
    step((2, 9))
    step((0, 7), (1, 8), (2, 9), (3, 4))
    step((1, 3), (3, 2))
    for row, count in ((0, 1), (3, 2)):  # taken back, and said otherwise
        decoder.rewind(len(prompts[row]) + len(said[row]) - count, row)
        said[row], places[row] = said[row][:-count], places[row][:-count]
    step((0, 30), (1, 31), (2, 32), (3, 33))
    decoder.grow(5, 60)
    prompts.append(prompts[1])
    said.append([])
    places.append(places[1][:14])
    decoder.copy(1, 4, 14)  # a prompt that was read is not read again
    step((4, 40), (1, 41))
    decoder.release(1)
    step((0, 11), (2, 12), (3, 13), (4, 14))
    assert decoder.lengths == (12, 0, 13, 3, 16)
    decoder.release(0)
    decoder.release(2)
    decoder.release(3)
    decoder.release(4)
