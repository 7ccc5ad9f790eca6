"""Prefill and decode steps, for one sequence or several, and where each is in the cache.

What runs, and on which buffers, is in ``runs``; the angles of positions are in ``angles``.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.contract.specs import DECODER, EMBED_TOKENS, ROTARY
from speechprune_ort.errors import BundleError
from speechprune_ort.runtime.answering.cache import Beginning
from speechprune_ort.runtime.answering.runs import LEAST_CAPACITY, Graphs, Runs
from speechprune_ort.runtime.ort.engine import Engine, Spares
from speechprune_ort.runtime.ort.session import memory_errors

__all__ = ["Decoder", "check_finite"]

# Positions of a prompt that are read at once on the CPU. Attention multiplies each of them with all
# that the cache holds, later ones of the same run included: with several runs there are fewer of
# those, and scores take less memory. Fewer positions than these do not fill the processor.
BLOCK = 256


class Decoder:
    """Answers being generated: the sessions that they take, and a cache.

    Args:
        graphs: the sessions, and where they run.
        capacity: positions that the cache holds of each sequence, prompt and answer together.
        rows: sequences.
        spares: buffers of earlier answers, which captured graphs point to.

    Attributes:
        beginning: first tokens of prompts, which need not be read again; None if there are none.
            Only where rows can be copied, see ``copies``.
    """

    def __init__(
        self, graphs: Graphs, capacity: int, rows: int = 1, spares: Spares | None = None
    ) -> None:
        self._graphs, self._dims = graphs, graphs.dims
        self._spares = spares
        self.beginning: Beginning | None = None
        self._lengths = [0] * rows
        self._runs = self._take(rows, capacity)

    @classmethod
    def open(cls, engine: Engine, capacity: int, rows: int = 1) -> Decoder:
        """A decoder of a bundle, with an empty cache of ``rows`` times ``capacity`` positions.

        Raises:
            OutOfMemoryError: there is not enough memory for the cache.
        """
        manifest = engine.manifest
        with memory_errors(DECODER):
            graphs = Graphs(
                engine.session(DECODER),
                engine.session(EMBED_TOKENS),
                engine.session(ROTARY),
                engine.device,
                manifest.dimensions,
                np.dtype(manifest.float_dtype),
                manifest.cache_dtype,
                engine.stream,
            )
            return cls(graphs, capacity, rows, engine.spares)

    @property
    def length(self) -> int:
        """Positions of the first row in the cache."""
        return self._lengths[0]

    @property
    def lengths(self) -> tuple[int, ...]:
        """Positions of each row in the cache."""
        return tuple(self._lengths)

    @property
    def capacity(self) -> int:
        """Positions that each row has room for."""
        return self._runs.capacity

    @property
    def copies(self) -> bool:
        """Whether rows can be copied: on the host alone."""
        return self._runs.cache.on_host

    def grow(self, rows: int, capacity: int) -> None:
        """Make room for more sequences, or longer ones; what the cache holds stays.

        Raises:
            OutOfMemoryError: there is not enough memory; the decoder cannot be used any more then.
        """
        with memory_errors(DECODER):
            larger = self._take(rows, capacity)
            larger.cache.take(self._runs.cache, self._lengths)
            self._runs = larger
            self._lengths += [0] * (larger.rows - len(self._lengths))

    def copy(self, source: int, target: int, length: int) -> None:
        """Let a row begin with the first ``length`` positions of another; see ``copies``."""
        self._runs.cache.copy(source, target, length)
        self._lengths[target] = length

    def read_back(self, length: int) -> tuple[NDArray[Any], ...]:
        """Keys and values of the first row's first positions, for a ``Beginning``."""
        return self._runs.cache.read(0, length)

    def release(self, row: int) -> None:
        """Forget a sequence; its row takes part in steps no more."""
        self._lengths[row] = 0

    def prefill(
        self, embeds: NDArray[Any] | ort.OrtValue, positions: NDArray[np.int64], row: int = 0
    ) -> NDArray[np.float32]:
        """Read a whole prompt.

        Args:
            embeds: (tokens, hidden) on the host, or (1, tokens, hidden) on the device.
            positions: (tokens,) int64, true positions, increasing.
            row: row of the cache that it goes to.

        Returns:
            (vocab,) logits of the last position; overwritten by the next step.

        Raises:
            BundleError: a logit is not finite.
        """
        first, known = 0, self.beginning
        if (
            known is not None
            and isinstance(embeds, np.ndarray)
            and _begins(known, embeds, positions)
        ):
            first = len(known.embeds)
            self._runs.cache.write(row, known.rows)
            embeds = embeds[first:]
        self._lengths[row] = first
        return self.extend(embeds, positions[first:], row)

    def extend(
        self, embeds: NDArray[Any] | ort.OrtValue, positions: NDArray[np.int64], row: int = 0
    ) -> NDArray[np.float32]:
        """Read more of a prompt, after what a row holds.

        Args:
            embeds: (tokens, hidden) on the host, or (1, tokens, hidden) on the device.
            positions: (tokens,) int64, true positions, increasing.
            row: row of the cache.

        Returns:
            (vocab,) logits of the last position; overwritten by the next step.

        Raises:
            BundleError: a logit is not finite.
        """
        start, end = self._lengths[row], self._lengths[row] + len(positions)
        self._check(end, int(positions.max()))
        self._runs.angles.turn(start, positions, ahead=True)
        blocks: list[NDArray[Any] | ort.OrtValue] = [embeds]
        ends = [end]
        if isinstance(embeds, np.ndarray) and self._runs.cache.on_host:
            blocks = np.array_split(embeds, -(-len(positions) // BLOCK))
            ends = (start + np.cumsum([len(block) for block in blocks])).tolist()
        for block, self._lengths[row] in zip(blocks, ends, strict=True):
            logits = self._runs.read(block, row, self._lengths[row])
        check_finite(logits)
        return logits

    def rewind(self, length: int, row: int = 0) -> None:
        """Forget all positions of a row from ``length`` on; the next step writes over them.

        Raises:
            ValueError: the cache does not hold as many.
        """
        if not 0 <= length <= self._lengths[row]:
            raise ValueError(f"the cache holds {self._lengths[row]} positions, not {length}")
        self._lengths[row] = length

    def step(self, token: int, position: int) -> NDArray[np.float32]:
        """Take one token of the first row's answer.

        Args:
            token: its id.
            position: its position.

        Returns:
            (vocab,) logits of the next token; overwritten by the next step.

        Raises:
            BundleError: a logit is not finite.
        """
        logits = self.steps({0: (token, position)})[0]
        check_finite(logits)
        return logits

    def steps(self, tokens: Mapping[int, tuple[int, int]]) -> dict[int, NDArray[np.float32]]:
        """Take one token of each of several answers.

        Args:
            tokens: id and position by row; rows that hold a sequence and are not among them keep
                it, and need room for one token more.

        Returns:
            (vocab,) logits of the next token by row; overwritten by the next step. Whether they are
            finite is for the caller to check, see ``check_finite``.
        """
        for row, (_, position) in tokens.items():
            self._check(self._lengths[row] + 1, position)
        together: dict[int, tuple[int, int]] = {}
        apart: dict[int, tuple[int, int]] = {}
        at: dict[int, int] = {}  # position by slot
        for row, given in tokens.items():
            # Attention turns a token by its slot's angles, so the tokens of one run that lie in
            # the same slot must have the same position; others take a run of their own.
            same = at.setdefault(self._lengths[row], given[1]) == given[1]
            (together if same else apart)[row] = given
        found = self._step(together)
        if apart:
            found = {row: logits.copy() for row, logits in found.items()}
            for row, given in apart.items():
                found[row] = self._step({row: given})[row].copy()
        return found

    def _step(self, tokens: Mapping[int, tuple[int, int]]) -> dict[int, NDArray[np.float32]]:
        runs = self._runs
        rows = range(runs.rows) if runs.captured else range(min(tokens), max(tokens) + 1)
        for row, (_, position) in tokens.items():
            at = np.array([position], np.int64)
            runs.angles.turn(self._lengths[row], at, ahead=len(tokens) == 1)
        # A row that does not take part writes to its next slot, which it will write again.
        lengths = [self._lengths[row] + 1 for row in rows]
        if max(lengths) > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} positions, not {max(lengths)}")
        ids = [tokens[row][0] if row in tokens else 0 for row in rows]
        for row in tokens:
            self._lengths[row] += 1
        logits = runs.step(ids, rows[0], lengths)
        return {row: logits[row - rows[0]] for row in tokens}

    def _check(self, length: int, position: int) -> None:
        """Refuse what does not fit.

        Raises:
            ValueError: the cache or the model does not hold as many.
        """
        if length > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} positions, not {length}")
        if position >= self._dims.context:
            raise ValueError(f"the model has {self._dims.context} positions, not {position}")

    def _take(self, rows: int, capacity: int) -> Runs:
        """Buffers of at least this size; if graphs point to them, those of earlier answers."""
        if not self._graphs.device.graphs or self._spares is None:
            return Runs(self._graphs, rows, capacity)
        capacity = max(LEAST_CAPACITY, 1 << (capacity - 1).bit_length())
        shelf = self._spares.shelf(rows, capacity)
        runs: Runs
        try:
            runs = shelf.pop()
        except IndexError:
            runs = Runs(self._graphs, rows, capacity)
        # They come back when the decoder is dropped, and not before: it may have grown since.
        weakref.finalize(self, shelf.append, runs)
        return runs


def _begins(known: Beginning, embeds: NDArray[Any], positions: NDArray[np.int64]) -> bool:
    """Whether a prompt begins with what is known, and goes on."""
    count = len(known.embeds)
    return (
        len(positions) > count
        and np.array_equal(positions[:count], np.arange(count))
        and np.array_equal(embeds[:count], known.embeds)
    )


def check_finite(logits: NDArray[np.float32]) -> None:
    """Refuse logits that no token can be chosen from.

    Raises:
        BundleError: one of them is not finite.
    """
    if not np.isfinite(logits).all():
        raise BundleError(
            "The decoder's logits are not all finite, so no token can be chosen: export the "
            "bundle again with a wider --precision, and report the checkpoint if that is fp32."
        )
