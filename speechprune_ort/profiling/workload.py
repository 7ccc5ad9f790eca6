"""What is profiled: recordings, and how much of each is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.choices import EVERY_TOKEN
from speechprune_ort.errors import OptionError
from speechprune_ort.options import DEFAULT_METHOD, PruningOptions
from speechprune_ort.runtime.hearing.audio import SAMPLING_RATE, stream_audio
from speechprune_ort.sample import SPEECH
from speechprune_ort.text import short_names

__all__ = ["QUESTION", "Setting", "Sound", "parse_rates", "sounds_of"]

QUESTION = "What was decided about the budget, and who has to report on it until when?"


@dataclass(frozen=True, slots=True)
class Sound:
    """A recording to profile with.

    Attributes:
        name: name in tables.
        seconds: its length; None where only reading it tells.
        source: a file, or samples (n,) float32 at 16 kHz.
    """

    name: str
    seconds: float | None
    source: Path | NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Setting:
    """How much is kept.

    Attributes:
        name: ``none``, or the pruning rate.
        options: pruning options.
    """

    name: str
    options: PruningOptions


def parse_rates(text: str, method: str = DEFAULT_METHOD) -> list[Setting]:
    """Settings of a comma-separated list of pruning rates, ``none`` for every token.

    Raises:
        OptionError: a part is neither, or is given twice.

    >>> [setting.name for setting in parse_rates("none,0.2")]
    ['none', '0.2']
    """
    settings = []
    for part in (part.strip() for part in text.split(",")):
        if part == EVERY_TOKEN:
            settings.append(Setting(EVERY_TOKEN, PruningOptions(method=EVERY_TOKEN)))
            continue
        try:
            rate = float(part)
        except ValueError:
            raise OptionError(
                f"--pruning-rates takes numbers and none, separated by commas, not {part!r}."
            ) from None
        settings.append(Setting(f"{rate:g}", PruningOptions(method=method, pruning_rate=rate)))
    names = [setting.name for setting in settings]
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"--pruning-rates has {name} twice: give it once.")
    return settings


def sounds_of(audio: Sequence[Path], durations: str | None) -> list[Sound]:
    """Recordings given as files, or as lengths in seconds.

    For a length the package's own sample of speech is repeated: silence would cost less than
    speech, as windows without sound are encoded once.

    Args:
        audio: files.
        durations: comma-separated seconds.

    Raises:
        OptionError: both are given or none, one is given twice, or a length is not positive.
    """
    if bool(audio) == (durations is not None):
        raise OptionError("profile takes --audio or --durations: give one of them.")
    if durations is None:
        named = dict(zip(short_names(audio), audio, strict=True))
        if len(named) < len(audio):
            raise OptionError("--audio names a recording twice: give it once.")
        return [Sound(name, None, path) for name, path in named.items()]
    speech = np.concatenate(list(stream_audio(SPEECH, None)))
    sounds = []
    for part in durations.split(","):
        try:
            seconds = float(part)
        except ValueError:
            raise OptionError(f"--durations takes seconds, not {part.strip()!r}.") from None
        longest = AudioOptions().max_seconds
        if not 0.1 <= seconds <= longest:
            raise OptionError(
                f"--durations takes seconds from 0.1 to {longest:g}, not {seconds:g}."
            )
        samples = np.resize(speech, round(seconds * SAMPLING_RATE))
        sounds.append(Sound(f"{seconds:g} s", seconds, samples))
    if len({sound.name for sound in sounds}) < len(sounds):
        raise OptionError("--durations has a length twice: give it once.")
    return sounds
