"""Audio embeddings where the encoder left them: on the host or on the device."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.runtime.device import Device

__all__ = ["AudioEmbeds"]


class AudioEmbeds:
    """Rows of a buffer that lies on a device; copied to the host when they are first read there.

    Args:
        rows: of the buffer, at least ``tokens``.
        tokens: rows that count.
        hidden: width.
        dtype: of the values.
        device: where the buffer lies.
    """

    def __init__(
        self, rows: int, tokens: int, hidden: int, dtype: np.dtype[Any], device: Device
    ) -> None:
        self.tokens, self.hidden, self.dtype = tokens, hidden, dtype
        self._device = device
        # No value of the runtime has zero bytes: an empty recording has a row that is unused.
        shape = (max(1, rows), hidden)
        # On the CPU the runtime shares an array's memory, and so do we.
        self._array = np.empty(shape, dtype) if device.name == "cpu" else None
        self._buffer = (
            device.empty(shape, dtype) if self._array is None else device.put(self._array)
        )

    @classmethod
    def of(cls, array: NDArray[Any], device: Device) -> AudioEmbeds:
        """Put a host array (tokens, hidden) on a device."""
        embeds = cls(len(array), len(array), array.shape[1], array.dtype, device)
        if embeds._array is not None:
            embeds._array[: len(array)] = array
        elif len(array):
            embeds._buffer = device.put(array)
        return embeds

    @cached_property
    def host(self) -> NDArray[Any]:
        """(tokens, hidden) in host memory; on the CPU the same memory."""
        array = self._buffer.numpy() if self._array is None else self._array
        rows: NDArray[Any] = array[: self.tokens]
        return rows

    def bind(
        self, binding: ort.IOBinding, name: str, start: int = 0, stop: int | None = None
    ) -> None:
        """Make rows ``[start, stop)`` an input of a session, where they lie.

        The buffer must live until the session has run.
        """
        end = self.tokens if stop is None else stop
        row = self.hidden * self.dtype.itemsize
        binding.bind_input(
            name,
            self._device.name,
            self._device.index,
            self.dtype.type,
            [end - start, self.hidden],
            self._buffer.data_ptr() + start * row,
        )

    def bind_rows_as_output(
        self, binding: ort.IOBinding, name: str, start: int, shape: tuple[int, ...]
    ) -> None:
        """Let a session write an output of ``shape`` from row ``start`` on."""
        binding.bind_output(
            name,
            self._device.name,
            self._device.index,
            self.dtype.type,
            list(shape),
            self._buffer.data_ptr() + start * self.hidden * self.dtype.itemsize,
        )
