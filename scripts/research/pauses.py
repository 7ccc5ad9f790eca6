"""Lengthen the pauses of a recording: the same words, spread thinner."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FRAME_S = 0.02
LEAST_S = 0.16  # a pause between words, not the closure of a consonant
QUIET = 0.03  # of the recording's loudest frame: 30 dB below it


def pauses(samples: NDArray[np.float32], rate: int) -> list[int]:
    """The middle of each pause, as a sample's index; quiet at either end is none.

    Args:
        samples: (samples,).
        rate: samples a second.

    >>> said, quiet = np.ones(1600, np.float32), np.zeros(3200, np.float32)
    >>> pauses(np.concatenate([quiet, said, quiet, said, quiet[:800], said]), 16_000)
    [6400]
    """
    length = round(FRAME_S * rate)
    frames = samples[: len(samples) // length * length].reshape(-1, length)
    loud = np.sqrt((frames.astype(np.float64) ** 2).mean(axis=1))
    spoken = np.flatnonzero(loud > QUIET * loud.max(initial=0))
    found = []
    for before, after in pairwise(spoken):
        if (after - before - 1) * FRAME_S >= LEAST_S:
            found.append(int(before + 1 + after) * length // 2)
    return found


def lengthened(
    samples: NDArray[np.float32], seconds: float, rate: int, key: tuple[float, float] | None = None
) -> tuple[NDArray[np.float32], tuple[float, float] | None]:
    """A recording with so many seconds of quiet more in each pause.

    Args:
        samples: (samples,).
        seconds: of each pause, beyond its own.
        rate: samples a second.
        key: first and last second of a stretch, which is moved along.

    >>> said, quiet = np.ones(1600, np.float32), np.zeros(3200, np.float32)
    >>> long, key = lengthened(np.concatenate([said, quiet, said]), 0.5, 16_000, (0.3, 0.4))
    >>> len(long), key
    (14400, (0.8, 0.9))
    """
    middles = pauses(samples, rate)
    more = np.zeros(round(seconds * rate), np.float32)
    parts = np.split(samples, middles)
    joined = [part for piece in parts[:-1] for part in (piece, more)] + parts[-1:]

    def moved(time: float) -> float:
        return round(time + seconds * sum(middle <= time * rate for middle in middles), 3)

    return np.concatenate(joined), None if key is None else (moved(key[0]), moved(key[1]))
