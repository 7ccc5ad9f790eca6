"""Continuous batching: answers that are wanted at the same time share the decoder's steps.

An answer joins between two steps, once its prompt has been read into a free row of the cache, and
leaves when it ends; those that wait are taken in the order of their arrival, and a step of the
running ones comes between two of them. There is no thread of its own: whoever waits for a token and
finds nobody at work does a round for everyone. So an answer that nobody waits for costs nothing,
and one call may ask for many.
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
from speechprune_ort.runtime.answering.decoder import Decoder, check_finite
from speechprune_ort.runtime.answering.generation import Generation
from speechprune_ort.runtime.ort.engine import Engine
from speechprune_ort.timings import Timings

__all__ = ["MOST_ROWS", "Reading", "Scheduler", "most_rows"]

ROWS = 8
"""Sequences decoded together, where the caller says nothing."""
MOST_ROWS = 256
LOOKS = 0.05  # seconds between looks whether a call that waits was ended
GROWTH = 256  # positions that a cache grows by at least


def most_rows(manifest: Manifest, asked: int | None = None) -> int:
    """Sequences of a bundle that are decoded together at most.

    ``w8a8`` rounds all activations of a product by one scale, so that answers decoded together
    would change each other: there it is one.

    Args:
        manifest: of the bundle.
        asked: by the caller; None where nothing was.
    """
    return 1 if manifest.precision == "w8a8" else asked or ROWS


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
        context: of the call that wants it: what ends that, ends the reading of its prompt.
        row: of the cache, while it is in the batch.
        error: what ended it before its end.
    """

    embeds: NDArray[Any] | ort.OrtValue
    positions: NDArray[np.int64]
    room: int
    generation: Generation
    timings: Timings
    context: Context = field(default_factory=copy_context)
    row: int | None = None
    error: Exception | None = None

    @property
    def over(self) -> bool:
        """Whether no more tokens come."""
        return self.error is not None or self.generation.reason is not None


class Scheduler:
    """Decodes the answers of one bundle together; safe to use from several threads.

    Args:
        engine: the bundle.
        rows: answers that are decoded together at most; see ``most_rows``.

    Attributes:
        rows: as given.
    """

    def __init__(self, engine: Engine, rows: int) -> None:
        self._engine, self.rows = engine, rows
        self._changed = threading.Condition()
        self._waiting: deque[Reading] = deque()
        self._rows: dict[int, Reading] = {}
        self._left: list[Reading] = []  # given up, and still in a row
        self._at_work = False
        self._read_last = False  # what the last round did
        self._decoder: Decoder | None = None

    def enter(self, reading: Reading) -> None:
        """Take a place in the line."""
        with self._changed:
            self._waiting.append(reading)

    def leave(self, reading: Reading) -> None:
        """Give up the place, in the line or in the batch; nothing happens where it is over."""
        with self._changed:
            if reading in self._waiting:
                self._waiting.remove(reading)
            else:
                self._left.append(reading)
            if not self._at_work:
                self._clear()

    def pieces(self, reading: Reading) -> Generator[str, None, None]:
        """Yield the text of an answer that has its place, as it comes.

        Raises:
            CancelledError: the call was ended.
            BundleError: a logit is not finite.
            ComputeError: a graph failed, or memory did not suffice.
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
            # Nobody's own: what ends one answer must not end the step of all.
            Context().run(self._step, self._decoder, running)

    def _read(self, reading: Reading) -> None:
        try:
            with reading.timings.measure("prefill"):
                decoder, row = self._free_row(reading.room)
                with self._changed:
                    self._rows[row], reading.row = reading, row
                logits = decoder.prefill(reading.embeds, reading.positions, row)
            with reading.timings.measure("decode"):
                reading.generation.take(logits)
        except Exception as error:
            reading.error = error

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
            self._decoder = Decoder.open(self._engine, room)
        decoder = self._decoder
        rows, capacity = len(decoder.lengths), decoder.capacity
        if row >= rows:
            rows = min(self.rows, 2 * rows)
        if room > capacity:
            capacity = max(room, capacity + GROWTH)
        if (rows, capacity) != (len(decoder.lengths), decoder.capacity):
            decoder.grow(rows, capacity)
        return decoder, row

    def _clear(self) -> None:
        """Free the rows of what is over or given up; an empty cache is let go."""
        for row, reading in list(self._rows.items()):
            if reading.over or reading in self._left:
                del self._rows[row]
                reading.row = None
                if self._decoder is not None:
                    self._decoder.release(row)
        self._left.clear()
        if not self._rows:
            self._decoder = None
        else:
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
