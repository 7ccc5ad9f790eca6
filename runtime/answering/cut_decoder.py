"""A cut decoder: its lower half reads every token of a prompt, its upper half what is kept.

Each half has a cache of its own, as long as what it reads; every token of an answer passes through
both. It takes the next slot and position in either: in the lower half those after the whole prompt,
in the upper half those after what was kept of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.contract.specs import (
    DECODER_LOWER,
    DECODER_UPPER,
    EMBED_TOKENS,
    HIDDEN_STATES,
    LAST_ATTENTION,
    ROTARY,
)
from speechprune_ort.errors import OptionError
from speechprune_ort.runtime.answering.angles import Angles
from speechprune_ort.runtime.answering.cache import Cache
from speechprune_ort.runtime.answering.decoder import check_finite
from speechprune_ort.runtime.choosing.methods import METHODS
from speechprune_ort.runtime.ort.engine import Engine
from speechprune_ort.runtime.ort.session import memory_errors

__all__ = ["CutDecoder", "check_cut"]


def check_cut(engine: Engine, method: str) -> None:
    """Refuse a method that drops tokens within the decoder where the bundle's is not cut.

    Args:
        engine: the bundle.
        method: name of the method.

    Raises:
        OptionError: the bundle has no cut decoder, and the method needs one.
    """
    if METHODS[method].decoder_attention and engine.manifest.cut_after is None:
        raise OptionError(
            f"{method} drops tokens behind the decoder's first layers, and this bundle's decoder "
            "is not cut there: export with --cut-after 2, or use another method."
        )


class _Half:
    """One of the two graphs, its cache, and where it is in it.

    Args:
        engine: the bundle.
        name: name of the graph.
        layers: its layers.
        capacity: positions that its cache has room for.

    Attributes:
        binding: its inputs and outputs.
        length: positions in its cache.
        position: position of the last token in it.
        capacity: as given.
    """

    def __init__(self, engine: Engine, name: str, layers: range, capacity: int) -> None:
        manifest, device = engine.manifest, engine.device
        dims, dtype = manifest.dimensions, np.dtype(manifest.float_dtype)
        self._session = engine.session(name)
        self._place = (device.name, device.index)
        self._context = dims.context
        self._cache = Cache(device, dims, manifest.cache_dtype, 1, capacity, layers)
        self._angles = Angles(engine.session(ROTARY), device, dims, dtype, capacity)
        # No position of a single sequence is ever masked.
        self._ones = device.put(np.ones((1, capacity), np.int64))
        self._held: ort.OrtValue | None = None  # a binding holds addresses alone
        self.binding = self._session.io_binding()
        self.capacity, self.length, self.position = capacity, 0, -1
        self._cache.bind(self.binding, 0, 1)
        for axis, value in self._angles.values.items():
            self.binding.bind_ortvalue_input(axis, value)

    def run(self, name: str, given: ort.OrtValue, positions: NDArray[np.int64]) -> None:
        """Read (1, tokens, hidden) values, after what the cache holds.

        Args:
            name: name of the input.
            given: its values.
            positions: (tokens,) int64 of each, increasing.
        """
        end, last = self.length + len(positions), int(positions[-1])
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} positions, not {end}")
        if last >= self._context:
            raise ValueError(f"the model has {self._context} positions, not {last}")
        self._angles.turn(self.length, positions, ahead=True)
        self._held = given
        self.binding.bind_ortvalue_input(name, given)
        mask = self._ones.data_ptr()
        self.binding.bind_input("attention_mask", *self._place, np.int64, [1, end], mask)
        self._session.run_with_iobinding(self.binding)
        self.length, self.position = end, last

    def rewind(self, count: int) -> None:
        """Forget the last ``count`` positions, which follow each other."""
        self.length, self.position = self.length - count, self.position - count


class CutDecoder:
    """One answer, some of whose prompt is dropped behind the first layers.

    ``read``, then ``keep``, then ``prefill``, then ``step`` for each token.

    Args:
        engine: the bundle, whose decoder is cut, see ``check_cut``.
        room: tokens of an answer that it has room for.

    Raises:
        OutOfMemoryError: there is not enough memory for a half.
    """

    def __init__(self, engine: Engine, room: int) -> None:
        manifest = engine.manifest
        self._engine, self._room = engine, room
        self._dims, self._dtype = manifest.dimensions, np.dtype(manifest.float_dtype)
        self._after = manifest.cut_after or 0
        self._device, self._stream = engine.device, engine.stream
        self._place = (self._device.name, self._device.index)
        self._lower: _Half | None = None
        self._upper: _Half | None = None
        self._hidden: NDArray[Any] | None = None  # of the prompt, behind the lower half
        self._kept = self._positions = np.zeros(0, np.int64)
        # What a step passes on: a token, its embedding, what is between the halves, and logits.
        self._ids = np.zeros(1, np.int64)
        self._token = self._device.put(self._ids)
        hidden = (1, 1, self._dims.hidden)
        self._embedded = self._device.empty(hidden, self._dtype)
        self._between = self._device.empty(hidden, self._dtype)
        self._raw = np.zeros((1, 1, self._dims.vocab), self._dtype)
        self._logits = self._device.put(self._raw)
        # Opened by the first question that needs them, and not while it is timed.
        self._embed = engine.session(EMBED_TOKENS)
        for name in (DECODER_LOWER, DECODER_UPPER):
            engine.session(name)
        self._embed_binding = self._embed.io_binding()
        self._embed_binding.bind_ortvalue_input("token_ids", self._token)
        shape, address = [1, self._dims.hidden], self._embedded.data_ptr()
        self._embed_binding.bind_output("embeds", *self._place, self._dtype.type, shape, address)

    @property
    def length(self) -> int:
        """Positions that the upper half holds."""
        return 0 if self._upper is None else self._upper.length

    def read(self, embeds: NDArray[Any] | ort.OrtValue, count: int) -> NDArray[np.float32]:
        """Let the lower half read a whole prompt, at the positions from 0 on.

        Args:
            embeds: (tokens, hidden) on the host, or (1, tokens, hidden) on the device.
            count: tokens.

        Returns:
            (tokens,) attention that each receives from the last one in the half's last layer, the
            mean over its heads.
        """
        device, dims = self._device, self._dims
        with memory_errors(DECODER_LOWER):
            capacity = count + self._room
            lower = _Half(self._engine, DECODER_LOWER, range(self._after), capacity)
            self._attention = device.empty((1, capacity), np.float32)
            if isinstance(embeds, np.ndarray):
                embeds = device.put(np.ascontiguousarray(embeds[None], self._dtype))
            self._hidden = np.zeros((1, count, dims.hidden), self._dtype)
            attention: NDArray[np.float32] = np.zeros((1, count), np.float32)
            passed, received = device.put(self._hidden), device.put(attention)
            lower.binding.bind_ortvalue_output(HIDDEN_STATES, passed)
            lower.binding.bind_ortvalue_output(LAST_ATTENTION, received)
            with self._stream.turn():
                lower.run("inputs_embeds", embeds, np.arange(count))
                self._stream.down(passed, self._hidden)
                self._stream.down(received, attention)
        lower.binding.bind_ortvalue_output(HIDDEN_STATES, self._between)
        self._lower = lower
        return attention.reshape(-1)

    def keep(self, kept: NDArray[np.int64], positions: NDArray[np.int64]) -> None:
        """Say which tokens of the prompt the upper half is to read.

        Args:
            kept: (kept,) int64, their places in the prompt, ascending; its last token among them.
            positions: (kept,) int64, their positions there, increasing.
        """
        self._kept, self._positions = kept, positions

    def prefill(self) -> NDArray[np.float32]:
        """Let the upper half read what is kept; what is dropped is forgotten.

        Returns:
            (vocab,) logits of the last position; overwritten by the next step.

        Raises:
            BundleError: a logit is not finite.
        """
        if self._hidden is None:
            raise ValueError("the lower half has not read a prompt")
        layers = range(self._after, self._dims.layers)
        with memory_errors(DECODER_UPPER):
            capacity = len(self._kept) + self._room
            upper = _Half(self._engine, DECODER_UPPER, layers, capacity)
            upper.binding.bind_ortvalue_output("logits", self._logits)
            kept = self._device.put(self._hidden[:, self._kept])
            self._hidden, self._upper = None, upper
            with self._stream.turn():
                upper.run(HIDDEN_STATES, kept, self._positions)
                return self._fetched()

    def step(self, token: int, position: int) -> NDArray[np.float32]:
        """Take one token of the answer.

        Args:
            token: its id.
            position: its position in the upper half.

        Returns:
            (vocab,) logits of the next token; overwritten by the next step.

        Raises:
            BundleError: a logit is not finite.
        """
        lower, upper = self._lower, self._upper
        if lower is None or upper is None:
            raise ValueError("the prompt has not been read")
        self._ids[0] = token
        with self._stream.turn():
            self._stream.up(self._ids, self._token)
            self._embed.run_with_iobinding(self._embed_binding)
            shape, address = [1, lower.length + 1], self._attention.data_ptr()
            lower.binding.bind_output(LAST_ATTENTION, *self._place, np.float32, shape, address)
            lower.run("inputs_embeds", self._embedded, np.array([lower.position + 1]))
            upper.run(HIDDEN_STATES, self._between, np.array([position]))
            return self._fetched()

    def steps(self, tokens: Mapping[int, tuple[int, int]]) -> dict[int, NDArray[np.float32]]:
        """``step`` as ``Decoder.steps`` has it, for its one row."""
        return {row: self.step(*given) for row, given in tokens.items()}

    def rewind(self, length: int, row: int = 0) -> None:  # noqa: ARG002 - as Decoder's
        """Forget what the upper half holds from ``length`` on, and the same tokens below it.

        Raises:
            ValueError: it does not hold as many, or they are the prompt's.
        """
        if self._lower is None or self._upper is None or length < len(self._kept):
            raise ValueError(f"the prompt's {len(self._kept)} positions cannot be taken back")
        count = self._upper.length - length
        if count < 0:
            raise ValueError(f"the cache holds {self._upper.length} positions, not {length}")
        for half in (self._lower, self._upper):
            half.rewind(count)

    def _fetched(self) -> NDArray[np.float32]:
        self._stream.down(self._logits, self._raw)
        logits: NDArray[np.float32] = self._raw[0, 0].astype(np.float32)
        check_finite(logits)
        return logits
