"""SpeechPrune, arXiv:2412.12009: both phases, and each alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from speechprune_ort.choices import AttentionForm, check_choice, check_flag
from speechprune_ort.numbers import check_positive
from speechprune_ort.runtime.choosing.methods.base import (
    PAPER_TEMPERATURE,
    MethodOptions,
    Request,
    Selection,
    TwoPhases,
    Work,
    method,
    products_of_pairs,
    products_with_text,
)

__all__ = [
    "COMPARISON",
    "PAPER_METHOD",
    "PHASES",
    "Attention",
    "Similarity",
    "SpeechPrune",
    "attention",
    "similarity",
    "speechprune",
]

PAPER_METHOD = "speechprune"
PHASES = ("similarity", "attention", PAPER_METHOD)
"""Each phase alone, and both: what a picture of the phases shows."""
COMPARISON = ("none", "random", "crop", PAPER_METHOD)
"""What the paper compares; its Original is ``evaluation.settings.ORIGINAL``."""
PAPER = "SpeechPrune, arXiv:2412.12009"


@dataclass(frozen=True)
class Similarity(MethodOptions):
    """Options of phase 1.

    Attributes:
        frame_temperature: temperature of the softmax over one-second frames, eq. 6; 1.0 is the
            paper's. Lower concentrates the budget on the best frames, higher spreads it. None takes
            the bundle's, which is 1.0 unless its checkpoint names another.
    """

    frame_temperature: float | None = None

    def check(self) -> None:
        """See ``MethodOptions``."""
        super().check()
        value = self.frame_temperature
        if value is not None:
            check_positive("frame_temperature", value)

    @property
    def temperature(self) -> float:
        """The temperature; the paper's if none was given."""
        return PAPER_TEMPERATURE if self.frame_temperature is None else self.frame_temperature


@dataclass(frozen=True)
class Attention(MethodOptions):
    """Options of phase 2.

    Attributes:
        attention: computed from sign-binarized projections (the paper's, eq. 9-10) or from the
            layer's own float ones (the ablation that shows what binarizing costs).
        single_head: whether to compute over the whole width instead of head by head.
    """

    attention: AttentionForm = "binarized"
    single_head: bool = False

    def check(self) -> None:
        """See ``MethodOptions``."""
        super().check()
        check_choice("attention", self.attention, get_args(AttentionForm))
        check_flag("single_head", self.single_head)


@dataclass(frozen=True)
class SpeechPrune(Attention, Similarity, TwoPhases):
    """Options of both phases; without ``candidates``, phase 1 leaves the budget to phase 2."""


def both_phases(work: Work[SpeechPrune]) -> Mapping[str, int]:
    """Phase 1 over all tokens, phase 2 among those that it leaves."""
    left = work.own.candidate_tokens(work.kept, work.tokens, work.budget)
    return {**products_with_text(work), **products_of_pairs(work, left)}


def second_phase(work: Work[Any]) -> Mapping[str, int]:
    """Phase 2 among all tokens."""
    return products_of_pairs(work, work.tokens)


@method(PAPER_METHOD, summary="phase 1 down to the budget, then phase 2 down to the rate",
        source=PAPER, options=SpeechPrune,
        operations=both_phases)  # fmt: skip
def speechprune(request: Request[SpeechPrune]) -> Selection:
    """Both phases."""
    own = request.own
    left = own.candidate_tokens(request.n_keep, request.tokens, request.budget)
    first = request.by_similarity(left, own.temperature)
    if request.n_keep == len(first.indices):
        return first
    second = request.by_attention(first.indices, own.attention, own.single_head)
    return Selection(second.indices, first.scores + second.scores)


@method("similarity", summary="phase 1 alone, to the same count", source=PAPER,
        options=Similarity,
        operations=products_with_text)  # fmt: skip
def similarity(request: Request[Similarity]) -> Selection:
    """Phase 1 alone."""
    return request.by_similarity(request.n_keep, request.own.temperature)


@method("attention", summary="phase 2 alone, to the same count", source=PAPER,
        options=Attention,
        operations=second_phase)  # fmt: skip
def attention(request: Request[Attention]) -> Selection:
    """Phase 2 alone, among all tokens."""
    every = np.arange(request.tokens)
    return request.by_attention(every, request.own.attention, request.own.single_head)
