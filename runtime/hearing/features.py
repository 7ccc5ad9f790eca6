"""Log-mel features in numpy, equal to those of Whisper's extractor and of torchaudio."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from speechprune_ort.errors import AudioError, OptionError
from speechprune_ort.runtime.hearing.spectrum import BandEnergy
from speechprune_ort.runtime.ort.threads import numpy_threads

__all__ = ["FLOOR", "LogMel", "mel_filters", "scaled"]

FLOOR = 1e-10  # of the mel power before the logarithm
HIGHEST_HZ = 8000.0  # upper edge of the last filter
DYNAMIC_RANGE = 8.0  # decades; what lies further below the loudest value is raised to it


def _hertz_to_mel(hertz: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slaney's scale: linear up to 1 kHz, logarithmic above."""
    linear = 3 * hertz / 200
    return np.where(
        hertz < 1000, linear, 15 + np.log(np.maximum(hertz, 1000) / 1000) * 27 / np.log(6.4)
    )


def _mel_to_hertz(mels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mels < 15, 200 * mels / 3, 1000 * np.exp(np.log(6.4) * (mels - 15) / 27))


Scale = Literal["slaney", "htk"]


def mel_filters(
    mel_bins: int, n_fft: int, sampling_rate: int, scale: Scale = "slaney"
) -> NDArray[np.float32]:
    """Triangular filters up to 8 kHz.

    Args:
        mel_bins: number of filters.
        n_fft: length of the Fourier transform.
        sampling_rate: in Hz.
        scale: mel scale of the filters: ``slaney``, linear up to 1 kHz, with filters of equal area
            (peak 2 / width in Hz); or ``htk``, 2595 log10(1 + Hz / 700), with peaks of 1.

    Returns:
        (mel_bins, n_fft // 2 + 1) float32.

    Four filters over bins of 1 kHz: the linear part of the scale ends at 1 kHz, and the
    triangles grow wider and lower above it.

    >>> mel_filters(4, 16, 16_000).argmax(axis=1).tolist()
    [1, 1, 2, 4]
    """
    ends = np.array([0.0, HIGHEST_HZ])
    if scale == "htk":
        low, high = 2595 * np.log10(1 + ends / 700)
        edges = 700 * (10 ** (np.linspace(low, high, mel_bins + 2) / 2595) - 1)
    else:
        low, high = _hertz_to_mel(ends)
        edges = _mel_to_hertz(np.linspace(low, high, mel_bins + 2))
    bins = np.linspace(0, sampling_rate / 2, n_fft // 2 + 1)
    widths = np.diff(edges)
    slopes = edges[:, None] - bins[None, :]
    rising = -slopes[:-2] / widths[:-1, None]
    falling = slopes[2:] / widths[1:, None]
    area = 2 / (edges[2:] - edges[:-2]) if scale == "slaney" else np.ones(mel_bins)
    return (np.maximum(0, np.minimum(rising, falling)) * area[:, None]).astype(np.float32)


def scaled(mel: NDArray[np.float32], loudest: float) -> NDArray[np.float32]:
    """Turn decades of power into features, in place; values far below the loudest are raised.

    Args:
        mel: (mel_bins, frames) float32, log10 of the power.
        loudest: largest value of the window or of the recording.
    """
    np.maximum(mel, np.float32(loudest) - np.float32(DYNAMIC_RANGE), out=mel)
    mel += 4
    mel /= 4
    return mel


def _decades(power: NDArray[np.float32]) -> NDArray[np.float32]:
    """The logarithm to base 10, in place."""
    np.maximum(power, FLOOR, out=power)
    return np.log10(power, out=power)


@dataclass(frozen=True)
class LogMel:
    """Log-mel extractor for one window length.

    Attributes:
        sampling_rate: sampling rate in Hz.
        n_fft: samples in a frame.
        hop_length: samples from the start of one frame to the next.
        mel_bins: number of filters.
        window_seconds: length that every window is padded to with silence.
        scale: mel scale, see ``mel_filters``.
        taper: length in samples of the Hann window in the middle of a frame; None for ``n_fft``.

    Raises:
        OptionError: a length or count is not positive, or the sampling rate is too low for the
            8 kHz that the filters reach.

    One second of silence: every value is the floor, (log10(1e-10) + 4) / 4, and 100 of the 3000
    frames are audio.

    >>> features, valid = LogMel()(np.zeros(16_000, np.float32))
    >>> features.shape, valid, np.unique(features).round(4).tolist()
    ((80, 3000), 100, [-1.5])
    """

    sampling_rate: int = 16_000
    n_fft: int = 400
    hop_length: int = 160
    mel_bins: int = 80
    window_seconds: float = 30.0
    scale: Scale = "slaney"
    taper: int | None = None
    _energy: BandEnergy = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("sampling_rate", "n_fft", "hop_length", "mel_bins", "window_seconds"):
            if not getattr(self, name) > 0:
                raise OptionError(f"{name} must be positive, not {getattr(self, name)}.")
        if self.sampling_rate < 2 * HIGHEST_HZ:
            raise OptionError(
                f"sampling_rate must be at least {2 * HIGHEST_HZ:.0f} Hz, not "
                f"{self.sampling_rate}: the mel filters reach {HIGHEST_HZ:.0f} Hz."
            )
        filters = mel_filters(self.mel_bins, self.n_fft, self.sampling_rate, self.scale)
        width = self.taper or self.n_fft
        if width > self.n_fft:
            raise OptionError(f"taper must be at most n_fft {self.n_fft}, not {width}.")
        # Periodic Hann window: one sample longer than the frame, without the last.
        taper = np.zeros(self.n_fft)
        first = (self.n_fft - width) // 2
        taper[first : first + width] = np.hanning(width + 1)[:-1]
        object.__setattr__(self, "_energy", BandEnergy(taper, filters))

    @property
    def frames(self) -> int:
        """Number of frames in a whole window."""
        return round(self.window_seconds * self.sampling_rate) // self.hop_length

    def __call__(self, samples: NDArray[np.float32]) -> tuple[NDArray[np.float32], int]:
        """Features of one window.

        Args:
            samples: (samples,) float32, at most one window.

        Returns:
            (mel_bins, frames) float32, padded with silence; and how many of the frames are audio.

        Raises:
            AudioError: the window is empty, longer than one window, not one-dimensional, or
                holds NaN or infinity.
        """
        longest = self.frames * self.hop_length
        if samples.ndim != 1 or not 1 <= len(samples) <= longest:
            raise AudioError(
                f"A window holds 1 to {longest} samples of one channel, not {samples.shape}: "
                "cut the recording with stream_windows."
            )
        half, hop, frames = self.n_fft // 2, self.hop_length, self.frames
        valid = min(frames, -(-len(samples) // hop))
        # Frames that no sample reaches are silence, whose value is known without computing it.
        heard = min(frames, (len(samples) + half) // hop + 1)
        window = frames * hop
        padded = np.empty(half + min(window, heard * hop + half) + half, np.float32)
        padded[half : half + len(samples)] = samples
        padded[half + len(samples) :] = 0
        padded[:half] = padded[half + 1 : 2 * half + 1][::-1]
        if heard * hop + half >= window:
            # The last frame reaches past the end: the end is mirrored, like the beginning.
            end = half + window
            padded[end : end + half] = padded[end - half - 1 : end - 1][::-1]
        mel = np.empty((self.mel_bins, frames), np.float32)
        mel[:, heard:] = _decades(np.zeros(1, np.float32))
        self._measure(padded, mel[:, :heard])
        return scaled(mel, mel.max()), valid

    def decades(self, samples: NDArray[np.float32], frames: int) -> NDArray[np.float32]:
        """log10 of the mel power, limited only by the floor of -10.

        Args:
            samples: (samples,) float32; frame i has the n_fft samples from i * hop_length on.
            frames: number of frames to compute.

        Returns:
            (mel_bins, frames) float32.

        Raises:
            AudioError: a sample is NaN, infinite, or far too large.
        """
        mel = np.empty((self.mel_bins, frames), np.float32)
        self._measure(samples, mel)
        return mel

    def _measure(self, samples: NDArray[np.float32], mel: NDArray[np.float32]) -> None:
        """Write the decades of as many frames as there is room for."""
        framed = sliding_window_view(samples, self.n_fft)[:: self.hop_length][: mel.shape[1]]
        # The products are so small that threads would only wait for one another.
        with numpy_threads(1):
            self._energy(framed, mel)
        # NaN and infinity reach the maximum, so the samples need no check of their own.
        if not np.isfinite(_decades(mel).max()):
            raise AudioError(
                "The window has NaN, infinite or far too large samples: repair the recording."
            )

    def windows(
        self, windows: Sequence[NDArray[np.float32]]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Features of several windows, each scaled by its own largest value.

        Args:
            windows: (samples,) float32 each, at most one window long.

        Returns:
            (windows, mel_bins, frames) float32, and (windows,) int64: how many frames are audio.
        """
        features = np.empty((len(windows), self.mel_bins, self.frames), np.float32)
        lengths = np.empty(len(windows), np.int64)
        for number, window in enumerate(windows):
            features[number], lengths[number] = self(window)
        return features, lengths
