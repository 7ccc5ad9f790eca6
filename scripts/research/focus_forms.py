"""Other forms of ``focused-pooling``, which it was chosen from on development dialogues.

    speechprune-ort eval BUNDLE --data SET --plugin scripts/research/focus_forms.py
        --methods focused-pooling,focused-0.1,focused-1,found-2,found-4,found-8,half-found

All look where ``coverage`` finds the question's words, and merge neighbours as affinity pooling
(arXiv:2604.06871) does:

- ``focused-0.1`` and ``focused-1``: ``focused-pooling`` at other temperatures;
- ``found-2``, ``found-4`` and ``found-8``: so many tokens for each that may be kept are found by
  ``coverage`` and merged, and what lies outside is dropped;
- ``half-found``: half of the tokens are kept as ``coverage`` finds them, and all else is merged.

``scripts/research/focus_forms`` makes the sets and runs them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.methods import MethodOptions, Request, Scores, Selection, method
from speechprune_ort.runtime.choosing.methods.coverage import (
    SPOKEN,
    TEMPERATURE,
    passage_scores,
)
from speechprune_ort.runtime.choosing.methods.focused import focused_likeness
from speechprune_ort.runtime.choosing.methods.merging import neighbour_cosines, pooled
from speechprune_ort.runtime.choosing.pruning import keep_by_similarity


def found(
    request: Request[MethodOptions], scores: NDArray[np.float32], count: int
) -> NDArray[np.int64]:
    """The best tokens by ``coverage``, (count,) or all."""
    return keep_by_similarity(scores, min(count, request.tokens), request.frame_tokens, TEMPERATURE)


def grouped(
    request: Request[MethodOptions],
    scores: NDArray[np.float32],
    inside: NDArray[np.int64],
    likeness: NDArray[np.float32],
) -> Selection:
    """Means of groups of the tokens ``inside``, by how alike (inside - 1,) neighbours are."""
    starts, means = pooled(request.embeds[inside], likeness, request.n_keep)
    return Selection(inside[starts], (Scores(SPOKEN, scores),), means)


def at_temperature(temperature: float) -> None:
    """Register ``focused-pooling`` at another temperature."""

    @method(f"focused-{temperature:g}", summary=f"focused-pooling at {temperature:g}")
    def focused(request: Request[MethodOptions]) -> Selection:
        scores = passage_scores(request)
        likeness = focused_likeness(neighbour_cosines(request.embeds), scores, temperature)
        return grouped(request, scores, np.arange(request.tokens), likeness)


def among(candidates: int) -> None:
    """Register merging of what ``coverage`` finds."""

    @method(f"found-{candidates}", summary=f"{candidates} found tokens merged to one")
    def found_merged(request: Request[MethodOptions]) -> Selection:
        scores = passage_scores(request)
        inside = found(request, scores, candidates * request.n_keep)
        # Neighbours that have lost what lay between them are not merged.
        likeness = neighbour_cosines(request.embeds[inside])
        likeness = np.where(np.diff(inside) > 1, np.float32(-np.inf), likeness)
        return grouped(request, scores, inside, likeness)


for number in (0.1, 1.0):
    at_temperature(number)
for number in (2, 4, 8):
    among(number)


@method("half-found", summary="half as coverage finds them, all else merged")
def half_found(request: Request[MethodOptions]) -> Selection:
    """Borders stand on both sides of each token that is found."""
    scores, whole = passage_scores(request), np.zeros(request.tokens, bool)
    whole[found(request, scores, request.n_keep // 2)] = True
    likeness = neighbour_cosines(request.embeds)
    likeness = np.where(whole[1:] | whole[:-1], np.float32(-np.inf), likeness)
    return grouped(request, scores, np.arange(request.tokens), likeness)
