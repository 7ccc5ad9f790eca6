"""Where graphs run: CPU or CUDA, chosen by the caller, never changed behind their back."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike, NDArray

from speechprune_ort.errors import DeviceError, OptionError
from speechprune_ort.wheels import installed_wheels

__all__ = [
    "Device",
    "cuda_libraries",
    "cuda_problem",
    "resolve_device",
]


CUDA_PROVIDER = "CUDAExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"
TENSORRT_LIBRARY = "libnvinfer.so.10"  # what onnxruntime-gpu 1.31 links against
# What onnxruntime-gpu 1.31 links against: CUDA 13 and cuDNN 9.
CUDA_LIBRARIES = ("libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13", "libcudnn.so.9")


@dataclass(frozen=True, slots=True)
class Device:
    """A place for tensors and graphs.

    Attributes:
        name: ``cpu`` or ``cuda``.
        index: which one, where there are several.
        provider_options: passed to the CUDA execution provider.
        tensorrt: TensorRT takes what it can compile, CUDA the rest.
    """

    name: Literal["cpu", "cuda"]
    index: int = 0
    provider_options: tuple[tuple[str, str], ...] = ()
    tensorrt: bool = False

    @property
    def provider(self) -> str:
        """ONNX Runtime's name of the execution provider."""
        if self.tensorrt:
            return TENSORRT_PROVIDER
        return CUDA_PROVIDER if self.name == "cuda" else "CPUExecutionProvider"

    @property
    def providers(self) -> list[Any]:
        """Argument for ``InferenceSession``: what was asked for alone, so nothing falls back."""
        if self.name == "cpu":
            return [self.provider]
        options = {
            # The KV cache has its own buffers; doubling the arena would only waste memory.
            "arena_extend_strategy": "kSameAsRequested",
            "device_id": str(self.index),
            **dict(self.provider_options),
        }
        cuda = (CUDA_PROVIDER, options)
        if not self.tensorrt:
            return [cuda]
        # Grouped-query attention and 4-bit matrices are ONNX Runtime's own, for CUDA alone.
        return [(TENSORRT_PROVIDER, {"device_id": str(self.index)}), cuda]

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> ort.OrtValue:
        """An uninitialised tensor on this device."""
        if self.name == "cpu":
            # Through numpy: pages are touched only when written.
            return ort.OrtValue.ortvalue_from_numpy(np.empty(shape, dtype))
        return ort.OrtValue.ortvalue_from_shape_and_type(
            list(shape), np.dtype(dtype).type, self.name, self.index
        )

    def put(self, array: NDArray[Any]) -> ort.OrtValue:
        """A host array on this device; on the CPU it shares the array's memory."""
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array), self.name, self.index)


def cuda_libraries() -> dict[str, str | None]:
    """Each CUDA library that the provider needs, and why it cannot be loaded (None: it can)."""
    # Wheels such as nvidia-cudnn-cu13 keep their libraries where the loader does not look.
    preload = getattr(ort, "preload_dlls", None)
    if preload is not None and CUDA_PROVIDER in ort.get_available_providers():
        preload()
    found: dict[str, str | None] = {}
    for library in CUDA_LIBRARIES:
        try:
            ctypes.CDLL(library)
            found[library] = None
        except OSError as error:
            found[library] = str(error)
    return found


def _driver_problem() -> str | None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver is installed (libcuda.so.1): install the driver"
    code = driver.cuInit(0)
    count = ctypes.c_int(0)
    if code == 0:
        code = driver.cuDeviceGetCount(ctypes.byref(count))
    if code != 0 or count.value == 0:
        return f"the NVIDIA driver sees no GPU (code {code}): check nvidia-smi"
    return None


def cuda_problem() -> str | None:
    """The first thing that keeps this machine from running CUDA graphs, with its cure.

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
    driver = _driver_problem()
    if driver is not None:
        return driver
    missing = [library for library, reason in cuda_libraries().items() if reason]
    if missing:
        return (
            f"{', '.join(missing)} cannot be loaded: pip install 'speechprune-ort[gpu]' brings "
            "CUDA 13 and cuDNN 9"
        )
    return None


def tensorrt_problem() -> str | None:
    """What keeps this machine from using TensorRT, with its cure; None where nothing does."""
    problem = cuda_problem()
    if problem is not None:
        return problem
    if TENSORRT_PROVIDER not in ort.get_available_providers():
        return "the installed ONNX Runtime has no TensorRT provider: take device='cuda'"
    try:
        ctypes.CDLL(TENSORRT_LIBRARY)
    except OSError as error:
        return (
            f"{TENSORRT_LIBRARY} cannot be loaded ({error}): install TensorRT 10 (pip install "
            "'tensorrt-cu13<11') and put its folder on LD_LIBRARY_PATH, or take device='cuda'"
        )
    return None


def resolve_device(
    asked: str, target: str, provider_options: Mapping[str, str] | None = None
) -> Device:
    """Choose the device of a bundle, or say why it cannot be had.

    Args:
        asked: ``auto``, ``cuda``, ``tensorrt`` or ``cpu``.
        target: what the bundle's graphs were built for, ``cpu`` or ``cuda``.
        provider_options: of the CUDA execution provider; ``device_id`` picks a GPU.

    Raises:
        OptionError: ``asked`` is none of these, or options were given for the CPU.
        DeviceError: the bundle was built for another device, or CUDA or TensorRT cannot be used
            here.

    ``auto`` takes what the bundle was built for and says so on stderr.
    """
    if asked not in ("auto", "cuda", "tensorrt", "cpu"):
        raise OptionError(f"device must be auto, cuda, tensorrt or cpu, not {asked!r}.")
    tensorrt = asked == "tensorrt"
    wanted = {"auto": target, "tensorrt": "cuda"}.get(asked, asked)
    if wanted != target:
        raise DeviceError(
            f"This bundle was exported for {target} and device={asked!r} was asked for: "
            f"export it again with --target {wanted}, or use device={target!r}."
        )
    if wanted == "cpu":
        if provider_options:
            raise OptionError("provider_options are for CUDA: leave them out on the CPU.")
        device = Device("cpu")
    else:
        problem = tensorrt_problem() if tensorrt else cuda_problem()
        if problem is not None:
            raise DeviceError(
                f"{'TensorRT' if tensorrt else 'CUDA'} cannot be used here: {problem}."
            )
        options = {str(k): str(v) for k, v in (provider_options or {}).items()}
        try:
            index = int(options.get("device_id", "0"))
        except ValueError:
            raise OptionError(
                f"device_id must be a whole number, not {options['device_id']!r}."
            ) from None
        device = Device("cuda", index, tuple(sorted(options.items())), tensorrt)
    if asked == "auto":
        sys.stderr.write(f"speechprune-ort: device auto took {device.name}\n")
    return device
