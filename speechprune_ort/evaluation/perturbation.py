"""Recordings made harder: noise, babble, a room, a telephone line, another speed.

All of it is linear or seeded, at the model's sampling rate; only added noise changes the level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import soxr
from numpy.typing import NDArray

from speechprune_ort.choices import check_choice
from speechprune_ort.errors import OptionError
from speechprune_ort.numbers import check_number, numbers_in, take_plain
from speechprune_ort.text import shown

__all__ = [
    "BABBLE_VOICES",
    "CLEAN",
    "NOISES",
    "Perturbation",
    "parse_noise",
    "parse_speed",
    "perturb",
    "spoken_over",
]

Samples = NDArray[np.float32]

NOISES = ("white", "babble", "room")
KINDS = ("clean", *NOISES, "speed", "telephone")
TELEPHONE_HZ = (300.0, 3400.0)
ROOM_SECONDS = 0.5  # the reverberation falls by 60 dB in this time
BABBLE_VOICES = 3
SLOWEST, FASTEST = 0.25, 4.0
MOST_DB = 100.0  # louder or softer than any recording's own noise, or than float32 can tell


@dataclass(frozen=True, slots=True)
class Perturbation:
    """One way to make a recording harder.

    Attributes:
        kind: ``clean``, ``white``, ``babble``, ``room``, ``speed`` or ``telephone``.
        value: signal-to-noise ratio in dB, -100 to 100, or the factor of speed, 0.25 to 4; unused
            for the others.

    Raises:
        OptionError: there is no such kind, or the value is out of range.
    """

    kind: str = "clean"
    value: float = 0.0

    def __post_init__(self) -> None:
        take_plain(self)
        check_choice("kind", self.kind, KINDS)
        if self.kind in ("white", "babble"):
            check_number(
                "A signal-to-noise ratio",
                self.value,
                lambda ratio: -MOST_DB <= ratio <= MOST_DB,
                f"from {-MOST_DB:g} to {MOST_DB:g} dB",
            )
        elif self.kind == "speed":
            check_number(
                "A factor of speed",
                self.value,
                lambda factor: SLOWEST <= factor <= FASTEST,
                f"from {SLOWEST:g} to {FASTEST:g}",
            )

    @property
    def name(self) -> str:
        """``white 10 dB``, ``speed 0.9``, ``telephone``."""
        if self.kind in ("white", "babble"):
            return f"{self.kind} {self.value:g} dB"
        return f"speed {self.value:g}" if self.kind == "speed" else self.kind


CLEAN = Perturbation()


def parse_noise(text: str) -> list[Perturbation]:
    """Read ``snr=20,10`` as white noise and babble at these ratios, and a room.

    >>> [p.name for p in parse_noise("snr=10")]
    ['white 10 dB', 'babble 10 dB', 'room']

    Raises:
        OptionError: it is not of this form, or a ratio is out of range.
    """
    key, _, values = text.partition("=")
    try:
        ratios = [float(value) for value in values.split(",")]
    except ValueError:
        ratios = []
    if key != "snr" or not ratios:
        raise OptionError(f"--noise takes snr=20,10,5,0, not {shown(text)}.")
    noisy = [Perturbation(kind, ratio) for kind in ("white", "babble") for ratio in ratios]
    return [*noisy, Perturbation("room")]


def parse_speed(text: str) -> list[Perturbation]:
    """Read ``0.9,1.1`` as these factors of speed.

    >>> [p.name for p in parse_speed("0.9,1.1")]
    ['speed 0.9', 'speed 1.1']

    Raises:
        OptionError: it is not of this form, or a factor is out of range.
    """
    return [Perturbation("speed", factor) for factor in numbers_in("--speed", text)]


def perturb(
    samples: Samples,
    perturbation: Perturbation,
    rate: int,
    seed: int,
    others: Callable[[int], Samples],
) -> Samples:
    """Make a recording harder.

    Args:
        samples: (n,) float32.
        perturbation: how.
        rate: sampling rate in Hz.
        seed: seed of what is random.
        others: returns the i-th other recording, for babble.
    """
    random = np.random.default_rng(seed)
    if perturbation.kind == "clean":
        return samples
    if perturbation.kind == "white":
        noise = random.standard_normal(len(samples)).astype(np.float32)
        return _mix(samples, noise, perturbation.value)
    if perturbation.kind == "babble":
        voices = (others(i) for i in range(BABBLE_VOICES))
        return spoken_over(samples, voices, perturbation.value, random)
    if perturbation.kind == "room":
        return _same_level(_convolve(samples, _room(rate, random)), samples)
    if perturbation.kind == "telephone":
        return _same_level(_telephone(samples, rate), samples)
    faster: Samples = soxr.resample(samples, rate * perturbation.value, rate)
    return faster


def spoken_over(
    samples: Samples, voices: Iterable[Samples], ratio_db: float, random: np.random.Generator
) -> Samples:
    """A recording with others behind it, equally loud and each from a random place on.

    Args:
        samples: (n,) float32.
        voices: (m,) float32 each, repeated or cut to ``n``.
        ratio_db: the recording's power over that of all voices together, in dB.
        random: draws where each begins.

    Returns:
        (n,) float32; it may be louder than full scale.
    """
    fitted = [_fitted(voice, len(samples), random) for voice in voices]
    return _mix(samples, np.sum(fitted, axis=0, dtype=np.float32), ratio_db)


def _power(samples: Samples) -> float:
    return float(np.mean(np.square(samples, dtype=np.float64)))


def _mix(samples: Samples, noise: Samples, ratio_db: float) -> Samples:
    power = _power(noise)
    if power == 0:
        return samples
    gain = np.sqrt(_power(samples) / power / 10 ** (ratio_db / 10))
    mixed: Samples = (samples + np.float32(gain) * noise).astype(np.float32)
    return mixed


def _fitted(voice: Samples, length: int, random: np.random.Generator) -> Samples:
    """A voice repeated or cut to ``length``, from a random place on, at unit power."""
    start = int(random.integers(0, max(1, len(voice))))
    level = np.float32(np.sqrt(_power(voice)) or 1.0)
    fitted: Samples = np.resize(np.roll(voice, -start), length) / level
    return fitted


def _room(rate: int, random: np.random.Generator) -> Samples:
    """A direct path and an exponentially fading tail of noise, the usual simple room."""
    count = int(ROOM_SECONDS * rate)
    fade = 10 ** (-3 * np.arange(count) / count)  # amplitude: 60 dB over the whole
    response = 0.05 * random.standard_normal(count) * fade
    response[0] = 1.0
    return response.astype(np.float32)


def _convolve(samples: Samples, response: Samples) -> Samples:
    size = 1 << (len(samples) + len(response) - 1).bit_length()
    spectrum = np.fft.rfft(samples, size) * np.fft.rfft(response, size)
    convolved: Samples = np.fft.irfft(spectrum, size)[: len(samples)].astype(np.float32)
    return convolved


def _telephone(samples: Samples, rate: int) -> Samples:
    """The band of a telephone line, at an unchanged sampling rate."""
    spectrum = np.fft.rfft(samples)
    frequencies = np.fft.rfftfreq(len(samples), 1 / rate)
    spectrum[(frequencies < TELEPHONE_HZ[0]) | (frequencies > TELEPHONE_HZ[1])] = 0
    band: Samples = np.fft.irfft(spectrum, len(samples)).astype(np.float32)
    return band


def _same_level(changed: Samples, samples: Samples) -> Samples:
    power = _power(changed)
    if power == 0:
        return changed
    level: Samples = (changed * np.float32(np.sqrt(_power(samples) / power))).astype(np.float32)
    return level
