"""Damage to clean speech: speed, rooms, telephone bands, noise and other voices."""

from __future__ import annotations

import random

import numpy as np
import soxr

from small_model.training.voices import LEVEL, RATE, Samples, leveled, resampled


def faster(samples: Samples, factor: float) -> Samples:
    """Played ``factor`` times as fast, pitch and formants with it."""
    return resampled(samples, RATE * factor, "QQ")


def in_room(samples: Samples, noise: np.random.Generator, seconds: float, direct: float) -> Samples:
    """As heard in a room.

    Args:
        samples: (n,), as many as are given back.
        noise: Source of the room's echoes.
        seconds: Until echoes have fallen by 60 dB.
        direct: Energy of the direct sound over that of all echoes.
    """
    count = int(seconds * RATE)
    echoes = noise.standard_normal(count) * 10 ** (-3 * np.arange(count) / count)
    echoes *= 1 / np.sqrt(direct * np.sum(np.square(echoes)))
    echoes[0] = 1.0
    size = 1 << (len(samples) + count - 1).bit_length()
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(echoes, size)
    heard: Samples = np.fft.irfft(spectrum, size)[: len(samples)].astype(np.float32)
    return heard


def coloured(count: int, noise: np.random.Generator, slope: float) -> Samples:
    """Noise whose power falls with frequency to the power of ``slope``; 0 is white."""
    size = 1 << 16
    spectrum = np.fft.rfft(noise.standard_normal(size))
    spectrum[1:] *= np.arange(1, len(spectrum)) ** (-slope / 2)
    return np.resize(leveled(np.fft.irfft(spectrum).astype(np.float32), 1.0), count)


def telephone(samples: Samples, rate: int) -> Samples:
    """As after a line of ``rate`` Hz, with 8 bits in mu-law."""
    narrow = soxr.resample(samples, RATE, rate, quality="MQ")
    peak = float(np.abs(narrow).max()) + 1e-6
    folded = np.sign(narrow) * np.log1p(255 * np.abs(narrow / peak)) / np.log(256)
    stepped = np.round(folded * 127) / 127
    wide = np.sign(stepped) * np.expm1(np.abs(stepped) * np.log(256)) / 255 * peak
    return resampled(wide, rate, "MQ")


def spoil(samples: Samples, rng: random.Random, babble: Samples | None = None) -> Samples:
    """Damage speech by chance, at times with other speech; about a fifth stays as it is."""
    noise = np.random.default_rng(rng.getrandbits(32))
    if rng.random() < 0.5:
        samples = faster(samples, rng.uniform(0.87, 1.16))
    if rng.random() < 0.35:
        samples = in_room(samples, noise, rng.uniform(0.15, 0.6), 10 ** rng.uniform(-0.2, 1.2))
    samples = leveled(samples)
    if rng.random() < 0.5:
        other = coloured(len(samples), noise, rng.uniform(0.0, 2.0))
        samples = samples + other * np.float32(LEVEL * 10 ** (-rng.uniform(5, 30) / 20))
    if babble is not None and rng.random() < 0.15:
        other = np.resize(leveled(babble), len(samples))
        samples = samples + other * np.float32(10 ** (-rng.uniform(8, 20) / 20))
    if rng.random() < 0.15:
        samples = telephone(samples, rng.choice([8000, 11025]))
    level = 10 ** rng.uniform(-1.8, -0.9)
    return np.clip(leveled(samples, level), -1, 1)
