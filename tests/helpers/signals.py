"""Sounds for tests: deterministic, changing all the time, made from a seed."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["speech_like"]


def speech_like(seconds: float, seed: int = 0, rate: int = 16_000) -> NDArray[np.float32]:
    """Syllables of a few partials with noise between, pauses, and changes of level.

    Args:
        seconds: length.
        seed: of everything random in it.
        rate: sampling rate in Hz.

    Returns:
        (samples,) float32 below 1; the first part of a longer one equals a shorter one.
    """
    random = np.random.default_rng(seed)
    total = round(seconds * rate)
    pieces: list[NDArray[np.float64]] = []
    length = 0
    while length < total:
        size = int(random.uniform(0.06, 0.35) * rate)
        at = np.arange(size) / rate
        kind = random.integers(0, 10)
        level = 10 ** random.uniform(-2.5, -0.4)
        if kind == 0:
            piece = np.zeros(size)
        elif kind < 3:
            piece = level * 0.3 * random.standard_normal(size)
        else:
            pitch = random.uniform(80, 260) * (1 + 0.1 * np.sin(2 * np.pi * 3 * at))
            phase = 2 * np.pi * np.cumsum(pitch) / rate
            odds = random.uniform(0, 1, 12) / np.arange(1, 13)
            piece = level * sum(a * np.sin((n + 1) * phase) for n, a in enumerate(odds))
            piece *= np.hanning(size)
        pieces.append(piece)
        length += size
    sound = np.concatenate(pieces)[:total]
    return np.clip(sound, -0.99, 0.99).astype(np.float32)
