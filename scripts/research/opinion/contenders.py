"""Language models that can be prefilled and stepped: ours two ways, and optimum's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.contract.specs import Dimensions, past_name, present_name

__all__ = ["Contender", "NumpyCache", "SharedBuffer", "open_session"]


def open_session(path: Path, threads: int) -> Any:
    """Every graph of both sides is opened like this."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = threads
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


class Contender(Protocol):
    """A language model that can be prefilled and stepped."""

    def prefill(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Take (tokens,) ids from an empty cache; gives the last position's (vocab,) logits."""

    def step(self, token: int) -> NDArray[np.float32]:
        """Take one more id."""


class NumpyCache:
    """A graph whose cache goes through numpy at every step: what any exported graph can do.

    Args:
        session: takes ``input_ids``, or what ours takes where ``ours`` is given.
        ours: our ``embed_tokens`` and ``rotary``, counted with the graph.
        dims: sizes of the axes.
    """

    def __init__(self, session: Any, ours: tuple[Any, Any] | None, dims: Dimensions) -> None:
        self._session, self._ours = session, ours
        self._wanted = {i.name for i in session.get_inputs()}
        layers = [(layer, kind) for layer in range(dims.layers) for kind in ("key", "value")]
        self._past = [past_name(*layer) for layer in layers]
        self._outputs = ["logits", *(present_name(*layer) for layer in layers)]
        self._empty = np.zeros((1, dims.kv_heads, 0, dims.head_dim), np.float32)
        self._cache: dict[str, NDArray[np.float32]] = {}
        self._length = 0

    def prefill(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """See ``Contender``."""
        self._cache, self._length = dict.fromkeys(self._past, self._empty), 0
        return self._run(ids)

    def step(self, token: int) -> NDArray[np.float32]:
        """See ``Contender``."""
        return self._run(np.array([token], np.int64))

    def _run(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        start, self._length = self._length, self._length + len(ids)
        feed = {
            "attention_mask": np.ones((1, self._length), np.int64),
            "position_ids": np.arange(start, self._length)[None],
            **self._cache,
        }
        if self._ours is None:
            feed["input_ids"] = ids[None]
        else:
            embed, rotary = self._ours
            feed["inputs_embeds"] = embed.run(["embeds"], {"token_ids": ids})[0][None]
            at = {"position_ids": np.arange(self._length)}
            feed["cos"], feed["sin"] = rotary.run(["cos", "sin"], at)
        feed = {name: value for name, value in feed.items() if name in self._wanted}
        logits, *present = self._session.run(self._outputs, feed)
        self._cache = dict(zip(self._past, present, strict=True))
        row: NDArray[np.float32] = logits[0, -1]
        return row


class SharedBuffer:
    """Our decoder as ``SpeechLLM`` runs it: a ``Decoder`` per answer, its cache in place."""

    def __init__(self, session: Any, embed: Any, rotary: Any, dims: Dimensions, room: int) -> None:
        self._session, self._embed, self._rotary = session, embed, rotary
        self._dims, self._room = dims, room
        self._decoder: Any = None

    def prefill(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """See ``Contender``."""
        from speechprune_ort.runtime.answering.decoder import Decoder
        from speechprune_ort.runtime.answering.runs import Graphs
        from speechprune_ort.runtime.ort.device import Device

        sessions = (self._session, self._embed, self._rotary)
        graphs = Graphs(*sessions, Device("cpu"), self._dims, np.dtype("float32"))
        self._decoder = Decoder(graphs, len(ids) + self._room)
        (embeds,) = self._embed.run(["embeds"], {"token_ids": ids})
        return np.array(self._decoder.prefill(embeds, np.arange(len(ids))))

    def step(self, token: int) -> NDArray[np.float32]:
        """See ``Contender``."""
        return np.array(self._decoder.step(token, self._decoder.length))
