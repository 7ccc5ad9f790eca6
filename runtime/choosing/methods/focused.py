"""Focused pooling: the recording merged, least where the question's words are spoken. Our own.

Where a word is spread over several tokens, each of them says it in part, and a mean of neighbours
loses less than dropping some of them does (affinity pooling, arXiv:2604.06871). But the longer the
recording, the more tokens go into each mean, until none says anything; and a passage that
``coverage`` finds is of no use where the question shares no word with what answers it. So both are
done at once: neighbours are merged over the whole recording, and how unlike they have to be to stay
apart depends on how many of the question's words are spoken around them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.runtime.choosing.methods.base import (
    MethodOptions,
    Request,
    Scores,
    Selection,
    Work,
    method,
)
from speechprune_ort.runtime.choosing.methods.coverage import (
    SPOKEN,
    coverage_operations,
    passage_scores,
)
from speechprune_ort.runtime.choosing.methods.merging import (
    merging_operations,
    neighbour_cosines,
    pooled,
)

__all__ = ["focused_likeness", "focused_pooling"]

TEMPERATURE = 0.3  # standard deviations of coverage's scores, in which a border counts 1/e


def focused_likeness(
    cosines: NDArray[np.float32], scores: NDArray[np.float32], temperature: float = TEMPERATURE
) -> NDArray[np.float32]:
    """How alike neighbours count: the more, the fewer of the question's words are spoken there.

    ``(cosine - 1) * exp((score - highest score) / temperature)``, with the lower score of the two:
    at the best place as far below 0 as the cosine is below 1, and 0, alike, far from it.

    Args:
        cosines: (tokens - 1,) of each token to the next.
        scores: (tokens,) of ``coverage_scores``.
        temperature: in the unit of the scores, above 0.

    Returns:
        (tokens - 1,) float32, at most 0.

    >>> cosines, scores = np.float32([0.5, 0.5]), np.float32([1.0, 1.0, 0.7])
    >>> focused_likeness(cosines, scores).astype(float).round(3).tolist()
    [-0.5, -0.184]
    """
    lower = np.minimum(scores[1:], scores[:-1])
    weights = np.exp((lower - scores.max()) / np.float32(temperature))
    likeness: NDArray[np.float32] = (cosines - 1) * weights
    return likeness


def operations(work: Work[Any]) -> Mapping[str, int]:
    """Operations of coverage, and of merging."""
    return {**coverage_operations(work), "phase_2": merging_operations(work)["phase_1"]}


@method("focused-pooling", summary="means of neighbours, of fewer where the question is spoken",
        operations=operations)  # fmt: skip
def focused_pooling(request: Request[MethodOptions]) -> Selection:
    """Groups of similar neighbours, each token counting alike, by ``focused_likeness``."""
    with request.measure("phase_1"):
        scores = passage_scores(request)
    with request.measure("phase_2"):
        likeness = focused_likeness(neighbour_cosines(request.embeds), scores)
        starts, means = pooled(request.embeds, likeness, request.n_keep)
    return Selection(starts, (Scores(SPOKEN, scores),), means)
