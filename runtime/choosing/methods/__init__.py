"""Ways to choose which audio tokens are kept, one file a family, all behind one interface."""

from speechprune_ort.runtime.choosing.methods import (
    baselines,
    coverage,
    diverse,
    merging,
    passages,
    segments,
    speechprune,
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
    "Request",
    "Scores",
    "Selection",
    "TwoPhases",
    "Work",
    "baselines",
    "coverage",
    "diverse",
    "merging",
    "method",
    "passages",
    "segments",
    "speechprune",
]
