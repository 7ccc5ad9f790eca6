"""Methods that share the budget out over a recording: evenly, or by how much is said where.

    speechprune-ort eval BUNDLE --data SET --plugin scripts/research/by_density.py
        --methods coverage,coverage-even,coverage-dense,similarity,similarity-even,similarity-dense

A recording is cut into stretches of 10 s. Each gets as many tokens as its share says, and within it
the best are kept: by the scores of ``coverage`` and by those of SpeechPrune's first phase
(arXiv:2412.12009, eq. 3-8), which both choose over the whole recording at once. An even share is by
length. A dense one is by how far neighbouring tokens lie apart, summed: in a pause they are alike,
as FastAdaSP (arXiv:2410.03007) has it. Both are there to be compared with the methods themselves,
whose scores already decide where the budget goes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.methods import MethodOptions, Request, Scores, Selection, method
from speechprune_ort.runtime.choosing.methods.base import PAPER_TEMPERATURE, SIMILARITY
from speechprune_ort.runtime.choosing.methods.coverage import (
    SPOKEN,
    TEMPERATURE,
    passage_scores,
)
from speechprune_ort.runtime.choosing.pruning import keep_by_similarity

STRETCH_SECONDS = 10


def changes(embeds: NDArray[np.float32]) -> NDArray[np.float64]:
    """How far each token lies from the one before: 1 - cosine around the recording's mean.

    Args:
        embeds: (tokens, hidden).

    Returns:
        (tokens,), the first 0.
    """
    around = embeds.astype(np.float64) - embeds.mean(axis=0, dtype=np.float64)
    around /= np.maximum(np.linalg.norm(around, axis=1, keepdims=True), 1e-9)
    apart = 1 - (around[1:] * around[:-1]).sum(axis=1)
    return np.concatenate([[0.0], apart])


def shared_out(weights: NDArray[np.float64], room: NDArray[np.int64], count: int) -> list[int]:
    """A count, shared out by weight among places that have only so much room.

    Args:
        weights: (places,), at least 0.
        room: (places,), what each can take.
        count: to share out, at most the sum of ``room``.

    >>> shared_out(np.array([3.0, 1.0, 0.0]), np.array([4, 4, 4]), 6)
    [4, 2, 0]
    >>> shared_out(np.array([0.0, 0.0]), np.array([1, 4]), 4)
    [1, 3]
    """
    given = np.zeros(len(room), np.int64)
    while left := count - int(given.sum()):
        free = room > given
        wanted = np.where(free, weights, 0.0)
        if not wanted.any():
            wanted = free.astype(np.float64)
        exact = left * wanted / wanted.sum()
        more = np.minimum(np.floor(exact).astype(np.int64), room - given)
        if not more.any():  # less than one each: the largest shares take one
            best = np.argsort(-exact, kind="stable")[:left]
            more[best[free[best]]] = 1
        given += more
    return [int(n) for n in given]


def by_stretches(
    request: Request[MethodOptions], scores: Scores, temperature: float, dense: bool
) -> Selection:
    """The best of each stretch."""
    frame, tokens = request.frame_tokens, request.tokens
    length = request.tokens_in(STRETCH_SECONDS)
    starts = np.arange(0, tokens, length)
    room = np.diff(np.append(starts, tokens))
    moved = np.add.reduceat(changes(request.embeds), starts) if dense else room.astype(np.float64)
    kept = [
        start + keep_by_similarity(scores.values[start : start + size], count, frame, temperature)
        for start, size, count in zip(
            starts, room, shared_out(moved, room, request.n_keep), strict=True
        )
        if count
    ]
    return Selection(np.concatenate(kept), (scores,))


def register(dense: bool, name: str, words: str) -> None:
    """Both scores under one way to share out."""

    @method(f"coverage-{name}", summary=f"coverage, the budget shared out {words}")
    def by_coverage(request: Request[MethodOptions]) -> Selection:
        scores = Scores(SPOKEN, passage_scores(request))
        return by_stretches(request, scores, TEMPERATURE, dense)

    @method(f"similarity-{name}", summary=f"phase 1, the budget shared out {words}")
    def by_similarity(request: Request[MethodOptions]) -> Selection:
        scores = Scores(SIMILARITY, request.scorer.similarity())
        return by_stretches(request, scores, PAPER_TEMPERATURE, dense)


register(False, "even", "evenly")
register(True, "dense", "by how much is said")
