"""Audio embeddings, kept where they fit: on the device that made them, or in a temporary file."""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import IO, Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.errors import OptionError, OutputError
from speechprune_ort.runtime.ort.device import Device
from speechprune_ort.runtime.ort.stream import copy_rows

__all__ = [
    "AudioEmbeds",
    "DeviceEmbeds",
    "EmbedsBuilder",
    "HostEmbeds",
    "JoinedEmbeds",
    "SpilledEmbeds",
    "disk_errors",
]

MOST_UNTOUCHED = 1 << 32  # bytes of addresses that are reserved before their use
BLOCK_BYTES = 1 << 20  # read from a file at a time


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Say in one sentence that a recording's embeddings find no room in a temporary file.

    Raises:
        OutputError: they found none within the block.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"What is heard cannot be kept in a temporary file ({error}): free some space, set "
            "TMPDIR to another folder, or raise the memory budget of recordings."
        ) from None


class AudioEmbeds(Protocol):
    """The embeddings of a recording, (tokens, hidden), wherever they are kept."""

    @property
    def tokens(self) -> int:
        """Audio tokens of the recording."""
        ...

    @property
    def hidden(self) -> int:
        """Width of an embedding."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        ...

    @property
    def host(self) -> NDArray[Any]:
        """All rows, in host memory."""
        ...

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield all rows in order, a block at a time, in host memory."""
        ...

    def take(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """The rows at ``indices``, which ascend, in host memory."""
        ...


class HostEmbeds:
    """An array in host memory.

    Args:
        array: (tokens, hidden).

    Raises:
        OptionError: the array has other axes, or is empty.
    """

    def __init__(self, array: NDArray[Any]) -> None:
        if array.ndim != 2 or array.size == 0:
            raise OptionError(
                "audio embeddings must be a non-empty array (tokens, hidden), not of shape "
                f"{array.shape}."
            )
        self.host = array
        self.tokens, self.hidden = array.shape
        self.dtype = array.dtype

    def blocks(self) -> Iterator[NDArray[Any]]:
        """See ``AudioEmbeds``: all at once."""
        yield self.host

    def take(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """See ``AudioEmbeds``."""
        rows: NDArray[Any] = self.host[indices]
        return rows


class DeviceEmbeds:
    """Rows of a buffer on a device, copied to the host when they are first read there.

    Copies from one to another stay on the device.

    Args:
        rows: rows that the buffer has, at least ``tokens``.
        tokens: rows that hold embeddings.
        hidden: width of an embedding.
        dtype: type of the values.
        device: device that the buffer is on.
    """

    def __init__(
        self, rows: int, tokens: int, hidden: int, dtype: np.dtype[Any], device: Device
    ) -> None:
        self.tokens, self.hidden, self.dtype = tokens, hidden, dtype
        self._device = device
        # ONNX Runtime has no values of zero bytes: an empty recording has an unused row.
        self._rows = max(1, rows)
        shape = (self._rows, hidden)
        # On the CPU the runtime shares an array's memory, and so do we.
        self._array = np.empty(shape, dtype) if device.name == "cpu" else None
        self._buffer = (
            device.empty(shape, dtype) if self._array is None else device.put(self._array)
        )

    @classmethod
    def of(cls, array: NDArray[Any], device: Device) -> DeviceEmbeds:
        """Copy a host array (tokens, hidden) to a device."""
        embeds = cls(len(array), len(array), array.shape[1], array.dtype, device)
        embeds.write(array, 0)
        return embeds

    @cached_property
    def host(self) -> NDArray[Any]:
        """See ``AudioEmbeds``; on the CPU it shares the buffer's memory."""
        return self.rows(0, self.tokens)

    def rows(self, start: int, count: int) -> NDArray[Any]:
        """``count`` rows of the buffer from ``start`` on, on the host.

        Raises:
            ValueError: the buffer has no such rows.
        """
        self._check_rows(start, count)
        if self._array is not None:
            return self._array[start : start + count]
        rows = np.empty((count, self.hidden), self.dtype)
        self._copy(self._address(start), rows.ctypes.data, count)
        return rows

    def write(self, rows: NDArray[Any], start: int) -> None:
        """Copy host rows into the buffer from row ``start`` on.

        Raises:
            ValueError: the buffer ends before them.
        """
        self._check_rows(start, len(rows))
        if self._array is not None:
            self._array[start : start + len(rows)] = rows
        else:
            held = np.ascontiguousarray(rows, self.dtype)
            self._copy(held.ctypes.data, self._address(start), len(held))

    def take_over(self, other: DeviceEmbeds, start: int, count: int, first: int = 0) -> None:
        """Copy ``count`` rows of another buffer, its ``first`` and those after it, to ``start``.

        Raises:
            ValueError: one of them has no such rows.
        """
        self._check_rows(start, count)
        other._check_rows(first, count)
        if self._array is not None and other._array is not None:
            self._array[start : start + count] = other._array[first : first + count]
        else:
            self._copy(other._address(first), self._address(start), count)

    def _copy(self, source: int, target: int, count: int) -> None:
        if count:
            step = self.hidden * self.dtype.itemsize
            copy_rows(source, step, target, step, step, count)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """See ``AudioEmbeds``: all at once."""
        yield self.host

    def take(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """See ``AudioEmbeds``."""
        rows: NDArray[Any] = self.host[indices]
        return rows

    def bind(
        self, binding: ort.IOBinding, name: str, start: int = 0, stop: int | None = None
    ) -> None:
        """Make rows ``[start, stop)`` an input of a session, without a copy.

        The buffer must live until the session has run.

        Raises:
            ValueError: the buffer has no such rows.
        """
        end = self.tokens if stop is None else stop
        self._check_rows(start, end - start)
        shape = [end - start, self.hidden]
        binding.bind_input(name, *self._place, shape, self._address(start))

    def bind_output(
        self, binding: ort.IOBinding, name: str, start: int, shape: tuple[int, ...]
    ) -> None:
        """Let a session write an output of ``shape`` from row ``start`` on.

        Raises:
            ValueError: the buffer ends before it.
        """
        self._check_rows(start, math.prod(shape) // self.hidden)
        binding.bind_output(name, *self._place, list(shape), self._address(start))

    def _check_rows(self, start: int, count: int) -> None:
        # A session is given only an address, so nothing else would notice.
        if not 0 <= start <= start + count <= self._rows:
            raise ValueError(f"rows {start} to {start + count} of a buffer of {self._rows}")

    @property
    def _place(self) -> tuple[Any, ...]:
        return self._device.name, self._device.index, self.dtype.type

    def _address(self, row: int) -> int:
        address: int = self._buffer.data_ptr() + row * self.hidden * self.dtype.itemsize
        return address


class SpilledEmbeds:
    """Rows of a temporary file, which is deleted with the last object that reads it.

    Args:
        file: file that holds the rows one after the other, perhaps followed by rows of others.
        tokens: rows of the file that belong to this object.
        hidden: width of an embedding.
        dtype: type of the values.
        rest: (tokens, hidden) rows that follow those of the file.
    """

    def __init__(
        self,
        file: IO[bytes],
        tokens: int,
        hidden: int,
        dtype: np.dtype[Any],
        rest: NDArray[Any] | None = None,
    ) -> None:
        self._file, self._filed = file, tokens
        self._rest = np.zeros((0, hidden), dtype) if rest is None else rest
        self.tokens, self.hidden, self.dtype = tokens + len(self._rest), hidden, dtype

    @property
    def host(self) -> NDArray[Any]:
        """See ``AudioEmbeds``; read again each time, as it may be large."""
        return self._read(0, self.tokens)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """See ``AudioEmbeds``."""
        rows = max(1, BLOCK_BYTES // (self.hidden * self.dtype.itemsize))
        for start in range(0, self.tokens, rows):
            yield self._read(start, min(start + rows, self.tokens))

    def take(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """See ``AudioEmbeds``."""
        if not len(indices):
            return np.zeros((0, self.hidden), self.dtype)
        runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
        return np.concatenate([self._read(int(run[0]), int(run[-1]) + 1) for run in runs])

    def _read(self, start: int, stop: int) -> NDArray[Any]:
        if stop > self._filed:
            rest = self._rest[max(0, start - self._filed) : stop - self._filed]
            if start >= self._filed:
                return rest
            return np.concatenate([self._read(start, self._filed), rest])
        row = self.hidden * self.dtype.itemsize
        # Read at an explicit offset, not at the file's own: several threads may read at once.
        content = bytearray()
        while len(content) < (stop - start) * row:
            wanted = (stop - start) * row - len(content)
            content += os.pread(self._file.fileno(), wanted, start * row + len(content))
        return np.frombuffer(content, self.dtype).reshape(stop - start, self.hidden)


class JoinedEmbeds:
    """Several recordings end to end, each where it is.

    Args:
        parts: their embeddings, of one bundle.
    """

    def __init__(self, parts: Sequence[AudioEmbeds]) -> None:
        self._parts = tuple(parts)
        self.hidden, self.dtype = parts[0].hidden, parts[0].dtype
        self._starts = np.cumsum([0, *(part.tokens for part in parts)])
        self.tokens = int(self._starts[-1])

    @property
    def host(self) -> NDArray[Any]:
        """See ``AudioEmbeds``; put together again each time."""
        return np.concatenate([part.host[: part.tokens] for part in self._parts])

    def blocks(self) -> Iterator[NDArray[Any]]:
        """See ``AudioEmbeds``."""
        for part in self._parts:
            if part.tokens:
                yield from part.blocks()

    def take(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """See ``AudioEmbeds``."""
        edges = np.searchsorted(indices, self._starts)
        return np.concatenate(
            [
                part.take(indices[first:end] - start)
                for part, first, end, start in zip(
                    self._parts, edges[:-1], edges[1:], self._starts[:-1], strict=True
                )
            ]
        )


class EmbedsBuilder:
    """Collects the encoder's output, window by window.

    Each window is written after the tokens of the one before, over its padding.

    Args:
        shape: shape of a window's embeddings, (window_tokens, hidden).
        dtype: type of the values.
        device: where the encoder runs.
        budget: bytes that all embeddings together may take on the device; beyond that they go to
            a temporary file.
        at_once: largest number of windows that one run may write.

    Attributes:
        window_tokens: rows that a whole window has.
        at_once: as given.
    """

    def __init__(
        self,
        shape: tuple[int, int],
        dtype: np.dtype[Any],
        device: Device,
        budget: int,
        at_once: int = 1,
    ) -> None:
        self.window_tokens, self._hidden = shape
        self.at_once = at_once
        self._dtype, self._device = dtype, device
        least = at_once * self.window_tokens
        self._most = max(least, budget // (self._hidden * dtype.itemsize))
        # On the CPU, pages take memory only once written; elsewhere, or where more is allowed than
        # a machine may have, the buffer grows.
        first = max(least, 4 * self.window_tokens)
        untouched = device.name == "cpu" and budget <= MOST_UNTOUCHED
        rows = self._most if untouched else min(self._most, first)
        self._embeds = self._buffer(rows)
        self._rows = rows
        self._tokens = self._written = 0
        self._file: IO[bytes] | None = None

    def bind_next(
        self, binding: ort.IOBinding, name: str, tokens: int | None = None, windows: int = 1
    ) -> None:
        """Let a session write the next windows directly into the buffer.

        Args:
            binding: the session's binding.
            name: name of its output.
            tokens: rows that it will write for each window; by default and at most a whole window.
            windows: how many it will write, at most ``at_once``; several must be whole.
        """
        self._make_room(windows)
        shape = (windows, self.window_tokens if tokens is None else tokens, self._hidden)
        self._embeds.bind_output(binding, name, self._tokens - self._written, shape)

    def append(self, rows: NDArray[Any]) -> None:
        """Append rows (at most window_tokens, hidden) from the host."""
        self._make_room(1)
        self._embeds.write(rows, self._tokens - self._written)
        self.commit(len(rows))

    def repeat(self, part: DeviceEmbeds) -> None:
        """Append what ``peek`` gave."""
        self._make_room(1)
        self._embeds.take_over(part, self._tokens - self._written, part.tokens)
        self.commit(part.tokens)

    def peek(self, count: int) -> DeviceEmbeds:
        """A copy of the first ``count`` tokens that were written and not yet committed."""
        part = self._buffer(count)
        part.take_over(self._embeds, 0, count, self._tokens - self._written)
        part.tokens = count
        return part

    def commit(self, count: int) -> None:
        """Keep the first ``count`` tokens of what was written."""
        self._tokens += count
        if self._file is not None:
            self._spill()

    def so_far(self, rest: DeviceEmbeds) -> AudioEmbeds:
        """All embeddings so far, then ``rest``; not changed by later windows."""
        if self._file is not None:
            self._file.flush()
            return SpilledEmbeds(self._file, self._tokens, self._hidden, self._dtype, rest.host)
        whole = self._buffer(self._tokens + rest.tokens)
        whole.take_over(self._embeds, 0, self._tokens)
        whole.take_over(rest, self._tokens, rest.tokens)
        whole.tokens = self._tokens + rest.tokens
        return whole

    def finish(self) -> AudioEmbeds:
        """All embeddings."""
        if self._file is not None:
            self._file.flush()
            return SpilledEmbeds(self._file, self._tokens, self._hidden, self._dtype)
        self._embeds.tokens = self._tokens
        return self._embeds

    def _buffer(self, rows: int) -> DeviceEmbeds:
        return DeviceEmbeds(rows, 0, self._hidden, self._dtype, self._device)

    def _make_room(self, windows: int) -> None:
        needed = windows * self.window_tokens
        if self._tokens - self._written + needed <= self._rows:
            return
        if self._rows < self._most:
            rows = min(self._most, 2 * self._rows)
            grown = self._buffer(rows)
            grown.take_over(self._embeds, 0, self._tokens)
            self._embeds, self._rows = grown, rows
            if self._tokens + needed <= rows:
                return
        self._file = tempfile.TemporaryFile(prefix="speechprune-ort-")  # noqa: SIM115 - kept
        self._spill()
        self._rows = self.at_once * self.window_tokens
        self._embeds = self._buffer(self._rows)

    def _spill(self) -> None:
        if self._file is not None:
            fresh = self._embeds.rows(0, self._tokens - self._written)
            self._file.write(np.ascontiguousarray(fresh).data)
            self._written = self._tokens
