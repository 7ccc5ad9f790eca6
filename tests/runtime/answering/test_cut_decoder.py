"""A cut decoder: what it drops, and that the rest is computed as torch computes it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from bench.byte_tokenizer import byte_tokenizer
from cut_reference import attended, logits_behind_a_cut
from numpy.typing import NDArray
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from speechprune_ort.contract.specs import (
    DECODER,
    DECODER_LOWER,
    DECODER_UPPER,
    EMBED_TOKENS,
    ROTARY,
    Dimensions,
    graph_specs,
)
from speechprune_ort.errors import ExportError
from speechprune_ort.export.checkpoint_config import check_cut
from speechprune_ort.export.cut_decoder import lower_half, upper_half
from speechprune_ort.export.decoder import Part, export_decoder, logits_of
from speechprune_ort.export.embed_tokens import export_embed_tokens
from speechprune_ort.export.precision import plan
from speechprune_ort.export.rotary import export_rotary, rotary_rows
from speechprune_ort.runtime.answering.cut_decoder import CutDecoder
from speechprune_ort.runtime.answering.decoder import Decoder
from speechprune_ort.runtime.answering.runs import Graphs
from speechprune_ort.runtime.ort.device import Device
from speechprune_ort.runtime.ort.stream import Stream

LAYERS, CONTEXT, TOKENS, ROOM = 3, 256, 40, 8
DIMS = Dimensions(
    mel_bins=80, frames=3000, window_tokens=750, hidden=64, layers=LAYERS, heads=4, kv_heads=2,
    head_dim=16, vocab=260, context=CONTEXT,
)  # fmt: skip
DEVICE = Device("cpu")


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    """A random Qwen2, the language model of Qwen2-Audio: grouped heads and biases."""
    torch.manual_seed(3)
    config = Qwen2Config(
        vocab_size=260, hidden_size=64, intermediate_size=96, num_hidden_layers=LAYERS,
        num_attention_heads=4, num_key_value_heads=2, initializer_range=0.3,
        max_position_embeddings=CONTEXT, eos_token_id=1, bos_token_id=0,
    )  # fmt: skip
    made: PreTrainedModel = Qwen2ForCausalLM(config).eval().requires_grad_(False)
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(std=0.3)
    return made


def written(model: PreTrainedModel, folder: Path, after: int, precision: str = "fp32") -> Any:
    """Specs of the graphs of a model whose decoder is cut, once they are written to a folder."""
    chosen = plan(precision, "cpu")
    specs = graph_specs(DIMS, "float32", cut_after=after)
    tokenizer = byte_tokenizer(("<s>", "</s>"), eos_token="</s>", bos_token="<s>")
    whole = folder / f"{DECODER}.onnx"
    export_decoder(model, tokenizer, chosen, "cpu", whole, folder / "work")
    lower = ir.load(whole)
    half = lower_half(lower.graph, specs[DECODER_LOWER])
    ir.save(ir.Model(half, ir_version=lower.ir_version), folder / f"{DECODER_LOWER}.onnx")
    upper = ir.load(whole)
    half = upper_half(upper.graph, specs[DECODER_UPPER], LAYERS)
    ir.save(ir.Model(half, ir_version=upper.ir_version), folder / f"{DECODER_UPPER}.onnx")
    return specs


def opened(folder: Path, name: str) -> ort.InferenceSession:
    return ort.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module", params=[1, 2])
def engine(request: Any, model: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a cut decoder takes of an engine."""
    folder = tmp_path_factory.mktemp("cut")
    specs = written(model, folder, request.param)
    table = model.get_input_embeddings().weight
    path = folder / f"{EMBED_TOKENS}.onnx"
    export_embed_tokens(table, plan("fp32", "cpu"), specs[EMBED_TOKENS], path)
    export_rotary(model, CONTEXT, specs[ROTARY], folder / f"{ROTARY}.onnx")
    names = (DECODER, DECODER_LOWER, DECODER_UPPER, EMBED_TOKENS, ROTARY)
    sessions = {name: opened(folder, name) for name in names}
    manifest = SimpleNamespace(
        dimensions=DIMS, float_dtype="float32", cache_dtype="float32", cut_after=request.param
    )
    return SimpleNamespace(
        manifest=manifest,
        device=DEVICE,
        stream=Stream(),
        session=sessions.__getitem__,
        folder=folder,
    )


def prompt(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((TOKENS, 64)).astype(np.float32)


def same(found: NDArray[Any], wanted: NDArray[Any]) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_with_nothing_dropped_it_is_the_whole_decoder(engine: Any) -> None:
    sessions = (engine.session(name) for name in (DECODER, EMBED_TOKENS, ROTARY))
    whole = Decoder(Graphs(*sessions, DEVICE, DIMS, np.dtype("float32")), TOKENS + ROOM)
    cut, every, embeds = CutDecoder(engine, ROOM), np.arange(TOKENS), prompt(0)
    cut.read(embeds, TOKENS)
    cut.keep(every, every)
    same(cut.prefill(), whole.prefill(embeds, every))
    for step, token in enumerate((5, 9, 200)):
        same(cut.step(token, TOKENS + step), whole.step(token, TOKENS + step))


def test_the_attention_is_that_of_the_last_position(engine: Any, model: PreTrainedModel) -> None:
    after = engine.manifest.cut_after
    found = CutDecoder(engine, ROOM).read(prompt(1), TOKENS)
    np.testing.assert_allclose(found, attended(model, after, prompt(1)), rtol=1e-4, atol=1e-7)
    assert found.sum() == pytest.approx(1, abs=1e-5)
    assert found.max() > 2 * np.median(found), "even attention would prove nothing"


@pytest.mark.parametrize("original", [False, True], ids=["renumbered", "original"])
def test_what_is_dropped_reaches_no_layer_above(
    engine: Any, model: PreTrainedModel, original: bool
) -> None:
    after, embeds = engine.manifest.cut_after, prompt(2)
    cut = CutDecoder(engine, ROOM)
    attention = cut.read(embeds, TOKENS)
    # The first and last tokens are text.
    audio = np.arange(6, TOKENS - 5)
    best = audio[np.sort(np.argsort(-attention[audio], kind="stable")[:10])]
    kept = np.concatenate([np.arange(6), best, np.arange(TOKENS - 5, TOKENS)])
    positions = kept if original else np.arange(len(kept))
    cut.keep(kept, positions)

    ids: list[int] = []
    logits = cut.prefill()
    for _ in range(ROOM):
        same(logits, logits_behind_a_cut(model, after, embeds, kept, positions, ids))
        ids.append(int(logits.argmax()))
        logits = cut.step(ids[-1], int(positions[-1]) + len(ids))
    assert len(set(ids)) > 2, "these weights repeat themselves: they would prove little"

    # Taken back to the prompt, it answers again; the prompt itself stays.
    cut.rewind(len(kept))
    assert cut.length == len(kept)
    same(
        cut.step(7, int(positions[-1]) + 1),
        logits_behind_a_cut(model, after, embeds, kept, positions, [7]),
    )
    with pytest.raises(ValueError, match="cannot be taken back"):
        cut.rewind(len(kept) - 1)
    with pytest.raises(ValueError, match="holds 22 positions, not 23"):
        cut.rewind(len(kept) + 2)


def test_no_more_is_read_than_there_is_room_for(engine: Any) -> None:
    cut = CutDecoder(engine, 1)
    with pytest.raises(ValueError, match="has not read a prompt"):
        cut.prefill()
    with pytest.raises(ValueError, match="has not been read"):
        cut.step(1, 1)
    cut.read(prompt(0), TOKENS)
    cut.keep(np.arange(TOKENS), np.arange(TOKENS))
    cut.prefill()
    cut.step(1, TOKENS)
    with pytest.raises(ValueError, match=f"holds {TOKENS + 1} positions, not {TOKENS + 2}"):
        cut.step(1, TOKENS + 1)
    with pytest.raises(ValueError, match=f"the model has {CONTEXT} positions"):
        CutDecoder(engine, 1).read(np.resize(prompt(0), (CONTEXT + 1, 64)), CONTEXT + 1)


@pytest.mark.parametrize("precision", ["fp16", "int8", "w8a8", "int4"])
def test_halves_compute_in_the_precision_of_the_whole(
    precision: str, model: PreTrainedModel, tmp_path: Path
) -> None:
    specs = written(model, tmp_path, 1, precision)
    turned = rotary_rows(model, np.arange(TOKENS + 2), "float32")
    answer = prompt(4)[:2]

    def logits(*names: str) -> NDArray[np.float32]:
        parts = [Part(opened(tmp_path, name), specs[name]) for name in names]
        return logits_of(parts, prompt(3), turned, answer)

    whole, halves = logits(DECODER), logits(DECODER_LOWER, DECODER_UPPER)
    np.testing.assert_allclose(halves, whole, rtol=0, atol=1e-3 * np.abs(whole).max())


HALVES = (DECODER_LOWER, DECODER_UPPER)


def test_halves_have_no_weights_of_their_own(engine: Any) -> None:
    sizes = {path.name: path.stat().st_size for path in engine.folder.glob("decoder*")}
    assert set(sizes) == {"decoder.onnx", "decoder.onnx.data", *(f"{n}.onnx" for n in HALVES)}
    weights = sizes.pop("decoder.onnx.data")
    assert weights > 200_000
    assert all(size < 60_000 for size in sizes.values())


def test_a_cut_leaves_layers_above_it() -> None:
    check_cut(None, (8, None))
    check_cut(1, (None, 8))
    with pytest.raises(ExportError, match=r"--cut-after 2 leaves no layer above .* at most 1"):
        check_cut(2, (None, None))
    with pytest.raises(ExportError, match=r"--cut-after 1 cuts behind a layer with a sliding"):
        check_cut(1, (8, None))


@pytest.mark.parametrize(
    ("name", "value"), [("local_window_size", 8), ("softcap", 30.0)], ids=["window", "softcap"]
)
def test_an_attention_that_cannot_be_computed_again_is_refused(
    name: str, value: float, engine: Any
) -> None:
    graph = ir.load(engine.folder / f"{DECODER}.onnx").graph
    for node in graph:
        if node.op_type == "GroupQueryAttention":
            made = ir.AttrFloat32 if isinstance(value, float) else ir.AttrInt64
            node.attributes[name] = made(name, value)  # type: ignore[operator]
    spec = graph_specs(DIMS, "float32", cut_after=1)[DECODER_LOWER]
    with pytest.raises(ExportError, match=rf"--cut-after does not know \({name}\)"):
        lower_half(graph, spec)
