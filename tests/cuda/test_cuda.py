"""The CUDA side on a machine without a GPU: the real onnxruntime-gpu over a stand-in for CUDA.

Placement, kernel choice, copies, allocations and errors are what ONNX Runtime itself does;
kernels compute nothing, so numbers, cuDNN's plans and races are not seen here.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import stand_in
from paths import ROOT

from speechprune_ort.contract.manifest import Manifest

PYTHON = Path(os.environ.get("SPEECHPRUNE_CUDA_PYTHON", ROOT / ".venv-cuda/bin/python"))
PROBE = Path(__file__).with_name("probe.py")
OTHERS = {
    "audio_flamingo3": "tiny_audio_flamingo3",
    "glm_asr": "tiny_glm_asr",
    "granite_speech": "tiny_granite_speech",
    "qwen2_5_omni": "tiny_qwen2_5_omni",
    "qwen3_asr": "tiny_qwen3_asr",
    "ultravox": "tiny_ultravox",
}
"""Modules that write a checkpoint of a family of their own."""
FAMILIES = ("qwen2_audio", "voxtral", "diva", *OTHERS)
PRECISIONS = ("fp16", "bf16", "int8", "int4")
BUNDLES = [(family, precision) for family in FAMILIES for precision in PRECISIONS]
EACH = [
    *((family, "fp16") for family in FAMILIES),
    *(("qwen2_audio", precision) for precision in PRECISIONS[1:]),
]
"""Every family, and every precision: for what depends on one or the other."""
LIBRARIES = ("libcudart.so.13", "libcuda.so.1", *stand_in.LIBRARIES)
CUDA = "CUDAExecutionProvider"
SHAPE = 16  # values of the largest shape that is computed with

pytestmark = pytest.mark.export


def crossed(lines: list[list[str]]) -> Counter[str]:
    """Copies by their way, and waits for the GPU: for what comes down to pageable memory, too."""
    counts = Counter(line[1] for line in lines if line[0].startswith("copy"))
    counts["wait"] = counts["device-to-host"] + sum(line[0] == "sync" for line in lines)
    return counts


def kernels(lines: list[list[str]]) -> list[str]:
    """Names of the kernels that were launched."""
    return [line[1] for line in lines if line[0] == "kernel"]


ONCE = {"host-to-device": 1, "device-to-host": 1, "wait": 1}
"""A step of an answer: its tokens go up, its logits come down, and the host waits for them."""


@dataclass(frozen=True)
class Ran:
    """What a run in the CUDA environment left.

    Attributes:
        code: exit code.
        out: stdout.
        err: stderr.
        journal: lines of the stand-in, split.
    """

    code: int
    out: str
    err: str
    journal: list[list[str]]

    @property
    def found(self) -> Any:
        """The JSON on stdout."""
        return json.loads(self.out)

    def between(self, start: str, number: int = 0) -> list[list[str]]:
        """Lines from the ``number``-th mark of a name to the next mark."""
        marks = [i for i, line in enumerate(self.journal) if line[0] == "mark"]
        first = [i for i in marks if self.journal[i][1] == start][number]
        last = next(i for i in marks if i > first)
        return self.journal[first + 1 : last]


class Cuda:
    """The CUDA environment on the stand-in.

    Args:
        folder: of the stand-in's libraries.
        work: where runs write.
    """

    def __init__(self, folder: Path, work: Path) -> None:
        self._folder, self._work = folder, work

    def run(
        self,
        *arguments: str | Path,
        without: str | None = None,
        wheels: bool = False,
        **settings: object,
    ) -> Ran:
        """Run python in that environment.

        Args:
            *arguments: of python.
            without: a library that is left out; where the machine has one itself, an empty file
                is found before it.
            wheels: whether all libraries but the driver's lie where CUDA's own wheels put them,
                which is not where the system looks.
            **settings: of the stand-in: ``driver``, ``gpus``, ``memory`` and so on.
        """
        folder, journal, site = self._folder, self._work / "journal", self._work / "site"
        if wheels:
            folder = self._as_wheels(site)
        if without is not None:
            folder = self._without(without)
        # What was there before stays: Python itself may need it to find its own library.
        paths = [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
        done = subprocess.run(
            [PYTHON, *arguments], capture_output=True, text=True, check=False, cwd=self._work,
            env=os.environ | {"LD_LIBRARY_PATH": ":".join(paths), "STAND_IN_LOG": str(journal),
                              "XDG_CACHE_HOME": str(self._work / "cache")}
            | ({"PYTHONPATH": str(site)} if wheels else {})
            | {f"STAND_IN_{name.upper()}": str(value) for name, value in settings.items()},
        )  # fmt: skip
        lines = journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []
        journal.unlink(missing_ok=True)
        return Ran(done.returncode, done.stdout, done.stderr, [line.split() for line in lines])

    def _without(self, left_out: str) -> Path:
        """A folder of all libraries but one."""
        folder = self._work / "fewer"
        folder.mkdir()
        for library in self._folder.glob("*.so.*"):
            if library.name != left_out:
                (folder / library.name).symlink_to(library)
        load = f"import ctypes; ctypes.CDLL({left_out!r})"
        if not subprocess.run([PYTHON, "-c", load], capture_output=True, check=False).returncode:
            (folder / left_out).touch()
        return folder

    def _as_wheels(self, site: Path) -> Path:
        """Lay ONNX Runtime and the libraries out in a folder of packages; the driver's folder."""
        driver, toolkit, cudnn = (
            site.parent / "driver", site / "nvidia" / "cu13" / "lib", site / "nvidia/cudnn/lib",
        )  # fmt: skip
        for folder in (driver, toolkit, cudnn):
            folder.mkdir(parents=True)
        for library in self._folder.glob("*.so.*"):
            own = {"libcuda.so.1": driver, "libcudnn.so.9": cudnn}
            (own.get(library.name, toolkit) / library.name).symlink_to(library)
        (site / "onnxruntime").symlink_to(installed() / "onnxruntime")
        return driver

    def probe(self, what: str, bundle: Path, *, violations: bool = False, **settings: Any) -> Ran:
        """Run ``probe.py`` in that environment; ``violations`` are a test's own."""
        ran = self.run(PROBE, what, bundle, self._work, **settings)
        assert ran.code == 0, ran.err
        assert violations or not [line for line in ran.journal if line[0] == "violation"]
        return ran


@functools.cache
def installed() -> Path:
    """Where the packages of the CUDA environment are."""
    found = subprocess.run(
        [PYTHON, "-c", "import onnxruntime as o; print(o.__file__)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return Path(found.stdout.strip()).parents[1]


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in's libraries, compiled."""
    if stand_in.compiler() is None:
        pytest.skip("no C compiler: install gcc")
    if not PYTHON.exists():
        pytest.skip(f"{PYTHON} is not there: run scripts/test_cuda, which makes it")
    folder = tmp_path_factory.mktemp("stand-in")
    stand_in.build(installed(), folder)
    return folder


@pytest.fixture
def cuda(libraries: Path, tmp_path: Path) -> Cuda:
    """The CUDA environment, and a folder to work in."""
    return Cuda(libraries, tmp_path)


@pytest.fixture(scope="session")
def exported(
    libraries: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str, str], Path]]:
    """A family's bundle for CUDA at a precision, made on first use."""
    import tiny_families
    from tiny import TINY, write_checkpoint

    from speechprune_ort.export import pipeline
    from speechprune_ort.export import precision as precisions

    folder = tmp_path_factory.mktemp("cuda-bundles")
    write: dict[str, Callable[[Path], Path]] = {
        "qwen2_audio": lambda path: write_checkpoint(path, TINY[4]),
        "aligned": lambda path: write_checkpoint(path, replace(TINY[4], between=128, vocab=320)),
        "voxtral": tiny_families.write_voxtral,
        "diva": lambda path: tiny_families.write_diva(path, 4, None),
    }

    def get(family: str, precision: str) -> Path:
        checkpoint, bundle = folder / family, folder / f"{family}-{precision}"
        if not checkpoint.exists() and family in OTHERS:
            importlib.import_module(OTHERS[family]).write(checkpoint)
        elif not checkpoint.exists():
            write[family](checkpoint)
        if not bundle.exists():
            ready = [path for path in folder.glob(f"{family}-*") if path.is_dir()]
            patch.setattr(pipeline, "GRAPHS", tuple(taken(graph, ready) for graph in graphs))
            pipeline.export_bundle(str(checkpoint), bundle, precision=precision, target="cuda")
        return bundle

    graphs = pipeline.GRAPHS
    with pytest.MonkeyPatch.context() as patch:
        # Random weights in 8 or 4 bits can be another model, which does not matter here.
        for precision in ("int8", "int4"):
            plan = replace(precisions.plan(precision, "cuda"), min_cosine=-1.0)
            patch.setitem(precisions._PLANS, (precision, "cuda"), plan)
        yield get


def taken(graph: Any, ready: list[Path]) -> Any:
    """A graph that is copied where a bundle of the same checkpoint has it: tracing takes long."""
    if graph.name not in ("audio_encoder", "first_layer_qk_float"):
        return graph

    def write(work: Any, spec: Any, path: Path) -> None:
        for bundle in ready:
            if Manifest.read(bundle).graphs[graph.name].spec == spec:
                for file in bundle.glob(f"{path.name}*"):
                    shutil.copy(file, path.parent)
                return
        graph.write(work, spec, path)

    return replace(graph, write=write)


@pytest.fixture
def bundle(exported: Callable[[str, str], Path]) -> Path:
    """The simplest one."""
    return exported("qwen2_audio", "fp16")


@pytest.mark.parametrize(("family", "precision"), BUNDLES)
def test_every_node_is_on_cuda_but_the_arithmetic_of_shapes(
    family: str, precision: str, exported: Callable[[str, str], Path], cuda: Cuda
) -> None:
    found = cuda.probe("placement", exported(family, precision)).found
    assert {"audio_encoder", "first_layer_qk", "decoder"} < set(found)
    for graph, nodes in found.items():
        assert any(provider == CUDA for _, provider, _ in nodes)
        for operator, provider, outputs in nodes:
            assert "Memcpy" not in operator, graph
            if provider == CUDA:
                continue
            for output in outputs:
                ((dtype, shape),) = output.items()
                size = shape[0] if shape else 1
                assert (dtype in ("int64", "int32", "bool"), len(shape) < 2, size <= SHAPE) == (
                    True, True, True,
                ), f"{graph}: {operator} gives {output} on {provider}"  # fmt: skip


@pytest.mark.parametrize(("family", "precision"), BUNDLES)
def test_a_model_is_used_on_cuda_alone_and_leaves_nothing_behind(
    family: str, precision: str, exported: Callable[[str, str], Path], cuda: Cuda
) -> None:
    found = cuda.probe("use", exported(family, precision)).found
    assert "error" not in found, found
    assert {device for device, _ in found["answers"]} == {"cuda"}
    assert all(tokens for _, tokens in found["answers"])
    assert set(found["providers"].values()) == {CUDA}
    assert len(found["providers"]) == 9
    assert found["closed"] == 4 * [0], "bytes that are allocated after a model is closed"


@pytest.mark.parametrize(("family", "precision"), BUNDLES)
def test_a_step_is_one_copy_up_and_one_down_that_is_waited_for(
    family: str, precision: str, exported: Callable[[str, str], Path], cuda: Cuda
) -> None:
    ran = cuda.probe("steps", exported(family, precision))
    assert ran.found["lengths"] == 3 * [14]
    for number in range(8):
        lines = ran.between("step", number)
        assert crossed(lines) == ONCE
        if number % 4:  # the first of a size may need memory that none before it did
            assert not {"allocate", "free", "refused"} & {line[0] for line in lines}
    for mark, numbers in (("prefill", range(3)), ("step", range(8))):
        for number in numbers:
            told = kernels(ran.between(mark, number))
            assert sum("flash_fwd" in name for name in told) == ran.found["layers"]


@pytest.mark.parametrize(("family", "precision"), EACH)
def test_a_step_is_one_launch_of_a_cuda_graph_that_later_answers_use_again(
    family: str, precision: str, exported: Callable[[str, str], Path], cuda: Cuda
) -> None:
    ran = cuda.probe("graph_steps", exported(family, precision))
    graphs = [
        [line[1] for line in ran.between("step", number) if line[0] == "graph"]
        for number in range(9)
    ]
    # The second answer fits into the buffers of the first; two rows have a graph of their own.
    captured = ["begin", "end", "launch"]
    assert graphs == [captured, *5 * [["launch"]], captured, *2 * [["launch"]]]
    for number in (1, 2, 3, 4, 5, 7, 8):
        lines = ran.between("step", number)
        assert crossed(lines) == ONCE
        assert not {"allocate", "free", "refused"} & {line[0] for line in lines}
        # What embeds the tokens; from bfloat16 it is widened.
        assert len(kernels(lines)) == (2 if precision == "bf16" else 1)
    for number in range(4):
        assert not [line for line in ran.between("prefill", number) if line[0] == "graph"]
    found = ran.found
    assert found["lengths"] == 6 * [4]
    for _, second, third in found["left"]:
        assert second == third, "buffers are used again, not taken anew"
    assert found["closed"] == 4 * [0], "bytes that are allocated after a model is closed"


@pytest.mark.parametrize(("family", "precision"), EACH)
def test_embeddings_never_come_down(
    family: str, precision: str, exported: Callable[[str, str], Path], cuda: Cuda
) -> None:
    ran = cuda.probe("crossings", exported(family, precision))
    tokens, size = ran.found["tokens"], ran.found["bytes"]

    def down(mark: str) -> list[int]:
        down = ("device-to-host", "device-to-pinned")
        return [int(line[2]) for line in ran.between(mark) if line[1] in down]

    # Neither where a buffer grows, nor where a window is silent.
    assert down("listen") == []
    for method in ("none", "random", "speechprune", "coverage"):
        found = down(method)
        # Scores, one float32 a token; logits; embeddings of the question's own words.
        assert max(found) <= max(4 * tokens, size // 20), (method, found)
    assert down("grown") == [], "a cache grows where it is"
    if ran.found["cores"] > 1:
        assert ran.found["threads"] == ["log-mel"], "features are made beside the encoder"


@pytest.mark.parametrize(("family", "precision"), EACH)
def test_the_encoders_attention_is_fused(
    family: str, precision: str, exported: Callable[[str, str], Path], cuda: Cuda
) -> None:
    ran = cuda.probe("encoder", exported(family, precision))
    assert "error" not in ran.found, ran.found
    told = kernels(ran.between("encode"))
    assert any("flash_fwd" in name or "attention_kernel" in name for name in told)
    # Granite's Q-Former looks at 15 frames, and outputs of a CTC head are mixed: no matrix of all.
    softmax = [name for name in told if "softmax" in name.lower() and "flash" not in name]
    assert len(softmax) == (3 if family == "granite_speech" else 0)
    assert ran.found["bytes"] < 64e6, "a matrix of all frames by all frames"


def test_the_stand_in_notices_what_is_not_waited_for(bundle: Path, cuda: Cuda) -> None:
    ran = cuda.probe("unordered", bundle, violations=True)
    assert not [line for line in ran.between("waited") if line[0] == "violation"]
    assert ["violation", "unordered-work", "0"] in ran.between("unwaited")


def test_the_stand_in_notices_what_the_host_must_not_touch(bundle: Path, cuda: Cuda) -> None:
    ran = cuda.run(PROBE, "stray", bundle)
    assert ran.code == -signal.SIGSEGV, ran.out
    assert ["violation", "outside-of-allocations", "4194304"] in ran.between("beyond")


def test_an_answer_has_the_stream_to_itself_from_its_token_to_its_logits(
    bundle: Path, cuda: Cuda
) -> None:
    told = cuda.probe("turns", bundle).found["told"]
    tokens = [n for n, (way, _) in enumerate(told) if way == "up"]
    assert len(tokens) == 8
    assert all(told[n + 1] == ["down", told[n][1]] for n in tokens)


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_quantized_matrices_can_be_multiplied_as_they_are(
    precision: str, exported: Callable[[str, str], Path], cuda: Cuda
) -> None:
    ran = cuda.probe("fused", exported("aligned", precision))

    def products(mark: str, number: int) -> set[str]:
        names = ("Dequantize", "GemmFpAIntB", "fpA_intB_gemv", "MatMulFloat", "cublasGemm")
        told = (line[1] for line in ran.between(mark, number) if line[0] in ("kernel", "library"))
        return {name for line in told for name in names if name in line}

    assert products("prefill", 0) == {"Dequantize", "cublasGemm", "MatMulFloat"}
    for number in (1, 2):
        assert products("prefill", number) == {"GemmFpAIntB", "fpA_intB_gemv"}
        assert products("step", number) == {"fpA_intB_gemv"}
    plain, *others = ran.found["used"]
    assert max(others) <= 1.1 * plain, "weights lie on the GPU twice"


def test_fused_kernels_that_do_not_fit_are_refused_in_words(
    exported: Callable[[str, str], Path], cuda: Cuda
) -> None:
    found = cuda.probe("fused", exported("qwen2_audio", "int4")).found
    assert found["error"] == "OptionError"
    assert "'ep.cuda.fpa_intb_gemm' cannot be used with this bundle" in found["message"]


def test_the_float_ablation_is_not_rounded_to_tf32(bundle: Path, cuda: Cuda) -> None:
    lines = cuda.probe("float_attention", bundle).between("float")
    told = Counter(line[1] for line in lines if line[0] == "library")
    assert told == {"cublasSgemm_v2": 2}


def test_sessions_say_what_they_need_and_nothing_that_warns(bundle: Path, cuda: Cuda) -> None:
    ran = cuda.probe("options", bundle)
    for name, options in ran.found.items():
        assert options["sdpa_kernel"] == "19", name
        assert options["use_tf32"] == "0", name
        assert options["cudnn_conv_algo_search"] == "HEURISTIC", name
        assert options["arena_extend_strategy"] == "kSameAsRequested", name
    assert "device_id" not in ran.err


@pytest.mark.parametrize("settings", [{"no_plan": 1}, {"fail_after": 0}], ids=["cudnn", "kernel"])
def test_a_run_that_fails_on_the_gpu_is_not_repeated_on_the_cpu(
    settings: dict[str, int], bundle: Path, cuda: Cuda
) -> None:
    found = cuda.probe("failing", bundle, **settings).found
    assert found["raised"], "it ran, on another provider"
    name, message = found["raised"]
    assert name == "DeviceError"
    assert "audio_encoder.onnx failed on the GPU (CU" in message
    assert "\n" not in message
    assert len(message) < 400
    assert found["providers"][0] == CUDA


def test_a_step_that_fails_on_the_gpu_is_one_sentence(bundle: Path, cuda: Cuda) -> None:
    ran = cuda.probe("failing_step", bundle)
    raised = ran.found["raised"]
    assert ["sync", "stream", "0"] in ran.between("failing"), "it may still run"
    assert [name for name, _ in raised] == 2 * ["DeviceError"]
    for _, message in raised:
        assert "failed on the GPU (CUDA" in message
        assert "\n" not in message
        assert len(message) < 400


def test_export_compares_on_the_gpu_with_the_libraries_of_cudas_wheels(
    bundle: Path, cuda: Cuda
) -> None:
    found = cuda.probe("compared", bundle, wheels=True).found
    assert found.get("providers", [found])[0] == CUDA
    assert found["unverified"] is None


def test_export_does_not_compare_what_the_cpu_computed_instead(bundle: Path, cuda: Cuda) -> None:
    found = cuda.probe("compared", bundle, no_plan=1).found
    assert found.get("error") == "DeviceError", found
    assert "audio_encoder.onnx failed on the GPU (CUDNN" in found["message"]


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_missing_library_is_named(library: str, bundle: Path, cuda: Cuda) -> None:
    found = cuda.probe("options", bundle, without=library).found
    assert found["error"] == "DeviceError"
    others = [name for name in LIBRARIES if name != library and name in found["message"]]
    assert library in found["message"]
    assert not others, found["message"]
    assert "pip install" in found["message"] or "install the driver" in found["message"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"driver": 12080},
            "supports CUDA 12.8 and ONNX Runtime needs CUDA 13: install driver 580",
        ),
        ({"gpus": 0}, "sees no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES"),
        ({"init": 100}, "sees no GPU"),
        ({"init": 803}, "does not start (code 803)"),
        ({"capability": 70}, "compute capability 7.0 and CUDA 13 needs 7.5"),
    ],
    ids=["old driver", "no gpu", "none visible", "driver fails", "old gpu"],
)
def test_what_the_driver_lacks_is_one_sentence(
    settings: dict[str, int], words: str, bundle: Path, cuda: Cuda
) -> None:
    found = cuda.probe("options", bundle, **settings).found
    assert found["error"] == "DeviceError"
    assert found["message"].startswith("CUDA cannot be used here: ")
    assert words in found["message"]


@pytest.mark.parametrize(
    ("memory", "what"),
    [
        (100_000, "audio_encoder.onnx"),
        (2_000_000, "a buffer of 1536000 bytes"),
        (15_000_000, "decoder.onnx"),
        (30_000_000, "received_attention.onnx"),
    ],
    ids=["open", "hear", "ask", "prune"],
)
def test_a_gpu_without_room_says_so(memory: int, what: str, bundle: Path, cuda: Cuda) -> None:
    ran = cuda.probe("room", bundle, memory=memory)
    assert ran.found["error"] == "DeviceError"
    assert ran.found["message"].startswith("The GPU has no memory left for ")
    assert f"{what}: end other programs" in ran.found["message"]
    assert "\n" not in ran.found["message"]
    assert any(line[0] == "refused" for line in ran.journal)


def test_the_command_line_says_it_in_one_line(bundle: Path, cuda: Cuda, tmp_path: Path) -> None:
    command = (
        "-m",
        "speechprune_ort",
        "ask",
        bundle,
        ROOT / "speechprune_ort" / "speech.flac",
        "Who?",
    )
    ran = cuda.run(*command, "--device", "cuda", "--max-new-tokens", "2")
    assert ran.code == 0, ran.err
    for settings in ({"memory": 2_000_000}, {"driver": 12000}):
        ran = cuda.run(*command, "--device", "cuda", **settings)
        assert (ran.code, ran.out) == (2, "")
        told = [line for line in ran.err.splitlines() if line.startswith("error:")]
        assert len(told) == 1, ran.err
        assert "Traceback" not in ran.err
    ran = cuda.run(*command, "--device", "cuda", "--provider-option", "device_id=1")
    assert ran.code == 2
    assert "the driver sees 1 GPU" in ran.err
    for option, words in (("no=1", "is unknown"), ("sdpa_kernel=x", "cannot have this value")):
        ran = cuda.run(*command, "--device", "cuda", "--provider-option", option)
        assert (ran.code, ran.out) == (2, "")
        assert f"The provider option '{option.partition('=')[0]}' {words}" in ran.err


def test_doctor_finds_cuda_ready_or_says_what_is_missing(cuda: Cuda) -> None:
    doctor = ("-m", "speechprune_ort", "doctor", "--json")
    rows = {row["what"]: row for row in cuda.run(*doctor).found}
    assert rows["cuda"]["found"] == "ready"
    assert rows["driver"]["found"] == "supports CUDA 13.0"
    assert rows["libcurand.so.10"]["found"] == "loads"
    rows = {row["what"]: row for row in cuda.run(*doctor, without="libcurand.so.10").found}
    assert "libcurand.so.10 cannot be loaded" in rows["cuda"]["cure"]


@pytest.mark.parametrize(("family", "precision"), EACH)
def test_a_profile_is_json_and_counts_the_providers(
    family: str, precision: str, exported: Callable[[str, str], Path], cuda: Cuda
) -> None:
    ran = cuda.run(
        "-m", "speechprune_ort", "profile", exported(family, precision), "--device", "cuda",
        "--durations", "30", "--repeats", "1", "--format", "json",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    assert not [line for line in ran.journal if line[0] == "violation"]
    operators = ran.found["about"]["operators"]
    assert all(CUDA in counts for counts in operators.values())


def test_the_check_of_a_gpu_notices_one_that_computes_nothing(bundle: Path, cuda: Cuda) -> None:
    ran = cuda.run(ROOT / "scripts" / "gpu" / "stages.py", "graphs", "cuda", bundle)
    assert ran.code == 1
    assert ran.found["decoder"]["logits"]["cosine"] == 0
    assert not ran.found["first_layer_qk"]["query"]["equal"]
    ran = cuda.run(ROOT / "scripts" / "gpu" / "stages.py", "captured", "cuda", bundle)
    assert [row["steps"] for row in ran.found] == 4 * [25]
