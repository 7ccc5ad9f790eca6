"""Prefill and decode steps in one session, the KV cache in place.

Past and present of a layer are one buffer of the full length, bound once: a step writes its
own positions and copies nothing. On CUDA the buffers, the embeddings of a step and everything
between the layers stay on the device; token ids go up and logits come down.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.runtime.device import Device
from speechprune_ort.specs import Dimensions, past_name, present_name

__all__ = ["Decoder"]


class Decoder:
    """One answer being generated: a decoder session, an embedding session, a cache.

    Args:
        session: ``decoder``.
        embed: ``embed_tokens``.
        device: where both run.
        dims: sizes of the axes.
        float_dtype: of embeddings, cache and logits.
        capacity: positions that the cache holds, prompt and answer together.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        embed: ort.InferenceSession,
        device: Device,
        dims: Dimensions,
        float_dtype: str,
        capacity: int,
    ) -> None:
        self._session, self._embed, self._device = session, embed, device
        self._dtype = np.dtype(float_dtype)
        self._hidden = dims.hidden
        self._capacity = capacity
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
        self._logits = np.empty((1, 1, dims.vocab), self._dtype)
        self._held["logits"] = ort.OrtValue.ortvalue_from_numpy(self._logits)
        self._binding.bind_ortvalue_output("logits", self._held["logits"])
        self._ones = np.ones((1, capacity), np.int64)
        # A step's embedding goes from one session to the other without leaving the device.
        self._token_embeds = device.empty((1, dims.hidden), self._dtype)
        self._embed_binding = embed.io_binding()
        self._embed_binding.bind_ortvalue_output("embeds", self._token_embeds)

    @property
    def length(self) -> int:
        """Positions in the cache."""
        return self._length

    def prefill(
        self, embeds: NDArray[Any] | ort.OrtValue, positions: NDArray[np.int64]
    ) -> NDArray[Any]:
        """Take the whole prompt.

        Args:
            embeds: (tokens, hidden) on the host, or (1, tokens, hidden) on the device.
            positions: (tokens,) int64, true positions, increasing.

        Returns:
            (vocab,) logits of the last position; overwritten by the next step.
        """
        self._length = 0
        if isinstance(embeds, np.ndarray):
            embeds = self._device.put(np.ascontiguousarray(embeds[None], self._dtype))
        self._bind_input("inputs_embeds", embeds)
        return self._run(positions)

    def rewind(self, length: int) -> None:
        """Forget all positions from ``length`` on; the next step writes over them.

        Raises:
            ValueError: the cache does not hold as many.
        """
        if not 0 <= length <= self._length:
            raise ValueError(f"the cache holds {self._length} positions, not {length}")
        self._length = length

    def step(self, token: int, position: int) -> NDArray[Any]:
        """Take one token of the answer.

        Args:
            token: its id.
            position: its position.

        Returns:
            (vocab,) logits of the next token; overwritten by the next step.
        """
        ids = self._device.put(np.array([token], np.int64))
        self._embed_binding.bind_ortvalue_input("token_ids", ids)
        self._embed.run_with_iobinding(self._embed_binding)
        self._binding.bind_input(
            "inputs_embeds",
            self._device.name,
            self._device.index,
            self._dtype.type,
            [1, 1, self._hidden],
            self._token_embeds.data_ptr(),
        )
        return self._run(np.array([position], np.int64))

    def _run(self, positions: NDArray[np.int64]) -> NDArray[Any]:
        self._length += len(positions)
        if self._length > self._capacity:
            raise ValueError(f"the cache holds {self._capacity} positions, not {self._length}")
        self._bind_input("attention_mask", self._device.put(self._ones[:, : self._length]))
        self._bind_input("position_ids", self._device.put(positions[None]))
        self._session.run_with_iobinding(self._binding)
        logits: NDArray[Any] = self._logits[0, 0]
        return logits

    def _bind_input(self, name: str, value: ort.OrtValue) -> None:
        self._held[name] = value
        self._binding.bind_ortvalue_input(name, value)
