"""Ways to choose which audio tokens are kept, one file a family, all behind one interface."""

from speechprune_ort.runtime.methods import (
    baselines,
    coverage,
    merging,
    passages,
    segments,
    speechprune,
)
from speechprune_ort.runtime.methods.base import METHODS, Method, Request, Selection, method

__all__ = [
    "METHODS",
    "Method",
    "Request",
    "Selection",
    "baselines",
    "coverage",
    "merging",
    "method",
    "passages",
    "segments",
    "speechprune",
]
