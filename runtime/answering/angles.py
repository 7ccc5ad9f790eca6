"""Angles by which attention turns what lies in each slot of a cache.

They are computed ahead of time: those of a prompt's true positions, and after them those that the
answer will take.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.contract.specs import Dimensions
from speechprune_ort.runtime.ort.device import Device
from speechprune_ort.runtime.ort.session import CheckedSession

__all__ = ["Angles"]


class Angles:
    """Cosines and sines of each slot's position, where the decoder reads them.

    Args:
        rotary: the graph that computes them.
        device: where they lie.
        dims: sizes of the axes.
        dtype: their dtype.
        capacity: slots.

    Attributes:
        values: ``cos`` and ``sin``, (capacity, head_dim / 2).
    """

    def __init__(
        self,
        rotary: CheckedSession,
        device: Device,
        dims: Dimensions,
        dtype: np.dtype[Any],
        capacity: int,
    ) -> None:
        self._rotary, self._device, self._dtype = rotary, device, dtype
        self._context, self._half = dims.context, dims.head_dim // 2
        self._binding = rotary.io_binding()
        # Position that each slot is turned for; -1 where none is set.
        self._positions = np.full(capacity, -1, np.int64)
        self.values: dict[str, ort.OrtValue] = {
            name: device.empty((capacity, self._half), dtype) for name in ("cos", "sin")
        }

    def turn(self, slot: int, positions: NDArray[np.int64], ahead: bool) -> None:
        """Let slots have the angles of positions; nothing is computed where they have them.

        Args:
            slot: slot of the first one.
            positions: (tokens,) int64.
            ahead: whether to fill all slots after them as well: what follows a token of an answer
                is nearly always the next position.
        """
        end = slot + len(positions)
        if np.array_equal(self._positions[slot:end], positions):
            return
        if ahead:
            last = int(positions[-1])
            beyond = min(last + 1 + len(self._positions) - end, self._context)
            positions = np.concatenate([positions, np.arange(last + 1, beyond)])
            self._positions[slot:] = -1
        self._compute(slot, positions)

    def _compute(self, slot: int, positions: NDArray[np.int64]) -> None:
        slots = slice(slot, slot + len(positions))
        self._positions[slots] = -1  # a run that is ended leaves them half written
        device, dtype = self._device, self._dtype
        self._binding.bind_ortvalue_input("position_ids", device.put(positions))
        size = self._half * dtype.itemsize
        shape = [len(positions), self._half]
        for name, value in self.values.items():
            address = value.data_ptr() + slot * size
            place = (device.name, device.index, dtype.type)
            self._binding.bind_output(name, *place, shape, address)
        self._rotary.run_with_iobinding(self._binding)
        self._positions[slots] = positions
