"""Turns decoded blocks into mono samples at one rate, and into windows, block by block."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from speechprune_ort.audio_options import HIGHEST_RATE, LOWEST_RATE, AudioOptions
from speechprune_ort.errors import AudioError, OptionError
from speechprune_ort.runtime.hearing.loudness import Loudness
from speechprune_ort.text import counted

__all__ = ["Intake", "WindowCutter"]

FAR_TOO_LOUD = 1e15  # times full scale: the squares of a window still add up in float32


class Intake:
    """Mixes, checks and resamples a recording. The sizes of its blocks do not change a sample.

    Args:
        name: name of the recording for messages; may be set until the first block.
        to: sampling rate in Hz of what is returned.
        options: limits, and the channel to use.

    >>> intake = Intake("It", 16_000, AudioOptions())
    >>> stereo = np.stack([np.ones(4, np.float32), np.zeros(4, np.float32)], axis=1)
    >>> [found.tolist() for found in intake.add(16_000, stereo)]
    [[0.5, 0.5, 0.5, 0.5]]
    """

    def __init__(self, name: str, to: int, options: AudioOptions) -> None:
        self.name = name
        self._to, self._options = to, options
        self._loudness = Loudness(to)
        self._seconds = self._megabytes = 0.0
        self._read = self._given = self._rate = 0
        self._resampler: soxr.ResampleStream | None = None

    @property
    def notes(self) -> list[str]:
        """Sentences about what a listener would have noticed so far."""
        return self._loudness.notes(self.name, self._options)

    def refuse_silence(self) -> None:
        """Refuse a recording that has been silent so far, unless the options allow it.

        Raises:
            AudioError: it is silent.
        """
        self._loudness.refuse_silence(self.name, self._options)

    def check(self, rate: int, channels: int) -> None:
        """Refuse an impossible sampling rate, and channels that the options do not allow.

        Raises:
            AudioError: the rate or the number of channels is refused.
        """
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise AudioError(
                f"{self.name} has a sampling rate of {rate} Hz: sound has {LOWEST_RATE} to "
                f"{HIGHEST_RATE} Hz; resample it, or correct its rate."
            )
        limit, channel = self._options.max_channels, self._options.channel
        if channels > limit:
            raise AudioError(
                f"{self.name} has {counted(channels, 'channel')} and the limit is {limit}: raise "
                "max_channels (--max-channels)."
            )
        if channel is not None and channel >= max(1, channels):
            raise AudioError(
                f"{self.name} has {counted(channels, 'channel')}, counted from 0, and no channel "
                f"{channel}: "
                "give a smaller one."
            )

    def add(self, rate: int, block: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Add a block. A resampler holds back the last hundredths of a second.

        Args:
            rate: sampling rate in Hz; may differ from that of the block before.
            block: (frames, channels).

        Returns:
            (samples,) float32 each, none of them empty.

        Raises:
            AudioError: it exceeds a limit, or a sample is NaN, infinite or far too large; the block
                is left out then.
        """
        mixed = self._mixed(rate, block)
        if mixed is None:
            return []
        found = []
        if rate != self._rate:
            found.append(self._rest())
            self._resampler, self._rate = None, rate
            if rate != self._to:
                self._resampler = soxr.ResampleStream(
                    rate, self._to, 1, dtype="float32", quality="HQ"
                )
        self._read += len(mixed)
        found.append(mixed if self._resampler is None else self._resampler.resample_chunk(mixed))
        return self._out(found)

    def end(self) -> list[NDArray[np.float32]]:
        """Return what was held back; no block may follow.

        Raises:
            AudioError: there was no sample, or less than one at the target rate.
        """
        if self._read == 0:
            raise AudioError(f"{self.name} holds no samples: give a recording with sound in it.")
        found = self._out([self._rest()])
        if self._given == 0:
            raise AudioError(
                f"{self.name} is shorter than one sample at {self._to / 1000:g} kHz: give a longer "
                "one."
            )
        return found

    def _mixed(self, rate: int, block: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Mix to one channel, (frames,); None if there is no frame."""
        options = self._options
        self.check(rate, block.shape[1])
        if block.size and not np.abs(block).max() < FAR_TOO_LOUD:  # NaN compares False, too
            raise AudioError(
                f"{self.name} has NaN, infinite or far too large samples: repair it, or record it "
                "again."
            )
        seconds = self._seconds + len(block) / rate
        megabytes = self._megabytes + block.size * 4 / 1e6
        if seconds > options.max_seconds:
            raise AudioError(
                f"{self.name} is longer than {options.max_seconds:g} seconds: raise max_seconds "
                "(--max-seconds), or cut it."
            )
        if megabytes > options.max_decoded_mb:
            raise AudioError(
                f"{self.name} unpacks to more than {options.max_decoded_mb:g} MB: raise "
                "max_decoded_mb (--max-decoded-mb)."
            )
        self._seconds, self._megabytes = seconds, megabytes
        if not block.size:
            return None
        mixed: NDArray[np.float32] = (
            block.mean(axis=1, dtype=np.float32)
            if options.channel is None
            else block[:, options.channel]
        )
        self._loudness.decoded(block, mixed)
        return mixed

    def _rest(self) -> NDArray[np.float32]:
        empty = np.zeros(0, np.float32)
        if self._resampler is None:
            return empty
        rest: NDArray[np.float32] = self._resampler.resample_chunk(empty, last=True)
        return rest

    def _out(self, found: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        given = [np.ascontiguousarray(s, np.float32) for s in found if len(s)]
        for samples in given:
            self._given += len(samples)
            self._loudness.heard(samples)
        return given


class WindowCutter:
    """Cuts a recording into windows. Samples that do not fill one wait for the next block.

    Args:
        window_samples: length of a window.

    Raises:
        OptionError: it is below 1.

    >>> cutter = WindowCutter(4)
    >>> [len(window) for window in cutter.add(np.zeros(10, np.float32))], len(cutter.rest)
    ([4, 4], 2)
    """

    def __init__(self, window_samples: int) -> None:
        if window_samples < 1:
            raise OptionError(f"window_samples must be at least 1, not {window_samples}.")
        self._window, self._filled = np.empty(window_samples, np.float32), 0

    @property
    def rest(self) -> NDArray[np.float32]:
        """(samples,) that do not fill a window yet; changed by the next ``add``."""
        return self._window[: self._filled]

    def add(self, block: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        """Add a block (samples,) and return the windows, (window_samples,) each, that it fills."""
        found, start, size = [], 0, len(self._window)
        while start < len(block):
            count = min(size - self._filled, len(block) - start)
            self._window[self._filled : self._filled + count] = block[start : start + count]
            self._filled, start = self._filled + count, start + count
            if self._filled == size:
                found.append(self._window)
                self._window, self._filled = np.empty(size, np.float32), 0
        return found
