"""Energy of frames in frequency bands: a Fourier transform of real frames by two matrix products.

A frame of n = r s samples has the spectrum

    X[p + r q] = sum_b w(b p / n) w(b q / s) (sum_a w(a p / r) x[s a + b]), w(t) = e^(-2 pi i t)

(Cooley and Tukey, 1965). Both sums are products with matrices that never change, the taper goes
into the first, and p need not pass r / 2, as the other half mirrors it. With the frames side by
side the products are wide enough for BLAS, which is quicker than ``numpy.fft.rfft``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["BandEnergy"]

BLOCK = 250  # frames transformed together: what they need stays in the processor's cache
GROUPS = 4  # of bands, each of which is summed over the frequencies that it has a share in


@dataclass(frozen=True, slots=True)
class _Bands:
    """Neighbouring bands.

    Attributes:
        first: number of the first of them.
        start: first of the frequencies that they have a share in, in the order of the transform.
        shares: (bands, frequencies) float32.
    """

    first: int
    start: int
    shares: NDArray[np.float32]


class BandEnergy:
    """Tapered frames to the energy in each of several bands, in single precision.

    Args:
        taper: (samples,) factors that a frame is multiplied by.
        shares: (bands, samples // 2 + 1) share of each frequency's energy in each band.

    A tone of 2 kHz, in frames of 16 samples at 16 kHz, is in the third of nine bins:

    >>> tone = np.cos(2 * np.pi * 2 / 16 * np.arange(16)).astype(np.float32)
    >>> energy = np.empty((9, 1), np.float32)
    >>> BandEnergy(np.ones(16), np.eye(9))(tone[None], energy)
    >>> energy[:, 0].round(3).tolist()
    [0.0, 0.0, 64.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """

    def __init__(self, taper: NDArray[np.floating], shares: NDArray[np.floating]) -> None:
        size = len(taper)
        first, second = self._radices = _radices(size)
        half = first // 2 + 1
        before, within = np.arange(half), np.arange(second)
        # Frequencies in rising order but for overlaps, so that a band's lie together.
        behind = np.where(within % 2, second - 1 - within // 2, within // 2)
        turns = np.outer(before, np.arange(first)) / first
        wave = np.exp(-2j * np.pi * turns)
        parts = np.stack([wave.real, wave.imag], axis=1).reshape(2 * half, first)
        tapers = np.asarray(taper, np.float64).reshape(first, second).T
        self._inner = (parts * tapers[:, None]).astype(np.float32)  # (second, 2 half, first)
        turns = within * before[:, None, None] / size + np.outer(behind, within) / second
        wave = np.exp(-2j * np.pi * turns)
        rows = np.block([[wave.real, -wave.imag], [wave.imag, wave.real]])
        self._outer = rows.astype(np.float32)  # (half, 2 second, 2 second)
        found = (before + first * behind[:, None]).ravel()
        _, once = np.unique(np.minimum(found, size - found), return_index=True)
        placed = np.zeros((len(shares), len(found)), np.float32)
        placed[:, once] = shares
        self._bands = []
        for bands in np.array_split(np.arange(len(shares)), GROUPS):
            used = np.flatnonzero(placed[bands].any(axis=0))
            if len(used):
                start, end = used[0], used[-1] + 1
                own = np.ascontiguousarray(placed[bands, start:end])
                self._bands.append(_Bands(int(bands[0]), int(start), own))

    def __call__(self, frames: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Write the energies of frames.

        Args:
            frames: (frames, samples) float32; they may overlap.
            out: (bands, frames) float32.
        """
        count = min(BLOCK, len(frames))
        first, second = self._radices
        half = first // 2 + 1
        samples = np.empty((first, second, count), np.float32)
        inner = np.empty((2 * half, second, count), np.float32)
        outer = np.empty((2 * second, half, count), np.float32)
        energy = np.empty((second, half, count), np.float32)
        if len(self._bands) < GROUPS:
            out[:] = 0  # bands without a frequency
        for start in range(0, len(frames), count):
            block = frames[start : start + count].T
            end = block.shape[1]
            samples.reshape(first * second, count)[:, :end] = block
            np.matmul(
                self._inner,
                samples.swapaxes(0, 1)[..., :end],
                out=inner.swapaxes(0, 1)[..., :end],
            )
            waves = outer[..., :end]
            np.matmul(
                self._outer,
                inner.reshape(half, 2 * second, count)[..., :end],
                out=waves.swapaxes(0, 1),
            )
            np.square(waves, out=waves)
            np.add(waves[:second], waves[second:], out=energy[..., :end])
            by_frequency = energy.reshape(second * half, count)[:, :end]
            for bands in self._bands:
                rows, columns = bands.shares.shape
                np.matmul(
                    bands.shares,
                    by_frequency[bands.start : bands.start + columns],
                    out=out[bands.first : bands.first + rows, start : start + end],
                )


def _radices(size: int) -> tuple[int, int]:
    """The two factors of a frame's length by which the products are the least work.

    >>> _radices(400), _radices(512), _radices(7)
    ((25, 16), (32, 16), (7, 1))
    """

    def work(first: int) -> int:
        half, second = first // 2 + 1, size // first
        return 2 * half * size + half * (2 * second) ** 2

    first = min((n for n in range(1, size + 1) if size % n == 0), key=work)
    return first, size // first
