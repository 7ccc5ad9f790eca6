"""Continuous batching: answers that are wanted at the same time share the decoder's steps.

An answer joins between two steps, once its prompt has been read into a free row of the cache, and
leaves when it ends; those that wait are taken in the order of their arrival, and a step of the
running ones comes between two of them. What a prompt has in common with one that still lies in the
cache is copied, not read again: all of it where several answers to one question are wanted, its
beginning where two questions keep the same tokens.

There is no thread of its own: a call that waits for a token and finds nobody at work does a round
for everyone. So an answer that nobody waits for takes no time, and one call may ask for many.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.cancel import checkpoint
from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.runtime.answering.beginning import divisible, open_decoder
from speechprune_ort.runtime.answering.decoder import Decoder, check_finite
from speechprune_ort.runtime.answering.generation import Generation
from speechprune_ort.runtime.ort.engine import Engine
from speechprune_ort.timings import Timings

__all__ = ["MOST_ROWS", "Reading", "Scheduler", "most_rows"]

ROWS = 8
"""Sequences decoded together, where the caller says nothing."""
MOST_ROWS = 256
LOOKS = 0.05  # seconds between checks whether a call that waits was ended
GROWTH = 256  # positions that a cache grows by at least
COMPARED = 64  # positions of two prompts that are compared at once


def most_rows(manifest: Manifest, asked: int | None = None) -> int:
    """The largest number of a bundle's sequences that are decoded together.

    It is one where answers decoded together would change each other, see ``divisible``.

    Args:
        manifest: the bundle's manifest.
        asked: number that the caller asked for, or None.
    """
    return asked or ROWS if divisible(manifest) else 1


@dataclass(eq=False)
class Reading:
    """A prompt that is to be read, and the answer that follows.

    Attributes:
        embeds: (prompt, hidden) on the host, or (1, prompt, hidden) on the device.
        positions: (prompt,) int64 of each.
        room: positions of prompt and answer.
        generation: chooses the tokens.
        timings: what reading and each step took is added to it; a step that others share counts
            for each of them.
        context: context of the call that wants it: what ends that call ends the reading of its
            prompt.
        row: row of the cache, while it is in the batch.
        first: (vocab,) logits that follow the prompt, once it was read.
        error: what ended it early.
    """

    embeds: NDArray[Any] | ort.OrtValue
    positions: NDArray[np.int64]
    room: int
    generation: Generation
    timings: Timings
    context: Context = field(default_factory=copy_context)
    row: int | None = None
    first: NDArray[np.float32] | None = None
    error: Exception | None = None

    @property
    def over(self) -> bool:
        """Whether no more tokens come."""
        return self.error is not None or self.generation.reason is not None


class Scheduler:
    """Decodes the answers of one bundle together; safe to use from several threads.

    Args:
        engine: the bundle.
        rows: largest number of answers that are decoded together; see ``most_rows``.

    Attributes:
        rows: as given.
    """

    def __init__(self, engine: Engine, rows: int) -> None:
        self._engine, self.rows = engine, rows
        self._changed = threading.Condition()
        self._waiting: deque[Reading] = deque()
        self._rows: dict[int, Reading] = {}
        self._left: list[Reading] = []  # given up, and still in a row
        self._prompts: dict[int, Reading] = {}  # whose prompt lies in a row, even if it is over
        self._at_work = False
        self._read_last = False  # what the last round did
        self._decoder: Decoder | None = None

    def enter(self, reading: Reading) -> None:
        """Join the queue."""
        with self._changed:
            self._waiting.append(reading)

    def leave(self, reading: Reading) -> None:
        """Leave the queue or the batch; nothing happens if the answer is over."""
        with self._changed:
            if reading in self._waiting:
                self._waiting.remove(reading)
            else:
                self._left.append(reading)
            if not self._at_work:
                self._clear()

    def pieces(self, reading: Reading) -> Generator[str, None, None]:
        """Yield the text of an answer that has joined, as it comes.

        Raises:
            CancelledError: the call was ended.
            BundleError: a logit is not finite.
            ComputeError: a graph failed, or there was not enough memory.
        """
        pieces = reading.generation.pieces
        while True:
            while pieces:
                yield pieces.popleft()
            if reading.error is not None:
                raise reading.error
            if reading.over:
                return
            checkpoint()
            with self._changed:
                if self._at_work:
                    self._changed.wait(LOOKS)
                    continue
                self._at_work = True
            try:
                self._round()
            finally:
                with self._changed:
                    self._at_work = False
                    self._clear()
                    self._changed.notify_all()

    def _round(self) -> None:
        """Read one prompt, or do one step, in turns where both are wanted."""
        with self._changed:
            self._clear()
            running = {row: r for row, r in self._rows.items() if not r.over}
            room = len(self._rows) < self.rows
            read = bool(self._waiting) and room and not (running and self._read_last)
            reading = self._waiting.popleft() if read else None
        self._read_last = read
        if reading is not None:
            # What ends its own call may end it, and nothing else.
            reading.context.run(self._read, reading)
        elif running and self._decoder is not None:
            # In no call's context: what ends one answer must not end the step of all.
            Context().run(self._step, self._decoder, running)

    def _read(self, reading: Reading) -> None:
        try:
            with reading.timings.measure("prefill"):
                decoder, row = self._free_row(reading.room)
                with self._changed:
                    self._rows[row], reading.row = reading, row
                logits = self._prefill(decoder, reading, row)
            with reading.timings.measure("decode"):
                reading.generation.take(logits)
        except Exception as error:
            reading.error = error

    def _prefill(self, decoder: Decoder, reading: Reading, row: int) -> NDArray[np.float32]:
        """Logits that follow a prompt; only the part of it that no row holds is read."""
        source, shared = self._most_alike(decoder, reading)
        alike = self._prompts.get(source)
        self._prompts.pop(row, None)
        if shared:
            decoder.copy(source, row, shared)
        if alike is not None and alike.first is not None and shared == len(reading.positions):
            reading.first = alike.first
        else:
            read = decoder.extend if shared else decoder.prefill
            rest = reading.embeds[shared:] if shared else reading.embeds
            reading.first = read(rest, reading.positions[shared:], row).copy()
        self._prompts[row] = reading
        return reading.first

    def _most_alike(self, decoder: Decoder, reading: Reading) -> tuple[int, int]:
        """The row whose prompt has the most in common with another, and how many positions."""
        if not decoder.copies:
            return 0, 0
        found = [(_common(held, reading), row) for row, held in self._prompts.items()]
        shared, row = max(found, default=(0, 0))
        whole = len(reading.positions)
        if shared < whole and not divisible(self._engine.manifest):
            return row, 0
        if shared == whole < len(self._prompts[row].positions):
            shared -= 1  # the logits after the other's last token are not this one's
        known = 0 if decoder.beginning is None else len(decoder.beginning.embeds)
        return row, shared if shared > known else 0

    def _step(self, decoder: Decoder, running: dict[int, Reading]) -> None:
        timings = Timings()
        try:
            with timings.measure("decode"):
                generations = {row: r.generation for row, r in running.items()}
                found = decoder.steps({r: (g.ids[-1], g.position) for r, g in generations.items()})
        except Exception as error:
            for reading in running.values():
                reading.error = error
            return
        for row, reading in running.items():
            try:
                with reading.timings.measure("decode"):
                    check_finite(found[row])
                    reading.generation.take(found[row])
            except Exception as error:
                reading.error = error
            reading.timings.add(timings)

    def _free_row(self, room: int) -> tuple[Decoder, int]:
        """A row with room, in a decoder that is as large as it needs to be."""
        row = next(n for n in range(len(self._rows) + 1) if n not in self._rows)
        if self._decoder is None:
            self._decoder = open_decoder(self._engine, room)
        decoder = self._decoder
        rows, capacity = len(decoder.lengths), decoder.capacity
        if row >= rows:
            rows = min(self.rows, 2 * rows)
        if room > capacity:
            capacity = max(room, capacity + GROWTH)
        if (rows, capacity) != (len(decoder.lengths), decoder.capacity):
            decoder.grow(rows, capacity)
            # Nothing was kept of rows that are free.
            self._prompts = {n: held for n, held in self._prompts.items() if n in self._rows}
        return decoder, row

    def _clear(self) -> None:
        """Free the rows of what is over or given up; a cache that nobody needs is released."""
        for row, reading in list(self._rows.items()):
            if reading.over or reading in self._left:
                del self._rows[row]
                reading.row = None
                if self._decoder is not None:
                    self._decoder.release(row)
        self._left.clear()
        if not self._rows and not self._waiting:
            self._decoder = None
            self._prompts.clear()
        elif self._rows:
            self._close_ranks()

    def _close_ranks(self) -> None:
        """Move the last sequence to a row that is free before it: a run takes neighbours."""
        decoder = self._decoder
        if decoder is None or not decoder.copies:
            return
        while (last := max(self._rows)) >= len(self._rows):
            row = next(n for n in range(last) if n not in self._rows)
            decoder.copy(last, row, decoder.lengths[last])
            decoder.release(last)
            reading = self._rows.pop(last)
            self._rows[row], reading.row = reading, row
            self._prompts.pop(row, None)
            if last in self._prompts:
                self._prompts[row] = self._prompts.pop(last)


def _common(one: Reading, other: Reading) -> int:
    """Positions from the first on that two prompts have in common."""
    if not isinstance(one.embeds, np.ndarray) or not isinstance(other.embeds, np.ndarray):
        return 0
    most = min(len(one.positions), len(other.positions))
    for start in range(0, most, COMPARED):
        part = slice(start, min(start + COMPARED, most))
        same = (one.embeds[part] == other.embeds[part]).all(axis=1)
        same &= one.positions[part] == other.positions[part]
        if not same.all():
            return start + int(same.argmin())
    return most
