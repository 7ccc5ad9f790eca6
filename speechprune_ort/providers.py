"""ONNX Runtime's execution providers: what CUDA needs here, and sessions that stay on theirs."""

from __future__ import annotations

import contextlib
import ctypes
import io
import re
from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike

from speechprune_ort.errors import DeviceError, OptionError
from speechprune_ort.wheels import installed_wheels

__all__ = [
    "CPU_PROVIDER",
    "CUDA_LIBRARIES",
    "CUDA_PROVIDER",
    "StrictSession",
    "cuda_libraries",
    "cuda_problem",
    "cuda_provider",
    "driver_version",
    "gpu_failure",
    "ort_type",
]

CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"

# What the CUDA provider of onnxruntime-gpu 1.31 is linked against (CUDA 13), and cuDNN 9, which
# it loads when a convolution first runs.
CUDA_LIBRARIES = (
    "libcudart.so.13",
    "libcublas.so.13",
    "libcublasLt.so.13",
    "libcurand.so.10",
    "libcudnn.so.9",
)
DRIVER = "libcuda.so.1"
LEAST_DRIVER = 13000, "580"  # cuDriverGetVersion for CUDA 13, and the driver that brings it
LEAST_CAPABILITY = 7, 5  # CUDA 13 compiles for nothing older than Turing
CAPABILITY = 75, 76  # attributes of a device: major and minor

NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE
BFLOAT16 = 16  # its number in ONNX

# From the middle of a message of ten lines, most of them template arguments.
GPU_FAILURE = re.compile(r"(CUDA|CUDNN|CUDNN_FE|CUBLAS|CURAND|CUFFT) (failure|error)[^;\n]*")
BAD_OPTION = re.compile(r'(Unknown|Failed to parse) provider option:? "([^"]*)"')
OUT_OF_MEMORY = ("out of memory", "failed to allocate memory", "cudaerrormemoryallocation")


def cuda_provider(index: int = 0, options: Mapping[str, str] | None = None) -> tuple[str, Any]:
    """The CUDA execution provider as ``InferenceSession`` takes it.

    Args:
        index: number of the GPU, from 0.
        options: options of the provider; they take precedence over ours.
    """
    settled = {
        # The KV cache has its own buffers; doubling the arena would only waste memory.
        "arena_extend_strategy": "kSameAsRequested",
        # Every last window has a length of its own: searching all algorithms for it costs more
        # than the convolution.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Flash, memory-efficient and plain attention; cuDNN's keeps a plan for every pair of
        # prompt length and capacity, without bound.
        "sdpa_kernel": "19",
        # What is float32 here chooses tokens: it must not be rounded to 10 bits.
        "use_tf32": "0",
        **(options or {}),
    }
    # ONNX Runtime warns about every session that is told the default.
    settled.pop("device_id", None)
    return CUDA_PROVIDER, settled if index == 0 else settled | {"device_id": str(index)}


class StrictSession(ort.InferenceSession):  # type: ignore[misc]
    """A session that runs on the provider that it was opened for, or fails.

    ONNX Runtime falls back to the CPU when a provider cannot be loaded, and again when a run on it
    fails; it says so on stdout and goes on. Here both are errors.

    Args:
        path: the graph.
        options: options of the session.
        providers: the first is the one that must take it.

    Raises:
        DeviceError: another provider took the graph, or the GPU has no room for it.
        OptionError: the provider does not take an option.
    """

    def __init__(
        self, path: str | PathLike[str], options: ort.SessionOptions, providers: Sequence[Any]
    ) -> None:
        self._name = str(path)
        first = providers[0]
        wanted = first if isinstance(first, str) else first[0]
        self._on_gpu = wanted == CUDA_PROVIDER
        # Processors with AVX2 or AVX-512 alone, without VNNI, add pairs of 8-bit products in 16
        # bits, which saturates. Only there does this change anything: weights become unsigned.
        options.add_session_config_entry("session.x64quantprecision", "1")
        try:
            super().__init__(path, options, providers=list(providers), enable_fallback=0)
        except Exception as error:  # onnxruntime raises several classes of its own
            option = BAD_OPTION.search(str(error))
            if option is not None:
                wrong = "is unknown" if option[1] == "Unknown" else "cannot have this value"
                raise OptionError(
                    f"The provider option {option[2]!r} {wrong}: ONNX Runtime's page on {wanted} "
                    "lists names and values."
                ) from error
            self._explain(error)
            raise
        used = self.get_providers()[0]
        if used != wanted:
            raise DeviceError(
                f"ONNX Runtime put {path} on {used} although {wanted} was asked for: run "
                "`speechprune-ort doctor`."
            )

    def run(self, *arguments: Any, **named: Any) -> Any:
        """See ``InferenceSession.run``.

        Raises:
            DeviceError: the GPU has no room, or fails.
        """
        try:
            return super().run(*arguments, **named)
        except Exception as error:
            self._explain(error)
            raise

    def run_with_iobinding(self, *arguments: Any, **named: Any) -> None:
        """See ``InferenceSession.run_with_iobinding``.

        Raises:
            DeviceError: the GPU has no room, or fails.
        """
        try:
            super().run_with_iobinding(*arguments, **named)
        except Exception as error:
            self._explain(error)
            raise

    def _explain(self, error: Exception) -> None:
        """Raise the sentence for a failure of the GPU; do nothing for another error."""
        told = gpu_failure(self._name, error) if self._on_gpu else None
        if told is not None:
            raise told from error


def gpu_failure(what: str, error: Exception) -> DeviceError | None:
    """The sentence for an error of CUDA, or None for any other error.

    Args:
        what: the thing that was tried.
        error: the error that ONNX Runtime raised.
    """
    text = str(error)
    told = GPU_FAILURE.search(text)
    if any(words in text.lower() for words in OUT_OF_MEMORY):
        return DeviceError(
            f"The GPU has no memory left for {what}: end other programs on it, prune more, or "
            "export with a narrower --precision."
        )
    if told is None:
        return None
    return DeviceError(
        f"{what} failed on the GPU ({told.group().strip(' ;')}): run `speechprune-ort doctor`, and "
        "look at nvidia-smi and the driver's log."
    )


def ort_type(dtype: DTypeLike) -> tuple[Any, int]:
    """A dtype as ONNX Runtime's bindings take it, and its bytes.

    Args:
        dtype: as numpy takes it, or ``bfloat16``, which numpy lacks.
    """
    if isinstance(dtype, str) and dtype == "bfloat16":
        return BFLOAT16, 2
    found = np.dtype(dtype)
    return found.type, found.itemsize


def driver_version() -> tuple[int, int] | None:
    """The newest CUDA that the NVIDIA driver supports, such as (13, 0); None without a driver."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return None
    version = ctypes.c_int(0)
    driver.cuDriverGetVersion(ctypes.byref(version))
    return version.value // 1000, version.value % 1000 // 10


def cuda_libraries() -> dict[str, str | None]:
    """Each CUDA library that the provider needs, and why it cannot be loaded (None: it can)."""
    # Wheels such as nvidia-cudnn-cu13 keep their libraries where the loader does not look.
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None and CUDA_PROVIDER in ort.get_available_providers():
        # What fails is found below; printed on stdout, it would end up within our JSON.
        with contextlib.redirect_stdout(io.StringIO()):
            preload()
    found: dict[str, str | None] = {}
    for library in CUDA_LIBRARIES:
        try:
            ctypes.CDLL(library)
            found[library] = None
        except OSError as error:
            found[library] = str(error)
    return found


def _driver_problem(index: int) -> str | None:
    version = driver_version()
    if version is None:
        return f"no NVIDIA driver is installed ({DRIVER}): install the driver"
    least, release = LEAST_DRIVER
    if version[0] * 1000 + version[1] * 10 < least:
        return (
            f"the NVIDIA driver supports CUDA {version[0]}.{version[1]} and ONNX Runtime needs "
            f"CUDA {least // 1000}: install driver {release} or newer"
        )
    driver = ctypes.CDLL(DRIVER)
    code = driver.cuInit(0)
    count = ctypes.c_int(0)
    if code == 0:
        code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code not in (0, NO_DEVICE):
        return f"the NVIDIA driver does not start (code {code}): check nvidia-smi"
    if count.value == 0:
        return "the NVIDIA driver sees no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES"
    if index >= count.value:
        return (
            f"device_id={index} was asked for and the driver sees {count.value} GPU(s): give a "
            f"number below {count.value}"
        )
    found = []
    for attribute in CAPABILITY:
        value = ctypes.c_int(0)
        driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, index)
        found.append(value.value)
    if tuple(found) < LEAST_CAPABILITY:
        return (
            f"the GPU has compute capability {found[0]}.{found[1]} and CUDA 13 needs "
            f"{'.'.join(map(str, LEAST_CAPABILITY))}: use a newer GPU, or a bundle for the CPU"
        )
    return None


def cuda_problem(index: int = 0) -> str | None:
    """The first thing that keeps this machine from running CUDA graphs, with its cure.

    Args:
        index: number of the GPU, from 0.

    Returns:
        A phrase such as ``"no NVIDIA driver is installed (libcuda.so.1): install the driver"``,
        or None where everything is in place.
    """
    if CUDA_PROVIDER not in ort.get_available_providers():
        return (
            f"the installed ONNX Runtime ({', '.join(installed_wheels()) or 'unknown wheel'}) "
            "has no CUDA provider: pip uninstall -y onnxruntime onnxruntime-gpu, then "
            "pip install 'speechprune-ort[gpu]'"
        )
    driver = _driver_problem(index)
    if driver is not None:
        return driver
    missing = [library for library, reason in cuda_libraries().items() if reason]
    if missing:
        return (
            f"{', '.join(missing)} cannot be loaded: pip install 'speechprune-ort[gpu]' brings "
            "CUDA 13 and cuDNN 9"
        )
    return None
