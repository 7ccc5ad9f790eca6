"""How much sound an audio encoder is compared with torch on.

Windows of some families are minutes long, and an encoder computes for seconds on each of them in
both libraries. So there are two whole windows of noise only where they are short, and windows that
are not whole, which such families take, are short ones.
"""

from __future__ import annotations

__all__ = [
    "WINDOW_SECONDS",
    "seconds_at_once",
    "seconds_compared",
    "short_seconds",
    "whole_windows",
]

WINDOW_SECONDS = 30.0
"""Of Whisper's window, and of all families but those that say otherwise."""
NOISE_SECONDS = 60.0
SHORT_SECONDS = 20.0


def whole_windows(window_seconds: float) -> int:
    """Whole windows of noise: two, or one where two were more than a minute.

    >>> whole_windows(30.0), whole_windows(240.0)
    (2, 1)
    """
    return 2 if 2 * window_seconds <= NOISE_SECONDS else 1


def seconds_at_once(window_seconds: float) -> float:
    """Seconds of the largest batch of windows.

    >>> seconds_at_once(30.0), seconds_at_once(240.0)
    (60.0, 240.0)
    """
    return whole_windows(window_seconds) * window_seconds


def short_seconds(window_seconds: float) -> float:
    """Seconds of a window that is not whole, at most.

    >>> short_seconds(30.0), short_seconds(240.0)
    (10.0, 20.0)
    """
    return min(window_seconds / 3, SHORT_SECONDS)


def seconds_compared(window_seconds: float) -> float:
    """Seconds of all windows together: speech, noise in whole windows, noise in two short ones.

    >>> seconds_compared(30.0), seconds_compared(240.0)
    (110.0, 310.0)
    """
    speech = min(window_seconds, WINDOW_SECONDS)
    return speech + seconds_at_once(window_seconds) + 2 * short_seconds(window_seconds)
