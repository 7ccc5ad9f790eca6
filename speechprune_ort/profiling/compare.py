"""Two profiles side by side, for a check that nothing became slower.

From one run that measured two bundles in turns, figures are compared in pairs, and the p-values of
all of them are adjusted to each other (Holm 1979) and held to 1 %: with a bundle against itself, 99
runs of 100 find nothing at all. Between two runs, whatever changed on the machine counts as a
difference.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from speechprune_ort.errors import DataError, OptionError
from speechprune_ort.profiling.condition import Condition
from speechprune_ort.statistics import Ratio, holm, paired_ratio, ratio_of
from speechprune_ort.text import read_json

__all__ = [
    "COMPARED",
    "FALSE_ALARMS",
    "Change",
    "compare",
    "compare_in_pairs",
    "read_profile",
    "regressions",
    "rounds_needed",
]

FALSE_ALARMS = 0.01
"""Share of runs that find a difference between equal bundles: such a run stops somebody's work."""

COMPARED = (
    "encoder_ms",
    "phase_1_ms",
    "phase_2_ms",
    "prefill_ms",
    "tpot_ms",
    "ttft_ms",
    "end_to_end_ms",
    "cpu_ms",
    "peak_rss_mb",
)
"""Figures for which less is better."""


@dataclass(frozen=True, slots=True)
class Change:
    """A figure in both profiles.

    Attributes:
        condition: recording and setting.
        figure: its name.
        before: median in the first.
        after: median in the second.
        ratio: second over first, with a 95 % interval.
        probability: p-value of the difference, adjusted to all figures that are compared; None
            where the two were not measured in turns.
    """

    condition: str
    figure: str
    before: float
    after: float
    ratio: Ratio
    probability: float | None = None

    @property
    def verdict(self) -> str:
        """In a word or two: larger, smaller, or no difference."""
        certain = self.ratio.low > 1 or self.ratio.high < 1
        if self.probability is not None:
            certain = self.probability < FALSE_ALARMS
        return "no difference" if not certain else "larger" if self.ratio.value > 1 else "smaller"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "verdict": self.verdict}


def read_profile(path: Path) -> list[Condition]:
    """The conditions of what ``profile --format json`` wrote.

    Raises:
        OptionError: there is no such file, it cannot be read, or is something else.
    """
    if not os.path.exists(path):  # noqa: PTH110 - which has no error for any name
        raise OptionError(f"No profile at {path}: check the path.")
    try:
        content = read_json(path)
        if not isinstance(content, dict) or "conditions" not in content:
            raise ValueError("it has no conditions")
        conditions = msgspec.convert(content["conditions"], list[Condition])
        wanted = {field.name for field in fields(Condition)}
        for entry in content["conditions"]:
            if missing := sorted(wanted - entry.keys()):
                raise ValueError(f"a condition has no {missing[0]}")
        names = [condition.name for condition in conditions]
        if len(set(names)) < len(names):
            raise ValueError("it has a condition twice")
        for condition in conditions:
            for name, found in condition.figures.items():
                if not found.samples or not all(0 <= value < math.inf for value in found.samples):
                    raise ValueError(f"{name} is not measured in numbers from 0 on")
    except (DataError, ValueError, msgspec.ValidationError) as error:
        raise OptionError(
            f"{path} is not a profile ({str(error).rstrip('.')}): write one with `profile --format "
            "json`."
        ) from None
    return conditions


def compare(before: Sequence[Condition], after: Sequence[Condition]) -> list[Change]:
    """Compare the figures of conditions that both profiles have, for which less is better.

    Raises:
        OptionError: they have no figure of the same condition in common.
    """
    second = {condition.name: condition.figures for condition in after}
    changes = []
    for condition in before:
        for figure in COMPARED:
            if figure not in condition.figures or figure not in second.get(condition.name, {}):
                continue
            old, new = condition.figures[figure].samples, second[condition.name][figure].samples
            if min(*old, *new) > 0:  # a stage that did not run has no ratio
                ratio = ratio_of(new, old)
                medians = float(np.median(old)), float(np.median(new))
                changes.append(Change(condition.name, figure, *medians, ratio))
    if not changes:
        raise OptionError(
            "The profiles have no figure of a recording and rate in common: measure the same."
        )
    return changes


def compare_in_pairs(before: Sequence[Condition], after: Sequence[Condition]) -> list[Change]:
    """Compare figures of two bundles that one run measured in turns, for which less is better.

    Args:
        before: conditions of the first.
        after: conditions of the second, the same recordings and settings in the same order.
    """
    changes = []
    for first, second in zip(before, after, strict=True):
        for figure in COMPARED:
            if figure not in first.figures or figure not in second.figures:
                continue
            old, new = first.figures[figure], second.figures[figure]
            if min(old.min, new.min) > 0:  # a stage that did not run has no ratio
                ratio, chance = paired_ratio(new.samples, old.samples)
                changes.append(Change(first.name, figure, old.p50, new.p50, ratio, chance))
    adjusted = holm([change.probability or 0.0 for change in changes])
    return [replace(c, probability=p) for c, p in zip(changes, adjusted, strict=True)]


def rounds_needed(figures: int) -> int:
    """Rounds below which sign flips cannot find a difference among so many figures.

    >>> rounds_needed(1), rounds_needed(18)
    (8, 12)
    """
    return 1 + math.ceil(math.log2(max(1, figures) / FALSE_ALARMS))


def regressions(changes: list[Change], limit: float) -> list[Change]:
    """Changes for the worse: the ratio above ``limit``, and significantly above 1."""
    return [c for c in changes if c.ratio.value > limit and c.verdict == "larger"]
