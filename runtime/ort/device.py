"""Where graphs run: CPU or CUDA, chosen by the caller, never changed behind their back."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike, NDArray

from speechprune_ort.choices import DeviceName, check_choice
from speechprune_ort.errors import DeviceError, OptionError
from speechprune_ort.providers import (
    CPU_PROVIDER,
    cuda_problem,
    cuda_provider,
    gpu_failure,
    ort_type,
)

__all__ = ["FUSED", "Device", "resolve_device"]

CUDA_GRAPH = "enable_cuda_graph"
STREAM = "user_compute_stream"
FUSED = "ep.cuda.fpa_intb_gemm"
OF_SESSIONS = (FUSED, "ep.cuda.fpa_intb_profile_m")
"""What ONNX Runtime takes as entries of a session, although the CUDA provider obeys them."""


@dataclass(frozen=True, slots=True)
class Device:
    """A place for tensors and graphs.

    Attributes:
        name: ``cpu`` or ``cuda``.
        index: which one, where there are several.
        provider_options: passed to the CUDA execution provider, and ``OF_SESSIONS`` to sessions.
    """

    name: Literal["cpu", "cuda"]
    index: int = 0
    provider_options: tuple[tuple[str, str], ...] = ()

    @property
    def graphs(self) -> bool:
        """Whether decode steps are captured as CUDA graphs."""
        return self._asked(CUDA_GRAPH)

    @property
    def session_entries(self) -> dict[str, str]:
        """Entries of sessions that were asked for."""
        found = {k: v for k, v in self.provider_options if k in OF_SESSIONS}
        if self._asked(FUSED):
            # The kernels take no bias: it is left to an addition of its own.
            found["optimization.disable_specified_optimizers"] = "MatMulNBitsFusion"
            # Weights are laid out anew: what they came from would stay in the provider's pool.
            found["session.use_device_allocator_for_initializers"] = "1"
        return found

    def providers(
        self, more: Mapping[str, str] | None = None, *, captures: bool = False
    ) -> list[Any]:
        """Argument for ``InferenceSession``: what was asked for alone, so nothing falls back.

        Args:
            more: further options of the CUDA provider.
            captures: whether steps of the graph are captured as CUDA graphs where asked for.
        """
        if self.name == "cpu":
            return [CPU_PROVIDER]
        left_out = OF_SESSIONS if captures else (CUDA_GRAPH, *OF_SESSIONS)
        options = {k: v for k, v in self.provider_options if k not in left_out}
        return [cuda_provider(self.index, {**options, **(more or {})})]

    def empty(self, shape: tuple[int, ...], dtype: DTypeLike) -> ort.OrtValue:
        """An uninitialised tensor on this device; see ``ort_type`` for its dtype.

        Raises:
            DeviceError: the GPU has no room for it.
        """
        if self.name == "cpu":
            # Through numpy: pages are touched only when written.
            return ort.OrtValue.ortvalue_from_numpy(np.empty(shape, dtype))
        kind, size = ort_type(dtype)
        with self._explained(f"a buffer of {size * math.prod(shape)} bytes"):
            return ort.OrtValue.ortvalue_from_shape_and_type(
                list(shape), kind, self.name, self.index
            )

    def put(self, array: NDArray[Any]) -> ort.OrtValue:
        """A host array on this device; on the CPU it shares the array's memory.

        Raises:
            DeviceError: the GPU has no room for it.
        """
        with self._explained(f"a buffer of {array.nbytes} bytes"):
            return ort.OrtValue.ortvalue_from_numpy(
                np.ascontiguousarray(array), self.name, self.index
            )

    def _asked(self, option: str) -> bool:
        return dict(self.provider_options).get(option, "0").lower() in ("1", "true", "on")

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # onnxruntime raises several classes of its own
            told = gpu_failure(what, error) if self.name == "cuda" else None
            if told is None:
                raise
            raise told from error


def resolve_device(
    asked: str, target: str, provider_options: Mapping[str, str] | None = None
) -> Device:
    """Choose the device of a bundle, or say why it cannot be used.

    Args:
        asked: ``auto``, ``cuda`` or ``cpu``.
        target: what the bundle's graphs were built for, ``cpu`` or ``cuda``.
        provider_options: options of the CUDA execution provider; ``device_id`` picks a GPU.

    Raises:
        OptionError: ``asked`` is none of these, or options were given for the CPU.
        DeviceError: the bundle was built for another device, or CUDA cannot be used here.

    ``auto`` takes what the bundle was built for and says so on stderr.
    """
    check_choice("device", asked, get_args(DeviceName))
    wanted = target if asked == "auto" else asked
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
        options = {str(k): str(v) for k, v in (provider_options or {}).items()}
        if STREAM in options:
            raise OptionError(f"The provider option {STREAM!r} cannot be set: leave it out.")
        given = options.get("device_id", "0")
        if not given.isascii() or not given.isdecimal():
            raise OptionError(f"device_id must be a whole number from 0, not {given!r}.")
        problem = cuda_problem(int(given))
        if problem is not None:
            raise DeviceError(f"CUDA cannot be used here: {problem}.")
        device = Device("cuda", int(given), tuple(sorted(options.items())))
    if asked == "auto":
        sys.stderr.write(f"speechprune-ort: device auto took {device.name}\n")
    return device
