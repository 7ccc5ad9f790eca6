"""Passages: where the question's words are spoken, without what says nothing. Our own.

SpeechPrune's first phase chooses tokens by their likeness to the question, its second by the
attention that they receive. But what answers a question seldom resembles it; it lies beside it. So
passages are found by ``coverage``, with four times as many tokens as may be kept; and of these the
ones that are most like the recording's average are dropped: pauses, and sounds that only draw a
word out. What a recording says is where it departs from its average.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from speechprune_ort.runtime.choosing.methods.base import (
    Request,
    Scores,
    Selection,
    TwoPhases,
    Work,
    method,
)
from speechprune_ort.runtime.choosing.methods.coverage import (
    SPOKEN,
    TEMPERATURE,
    coverage_operations,
    passage_scores,
)
from speechprune_ort.runtime.choosing.pruning import keep_by_attention, keep_by_similarity

__all__ = ["Passages", "passages"]

RARITY = "unlikeness to the recording's mean, the negative cosine"
CANDIDATES = 4  # for each token that is kept


@dataclass(frozen=True)
class Passages(TwoPhases):
    """Options of ``passages``; without ``candidates``, coverage leaves 4 tokens for each kept."""


def operations(work: Work[Any]) -> Mapping[str, int]:
    """Operations of coverage, and of the mean of unit vectors: a product and a norm per token."""
    return {**coverage_operations(work), "phase_2": 7 * work.tokens * work.hidden}


@method("passages", summary="of passages found by coverage, those least like the recording's mean",
        options=Passages, operations=operations)  # fmt: skip
def passages(request: Request[Passages]) -> Selection:
    """Coverage chooses where to look, commonness what to leave out."""
    frame = request.frame_tokens
    with request.measure("phase_1"):
        scores = passage_scores(request)
        count = request.n_keep
        wanted = request.own.candidate_tokens(count, request.tokens, CANDIDATES * count)
        inside = keep_by_similarity(scores, wanted, frame, TEMPERATURE)
    with request.measure("phase_2"):
        rarity = -request.scorer.commonness()[inside]
        kept = inside[keep_by_attention(rarity, request.n_keep)]
    return Selection(kept, (Scores(SPOKEN, scores), Scores(RARITY, rarity, inside)))
