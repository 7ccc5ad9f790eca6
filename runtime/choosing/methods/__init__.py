"""Ways to choose which audio tokens are kept, one file a family, all behind one interface."""

from speechprune_ort.runtime.choosing.methods import (
    baselines,
    coverage,
    merging,
    passages,
    segments,
    speechprune,
)
from speechprune_ort.runtime.choosing.methods.base import (
    METHOD_OPTIONS,
    METHODS,
    Method,
    Request,
    ScoreName,
    Selection,
    Work,
    method,
)

__all__ = [
    "METHODS",
    "METHOD_OPTIONS",
    "Method",
    "Request",
    "ScoreName",
    "Selection",
    "Work",
    "baselines",
    "coverage",
    "merging",
    "method",
    "passages",
    "segments",
    "speechprune",
]
