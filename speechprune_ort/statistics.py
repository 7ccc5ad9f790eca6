"""How sure a figure is: intervals of means, of paired differences and of ratios of medians.

The percentile bootstrap over clusters of samples is used wherever clusters are many and differ. It
draws from what was seen: where all clusters agree (0 of n right, n of n, no difference at all) it
calls the mean certain, and from few clusters its interval is too narrow. There the interval comes
from Wilson's score (1927), with a cluster as one trial: it never has zero width, and for two
recordings it is as wide as so little evidence makes it. It takes only a formula; the exact interval
of Clopper and Pearson would need the quantiles of a beta distribution, and covers more than 95 %.

A table of many differences shows some where there are none. Each difference has a p-value, the
probability of one as large by chance alone, from a test that flips the signs of whole clusters;
``holm`` adjusts the p-values of one table to each other (Holm 1979), so that any false finding
among all of them has a probability of at most 5 %. ``detectable`` says before a run what it can
find at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FEW",
    "LEVEL",
    "POWER",
    "RESAMPLES",
    "Estimate",
    "Ratio",
    "detectable",
    "difference",
    "holm",
    "paired_ratio",
    "proportion",
    "ratio_of",
    "sign_flips",
    "wilson",
]

RESAMPLES = 10_000
LEVEL = 0.95
Z = 1.959963984540054
"""Quantile of the normal distribution for ``LEVEL``."""
FEW = 10
"""Least number of clusters for a bootstrap; figures from fewer are grey in tables."""
POWER = 0.8
"""Probability of finding a difference that is there, which ``detectable`` asks for."""
DISCORDANT = 1 / 3
"""Share of the samples that two settings answer differently, assumed until it is known."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over samples with its 95 % interval.

    Attributes:
        n: number of samples.
        mean: their mean.
        low: lower end of the interval.
        high: upper end.
        clusters: number of independent pieces of evidence that the samples amount to.
        p: for a difference, its p-value, by flips of signs; in a table, adjusted to the others in
            it. None for what is not a difference.
    """

    n: int
    mean: float
    low: float
    high: float
    clusters: int
    p: float | None = None

    @property
    def few(self) -> bool:
        """Whether it rests on too little to be more than a description."""
        return self.clusters < FEW


@dataclass(frozen=True, slots=True)
class Ratio:
    """Median of one set of samples over the median of another, with a 95 % interval."""

    value: float
    low: float
    high: float


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's score interval of a share of n trials.

    Args:
        share: share of the trials that succeeded, 0 to 1; the mean of partial successes is allowed,
            which varies less.
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
        values: one per sample, at least one.
        groups: group of each sample; the samples of a group are drawn together, as they are not
            independent evidence (cluster bootstrap). By default each sample is a group of its own.
        seed: of the resampling.

    >>> proportion([1.0, 1.0])
    Estimate(n=2, mean=1.0, low=0.3423802275066531, high=1.0, clusters=2, p=None)

    A dialogue in four voices is still one dialogue:

    >>> found = proportion([0.0, 1.0] * 50, ["a", "b"] * 50)
    >>> found.n, round(found.low, 2), round(found.high, 2)
    (100, 0.09, 0.91)
    """
    array, (sums, sizes) = np.asarray(values, dtype=np.float64), _clusters(values, groups)
    mean = float(array.mean())
    ends = _bootstrap(sums, sizes, seed) or wilson(min(1.0, max(0.0, mean)), len(sums))
    return Estimate(len(array), mean, *ends, len(sums))


def difference(
    values: Sequence[float], groups: Sequence[str] | None = None, seed: int = 0
) -> Estimate:
    """Mean of paired differences from -1 to 1, sample by sample, and its interval.

    What makes one sample harder than another for both conditions cancels out. Where the bootstrap
    is not used, Wilson's intervals of two shares, what was won and what was lost, are combined by
    the square root of squares, with the correlation that two shares of one whole have (the method
    of variance estimates recovery, Zou and Donner 2008).

    Args:
        values: one per sample, at least one.
        groups: as in ``proportion``.
        seed: of the resampling.

    >>> found = difference([0.0] * 100)
    >>> round(found.low, 3), round(found.high, 3)
    (-0.037, 0.037)
    >>> found = difference([1.0, 1.0])
    >>> round(found.low, 3), round(found.high, 3), round(found.p, 2)
    (-0.315, 1.0, 0.5)
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
    return Estimate(len(array), mean, *ends, len(sums), sign_flips(sums, seed))


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
    return Ratio(float(np.median(after) / np.median(before)), *_ends(medians[0] / medians[1]))


def paired_ratio(
    after: Sequence[float], before: Sequence[float], seed: int = 0
) -> tuple[Ratio, float]:
    """How many times as large ``after`` is, round by round, and whether that may be chance.

    Whatever the machine does during a round of measurements affects both sides of a pair.

    Args:
        after: positive samples (rounds,).
        before: likewise, of the same rounds.
        seed: of the resampling.

    Returns:
        The median of the rounds' ratios with its interval by bootstrap over rounds, and the p-value
        for neither side being larger: by sign flips of their logarithms, exact for up to 13 rounds.

    >>> paired_ratio([2.0, 4.0, 6.0], [1.0, 2.0, 3.0])
    (Ratio(value=2.0, low=2.0, high=2.0), 0.25)
    """
    ratios = np.asarray(after, np.float64) / np.asarray(before, np.float64)
    drawn = np.random.default_rng(seed).integers(0, len(ratios), (RESAMPLES, len(ratios)))
    found = Ratio(float(np.median(ratios)), *_ends(np.median(ratios[drawn], axis=1)))
    return found, sign_flips(np.log(ratios), seed)


def holm(probabilities: Sequence[float]) -> list[float]:
    """Probabilities of one family of comparisons, adjusted to each other (Holm's step-down).

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(probabilities, kind="stable")
    adjusted = np.empty(len(order))
    raised = np.arange(len(order), 0, -1) * np.asarray(probabilities, np.float64)[order]
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(raised))
    return [float(p) for p in adjusted]


def detectable(clusters: int, comparisons: int = 1, discordant: float = DISCORDANT) -> float:
    """The smallest difference of two settings that a run finds with a chance of ``POWER``.

    By the normal approximation of McNemar's test, at 5 % shared by the comparisons (Bonferroni's
    bound, which Holm's procedure is never below).

    Args:
        clusters: independent pieces of evidence, at least one.
        comparisons: in one table.
        discordant: share of the samples that the two answer differently, 0 to 1.

    Returns:
        From 0 to 1; infinity if no possible difference would be found.

    >>> round(detectable(270), 3), round(detectable(270, 30), 3), detectable(5)
    (0.097, 0.136, inf)
    """
    quantile = NormalDist().inv_cdf
    reach = quantile(1 - (1 - LEVEL) / 2 / comparisons) + quantile(POWER)
    # The variance of a paired difference is discordant - difference ** 2.
    found = reach * float(np.sqrt(discordant / (clusters + reach * reach)))
    return found if found <= discordant else float("inf")


def sign_flips(sums: NDArray[np.float64], seed: int) -> float:
    """Probability of so large a sum if signs were random; exact if the combinations are few.

    Args:
        sums: independent values (n,), each as likely positive as negative if there is no effect.
        seed: of the signs where not all can be tried.

    >>> sign_flips(np.array([1.0, 2.0, 3.0, 4.0]), 0)
    0.125
    """
    sums = sums[sums != 0]
    if len(sums) == 0:
        return 1.0
    observed = abs(float(sums.sum())) - 1e-9
    if 2 ** len(sums) <= RESAMPLES:
        every = np.array(list(product((-1.0, 1.0), repeat=len(sums))))
        return float(np.mean(np.abs(every @ sums) >= observed))
    random, larger = np.random.default_rng(seed), 1  # what was observed is one of them
    rows = max(1, 2_000_000 // len(sums))
    for start in range(0, RESAMPLES, rows):
        signs = random.integers(0, 2, (min(rows, RESAMPLES - start), len(sums))) * 2.0 - 1.0
        larger += int(np.count_nonzero(np.abs(signs @ sums) >= observed))
    return larger / (RESAMPLES + 1)


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
    """Percentile interval of the mean over resampled clusters; None if it is meaningless."""
    if len(sums) < FEW or np.ptp(sums / sizes) < 1e-9:
        return None
    random, means = np.random.default_rng(seed), []
    rows = max(1, 2_000_000 // len(sums))  # at a time: bounded memory for any set
    for start in range(0, RESAMPLES, rows):
        drawn = random.integers(0, len(sums), (min(rows, RESAMPLES - start), len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    low, high = _ends(np.concatenate(means))
    mean = sums.sum() / sizes.sum()  # of very skewed clusters it may lie beyond
    return min(low, float(mean)), max(high, float(mean))


def _ends(resampled: NDArray[np.float64]) -> tuple[float, float]:
    """Percentile interval of the resampled values."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)
