"""Devices: explicit, explained, never a quiet fallback; the CUDA side as far as a CPU allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from speechprune_ort import BundleError, CancelledError, DeviceError, OptionError, SpeechLLM
from speechprune_ort import providers as providers_module
from speechprune_ort.contract.specs import Dimensions, TensorSpec
from speechprune_ort.providers import CPU_PROVIDER, StrictSession, cuda_problem, cuda_provider
from speechprune_ort.runtime.answering.decoder import Decoder
from speechprune_ort.runtime.answering.runs import Graphs
from speechprune_ort.runtime.ort import session as session_module
from speechprune_ort.runtime.ort.device import Device, resolve_device

DIMS = Dimensions(
    mel_bins=80,
    frames=3000,
    window_tokens=750,
    hidden=8,
    layers=2,
    heads=4,
    kv_heads=2,
    head_dim=4,
    vocab=11,
    context=100,
)


def pretend(monkeypatch: pytest.MonkeyPatch, **found: Any) -> None:
    """Make the machine look as if it had, or lacked, what CUDA needs."""
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(
        providers_module.ort,
        "get_available_providers",
        lambda: providers if found.get("wheel", True) else providers[1:],
    )
    monkeypatch.setattr(providers_module, "_driver_problem", lambda _: found.get("driver"))
    monkeypatch.setattr(
        providers_module,
        "cuda_libraries",
        lambda: {"libcudart.so.13": None, "libcudnn.so.9": found.get("cudnn")},
    )


@pytest.mark.parametrize(
    ("found", "words"),
    [
        ({"wheel": False}, ["no CUDA provider", "speechprune-ort[gpu]"]),
        ({"driver": "no NVIDIA driver is installed"}, ["driver"]),
        ({"cudnn": "not found"}, ["libcudnn.so.9", "cuDNN 9"]),
    ],
)
def test_what_keeps_cuda_from_running_is_named_with_its_cure(
    found: dict[str, Any], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, **found)
    for asked in ("cuda", "auto"):
        with pytest.raises(DeviceError) as caught:
            resolve_device(asked, "cuda")
        assert all(word in str(caught.value) for word in words)


def test_cuda_is_taken_where_everything_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pretend(monkeypatch)
    assert cuda_problem() is None
    device = resolve_device("auto", "cuda", {"device_id": "1", "gpu_mem_limit": "1000"})
    assert (device.name, device.index) == ("cuda", 1)
    ((provider, options),) = device.providers()
    assert provider == "CUDAExecutionProvider"
    assert options["device_id"] == "1"
    assert options["gpu_mem_limit"] == "1000"
    assert "auto took cuda" in capsys.readouterr().err


def test_the_decoder_alone_is_captured_as_cuda_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    assert not resolve_device("cuda", "cuda").graphs
    device = resolve_device("cuda", "cuda", {"enable_cuda_graph": "1", "use_tf32": "1"})
    assert device.graphs
    ((_, every),), ((_, decoder),) = device.providers(), device.providers(captures=True)
    assert "enable_cuda_graph" not in every
    assert decoder == every | {"enable_cuda_graph": "1"}


def test_cuda_device_index_must_be_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    with pytest.raises(OptionError, match="device_id"):
        resolve_device("cuda", "cuda", {"device_id": "first"})


def test_the_stream_of_decoding_is_not_for_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch)
    with pytest.raises(OptionError, match="'user_compute_stream' cannot be set"):
        resolve_device("cuda", "cuda", {"user_compute_stream": "1"})


def test_entries_of_sessions_are_no_options_of_the_provider(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend(monkeypatch)
    device = resolve_device("cuda", "cuda", {"ep.cuda.fpa_intb_gemm": "1", "use_tf32": "1"})
    assert device.session_entries == {
        "ep.cuda.fpa_intb_gemm": "1",
        "optimization.disable_specified_optimizers": "MatMulNBitsFusion",
        "session.use_device_allocator_for_initializers": "1",
    }
    assert resolve_device("cuda", "cuda", {"use_tf32": "1"}).session_entries == {}
    ((_, options),) = device.providers({"user_compute_stream": "8"}, captures=True)
    assert options["user_compute_stream"] == "8"
    assert options["use_tf32"] == "1"
    assert "ep.cuda.fpa_intb_gemm" not in options


def test_auto_says_what_it_took_and_explicit_devices_are_quiet(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert resolve_device("auto", "cpu").name == "cpu"
    assert "auto took cpu" in capsys.readouterr().err
    resolve_device("cpu", "cpu")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("asked", "target"), [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_bundle_for_another_device_is_an_error(asked: str, target: str) -> None:
    with pytest.raises(DeviceError, match=f"--target {asked}"):
        resolve_device(asked, target)


def test_unknown_devices_and_misplaced_options_are_errors() -> None:
    with pytest.raises(OptionError, match="device must be one of auto, cuda, cpu"):
        resolve_device("tensorrt", "cuda")
    with pytest.raises(OptionError, match="CUDA"):
        resolve_device("cpu", "cpu", {"device_id": "0"})


def test_a_session_that_fell_to_another_provider_is_an_error(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = SpeechLLM(bundle, "cpu").manifest.graphs["embed_tokens"].spec
    real = session_module.ort.InferenceSession.__init__

    def fall_back(session: Any, path: Path, options: Any, providers: Any, **named: Any) -> None:
        assert providers[0][0] == "CUDAExecutionProvider"
        real(session, path, options, providers=["CPUExecutionProvider"], **named)

    monkeypatch.setattr(session_module.ort.InferenceSession, "__init__", fall_back)
    with pytest.raises(DeviceError, match="CPUExecutionProvider although CUDA"):
        session_module.open_session(bundle / "embed_tokens.onnx", spec, Device("cuda"), None)


def test_a_session_never_repeats_a_failed_run_elsewhere(bundle: Path) -> None:
    session = SpeechLLM(bundle, "cpu").engine.session("embed_tokens")
    assert session._session._enable_fallback is False


def test_the_first_gpu_is_not_named_and_others_are() -> None:
    assert "device_id" not in cuda_provider(0, {"device_id": "0"})[1]
    assert cuda_provider(2)[1]["device_id"] == "2"
    assert cuda_provider(0, {"use_tf32": "1"})[1]["use_tf32"] == "1"


def test_a_graph_that_differs_from_the_manifest_is_refused(bundle: Path) -> None:
    graphs = SpeechLLM(bundle, "cpu").manifest.graphs
    with pytest.raises(BundleError, match="inputs are"):
        session_module.open_session(
            bundle / "embed_tokens.onnx", graphs["audio_encoder"].spec, Device("cpu"), None
        )


class Binding:
    """Records what a decoder binds, as ``onnxruntime.IOBinding`` would be told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: self.calls.append((name, *arguments))


class Session:
    def __init__(self) -> None:
        self.binding = Binding()
        self.runs = 0

    def io_binding(self) -> Binding:
        return self.binding

    def run_with_iobinding(self, binding: Binding) -> None:
        assert binding is self.binding
        self.runs += 1


class CapturedSession(Session):
    """Where steps are captured, runs are told which graph they belong to."""

    def __init__(self) -> None:
        super().__init__()
        self.settings: list[Any] = []

    def run_with_iobinding(self, binding: Binding, settings: Any = None) -> None:
        super().run_with_iobinding(binding)
        self.settings.append(settings)


class Value:
    """A tensor on a device that this machine lacks."""

    def __init__(self, shape: tuple[int, ...], place: str) -> None:
        self.shape, self.place = shape, place

    def data_ptr(self) -> int:
        return id(self)

    def update_inplace(self, array: Any) -> None:
        assert array.shape == self.shape


class FakeCuda(Device):
    """A CUDA device whose tensors are only written down."""

    def empty(self, shape: Any, dtype: Any) -> Any:
        assert np.dtype(dtype) == np.float16
        return Value(tuple(shape), "cuda")

    def put(self, array: Any) -> Any:
        return Value(array.shape, "cuda")


def on_cuda(session: Session, embed: Session, rotary: Session, capacity: int) -> Decoder:
    """A decoder of half precision on a device that this machine lacks."""
    sessions: Any = (session, embed, rotary)
    return Decoder(Graphs(*sessions, FakeCuda("cuda"), DIMS, np.dtype("float16")), capacity)


def test_on_cuda_the_cache_is_bound_once_and_only_ids_and_logits_cross(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session, embed = Session(), Session()
    rotary = Session()
    decoder = on_cuda(session, embed, rotary, 10)
    decoder.prefill(np.zeros((4, 8), np.float16), np.array([0, 1, 5, 9]))
    cache = [call for call in session.binding.calls if "key" in call[1] or "value" in call[1]]
    assert len(cache) == 2 * 2 * DIMS.layers
    for name in ("0.key", "1.value"):
        past, present = (
            next(c[2:] for c in cache if c[1] == f"{kind}.{name}")
            for kind in ("past_key_values", "present")
        )
        assert past == present, "past and present must be one buffer"
        assert past[:4] == ("cuda", 0, np.float16, [1, 2, 10, 4])
    (positions,) = (c[2] for c in rotary.binding.calls if c[1] == "position_ids")
    assert positions.shape == (10,), "the answer's angles come with the prompt's"
    turned = [c[1:6] for c in rotary.binding.calls if c[0] == "bind_output"]
    assert turned == [(name, "cuda", 0, np.float16, [10, 2]) for name in ("cos", "sin")]
    session.binding.calls.clear()
    decoder.step(3, 10)
    bound = {call[1]: call for call in session.binding.calls if call[0].startswith("bind")}
    assert set(bound) == {"inputs_embeds", "attention_mask"}
    name, _, place, index, dtype, shape, address = bound["inputs_embeds"]
    assert (name, place, index, dtype, shape) == ("bind_input", "cuda", 0, np.float16, [1, 1, 8])
    output = next(c for c in embed.binding.calls if c[0] == "bind_output")
    assert output[6] == address, "the embedding must not leave the device"
    assert bound["attention_mask"][5] == [1, 5]
    held = next(c for c in embed.binding.calls if c[0] == "bind_input")
    assert held[1:6] == ("token_ids", "cuda", 0, np.int64, [1])
    assert (session.runs, embed.runs, rotary.runs, decoder.length) == (2, 1, 1, 5)


def test_angles_whose_run_was_ended_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rotary = Session()
    decoder = on_cuda(Session(), Session(), rotary, 10)
    prompt = np.zeros((4, 8), np.float16), np.array([0, 1, 5, 9])

    def ended(_: Any) -> None:
        raise CancelledError("The work was cancelled.")

    with monkeypatch.context() as patch:
        patch.setattr(rotary, "run_with_iobinding", ended)
        with pytest.raises(CancelledError):
            decoder.prefill(*prompt)
    decoder.prefill(*prompt)
    assert rotary.runs == 1
    decoder.prefill(*prompt)
    assert rotary.runs == 1, "these are there"


def test_the_mask_of_a_captured_step_is_as_long_as_the_cache_and_hides_what_is_empty() -> None:
    sessions: Any = (CapturedSession(), CapturedSession(), CapturedSession())
    device = FakeCuda("cuda", 0, (("enable_cuda_graph", "1"),))
    decoder = Decoder(Graphs(*sessions, device, DIMS, np.dtype("float16")), 10, 2)
    for row in range(2):
        decoder.prefill(np.zeros((4 + row, 8), np.float16), np.arange(4 + row), row)
    sessions[0].binding.calls.clear()
    decoder.steps({0: (3, 4), 1: (7, 5)})
    assert decoder._runs._sent[:2].tolist() == [3, 7]
    mask = decoder._runs._sent[-20:].reshape(2, 10)
    assert mask.tolist() == [5 * [1] + 5 * [0], 6 * [1] + 4 * [0]]
    shapes = {call[1]: call[5] for call in sessions[0].binding.calls}
    assert (shapes["attention_mask"], shapes["logits"]) == ([2, 10], [2, 1, DIMS.vocab])
    prompt, _, step = (run["gpu_graph_id"] for run in sessions[0].settings)
    assert prompt == "-1"
    assert int(step) > 0
    decoder.steps({1: (9, 6)})
    assert decoder._runs._sent[:2].tolist() == [0, 9], "a captured step takes all rows"


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_no_answer(value: float) -> None:
    decoder = on_cuda(Session(), Session(), Session(), 10)
    decoder._runs.logits[:] = np.arange(DIMS.vocab)
    logits = decoder.prefill(np.zeros((4, 8), np.float16), np.arange(4))
    assert (logits.dtype, logits.tolist()) == (np.float32, list(range(DIMS.vocab)))
    decoder._runs.logits[0, 0, 7] = value
    with pytest.raises(BundleError, match="not all finite"):
        decoder.step(3, 4)
    with pytest.raises(BundleError, match="not all finite"):
        decoder.prefill(np.zeros((4, 8), np.float16), np.arange(4))


def test_the_cache_cannot_overflow() -> None:
    decoder = on_cuda(Session(), Session(), Session(), 3)
    with pytest.raises(ValueError, match="3 positions"):
        decoder.prefill(np.zeros((4, 8), np.float16), np.arange(4))


class Found:
    def __init__(self, name: str, type_: str, shape: list[Any]) -> None:
        self.name, self.type, self.shape = name, type_, shape


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (Found("x", "tensor(float)", ["n", 8]), None),
        (Found("x", "tensor(float)", ["n", "anything"]), None),
        (Found("x", "tensor(float16)", ["n", 8]), "float16"),
        (Found("x", "tensor(float)", ["n"]), "1 axes"),
        (Found("x", "tensor(float)", ["n", 9]), "9 along hidden"),
        (Found("x", "tensor(float)", [1, 8]), "a dynamic axis"),
    ],
)
def test_spec_mismatches_are_named(found: Any, problem: str | None) -> None:
    spec = TensorSpec("x", "float32", ("tokens", "hidden"), (None, 8))
    mismatch = spec.mismatch(found)
    assert (mismatch is None) if problem is None else (problem in str(mismatch))


def test_products_of_8_bits_do_not_saturate(tmp_path: Path) -> None:
    """Pairs of the largest products, which AVX2's instruction for them adds in 16 bits."""
    values = np.full((1, 64), 255, np.float32)
    weights = np.full((64, 8), 127, np.int8)
    initializers = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(np.ones(8, np.float32), "scales"),
    ]
    node = helper.make_node("DynamicQuantizeMatMul", ["a", "weights", "scales"], ["y"],
                            domain="com.microsoft")  # fmt: skip
    graph = helper.make_graph(
        [node],
        "product",
        [helper.make_tensor_value_info("a", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 8])],
        initializers,
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    path = tmp_path / "product.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    session = StrictSession(path, ort.SessionOptions(), [CPU_PROVIDER])
    (found,) = session.run(None, {"a": values})
    np.testing.assert_allclose(found, values @ weights.astype(np.float32), rtol=1e-6)
