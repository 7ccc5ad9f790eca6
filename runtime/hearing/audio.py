"""Reads any recording as mono float32 at the model's rate, and cuts it into windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.audio_options import AudioOptions, check_audio_options
from speechprune_ort.cancel import checkpoint
from speechprune_ort.choices import LongAudio
from speechprune_ort.errors import AudioError
from speechprune_ort.runtime.hearing.decoding import (
    BLOCK_FRAMES,
    Block,
    Decoded,
    decode,
    stated_seconds,
)
from speechprune_ort.runtime.hearing.intake import Intake, WindowCutter
from speechprune_ort.runtime.hearing.samples import Samples, Source, sort_source
from speechprune_ort.runtime.hearing.streams import opened
from speechprune_ort.timings import Timings

__all__ = [
    "SAMPLING_RATE",
    "AudioStream",
    "HeardBlocks",
    "Source",
    "audio_seconds",
    "load_audio",
    "stream_audio",
    "stream_windows",
]

SAMPLING_RATE = 16_000
"""In Hz; used where no bundle gives a rate."""


def load_audio(
    source: Source,
    sampling_rate: int | None = None,
    *,
    to: int = SAMPLING_RATE,
    options: AudioOptions | None = None,
) -> NDArray[np.float32]:
    """Decode, mix to mono and resample a recording.

    Args:
        source: path, binary file object, the bytes of a file, or samples: an array (samples,) or
            (samples, channels), or what becomes one; integers are scaled by their full range. A
            pair of samples and rate in either order, or a mapping with ``array`` and
            ``sampling_rate``, is accepted, too.
        sampling_rate: sampling rate of an array, in Hz; files state their own.
        to: sampling rate of what is returned, in Hz.
        options: limits, and the channel to use.

    Returns:
        (samples,) float32 at the rate ``to``, full scale at 1.

    Raises:
        AudioError: the source is missing, is not audio, is empty, holds NaN or infinity, exceeds a
            limit, or an array comes without its rate.
    """
    return np.concatenate(list(AudioStream(source, sampling_rate, to=to, options=options)))


def audio_seconds(source: str | PathLike[str] | Any) -> float | None:
    """Length of a recording in seconds by its header; None if it states none or cannot be read.

    Args:
        source: a path, where a pipe is not read, or a seekable file object.
    """
    if isinstance(source, (str, PathLike)) and not Path(source).is_file():
        return None
    try:
        with opened(source, 0.0) as (file, _):
            return stated_seconds(file)
    except (AudioError, OSError, ValueError):
        return None


def stream_audio(
    source: Source,
    sampling_rate: int | None = None,
    *,
    to: int = SAMPLING_RATE,
    options: AudioOptions | None = None,
) -> Iterator[NDArray[np.float32]]:
    """Decode as ``load_audio`` does, but block by block: hours are never in memory at once.

    Arguments and errors as for ``load_audio``; an error in a block is raised when it is reached.

    Yields:
        (samples,) float32 at the rate ``to``, none of them empty.
    """
    return iter(AudioStream(source, sampling_rate, to=to, options=options))


@dataclass
class AudioStream:
    """A recording in blocks, and what was noticed about it while they were read.

    Attributes:
        source: as for ``load_audio``.
        sampling_rate: sampling rate of an array, in Hz.
        to: sampling rate of the blocks, in Hz.
        options: limits, and the channel to use.
        decoder: which decoder read it; see ``Decoded``.
    """

    source: Source
    sampling_rate: int | None = None
    to: int = SAMPLING_RATE
    options: AudioOptions | None = None
    _decoded: Decoded = field(default_factory=Decoded, init=False)

    def __post_init__(self) -> None:
        self._options = check_audio_options(self.options)
        self._intake = Intake("The array", self.to, self._options)

    @property
    def decoder(self) -> str:
        """Which decoder has read the recording so far."""
        return self._decoded.decoder

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what is wrong with the recording, as far as it was read."""
        return (*self._decoded.notes, *self._intake.notes)

    def refuse_silence(self) -> None:
        """Refuse a silent recording, unless ``options`` allow it.

        Raises:
            AudioError: it is silent.
        """
        self._intake.refuse_silence()

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        given = sort_source(self.source, self.sampling_rate)
        with ExitStack() as stack:
            if isinstance(given, Samples):
                self._decoded.by("array")
                if given.array.dtype.kind in "iu":  # scaled by the range of its type
                    self._intake.name = f"The array of {given.array.dtype}"
                blocks: Iterator[Block] = ((given.rate, b) for b in given.blocks(BLOCK_FRAMES))
                # The rate is checked even if the array has no samples.
                self._intake.check(given.rate, 1 if given.array.ndim == 1 else given.array.shape[1])
            else:
                limit = self._options.max_stream_mb
                file, self._intake.name = stack.enter_context(opened(given, limit))
                blocks = decode(file, self._intake.name, self._decoded)
            for rate, block in blocks:
                yield from self._intake.add(rate, block)
            yield from self._intake.end()


class HeardBlocks:
    """The blocks of a recording that a model is given, and how long the whole recording is.

    Args:
        stream: the recording.
        window_samples: samples that the model takes at once.
        long_audio: what to do with a recording longer than that.
        timings: the time of reading is added to its ``audio``.

    Attributes:
        samples: how many were read so far.
        heard: how many of them were yielded.
    """

    def __init__(
        self, stream: AudioStream, window_samples: int, long_audio: LongAudio, timings: Timings
    ) -> None:
        self._stream, self._window = stream, window_samples
        self._long_audio, self._timings = long_audio, timings
        self.samples = self.heard = 0

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Yield (samples,) float32 blocks.

        Raises:
            AudioError: the recording cannot be read, or is too long for ``error``.
        """
        blocks = iter(self._stream)
        while True:
            checkpoint()
            with self._timings.measure("audio"):
                block = next(blocks, None)
            if block is None:
                return
            self.samples += len(block)
            if self.samples > self._window and self._long_audio == "error":
                raise AudioError(
                    f"The recording is longer than {self._window / self._stream.to:.0f} seconds: "
                    "give a shorter one, or long_audio='prune' to use all of it."
                )
            if self._long_audio == "truncate":  # the rest is read only to know the length
                block = block[: self._window - self.heard]
            if len(block):
                self.heard += len(block)
                yield block


def stream_windows(
    blocks: Iterable[NDArray[np.float32]], window_samples: int
) -> Iterator[NDArray[np.float32]]:
    """Cut a whole recording into windows; the last one is what remains.

    Args:
        blocks: (samples,) float32 each, of any length.
        window_samples: length of a window.

    Yields:
        (samples,) float32, whole windows and then the rest, none of them empty.

    Raises:
        OptionError: ``window_samples`` is below 1.

    >>> [len(w) for w in stream_windows([np.zeros(7, np.float32), np.zeros(3, np.float32)], 4)]
    [4, 4, 2]
    """
    cutter = WindowCutter(window_samples)
    for block in blocks:
        yield from cutter.add(block)
    if len(cutter.rest):
        yield cutter.rest
