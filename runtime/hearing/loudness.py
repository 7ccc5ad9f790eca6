"""Watches a recording for silence, cancelling channels, clipping and samples out of scale."""

from __future__ import annotations

from math import log10

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.errors import AudioError

__all__ = ["Loudness"]

FRAME_S = 0.02
QUIET_DB = 15.0  # decibels above the level that counts as silence
FULL_SCALE = 0.999
CLIPPED_SHARE = 0.001
BEYOND = 2.0  # times full scale: no sound in floats is that loud, but integers stored as floats are
CANCELLED = 0.1  # share of the energy that unrelated channels would keep when mixed


class Loudness:
    """Measures the loudness of a recording, block by block.

    Args:
        rate: sampling rate in Hz of the mixed samples.

    Half a second that fades from full scale; its loudest 20 ms are a sine's, 3 dB below its peak.

    >>> loudness = Loudness(16_000)
    >>> at = np.arange(8000, dtype=np.float32) / 16_000
    >>> loudness.heard(np.sin(2 * np.pi * 400 * at) * (1 - at))
    >>> round(loudness.loudest_dbfs, 1)
    -3.1
    """

    def __init__(self, rate: int) -> None:
        self._frame = max(1, round(FRAME_S * rate))
        self._rest = np.zeros(0, np.float32)
        self._loudest = self._peak = self._mixed = self._apart = 0.0
        self._clipped = self._values = self._channels = 0

    def decoded(self, block: NDArray[np.float32], mixed: NDArray[np.float32]) -> None:
        """Add a block before, (frames, channels), and after mixing, (frames,)."""
        peak = max(float(block.max()), -float(block.min()))
        self._peak = max(self._peak, peak)
        self._values += block.size
        if peak >= FULL_SCALE:
            self._clipped += int(np.count_nonzero(np.abs(block) >= FULL_SCALE))
        if block.shape[1] > 1:
            self._channels = max(self._channels, block.shape[1])
            self._apart += float(np.vdot(block, block)) / block.shape[1]
            self._mixed += float(np.vdot(mixed, mixed))

    def heard(self, samples: NDArray[np.float32]) -> None:
        """Add resampled samples, (samples,) at ``rate``."""
        joined = np.concatenate([self._rest, samples])
        whole = len(joined) // self._frame * self._frame
        if whole:
            # A constant offset is not sound: take the deviation, not the mean square.
            self._loudest = max(
                self._loudest, float(joined[:whole].reshape(-1, self._frame).std(axis=1).max())
            )
        self._rest = joined[whole:].copy()

    @property
    def loudest_dbfs(self) -> float:
        """Level of the loudest 20 ms in dB of full scale; minus infinity for a constant signal."""
        rest = float(self._rest.std()) if len(self._rest) else 0.0
        loudest = max(self._loudest, rest)
        return 20 * log10(loudest) if loudest > 0 else float("-inf")

    @property
    def _cancel(self) -> bool:
        return self._mixed < CANCELLED / max(1, self._channels) * self._apart

    def refuse_silence(self, name: str, options: AudioOptions) -> None:
        """Refuse a silent recording, about which a model can only make things up.

        Raises:
            AudioError: it is silent, and ``options`` do not allow it.
        """
        level = self.loudest_dbfs
        if options.allow_silence or level > options.silence_dbfs:
            return
        if self._cancel:
            raise AudioError(
                f"{name} is silent once its channels are mixed, as they cancel each other: use "
                "one of them with channel=0 (--channel 0)."
            )
        raise AudioError(
            f"{name} is silent: its loudest 20 ms are at {_db(level)}, and "
            f"{options.silence_dbfs:g} dBFS counts as silence; check it and its scale, lower "
            "silence_dbfs (--silence-dbfs), or ask all the same with allow_silence=True "
            "(--allow-silence)."
        )

    def notes(self, name: str, options: AudioOptions) -> list[str]:
        """Whole sentences about what a listener would notice."""
        found, level = [], self.loudest_dbfs
        if self._peak > BEYOND:
            found.append(
                f"{name} reaches {self._peak:.6g} times full scale: floating-point samples lie "
                "within -1 and 1; divide those that come from int16 by 32768."
            )
        elif self._clipped > CLIPPED_SHARE * self._values:
            share = self._clipped / self._values
            found.append(f"{name} is clipped: {share:.1%} of its samples are at full scale.")
        if self._cancel:
            kept = 10 * log10(self._mixed / self._apart) if self._mixed else float("-inf")
            found.append(
                f"The channels of {name} cancel each other: mixed they are at {_db(kept)[:-2]} of "
                "each alone; use one with channel=0 (--channel 0)."
            )
        if level <= options.silence_dbfs:
            found.append(f"{name} is silent: any answer about it is made up.")
        elif level <= options.silence_dbfs + QUIET_DB:
            found.append(f"{name} is very quiet: its loudest 20 ms are at {_db(level)}.")
        return found


def _db(level: float) -> str:
    return "no level at all" if level == float("-inf") else f"{level:.0f} dBFS"
