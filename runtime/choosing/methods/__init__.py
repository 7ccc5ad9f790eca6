"""Ways to choose which audio tokens are kept, one file a family, all behind one interface."""

from __future__ import annotations

from typing import TypedDict

from speechprune_ort.choices import AttentionForm
from speechprune_ort.runtime.choosing.methods import (
    baselines,
    coverage,
    diverse,
    focused,
    merging,
    passages,
    segments,
    speechprune,
    within,
)
from speechprune_ort.runtime.choosing.methods.base import (
    METHODS,
    Method,
    MethodOptions,
    Request,
    Scores,
    Selection,
    TwoPhases,
    Work,
    method,
)

__all__ = [
    "METHODS",
    "Method",
    "MethodOptions",
    "OwnOptions",
    "Request",
    "Scores",
    "Selection",
    "TwoPhases",
    "Work",
    "baselines",
    "coverage",
    "diverse",
    "focused",
    "merging",
    "method",
    "passages",
    "segments",
    "speechprune",
    "within",
]


class OwnOptions(TypedDict, total=False):
    """Options of the methods imported above, as keyword arguments that editors show.

    The methods' own classes say what they mean.
    """

    candidates: float | None
    frame_temperature: float | None
    attention: AttentionForm
    single_head: bool
    threshold: float
