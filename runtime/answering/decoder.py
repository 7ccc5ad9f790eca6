"""Prefill and decode steps in one session, the KV cache in place.

Past and present of a layer are one buffer of the full length, bound once: a step writes its
own positions and copies nothing. So are the cosines and sines by which attention turns the token in
each slot: those of the prompt's true positions, and behind them, ahead of time, those that an
answer goes on with. On CUDA the buffers, the mask, the embeddings of a step and everything between
the layers stay on the device; a step sends up its token, in one copy, and logits come down.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.contract.specs import (
    DECODER,
    EMBED_TOKENS,
    ROTARY,
    Dimensions,
    past_name,
    present_name,
)
from speechprune_ort.errors import BundleError
from speechprune_ort.runtime.ort.device import Device
from speechprune_ort.runtime.ort.engine import Engine
from speechprune_ort.runtime.ort.session import memory_errors

__all__ = ["Decoder"]


class Decoder:
    """One answer being generated: the sessions that it takes, and a cache.

    Args:
        session: ``decoder``.
        embed: ``embed_tokens``.
        rotary: ``rotary``.
        device: where they run.
        dims: sizes of the axes.
        float_dtype: of embeddings, cache and logits.
        capacity: positions that the cache holds, prompt and answer together.
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
    ) -> None:
        self._session, self._embed, self._rotary = session, embed, rotary
        self._device = device
        self._dtype = np.dtype(float_dtype)
        self._hidden = dims.hidden
        self._capacity, self._context = capacity, dims.context
        self._length = 0
        self._binding = session.io_binding()
        # A binding holds addresses; what they point to must be held here.
        self._held: dict[str, ort.OrtValue] = {}
        shape = (1, dims.kv_heads, capacity, dims.head_dim)
        for layer in range(dims.layers):
            for kind in ("key", "value"):
                buffer = device.empty(shape, self._dtype)
                self._bind_input(past_name(layer, kind), buffer)
                self._binding.bind_ortvalue_output(present_name(layer, kind), buffer)
        # Of the token in each slot; -1 where none is set.
        self._positions = np.full(capacity, -1, np.int64)
        self._angles = dims.head_dim // 2
        self._turned = {
            name: device.empty((capacity, self._angles), self._dtype) for name in ("cos", "sin")
        }
        for name, rows in self._turned.items():
            self._bind_input(name, rows)
        self._rotary_binding = rotary.io_binding()
        self._logits = np.zeros((1, 1, dims.vocab), self._dtype)
        self._held["logits"] = ort.OrtValue.ortvalue_from_numpy(self._logits)
        self._binding.bind_ortvalue_output("logits", self._held["logits"])
        # No position is ever masked: a step sees one more of the same ones.
        self._ones = device.put(np.ones((1, capacity), np.int64))
        self._token = device.put(np.zeros(1, np.int64))
        self._wide = np.empty(dims.vocab, np.float32)
        # A step's embedding goes from one session to the other without leaving the device.
        self._token_embeds = device.empty((1, dims.hidden), self._dtype)
        self._embed_binding = embed.io_binding()
        self._embed_binding.bind_ortvalue_input("token_ids", self._token)
        self._embed_binding.bind_ortvalue_output("embeds", self._token_embeds)

    @classmethod
    def open(cls, engine: Engine, capacity: int) -> Decoder:
        """A decoder of a bundle, with an empty cache of ``capacity`` positions.

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
            )

    @property
    def length(self) -> int:
        """Positions in the cache."""
        return self._length

    def prefill(
        self, embeds: NDArray[Any] | ort.OrtValue, positions: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Take the whole prompt.

        Args:
            embeds: (tokens, hidden) on the host, or (1, tokens, hidden) on the device.
            positions: (tokens,) int64, true positions, increasing.

        Returns:
            (vocab,) logits of the last position; overwritten by the next step.

        Raises:
            BundleError: a logit is not finite.
        """
        self._length = 0
        self._take(positions)
        if isinstance(embeds, np.ndarray):
            embeds = self._device.put(np.ascontiguousarray(embeds[None], self._dtype))
        self._bind_input("inputs_embeds", embeds)
        return self._run()

    def rewind(self, length: int) -> None:
        """Forget all positions from ``length`` on; the next step writes over them.

        Raises:
            ValueError: the cache does not hold as many.
        """
        if not 0 <= length <= self._length:
            raise ValueError(f"the cache holds {self._length} positions, not {length}")
        self._length = length

    def step(self, token: int, position: int) -> NDArray[np.float32]:
        """Take one token of the answer.

        Args:
            token: its id.
            position: its position.

        Returns:
            (vocab,) logits of the next token; overwritten by the next step.

        Raises:
            BundleError: a logit is not finite.
        """
        self._take(np.array([position], np.int64))
        self._token.update_inplace(np.array([token], np.int64))
        self._embed.run_with_iobinding(self._embed_binding)
        self._binding.bind_input(
            "inputs_embeds",
            *self._place,
            self._dtype.type,
            [1, 1, self._hidden],
            self._token_embeds.data_ptr(),
        )
        return self._run()

    def _take(self, positions: NDArray[np.int64]) -> None:
        """Count the next tokens in, and have the angles of their positions in their slots.

        Raises:
            ValueError: the cache or the model does not hold as many.
        """
        start, end = self._length, self._length + len(positions)
        if end > self._capacity:
            raise ValueError(f"the cache holds {self._capacity} positions, not {end}")
        if positions.max() >= self._context:
            raise ValueError(f"the model has {self._context} positions, not {positions.max()}")
        self._length = end
        if np.array_equal(self._positions[start:end], positions):
            return
        # What follows an answer's token is nearly always the next position: all of them at once.
        last = int(positions[-1])
        following = np.arange(last + 1, min(last + 1 + self._capacity - end, self._context))
        written = np.concatenate([positions, following])
        self._positions[start:] = -1
        self._positions[start : start + len(written)] = written
        self._rotary_binding.bind_ortvalue_input("position_ids", self._device.put(written))
        size = self._angles * self._dtype.itemsize
        for name, rows in self._turned.items():
            self._rotary_binding.bind_output(
                name,
                *self._place,
                self._dtype.type,
                [len(written), self._angles],
                rows.data_ptr() + start * size,
            )
        self._rotary.run_with_iobinding(self._rotary_binding)

    def _run(self) -> NDArray[np.float32]:
        shape, ones = [1, self._length], self._ones.data_ptr()
        self._binding.bind_input("attention_mask", *self._place, np.int64, shape, ones)
        self._session.run_with_iobinding(self._binding)
        # numpy compares half-precision numbers one by one: four times the time.
        np.copyto(self._wide, self._logits[0, 0])
        if not np.isfinite(self._wide).all():
            raise BundleError(
                "The decoder's logits are not all finite, so no token can be chosen: export the "
                "bundle again with a wider --precision, and report the checkpoint if that is fp32."
            )
        return self._wide

    @property
    def _place(self) -> tuple[str, int]:
        return self._device.name, self._device.index

    def _bind_input(self, name: str, value: ort.OrtValue) -> None:
        self._held[name] = value
        self._binding.bind_ortvalue_input(name, value)
