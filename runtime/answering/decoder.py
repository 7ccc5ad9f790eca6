"""Prefill and decode steps in one session, for one sequence or several, the KV cache in place.

A prompt is read on its own, into its row of the cache; a step takes a token of each sequence. The
cosines and sines by which attention turns the token in each slot are a buffer as well: those of the
prompt's true positions, and behind them, ahead of time, those that an answer goes on with. All rows
share it. On CUDA the buffers, the mask, the embeddings of a step and everything between the layers
stay on the device; a step sends up its tokens, in one copy, and logits come down.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.contract.specs import DECODER, EMBED_TOKENS, ROTARY, Dimensions
from speechprune_ort.errors import BundleError
from speechprune_ort.runtime.answering.cache import Cache
from speechprune_ort.runtime.ort.device import Device
from speechprune_ort.runtime.ort.engine import Engine
from speechprune_ort.runtime.ort.session import memory_errors

__all__ = ["Decoder", "check_finite"]


@dataclass(frozen=True, slots=True)
class _Room:
    """Buffers beside the cache.

    Attributes:
        positions: of the token in each slot, (capacity,); -1 where none is set.
        logits: (rows, 1, vocab), on the host.
        wide: the same in float32, (rows, vocab).
        ones: a mask, (1, capacity): no position of a sequence is ever masked, so a step of a single
            one sees one more of the same ones.
        tokens: ids of a step, (rows,), on the device.
        embeds: their embeddings, (rows, hidden), on the device.
    """

    positions: NDArray[np.int64]
    logits: NDArray[Any]
    wide: NDArray[np.float32]
    ones: ort.OrtValue
    tokens: ort.OrtValue
    embeds: ort.OrtValue


class Decoder:
    """Answers being generated: the sessions that they take, and a cache.

    Args:
        session: ``decoder``.
        embed: ``embed_tokens``.
        rotary: ``rotary``.
        device: where they run.
        dims: sizes of the axes.
        float_dtype: of embeddings, cache and logits.
        capacity: positions that the cache holds of each sequence, prompt and answer together.
        rows: sequences.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        embed: ort.InferenceSession,
        rotary: ort.InferenceSession,
        device: Device,
        dims: Dimensions,
        float_dtype: str,
        capacity: int,
        rows: int = 1,
    ) -> None:
        self._session, self._embed, self._rotary = session, embed, rotary
        self._device, self._dims = device, dims
        self._dtype = np.dtype(float_dtype)
        self._angles = dims.head_dim // 2
        self._binding = session.io_binding()
        self._rotary_binding, self._embed_binding = rotary.io_binding(), embed.io_binding()
        # A binding holds addresses; what they point to must be held here.
        self._held: dict[str, ort.OrtValue] = {}
        self._lengths: list[int] = []
        self._bound: tuple[int, int] | None = None  # first row and number of rows
        self._embedded = 0  # tokens
        self._cache = Cache(device, dims, self._dtype, rows, capacity)
        self._room = self._make_room()

    @classmethod
    def open(cls, engine: Engine, capacity: int, rows: int = 1) -> Decoder:
        """A decoder of a bundle, with an empty cache of ``rows`` times ``capacity`` positions.

        Raises:
            OutOfMemoryError: memory does not suffice for the cache.
        """
        manifest = engine.manifest
        with memory_errors(DECODER):
            return cls(
                engine.session(DECODER),
                engine.session(EMBED_TOKENS),
                engine.session(ROTARY),
                engine.device,
                manifest.dimensions,
                manifest.float_dtype,
                capacity,
                rows,
            )

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
        return self._cache.capacity

    @property
    def copies(self) -> bool:
        """Whether rows can be copied: on the host alone."""
        return self._cache.on_host

    def grow(self, rows: int, capacity: int) -> None:
        """Make room for more sequences, or longer ones; what the cache holds stays.

        Raises:
            OutOfMemoryError: memory does not suffice; the decoder is of no use then.
        """
        with memory_errors(DECODER):
            self._cache.grow(rows, capacity, self._lengths)
            self._room = self._make_room()

    def copy(self, source: int, target: int, length: int) -> None:
        """Let a row begin with the first ``length`` positions of another; see ``copies``."""
        self._cache.copy(source, target, length)
        self._lengths[target] = length

    def release(self, row: int) -> None:
        """Forget a sequence; its row takes part in steps no more."""
        self._lengths[row] = 0

    def prefill(
        self, embeds: NDArray[Any] | ort.OrtValue, positions: NDArray[np.int64], row: int = 0
    ) -> NDArray[np.float32]:
        """Take a whole prompt.

        Args:
            embeds: (tokens, hidden) on the host, or (1, tokens, hidden) on the device.
            positions: (tokens,) int64, true positions, increasing.
            row: of the cache that it goes to.

        Returns:
            (vocab,) logits of the last position; overwritten by the next step.

        Raises:
            BundleError: a logit is not finite.
        """
        self._check(len(positions), int(positions.max()))
        if not np.array_equal(self._room.positions[: len(positions)], positions):
            self._turn(0, positions, ahead=True)
        if isinstance(embeds, np.ndarray):
            embeds = self._device.put(np.ascontiguousarray(embeds[None], self._dtype))
        self._held["inputs_embeds"] = embeds
        self._binding.bind_ortvalue_input("inputs_embeds", embeds)
        self._lengths[row] = len(positions)
        logits: NDArray[np.float32] = self._run(row, [len(positions)])[0]
        check_finite(logits)
        return logits

    def extend(
        self, embeds: NDArray[Any], positions: NDArray[np.int64], row: int = 0
    ) -> NDArray[np.float32]:
        """Take more of a prompt, behind what a row holds.

        Args:
            embeds: (tokens, hidden), on the host.
            positions: (tokens,) int64, true positions, increasing.
            row: of the cache.

        Returns:
            (vocab,) logits of the last position; overwritten by the next step.

        Raises:
            BundleError: a logit is not finite.
        """
        length = self._lengths[row]
        self._check(length + len(positions), int(positions.max()))
        self._turn(length, positions, ahead=True)
        given = self._device.put(np.ascontiguousarray(embeds[None], self._dtype))
        self._held["inputs_embeds"] = given
        self._binding.bind_ortvalue_input("inputs_embeds", given)
        self._lengths[row] = length + len(positions)
        logits: NDArray[np.float32] = self._run(row, [self._lengths[row]])[0]
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
            (vocab,) logits of the next token by row; overwritten by the next step. Whether they
            are finite is for the caller to see, see ``check_finite``.
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
        rows = range(min(tokens), max(tokens) + 1)
        for row, (_, position) in tokens.items():
            slot = self._lengths[row]
            if self._room.positions[slot] != position:
                self._turn(slot, np.array([position], np.int64), ahead=len(tokens) == 1)
        # Who does not take part writes where it will write again: its next slot.
        lengths = [self._lengths[row] + 1 for row in rows]
        if max(lengths) > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} positions, not {max(lengths)}")
        self._embed_tokens([tokens[row][0] if row in tokens else 0 for row in rows])
        for row in tokens:
            self._lengths[row] += 1
        logits = self._run(rows[0], lengths)
        return {row: logits[row - rows[0]] for row in tokens}

    def _embed_tokens(self, ids: list[int]) -> None:
        """Embed a token of each row; embeddings stay on the device from session to session."""
        count, place = len(ids), self._place
        padded = np.zeros(self._cache.rows, np.int64)
        padded[:count] = ids
        self._room.tokens.update_inplace(padded)
        shape, address = [count, self._dims.hidden], self._room.embeds.data_ptr()
        if self._embedded != count:
            self._embed_binding.bind_input(
                "token_ids", *place, np.int64, [count], self._room.tokens.data_ptr()
            )
            self._embed_binding.bind_output("embeds", *place, self._dtype.type, shape, address)
            self._embedded = count
        self._embed.run_with_iobinding(self._embed_binding)
        shape = [count, 1, self._dims.hidden]
        self._binding.bind_input("inputs_embeds", *place, self._dtype.type, shape, address)

    def _check(self, length: int, position: int) -> None:
        """Refuse what does not fit.

        Raises:
            ValueError: the cache or the model does not hold as many.
        """
        if length > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} positions, not {length}")
        if position >= self._dims.context:
            raise ValueError(f"the model has {self._dims.context} positions, not {position}")

    def _turn(self, slot: int, positions: NDArray[np.int64], ahead: bool) -> None:
        """Have the angles of positions in the slots from ``slot`` on.

        Args:
            slot: of the first one.
            positions: (tokens,) int64.
            ahead: what follows an answer's token is nearly always the next position: all of them
                at once.
        """
        written = positions
        if ahead:
            last, end = int(positions[-1]), slot + len(positions)
            beyond = min(last + 1 + self.capacity - end, self._dims.context)
            written = np.concatenate([positions, np.arange(last + 1, beyond)])
            self._room.positions[slot:] = -1
        self._room.positions[slot : slot + len(written)] = written
        self._rotary_binding.bind_ortvalue_input("position_ids", self._device.put(written))
        size = self._angles * self._dtype.itemsize
        for name in ("cos", "sin"):
            self._rotary_binding.bind_output(
                name,
                *self._place,
                self._dtype.type,
                [len(written), self._angles],
                self._held[name].data_ptr() + slot * size,
            )
        self._rotary.run_with_iobinding(self._rotary_binding)

    def _run(self, first: int, lengths: list[int]) -> NDArray[np.float32]:
        """Run rows from ``first`` on, each with its length, what goes in included.

        Returns:
            (rows, vocab) logits.
        """
        count, vocab = len(lengths), self._dims.vocab
        if self._bound != (first, count):
            self._cache.bind(self._binding, first, count)
            self._bound = (first, count)
            address, shape = self._room.logits.ctypes.data, [count, 1, vocab]
            self._binding.bind_output("logits", "cpu", 0, self._dtype.type, shape, address)
        mask = self._room.ones
        if count > 1:
            mask = self._device.put(
                (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
            )
            self._held["mask"] = mask
        self._binding.bind_input(
            "attention_mask", *self._place, np.int64, [count, max(lengths)], mask.data_ptr()
        )
        self._session.run_with_iobinding(self._binding)
        # numpy compares half-precision numbers one by one: four times the time.
        np.copyto(self._room.wide[:count], self._room.logits[:count, 0])
        wide: NDArray[np.float32] = self._room.wide[:count]
        return wide

    def _make_room(self) -> _Room:
        """Take buffers as large as the cache."""
        rows, capacity, dims = self._cache.rows, self._cache.capacity, self._dims
        self._lengths += [0] * (rows - len(self._lengths))
        self._bound, self._embedded = None, 0
        for name in ("cos", "sin"):
            self._held[name] = self._device.empty((capacity, self._angles), self._dtype)
            self._binding.bind_ortvalue_input(name, self._held[name])
        return _Room(
            positions=np.full(capacity, -1, np.int64),
            logits=np.zeros((rows, 1, dims.vocab), self._dtype),
            wide=np.empty((rows, dims.vocab), np.float32),
            ones=self._device.put(np.ones((1, capacity), np.int64)),
            tokens=self._device.put(np.zeros(rows, np.int64)),
            embeds=self._device.empty((rows, dims.hidden), self._dtype),
        )

    @property
    def _place(self) -> tuple[str, int]:
        return self._device.name, self._device.index


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
