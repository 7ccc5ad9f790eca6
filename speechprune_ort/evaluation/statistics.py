"""How sure a mean is: bootstrap intervals, of single conditions and of paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["LEVEL", "RESAMPLES", "Estimate", "bootstrap"]

RESAMPLES = 10_000
LEVEL = 0.95


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


def bootstrap(
    values: Sequence[float], groups: Sequence[str] | None = None, seed: int = 0
) -> Estimate:
    """Mean and percentile bootstrap interval over samples, or over groups of them.

    For a paired difference give the differences, sample by sample: what makes one sample harder
    than another for both conditions then cancels out.

    Args:
        values: one a sample, at least one.
        groups: of each sample; those of one group are drawn together, as they are no independent
            evidence (cluster bootstrap). By default each is its own.
        seed: of the resampling.

    >>> bootstrap([1.0, 1.0, 1.0])
    Estimate(n=3, mean=1.0, low=1.0, high=1.0)

    A dialogue in four voices is still one dialogue:

    >>> bootstrap([0.0, 1.0] * 50, ["a", "b"] * 50)
    Estimate(n=100, mean=0.5, low=0.0, high=1.0)
    """
    array = np.asarray(values, dtype=np.float64)
    random, means = np.random.default_rng(seed), []
    names = np.arange(len(array)) if groups is None else np.asarray(groups)
    numbers = np.unique(names, return_inverse=True)[1]
    sums, sizes = np.bincount(numbers, array), np.bincount(numbers)
    rows = max(1, 2_000_000 // len(sums))  # at a time: bounded memory for any set
    for start in range(0, RESAMPLES, rows):
        drawn = random.integers(0, len(sums), (min(rows, RESAMPLES - start), len(sums)))
        means.append(sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Estimate(len(array), float(array.mean()), float(low), float(high))
