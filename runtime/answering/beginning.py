"""What every prompt of a bundle begins with, system prompt included: read once, then copied."""

from __future__ import annotations

import threading
from itertools import takewhile
from weakref import WeakKeyDictionary

import numpy as np

from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.runtime.answering.cache import Beginning
from speechprune_ort.runtime.answering.decoder import Decoder
from speechprune_ort.runtime.answering.prompt import embed_ids
from speechprune_ort.runtime.ort.engine import Engine

__all__ = ["divisible", "open_decoder"]

_lock = threading.Lock()
_read: WeakKeyDictionary[Engine, Beginning | None] = WeakKeyDictionary()


def divisible(manifest: Manifest) -> bool:
    """Whether a token's logits are the same whatever is read along with it.

    They are not in ``w8a8``, which rounds all activations of a product by one scale.
    """
    return manifest.precision != "w8a8"


def open_decoder(engine: Engine, capacity: int, rows: int = 1) -> Decoder:
    """Open a decoder that does not read again what all prompts of the bundle begin with.

    Where rows cannot be copied, on CUDA, and where prompts cannot be divided, each prompt is read
    as a whole.

    Raises:
        OutOfMemoryError: there is not enough memory for the cache.
    """
    decoder = Decoder.open(engine, capacity, rows)
    with _lock:
        if engine not in _read:
            _read[engine] = _beginning(engine)
        decoder.beginning = _read[engine]
    return decoder


def _beginning(engine: Engine) -> Beginning | None:
    pieces = takewhile(lambda piece: piece.kind == "ids", engine.manifest.prompt)
    ids = tuple(token for piece in pieces for token in piece.ids)
    if not ids or not divisible(engine.manifest):
        return None
    decoder = Decoder.open(engine, len(ids))
    if not decoder.copies:
        return None
    embeds = embed_ids(engine, ids)
    decoder.prefill(embeds, np.arange(len(ids)))
    return Beginning(embeds, decoder.read_back(len(ids)))
