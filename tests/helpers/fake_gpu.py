"""A GPU as far as addresses go: its values lie in host memory, and copies are made there."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray


class FakeGpu:
    """In place of a ``Device`` of CUDA.

    Attributes:
        made: shapes of what was allocated.
    """

    name, index = "cuda", 0

    def __init__(self) -> None:
        self.made: list[tuple[Any, ...]] = []

    def empty(self, shape: tuple[int, ...], dtype: Any) -> ort.OrtValue:
        """A value that holds something else than was asked for."""
        self.made.append(shape)
        return ort.OrtValue.ortvalue_from_numpy(np.full(shape, -7, dtype))

    def put(self, array: NDArray[Any]) -> ort.OrtValue:
        """A copy of an array."""
        self.made.append(array.shape)
        return ort.OrtValue.ortvalue_from_numpy(np.array(array, order="C"))


def copy_rows(
    source: int, source_step: int, target: int, target_step: int, width: int, rows: int
) -> None:
    """In place of that of ``runtime.ort.stream``."""
    assert width <= min(source_step, target_step)
    for row in range(rows):
        ctypes.memmove(target + row * target_step, source + row * source_step, width)
