"""Two profiles side by side, for a check that nothing became slower."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechprune_ort.errors import OptionError
from speechprune_ort.profiling.distribution import Ratio, ratio_of

__all__ = ["Change", "compare", "read_profile", "regressions"]

COMPARED = (
    "encoder_ms",
    "phase_1_ms",
    "phase_2_ms",
    "prefill_ms",
    "tpot_ms",
    "ttft_ms",
    "end_to_end_ms",
    "peak_rss_mb",
)
"""Figures of which less is better."""


@dataclass(frozen=True, slots=True)
class Change:
    """A figure in both profiles.

    Attributes:
        condition: recording and setting.
        figure: its name.
        before: median in the first.
        after: median in the second.
        ratio: second over first, with a 95 % interval.
    """

    condition: str
    figure: str
    before: float
    after: float
    ratio: Ratio


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
    """Figures of conditions that both profiles have, of which less is better.

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


def regressions(changes: list[Change], limit: float) -> list[Change]:
    """Changes for the worse: the ratio above ``limit``, and its interval wholly above 1."""
    return [c for c in changes if c.ratio.value > limit and c.ratio.low > 1]
