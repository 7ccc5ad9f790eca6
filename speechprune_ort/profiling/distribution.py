"""What a figure was, over all the times that it was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["Distribution"]


@dataclass(frozen=True, slots=True)
class Distribution:
    """Samples of one figure and what is read off them.

    Percentiles are interpolated linearly between samples: with few of them, p95 and p99 say little
    more than the largest.

    Attributes:
        samples: in the order in which they were measured.
        n: their number.
        mean: their mean.
        p50: median.
        p90: 90th percentile.
        p95: 95th.
        p99: 99th.
        stdev: sample standard deviation (n - 1), 0 for a single sample.
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
