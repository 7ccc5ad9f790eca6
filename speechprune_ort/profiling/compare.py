"""Two profiles side by side, for a check that nothing became slower.

From one run that measured two bundles in turns, figures are compared in pairs, and the p-values of
all of them are adjusted to each other (Holm 1979) and held to 1 %: with a bundle against itself, 99
runs of 100 find nothing at all. Between two runs, whatever changed on the machine counts as a
difference.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from speechprune_ort.errors import OptionError
from speechprune_ort.profiling.condition import Condition
from speechprune_ort.statistics import Ratio, holm, paired_ratio, ratio_of

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


def read_profile(path: Path) -> dict[str, Any]:
    """What ``profile --format json`` wrote.

    Raises:
        OptionError: there is no such file, or it is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise OptionError(f"No profile at {path}: check the path.") from None
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or "conditions" not in content:
        raise OptionError(f"{path} is not a profile: write one with `profile --format json`.")
    return content


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[Change]:
    """Compare the figures of conditions that both profiles have, for which less is better.

    Raises:
        OptionError: they have no condition in common.
    """

    def named(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
        return {f"{c['sound']} @ {c['setting']}": c["figures"] for c in content["conditions"]}

    first, second = named(before), named(after)
    common = [name for name in first if name in second]
    if not common:
        raise OptionError("The profiles have no recording and rate in common: measure the same.")
    changes = []
    for name in common:
        for figure in COMPARED:
            if figure not in first[name] or figure not in second[name]:
                continue
            old, new = first[name][figure]["samples"], second[name][figure]["samples"]
            if min(old) > 0:  # a stage that did not run has no ratio
                old_median, new_median = first[name][figure]["p50"], second[name][figure]["p50"]
                changes.append(Change(name, figure, old_median, new_median, ratio_of(new, old)))
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
