"""Keys and values of several sequences: one buffer per layer and kind, one row per sequence.

Past and present of a layer are the same buffer, so a step writes its own positions and copies
nothing. A run takes neighbouring rows of it, by their address.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import DTypeLike, NDArray

from speechprune_ort.contract.specs import Dimensions, past_name, present_name
from speechprune_ort.providers import ort_type
from speechprune_ort.runtime.ort.device import Device
from speechprune_ort.runtime.ort.stream import copy_rows

__all__ = ["Beginning", "Cache"]


@dataclass(frozen=True, slots=True)
class Beginning:
    """First tokens of prompts, as they lie in the cache.

    Attributes:
        embeds: (tokens, hidden), at the positions from 0 on.
        rows: (kv_heads, tokens, head_dim) of each layer's keys and values.
    """

    embeds: NDArray[Any]
    rows: tuple[NDArray[Any], ...]


class Cache:
    """The KV cache of a batch.

    Args:
        device: where it lies.
        dims: sizes of the axes.
        dtype: dtype of keys and values, see ``ort_type``.
        rows: number of sequences that it has room for.
        capacity: positions of each.
        layers: layers whose keys and values it holds; None for all.

    Attributes:
        rows: as given.
        capacity: as given.
    """

    def __init__(
        self,
        device: Device,
        dims: Dimensions,
        dtype: DTypeLike,
        rows: int,
        capacity: int,
        layers: range | None = None,
    ) -> None:
        self._device, self._dims, self._dtype = device, dims, dtype
        self._type, self._size = ort_type(dtype)
        self.rows, self.capacity = rows, capacity
        self._names = [
            (past_name(layer, kind), present_name(layer, kind))
            for layer in layers or range(dims.layers)
            for kind in ("key", "value")
        ]
        self._arrays: list[NDArray[Any]] = []  # of the host's cache alone
        self._buffers: list[ort.OrtValue] = []
        for _ in self._names:
            self._buffers.append(self._empty())

    @property
    def on_host(self) -> bool:
        """Whether it lies in host memory, where rows can be copied."""
        return self._device.name == "cpu"

    def bind(self, binding: ort.IOBinding, first: int, count: int) -> None:
        """Let a run read and write ``count`` rows from ``first`` on."""
        dims = self._dims
        shape = [count, dims.kv_heads, self.capacity, dims.head_dim]
        skipped = first * dims.kv_heads * self.capacity * dims.head_dim * self._size
        place = (self._device.name, self._device.index, self._type, shape)
        for (past, present), buffer in zip(self._names, self._buffers, strict=True):
            address = buffer.data_ptr() + skipped
            binding.bind_input(past, *place, address)
            binding.bind_output(present, *place, address)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first ``length`` positions of one row to another; on the host alone."""
        for array in self._arrays:
            array[target, :, :length] = array[source, :, :length]

    def read(self, row: int, length: int) -> tuple[NDArray[Any], ...]:
        """The first ``length`` positions of a row, copied; on the host alone."""
        return tuple(array[row, :, :length].copy() for array in self._arrays)

    def write(self, row: int, kept: Sequence[NDArray[Any]]) -> None:
        """Put what ``read`` gave at the beginning of a row."""
        for array, part in zip(self._arrays, kept, strict=True):
            array[row, :, : part.shape[1]] = part

    def take(self, smaller: Cache, lengths: Sequence[int]) -> None:
        """Take over the first ``lengths`` positions of each row of another cache."""
        if self.on_host:
            for old, new in zip(smaller._arrays, self._arrays, strict=True):
                for row, length in enumerate(lengths):
                    new[row, :, :length] = old[row, :, :length]
            return
        # On the device: heads lie one after the other, each as long as the capacity.
        heads, size = self._dims.kv_heads, self._dims.head_dim * self._size
        steps = [cache.capacity * size for cache in (smaller, self)]
        for source, target in zip(smaller._buffers, self._buffers, strict=True):
            for row, length in enumerate(lengths):
                if length:
                    copy_rows(
                        source.data_ptr() + row * heads * steps[0], steps[0],
                        target.data_ptr() + row * heads * steps[1], steps[1],
                        length * size, heads,
                    )  # fmt: skip

    def _empty(self) -> ort.OrtValue:
        dims = self._dims
        shape = (self.rows, dims.kv_heads, self.capacity, dims.head_dim)
        if not self.on_host:
            return self._device.empty(shape, self._dtype)
        # Pages are touched only when written: room that no answer needs costs nothing.
        self._arrays.append(np.empty(shape, self._dtype))
        return self._device.put(self._arrays[-1])
