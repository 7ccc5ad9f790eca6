"""Export of weights that are not all in memory in float32: same graphs, same answers."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from tiny import TINY, write_checkpoint
from transformers import AutoProcessor, LlamaConfig, LlamaForCausalLM
from transformers import Qwen2AudioForConditionalGeneration as Qwen2Audio

from speechprune_ort import SpeechLLM
from speechprune_ort.contract.specs import graph_specs
from speechprune_ort.export import decoder
from speechprune_ort.export.course import SEAL, Sizes, seconds_of
from speechprune_ort.export.families import load_checkpoint
from speechprune_ort.export.memory import (
    MappedWeights,
    give_back_memory,
    in_float32,
    libraries_left_out,
)
from speechprune_ort.export.pipeline import export_bundle
from speechprune_ort.export.precision import plan
from speechprune_ort.export.quantize import quantize_matmuls, quantize_with_activations
from speechprune_ort.export.work import Work, export_graph

HIDDEN, INNER, ROWS, BLOCK = 64, 96, 5, 32


def two_products(random: np.random.Generator) -> ir.Model:
    """(rows, 64) through two constant matrices, the second of a width that no block divides."""

    def constant(name: str, *shape: int) -> ir.Value:
        tensor = ir.tensor(random.standard_normal(shape).astype(np.float32), name=name)
        return ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape,
                        const_value=tensor)  # fmt: skip

    wide = ir.TensorType(ir.DataType.FLOAT)
    source = ir.Value(name="x", type=wide, shape=ir.Shape(["rows", HIDDEN]))
    weights = [constant("up", HIDDEN, INNER + 8), constant("down", INNER + 8, 16)]
    first = ir.node("MatMul", [source, weights[0]], name="first")
    second = ir.node("MatMul", [first.outputs[0], weights[1]], name="second")
    out = second.outputs[0]
    out.name, out.type, out.shape = "y", wide, ir.Shape(["rows", 16])
    graph = ir.Graph([source], [out], nodes=[first, second], initializers=weights,
                     opset_imports={"": 20}, name="products")  # fmt: skip
    return ir.Model(graph, ir_version=10)


def run(model: ir.Model, x: NDArray[np.float32]) -> NDArray[np.float32]:
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: NDArray[np.float32] = session.run(None, {"x": x})[0]
    return found


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_matrices_are_quantized_as_onnxruntime_does(
    bits: int, symmetric: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("speechprune_ort.export.quantize.COLUMNS", 40)  # of 104
    x = np.random.default_rng(1).standard_normal((ROWS, HIDDEN)).astype(np.float32)
    theirs = MatMulNBitsQuantizer(
        ir.to_proto(two_products(np.random.default_rng(0))),
        bits=bits, block_size=BLOCK, is_symmetric=symmetric, accuracy_level=4,
    )  # fmt: skip
    theirs.process()
    ours = quantize_matmuls(
        two_products(np.random.default_rng(0)),
        bits, block_size=BLOCK, is_symmetric=symmetric, accuracy_level=4,
    )  # fmt: skip
    assert {node.op_type for node in ours.graph} == {"MatMulNBits"}
    np.testing.assert_array_equal(run(ours, x), run(ir.from_proto(theirs.model.model), x))


def test_activations_of_8_bits_stay_near_the_product() -> None:
    x = np.random.default_rng(1).standard_normal((ROWS, HIDDEN)).astype(np.float32)
    model = two_products(np.random.default_rng(0))
    expected = run(model, x)
    quantize_with_activations(model, leave=("second",))
    first, second = model.graph
    assert (first.op_type, second.op_type) == ("DynamicQuantizeMatMul", "MatMul")
    assert model.graph.initializers["up_int8"].dtype == ir.DataType.INT8
    found = run(model, x)
    assert np.abs(found - expected).max() < 0.02 * np.abs(expected).max()
    assert np.abs(found - expected).max() > 0


def test_some_matrices_are_left_or_take_another_width() -> None:
    model = quantize_matmuls(
        two_products(np.random.default_rng(0)),
        4, block_size=BLOCK, accuracy_level=4, bits_of={"second": 8}, leave=("first",),
    )  # fmt: skip
    left, changed = model.graph
    assert left.op_type == "MatMul"
    assert changed.attributes["bits"].as_int() == 8
    assert "up" in model.graph.initializers
    assert "down" not in model.graph.initializers


def half_and_wide() -> tuple[Any, Any]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, initializer_range=0.3,
    )  # fmt: skip
    narrow = LlamaForCausalLM(config).eval()
    for values in narrow.parameters():
        values.data = values.data.to(torch.bfloat16)
    wide = LlamaForCausalLM(config).eval()
    wide.load_state_dict({n: v.float() for n, v in narrow.state_dict().items()})
    return narrow, wide


def test_narrow_weights_compute_in_float32() -> None:
    narrow, wide = half_and_wide()
    before = {name: values.data_ptr() for name, values in narrow.named_parameters()}
    embeds = torch.randn(1, 7, 32)
    with torch.no_grad(), in_float32(narrow):
        found = narrow(inputs_embeds=embeds).logits
    with torch.no_grad():
        torch.testing.assert_close(found, wide(inputs_embeds=embeds).logits)
    assert {p.dtype for p in narrow.parameters()} == {torch.bfloat16}
    assert {name: values.data_ptr() for name, values in narrow.named_parameters()} == before


def resident_bytes() -> int:
    """Of files, in our memory."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.partition("RssFile:")[2].split()[0])


def test_mapped_weights_are_let_go_and_read_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=20_000, hidden_size=512, intermediate_size=64,
                         num_hidden_layers=1, num_attention_heads=2)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path, dtype="auto")
    model.lm_head = torch.nn.Linear(512, 5000)  # in memory of its own
    mapped = MappedWeights(model)
    assert 0 < len(mapped) < len(list(model.parameters()))
    before = {name: values.clone() for name, values in model.named_parameters()}
    full = resident_bytes()
    mapped.let_go(model)
    assert full - resident_bytes() > 0.9 * model.model.embed_tokens.weight.nbytes
    for name, values in model.named_parameters():
        torch.testing.assert_close(values, before[name], rtol=0, atol=0)


def test_weights_that_were_changed_stay(tmp_path: Path) -> None:
    narrow, _ = half_and_wide()
    narrow.save_pretrained(tmp_path)
    model = LlamaForCausalLM.from_pretrained(tmp_path, dtype="auto")
    with torch.no_grad():
        for values in model.parameters():
            values.add_(1)
    before = {name: values.clone() for name, values in model.named_parameters()}
    MappedWeights(model).let_go(model)
    for name, values in model.named_parameters():
        torch.testing.assert_close(values, before[name], rtol=0, atol=0)


def test_weights_are_put_back_after_an_error() -> None:
    narrow, _ = half_and_wide()
    with pytest.raises(RuntimeError), torch.no_grad(), in_float32(narrow):
        narrow(inputs_embeds=torch.randn(1, 7, 31))
    assert {p.dtype for p in narrow.parameters()} == {torch.bfloat16}
    assert not any(part._forward_pre_hooks for part in narrow.modules())


@pytest.fixture(scope="module")
def half_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint stored in bfloat16, as large ones are."""
    folder = tmp_path_factory.mktemp("half")
    wide = write_checkpoint(folder / "wide", TINY[4])
    model = Qwen2Audio.from_pretrained(wide, dtype=torch.bfloat16)
    model.save_pretrained(folder / "half")
    AutoProcessor.from_pretrained(wide).save_pretrained(folder / "half")
    return folder / "half"


def test_a_checkpoint_stays_in_the_dtype_in_which_it_is_stored(half_checkpoint: Path) -> None:
    checkpoint = load_checkpoint(str(half_checkpoint), None, False)
    assert {p.dtype for p in checkpoint.language_model.parameters()} == {torch.bfloat16}


def test_a_checkpoint_in_half_precision_answers_as_in_float32(
    half_checkpoint: Path, tmp_path: Path, tone: NDArray[np.float32]
) -> None:
    export_bundle(str(half_checkpoint), tmp_path / "bundle")
    samples = tone[: 12 * 16_000]
    processor = AutoProcessor.from_pretrained(half_checkpoint)
    model = Qwen2Audio.from_pretrained(half_checkpoint, dtype=torch.float32).eval()
    content = [{"type": "audio", "audio_url": "x"}, {"type": "text", "text": "Who?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    inputs = processor(text=text, audio=[samples], sampling_rate=16_000, return_tensors="pt")
    expected = model.generate(**inputs, max_new_tokens=16, do_sample=False)
    ids = expected[0, inputs["input_ids"].shape[1] :].tolist()
    ours = SpeechLLM(tmp_path / "bundle", "cpu")
    answer = ours.ask(samples, "Who?", sampling_rate=16_000, method="none", max_new_tokens=16)
    stops = set(ours.manifest.stop_token_ids)
    assert list(answer.token_ids) == [i for i in ids if i not in stops]


def test_a_verification_reads_every_layer_once(half_checkpoint: Path, tmp_path: Path) -> None:
    # A large model's layers come from disk and are widened: that is what its verification costs.
    checkpoint = load_checkpoint(str(half_checkpoint), None, False)
    seen: list[torch.Size] = []
    for layer in checkpoint.language_model.model.layers:
        layer.register_forward_hook(lambda _, __, out: seen.append(out.shape))
    work = Work(checkpoint, plan("fp32", "cpu"), "cpu")
    heard = work.random.normal(size=(33, checkpoint.dimensions.hidden))
    work.embeds["speech"] = heard.astype(np.float32)
    spec = graph_specs(checkpoint.dimensions, work.plan.float_dtype, True, False)["decoder"]
    row = export_graph(decoder.GRAPH, work, spec, tmp_path)
    assert len(seen) == checkpoint.dimensions.layers
    assert {shape[0] for shape in seen} == {4}  # two prompts, with and without a gap
    assert {figure.case.split(":")[0] for figure in row.entry.parity} == {
        "prompt with random ids",
        "prompt with random ids, gapped positions",
        "prompt with speech",
        "prompt with speech, gapped positions",
    }


def test_attention_that_is_not_given_out_is_not_computed(half_checkpoint: Path) -> None:
    # Frames times frames of every head: in verification of large encoders, more than their layers.
    encoder: Any = load_checkpoint(str(half_checkpoint), None, False).audio_encoder.float()
    projected: list[torch.Size] = []
    last = encoder.tower.layers[-1].self_attn.q_proj
    last.register_forward_hook(lambda _, __, out: projected.append(out.shape))
    features, lengths = torch.randn(2, 128, 400), torch.tensor([400, 123])
    with torch.no_grad():
        embeds, attention = encoder(features, lengths)
        assert (len(projected), attention.shape) == (2, (2, 100))
        encoder.attends = False
        assert torch.equal(encoder(features, lengths), embeds)
    assert len(projected) == 3


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_an_export_knows_its_end(half_checkpoint: Path, tmp_path: Path, precision: str) -> None:
    told: list[tuple[str, float]] = []
    export_bundle(
        str(half_checkpoint), tmp_path / "bundle", precision=precision,
        report=lambda step, done: told.append((step, done)),
    )  # fmt: skip
    assert list(dict.fromkeys(step for step, _ in told)) == list(seconds_of(Sizes(0, 0, 0)))
    shares = [done for _, done in told]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0.0, pytest.approx(1.0))
    for step in ("export decoder", "verify decoder", SEAL):
        within = {done for name, done in told if name == step}
        assert len(within) > 4, f"{step} goes on in silence"


class Knot:
    """What refers to itself, so that only a search for garbage frees it."""

    def __init__(self) -> None:
        self.itself = self


def test_garbage_is_looked_for_among_what_is_new() -> None:
    # A search through all of torch's objects holds every thread up, that of the signals too.
    assert not gc.get_freeze_count()
    earlier = Knot()
    old = weakref.ref(earlier)
    with libraries_left_out():
        del earlier
        kept = [Knot()]
        new = weakref.ref(Knot())
        give_back_memory()
        assert old() is not None
        assert new() is None
        assert len(gc.get_objects()) < 1000  # what is in use is not looked at twice
        with libraries_left_out():
            pass
        assert gc.get_freeze_count()  # of whoever froze first
    assert not gc.get_freeze_count()
    gc.collect()
    assert old() is None
    assert kept[0].itself is kept[0]


def test_every_stage_of_an_export_leaves_libraries_out(checkpoints: Any, tmp_path: Path) -> None:
    frozen: list[int] = []
    export_bundle(
        str(checkpoints(TINY[0])),
        tmp_path / "bundle",
        report=lambda *_: frozen.append(gc.get_freeze_count()),
    )
    assert min(frozen) > 100_000
    assert not gc.get_freeze_count()
