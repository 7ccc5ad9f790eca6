"""SpeechPrune, arXiv:2412.12009: both phases, and each alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from speechprune_ort.runtime.choosing.methods.base import (
    METHOD_OPTIONS,
    Request,
    ScoreName,
    Selection,
    Work,
    method,
    products_of_pairs,
    products_with_text,
)

__all__ = ["PAPER_METHOD", "PHASES", "attention", "similarity", "speechprune"]

PAPER_METHOD = "speechprune"
PHASES = ("similarity", "attention", PAPER_METHOD)
"""Each phase alone, and both: what a picture of the phases shows."""
PAPER = "SpeechPrune, arXiv:2412.12009"
SIMILARITY = ScoreName("similarity to the question")
RECEIVED = ScoreName("attention received, 1 = even", of_one=True)


def both_phases(work: Work) -> Mapping[str, int]:
    """Phase 1 over all tokens, phase 2 among those that it leaves."""
    left = work.options.candidate_tokens(work.kept, work.tokens, work.budget)
    return {**products_with_text(work), **products_of_pairs(work, left)}


def second_phase(work: Work) -> Mapping[str, int]:
    """Phase 2 among all tokens."""
    return products_of_pairs(work, work.tokens)


@method(PAPER_METHOD, summary="phase 1 down to the budget, then phase 2 down to the rate",
        source=PAPER, options=METHOD_OPTIONS, scores=(SIMILARITY, RECEIVED),
        operations=both_phases)  # fmt: skip
def speechprune(request: Request) -> Selection:
    """Both phases."""
    first = request.by_similarity(request.candidates(request.budget))
    if request.n_keep == len(first.indices):
        return first
    second = request.by_attention(first.indices)
    return Selection(second.indices, first.similarity, second.attention, second.candidates)


@method("similarity", summary="phase 1 alone, to the same count", source=PAPER,
        options=("frame_temperature",), scores=(SIMILARITY, RECEIVED),
        operations=products_with_text)  # fmt: skip
def similarity(request: Request) -> Selection:
    """Phase 1 alone."""
    return request.by_similarity(request.n_keep)


@method("attention", summary="phase 2 alone, to the same count", source=PAPER,
        options=("attention", "single_head"), scores=(SIMILARITY, RECEIVED),
        operations=second_phase)  # fmt: skip
def attention(request: Request) -> Selection:
    """Phase 2 alone, among all tokens."""
    return request.by_attention(np.arange(request.tokens))
