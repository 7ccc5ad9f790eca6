"""What a caller may choose about how a recording is read: limits, channel, silence."""

from __future__ import annotations

from dataclasses import dataclass

from speechprune_ort.choices import check_flag
from speechprune_ort.numbers import (
    LARGEST_MB,
    LONGEST,
    check_number,
    check_positive,
    take_plain,
    whole,
)
from speechprune_ort.text import check_type

__all__ = ["HIGHEST_RATE", "LOWEST_RATE", "AudioOptions", "check_audio_options"]

LOWEST_RATE, HIGHEST_RATE = 4_000, 768_000
"""Sampling rates in Hz that sound is recorded at; others are mistakes or attacks."""


@dataclass(frozen=True, slots=True)
class AudioOptions:
    """How a recording is read, and how large it may be.

    Every limit ends the reading with an error that names it.

    Attributes:
        channel: the channel to use, counted from 0; None averages all of them.
        max_seconds: longest recording, in seconds.
        max_channels: largest number of channels.
        max_decoded_mb: largest size of a decoded recording, in 1e6 bytes of float32 before channels
            are mixed: a small file can unpack to a very large one.
        max_stream_mb: largest amount to read from a pipe, a socket or standard input, in 1e6 bytes;
            it is kept in a temporary file meanwhile.
        silence_dbfs: a recording without any 20 ms louder than this (decibels of full scale) is
            silent.
        allow_silence: also answer about silent recordings: the model then makes something up.

    Raises:
        OptionError: a value is out of range.
    """

    channel: int | None = None
    max_seconds: float = 12 * 3600.0
    max_channels: int = 64
    max_decoded_mb: float = 32_000.0
    max_stream_mb: float = 2_000.0
    silence_dbfs: float = -60.0
    allow_silence: bool = False

    def __post_init__(self) -> None:
        take_plain(self)
        if self.channel is not None:
            whole("channel", self.channel, 0)
        whole("max_channels", self.max_channels, 1)
        for name in ("max_seconds", "max_decoded_mb", "max_stream_mb"):
            most = LONGEST if name == "max_seconds" else LARGEST_MB
            value = check_positive(name, getattr(self, name), most)
            object.__setattr__(self, name, float(value))
        level = check_number(
            "silence_dbfs",
            self.silence_dbfs,
            lambda level: level <= 0,
            "at most 0 decibels of full scale",
        )
        object.__setattr__(self, "silence_dbfs", float(level))
        check_flag("allow_silence", self.allow_silence)


def check_audio_options(options: object) -> AudioOptions:
    """The options, or the default ones for None.

    Raises:
        OptionError: they are of another type.
    """
    return AudioOptions() if options is None else check_type(options, AudioOptions, "audio_options")
