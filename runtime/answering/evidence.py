"""The stretches that kept tokens are cut into, to ask how much of an answer rests on each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["stretches"]

LONGEST_S = 3.0  # about a sentence
JOINED_S = 0.5  # the largest gap within a stretch


def stretches(
    indices: NDArray[np.int64], tokens_per_second: float, span_tokens: int = 1
) -> list[NDArray[np.int64]]:
    """Places in ``indices`` of the tokens of each stretch: near neighbours, a sentence at most.

    Args:
        indices: ascending token indices.
        tokens_per_second: audio tokens per second of the model.
        span_tokens: tokens that share one stretch of time, see ``AudioSpec``.

    >>> kept = np.array([0, 1, 2, 3, 100, 101])
    >>> [places.tolist() for places in stretches(kept, 1.0)]
    [[0, 1], [2, 3], [4, 5]]
    """
    if not len(indices):
        return []
    units, rate = indices // span_tokens, tokens_per_second / span_tokens
    gaps = np.flatnonzero(np.diff(units) > max(1.0, JOINED_S * rate)) + 1
    found = []
    for places in np.split(np.arange(len(indices)), gaps):
        length = (units[places[-1]] - units[places[0]] + 1) / rate
        pieces = int(np.ceil(length / LONGEST_S))
        edges = units[places[0]] + np.arange(1, pieces) * length * rate / pieces
        cut = np.searchsorted(units[places], edges)
        found += [piece for piece in np.split(places, cut) if len(piece)]
    return found
