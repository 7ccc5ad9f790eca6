"""What a figure was, over all the times that it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from speechprune_ort.statistics import LEVEL, RESAMPLES, sign_flips

__all__ = ["Distribution", "Ratio", "paired_ratio", "ratio_of"]


@dataclass(frozen=True, slots=True)
class Distribution:
    """Samples of one figure and what is read off them.

    Percentiles are interpolated linearly between samples: with few of them, p95 and p99 say little
    more than the largest.

    Attributes:
        samples: in the order in which they were measured.
        n: how many.
        mean: of them.
        p50: median.
        p90: 90th percentile.
        p95: 95th.
        p99: 99th.
        stdev: of the sample (n - 1), 0 for a single one.
        min: smallest.
        max: largest.
    """

    samples: tuple[float, ...]
    n: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    stdev: float
    min: float
    max: float

    @classmethod
    def of(cls, samples: Sequence[float]) -> Distribution:
        """Describe at least one sample.

        >>> found = Distribution.of([1.0, 3.0, 2.0])
        >>> found.n, found.p50, found.max, round(found.p90, 6)
        (3, 2.0, 3.0, 2.8)
        """
        values = np.asarray(samples, dtype=np.float64)
        p50, p90, p95, p99 = (float(v) for v in np.percentile(values, [50, 90, 95, 99]))
        return cls(
            samples=tuple(float(v) for v in values),
            n=len(values),
            mean=float(values.mean()),
            p50=p50,
            p90=p90,
            p95=p95,
            p99=p99,
            stdev=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
            min=float(values.min()),
            max=float(values.max()),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median of one set of samples over the median of another, with a 95 % interval."""

    value: float
    low: float
    high: float


def ratio_of(after: Sequence[float], before: Sequence[float], seed: int = 0) -> Ratio:
    """How many times as large ``after`` is, by bootstrap of both medians.

    Args:
        after: samples, at least one.
        before: likewise, positive.
        seed: of the resampling.

    >>> ratio_of([2.0, 2.0], [1.0, 1.0])
    Ratio(value=2.0, low=2.0, high=2.0)
    """
    random = np.random.default_rng(seed)
    medians = [
        np.median(values[random.integers(0, len(values), (RESAMPLES, len(values)))], axis=1)
        for values in (np.asarray(after, np.float64), np.asarray(before, np.float64))
    ]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(medians[0] / medians[1], [tail, 1 - tail])
    return Ratio(float(np.median(after) / np.median(before)), float(low), float(high))


def paired_ratio(
    after: Sequence[float], before: Sequence[float], seed: int = 0
) -> tuple[Ratio, float]:
    """How many times as large ``after`` is, round by round, and whether that may be chance.

    What a round of measurements meets on the machine, it does to both sides of a pair.

    Args:
        after: positive samples (rounds,).
        before: likewise, of the same rounds.
        seed: of the resampling.

    Returns:
        The median of the rounds' ratios with its interval by bootstrap over rounds, and the
        probability of ratios so far from 1 on the whole if neither side is larger: by sign flips
        of their logarithms, exact for up to 13 rounds.

    >>> paired_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    (Ratio(value=2.0, low=2.0, high=2.0), 0.25)
    """
    ratios = np.asarray(after, np.float64) / np.asarray(before, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.median(ratios[drawn], axis=1), [tail, 1 - tail])
    found = Ratio(float(np.median(ratios)), float(low), float(high))
    return found, sign_flips(np.log(ratios), seed)
