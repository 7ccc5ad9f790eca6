"""How sure a mean is: intervals of single conditions and of paired differences.

The percentile bootstrap over clusters of samples serves wherever clusters are many and differ. It
draws from what was seen: where all clusters agree (0 of n right, n of n, no difference at all) it
says that the mean is certain, and of few clusters it says too much. There an interval comes from
Wilson's score (1927), with a cluster as one trial: it never has zero width, and of two recordings
it says as little as they do. It asks for no more than a formula; the exact interval of Clopper and
Pearson would want the quantiles of a beta distribution, and is wider than 95 %.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["FEW", "LEVEL", "RESAMPLES", "Estimate", "difference", "proportion", "wilson"]

RESAMPLES = 10_000
LEVEL = 0.95
Z = 1.959963984540054
"""Quantile of the normal distribution for ``LEVEL``."""
FEW = 10
"""Clusters, fewer than which are no ground for a bootstrap."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over samples with its 95 % interval.

    Attributes:
        n: number of samples.
        mean: their mean.
        low: lower end of the interval.
        high: upper end.
    """

    n: int
    mean: float
    low: float
    high: float


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a share of n trials.

    Args:
        share: of the trials that succeeded, 0 to 1; that of partial successes is a mean, too, and
            varies less.
        n: trials.

    >>> [round(end, 3) for end in wilson(1.0, 2)], [round(end, 3) for end in wilson(0.0, 100)]
    ([0.342, 1.0], [0.0, 0.037])
    """
    middle = share + Z * Z / (2 * n)
    spread = Z * np.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    low, high = (float(end / (1 + Z * Z / n)) for end in (middle - spread, middle + spread))
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def proportion(
    values: Sequence[float], groups: Sequence[str] | None = None, seed: int = 0
) -> Estimate:
    """Mean of values from 0 to 1, such as shares of right choices, and its interval.

    Args:
        values: one a sample, at least one.
        groups: of each sample; those of one group are drawn together, as they are no independent
            evidence (cluster bootstrap). By default each is its own.
        seed: of the resampling.

    >>> proportion([1.0, 1.0])
    Estimate(n=2, mean=1.0, low=0.3423802275066531, high=1.0)

    A dialogue in four voices is still one dialogue:

    >>> found = proportion([0.0, 1.0] * 50, ["a", "b"] * 50)
    >>> found.n, round(found.low, 2), round(found.high, 2)
    (100, 0.09, 0.91)
    """
    array, (sums, sizes) = np.asarray(values, dtype=np.float64), _clusters(values, groups)
    mean = float(array.mean())
    ends = _bootstrap(sums, sizes, seed) or wilson(min(1.0, max(0.0, mean)), len(sums))
    return Estimate(len(array), mean, *ends)


def difference(
    values: Sequence[float], groups: Sequence[str] | None = None, seed: int = 0
) -> Estimate:
    """Mean of paired differences from -1 to 1, sample by sample, and its interval.

    What makes one sample harder than another for both conditions cancels out. In place of the
    bootstrap stand Wilson's intervals of the two shares, of what was won and what was lost, put
    together by the square root of squares, with the correlation that two shares of one whole have
    (the method of variance estimates recovery, Zou and Donner 2008).

    Args:
        values: one a sample, at least one.
        groups: as in ``proportion``.
        seed: of the resampling.

    >>> found = difference([0.0] * 100)
    >>> round(found.low, 3), round(found.high, 3)
    (-0.037, 0.037)
    >>> found = difference([1.0, 1.0])
    >>> round(found.low, 3), round(found.high, 3)
    (-0.315, 1.0)
    """
    array, (sums, sizes) = np.asarray(values, dtype=np.float64), _clusters(values, groups)
    mean = float(array.mean())
    ends = _bootstrap(sums, sizes, seed)
    if ends is None:
        won = min(1.0, float(np.maximum(array, 0).mean()))
        lost = min(1.0, float(np.maximum(-array, 0).mean()))
        (won_low, won_high), (lost_low, lost_high) = (wilson(p, len(sums)) for p in (won, lost))
        rest = (1 - won) * (1 - lost)
        together = -np.sqrt(won * lost / rest) if rest > 0 else -1.0
        ends = (
            max(-1.0, mean - _joined(won - won_low, lost_high - lost, together)),
            min(1.0, mean + _joined(won_high - won, lost - lost_low, together)),
        )
    return Estimate(len(array), mean, *ends)


def _joined(one: float, other: float, correlation: float) -> float:
    """Half width of a difference from those of its sides."""
    return float(np.sqrt(one * one + other * other - 2 * correlation * one * other))


def _clusters(
    values: Sequence[float], groups: Sequence[str] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum of the values and number of samples of each cluster."""
    names = np.arange(len(values)) if groups is None else np.asarray(groups)
    numbers = np.unique(names, return_inverse=True)[1]
    sums = np.bincount(numbers, np.asarray(values, dtype=np.float64))
    return sums.astype(np.float64), np.bincount(numbers).astype(np.float64)


def _bootstrap(
    sums: NDArray[np.float64], sizes: NDArray[np.float64], seed: int
) -> tuple[float, float] | None:
    """Percentile interval of the mean over resampled clusters; None where it is none."""
    if len(sums) < FEW or np.ptp(sums / sizes) < 1e-9:
        return None
    random, means = np.random.default_rng(seed), []
    rows = max(1, 2_000_000 // len(sums))  # at a time: bounded memory for any set
    for start in range(0, RESAMPLES, rows):
        drawn = random.integers(0, len(sums), (min(rows, RESAMPLES - start), len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    mean = sums.sum() / sizes.sum()  # of very skewed clusters it may lie beyond
    return float(min(low, mean)), float(max(high, mean))
