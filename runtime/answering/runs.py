"""The decoder's graphs on buffers of their own: what they read and write stays where it is.

A prompt is read on its own, into its row of the cache; a step takes a token of each of several
rows. The cosines and sines by which attention turns the token in each slot are a buffer as well,
which all rows share. On CUDA everything between the layers stays on the device: in a step tokens go
up, and a mask where there are several, in one copy; logits come down, and the host waits for them
alone, see ``Stream``.

With CUDA graphs the kernels of a step are captured once and launched as one afterwards. What a
captured graph points to must neither move nor change its shape: a step then takes all rows, and its
mask is as long as the cache, with zeros after each sequence. ONNX Runtime keeps a captured graph as
long as its session, so buffers are used again by later answers, see ``Engine.spares``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.contract.specs import Dimensions
from speechprune_ort.runtime.answering.angles import Angles
from speechprune_ort.runtime.answering.cache import Cache
from speechprune_ort.runtime.ort.device import Device
from speechprune_ort.runtime.ort.session import CheckedSession
from speechprune_ort.runtime.ort.stream import Stream

__all__ = ["Graphs", "Runs"]

LEAST_CAPACITY = 256  # of a cache that a captured graph points to
GRAPH_ID, UNCAPTURED = "gpu_graph_id", -1
ALIGNED = 32  # numbers of 8 bytes: where kernels may begin to read several at a time
_graph_ids = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Graphs:
    """The graphs that an answer needs.

    Attributes:
        decoder: ``decoder``.
        embed: ``embed_tokens``.
        rotary: ``rotary``.
        device: where they run.
        dims: sizes of the axes.
        dtype: dtype of embeddings and logits.
        cache_dtype: dtype of keys and values, see ``ort_type``; None for the same.
        stream: what ``decoder`` and ``embed`` run on.
    """

    decoder: CheckedSession
    embed: CheckedSession
    rotary: CheckedSession
    device: Device
    dims: Dimensions
    dtype: np.dtype[Any]
    cache_dtype: str | None = None
    stream: Stream = field(default_factory=Stream)


class Runs:
    """Runs of the decoder, the embedding of its tokens, and the angles of its positions.

    Args:
        graphs: what runs.
        rows: sequences.
        capacity: positions that the cache holds of each.

    Attributes:
        cache: the cache of keys and values.
        angles: what attention turns each slot by.
        logits: (rows, 1, vocab) logits of the last run, on the host.
    """

    def __init__(self, graphs: Graphs, rows: int, capacity: int) -> None:
        session, embed = graphs.decoder, graphs.embed
        device, dims, dtype = graphs.device, graphs.dims, graphs.dtype
        self._session, self._embed = session, embed
        self._device, self._dims, self._dtype = device, dims, dtype
        self._stream = graphs.stream
        self._place = (device.name, device.index)
        self._graph_id = next(_graph_ids) if device.graphs else None
        self._binding, self._step_binding = session.io_binding(), session.io_binding()
        self._embed_binding = embed.io_binding()
        self.cache = Cache(device, dims, graphs.cache_dtype or dtype, rows, capacity)
        self.angles = Angles(graphs.rotary, device, dims, dtype, capacity)
        self.logits: NDArray[Any] = np.zeros((rows, 1, dims.vocab), dtype)
        self._logits = device.put(self.logits)
        self._wide = np.empty((rows, dims.vocab), np.float32)
        # No position of a sequence is ever masked, so a step of a single one sees one more of the
        # same ones.
        self._ones = device.put(np.ones((1, capacity), np.int64))
        # What goes up in a step: a token of each row, and after them a mask.
        self._mask_at = -(-rows // ALIGNED) * ALIGNED
        self._sent = np.zeros(self._mask_at + rows * capacity, np.int64)
        self._given = device.put(self._sent)
        self._embeds = device.empty((rows, dims.hidden), dtype)
        for name, value in self.angles.values.items():
            self._binding.bind_ortvalue_input(name, value)
            self._step_binding.bind_ortvalue_input(name, value)
        # A binding holds addresses; what they point to must be held here.
        self._held: dict[str, ort.OrtValue] = {}
        self._bound: tuple[int, int] | None = None  # first row and number of rows
        self._embedded = 0  # tokens
        self._replays = False

    @property
    def rows(self) -> int:
        """Sequences."""
        return self.cache.rows

    @property
    def capacity(self) -> int:
        """Positions of each."""
        return self.cache.capacity

    @property
    def captured(self) -> bool:
        """Whether steps are captured as CUDA graphs; they take all rows then."""
        return self._graph_id is not None

    def read(
        self, embeds: NDArray[Any] | ort.OrtValue, row: int, length: int
    ) -> NDArray[np.float32]:
        """Read embeddings of a prompt, or of more of it.

        Args:
            embeds: (tokens, hidden) on the host, or (1, tokens, hidden) on the device.
            row: row of the cache that they go to.
            length: positions of the row afterwards.

        Returns:
            (vocab,) logits of the last position; overwritten by the next run.
        """
        if isinstance(embeds, np.ndarray):
            embeds = self._device.put(np.ascontiguousarray(embeds[None], self._dtype))
        self._held["inputs_embeds"] = embeds
        self._binding.bind_ortvalue_input("inputs_embeds", embeds)
        with self._stream.turn():
            self._run(row, 1, length, self._ones.data_ptr())
            logits: NDArray[np.float32] = self._fetched(1)[0]
        return logits

    def step(self, ids: Sequence[int], first: int, lengths: Sequence[int]) -> NDArray[np.float32]:
        """Take a token for each of several neighbouring rows.

        Args:
            ids: ids of the tokens.
            first: first row; 0, and all rows, where steps are captured.
            lengths: positions of each row afterwards.

        Returns:
            (rows, vocab) logits of the next tokens; overwritten by the next run.
        """
        count, longest = len(ids), self.capacity if self.captured else max(lengths)
        self._sent[:count] = ids
        used = count
        # No position of a single sequence is masked, unless its mask is longer than it is.
        masked = self.captured or count > 1
        if masked:
            used = self._mask_at + count * longest
            mask = self._sent[self._mask_at : used].reshape(count, longest)
            mask[:] = np.arange(longest) < np.array(lengths)[:, None]
        with self._stream.turn():
            self._stream.up(self._sent[:used], self._given)
            self._embed_given(count)
            if self.captured:
                self._replay()
            else:
                shape = [count, 1, self._dims.hidden]
                address = self._embeds.data_ptr()
                place = (*self._place, self._dtype.type)
                self._binding.bind_input("inputs_embeds", *place, shape, address)
                address = self._masks if masked else self._ones.data_ptr()
                self._run(first, count, longest, address)
            return self._fetched(count)

    def _embed_given(self, count: int) -> None:
        """Embed the tokens that went up; embeddings stay on the device from session to session."""
        if self._embedded != count:
            shape, dtype = [count, self._dims.hidden], self._dtype.type
            tokens, embeds = self._given.data_ptr(), self._embeds.data_ptr()
            self._embed_binding.bind_input("token_ids", *self._place, np.int64, [count], tokens)
            self._embed_binding.bind_output("embeds", *self._place, dtype, shape, embeds)
            self._embedded = count
        self._embed.run_with_iobinding(self._embed_binding)

    @property
    def _masks(self) -> int:
        """Address of the mask that went up."""
        address: int = self._given.data_ptr() + self._mask_at * self._sent.itemsize
        return address

    def _run(self, first: int, count: int, longest: int, mask: int) -> None:
        """Run ``count`` rows from ``first`` on.

        Args:
            first: the first row.
            count: how many.
            longest: positions of the longest of them, what goes in included.
            mask: address of their mask (count, longest).
        """
        if self._bound != (first, count):
            self.cache.bind(self._binding, first, count)
            self._bound = (first, count)
            self._bind_logits(self._binding, count)
        shape = [count, longest]
        self._binding.bind_input("attention_mask", *self._place, np.int64, shape, mask)
        if self.captured:
            self._session.run_with_iobinding(self._binding, {GRAPH_ID: str(UNCAPTURED)})
        else:
            self._session.run_with_iobinding(self._binding)

    def _replay(self) -> None:
        """Run a step of all rows as a CUDA graph; the first time it is captured."""
        binding, rows = self._step_binding, self.rows
        if not self._replays:
            self._bind_logits(binding, rows)
            self.cache.bind(binding, 0, rows)
            shape = [rows, self.capacity]
            binding.bind_input("attention_mask", *self._place, np.int64, shape, self._masks)
            shape, address = [rows, 1, self._dims.hidden], self._embeds.data_ptr()
            binding.bind_input("inputs_embeds", *self._place, self._dtype.type, shape, address)
            self._replays = True
        self._session.run_with_iobinding(binding, {GRAPH_ID: str(self._graph_id)})

    def _bind_logits(self, binding: ort.IOBinding, count: int) -> None:
        shape, address = [count, 1, self._dims.vocab], self._logits.data_ptr()
        binding.bind_output("logits", *self._place, self._dtype.type, shape, address)

    def _fetched(self, count: int) -> NDArray[np.float32]:
        """The logits of the last run on the host, (count, vocab).

        In float32: numpy compares half-precision numbers one by one.
        """
        self._stream.down(self._logits, self.logits[:count])
        wide: NDArray[np.float32] = self._wide[:count]
        np.copyto(wide, self.logits[:count, 0])
        return wide
