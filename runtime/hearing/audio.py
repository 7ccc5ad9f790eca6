"""Any recording to mono float32 at the model's rate, and into the windows that it hears."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from speechprune_ort.audio_options import (
    HIGHEST_RATE,
    LOWEST_RATE,
    AudioOptions,
    check_audio_options,
)
from speechprune_ort.errors import AudioError, OptionError
from speechprune_ort.runtime.hearing.decoding import (
    BLOCK_FRAMES,
    Block,
    Decoded,
    decode,
    stated_seconds,
)
from speechprune_ort.runtime.hearing.loudness import Loudness
from speechprune_ort.runtime.hearing.samples import Samples, Source, sort_source
from speechprune_ort.runtime.hearing.streams import opened

__all__ = [
    "SAMPLING_RATE",
    "AudioStream",
    "Source",
    "audio_seconds",
    "load_audio",
    "stream_audio",
    "stream_windows",
]

FAR_TOO_LOUD = 1e15  # times full scale: the squares of a window still add up in float32

SAMPLING_RATE = 16_000
"""In Hz, of what is loaded where no bundle says its own."""


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
            ``sampling_rate``, will do.
        sampling_rate: of an array, in Hz; files say their own.
        to: sampling rate of what is returned, in Hz.
        options: limits, and the channel to hear.

    Returns:
        (samples,) float32 at the rate ``to``, full scale at 1.

    Raises:
        AudioError: the source is missing, is no audio, is empty, holds NaN or infinity, exceeds a
            limit, or an array comes without its rate.
    """
    return np.concatenate(list(AudioStream(source, sampling_rate, to=to, options=options)))


def audio_seconds(source: str | PathLike[str] | Any) -> float | None:
    """Length of a recording by its header; None where it does not say, or cannot be read.

    Args:
        source: a path, of which a pipe's is not touched, or a file object that can be sought in.
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
    """The same in blocks, whatever their length: a recording of hours is never in memory whole.

    Arguments and errors are those of ``load_audio``; what is wrong with a block is raised when
    it is reached.

    Yields:
        (samples,) float32 at the rate ``to``, none of them empty.
    """
    return iter(AudioStream(source, sampling_rate, to=to, options=options))


@dataclass
class AudioStream:
    """A recording in blocks, and what was noticed of it once all of them are read.

    Attributes:
        source: as of ``load_audio``.
        sampling_rate: of an array, in Hz.
        to: rate of the blocks, in Hz.
        options: limits, and the channel to hear.
        decoder: what decoded it; see ``Decoded``.
    """

    source: Source
    sampling_rate: int | None = None
    to: int = SAMPLING_RATE
    options: AudioOptions | None = None
    _name: str = field(default="The array", init=False)
    _decoded: Decoded = field(default_factory=Decoded, init=False)

    def __post_init__(self) -> None:
        self._options = check_audio_options(self.options)
        self._loudness = Loudness(self.to)

    @property
    def decoder(self) -> str:
        """What decoded the recording, so far as it was read."""
        return self._decoded.decoder

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what is wrong with the recording, so far as it was read."""
        return (*self._decoded.notes, *self._loudness.notes(self._name, self._options))

    def refuse_silence(self) -> None:
        """Refuse a recording in which nothing was heard, unless ``options`` allow it.

        Raises:
            AudioError: it is silent.
        """
        self._loudness.refuse_silence(self._name, self._options)

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        given = sort_source(self.source, self.sampling_rate)
        with ExitStack() as stack:
            if isinstance(given, Samples):
                self._decoded.by("array")
                if given.array.dtype.kind in "iu":  # its scale is its type's
                    self._name = f"The array of {given.array.dtype}"
                blocks: Iterator[Block] = ((given.rate, b) for b in given.blocks(BLOCK_FRAMES))
                # An array without samples has a rate, too.
                self._check(given.rate, 1 if given.array.ndim == 1 else given.array.shape[1])
            else:
                limit = self._options.max_stream_mb
                file, self._name = stack.enter_context(opened(given, limit))
                blocks = decode(file, self._name, self._decoded)
            yield from self._at_rate(self._limited(blocks))

    def _check(self, rate: int, channels: int) -> None:
        if not LOWEST_RATE <= rate <= HIGHEST_RATE:
            raise AudioError(
                f"{self._name} has a sampling rate of {rate} Hz: sound has {LOWEST_RATE} to "
                f"{HIGHEST_RATE} Hz; resample it, or correct its rate."
            )
        limit, channel = self._options.max_channels, self._options.channel
        if channels > limit:
            raise AudioError(
                f"{self._name} has {channels} channels and the limit is {limit}: raise "
                "max_channels (--max-channels)."
            )
        if channel is not None and channel >= max(1, channels):
            raise AudioError(
                f"{self._name} has {channels} channels, counted from 0: there is no channel "
                f"{channel}."
            )

    def _limited(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Blocks mixed to (frames,), as long as they stay within the limits."""
        seconds, megabytes = 0.0, 0.0
        options = self._options
        for rate, block in blocks:
            self._check(rate, block.shape[1])
            if block.size and not np.abs(block).max() < FAR_TOO_LOUD:  # nor is NaN
                raise AudioError(
                    f"{self._name} has NaN, infinite or far too large samples: repair it, or "
                    "record it again."
                )
            seconds += len(block) / rate
            megabytes += block.size * 4 / 1e6
            if seconds > options.max_seconds:
                raise AudioError(
                    f"{self._name} is longer than {options.max_seconds:g} seconds: raise "
                    "max_seconds (--max-seconds), or cut it."
                )
            if megabytes > options.max_decoded_mb:
                raise AudioError(
                    f"{self._name} unpacks to more than {options.max_decoded_mb:g} MB: raise "
                    "max_decoded_mb (--max-decoded-mb)."
                )
            if not block.size:
                continue
            mixed = (
                block.mean(axis=1, dtype=np.float32)
                if options.channel is None
                else block[:, options.channel]
            )
            self._loudness.decoded(block, mixed)
            yield rate, mixed

    def _at_rate(self, blocks: Iterable[Block]) -> Iterator[NDArray[np.float32]]:
        """Blocks at the wanted rate; where they are cut does not change a sample."""
        resampler, current, read, given = None, 0, 0, 0

        def out(samples: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
            nonlocal given
            if len(samples):
                given += len(samples)
                samples = np.ascontiguousarray(samples, np.float32)
                self._loudness.heard(samples)
                yield samples

        def rest() -> NDArray[np.float32]:
            empty = np.zeros(0, np.float32)
            return empty if resampler is None else resampler.resample_chunk(empty, last=True)

        for rate, block in blocks:
            if rate != current:
                yield from out(rest())
                resampler, current = None, rate
                if rate != self.to:
                    resampler = soxr.ResampleStream(rate, self.to, 1, dtype="float32", quality="HQ")
            read += len(block)
            yield from out(block if resampler is None else resampler.resample_chunk(block))
        if read == 0:
            raise AudioError(f"{self._name} holds no samples: give a recording with sound in it.")
        yield from out(rest())
        if given == 0:
            raise AudioError(
                f"{self._name} is shorter than one sample at {self.to / 1000:g} kHz: give a longer "
                "one."
            )


def stream_windows(
    blocks: Iterable[NDArray[np.float32]], window_samples: int
) -> Iterator[NDArray[np.float32]]:
    """Cut a recording into windows, all of it: the last one is what remains.

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
    if window_samples < 1:
        raise OptionError(f"window_samples must be at least 1, not {window_samples}.")
    window, filled = np.empty(window_samples, np.float32), 0
    for block in blocks:
        start = 0
        while start < len(block):
            count = min(window_samples - filled, len(block) - start)
            window[filled : filled + count] = block[start : start + count]
            filled, start = filled + count, start + count
            if filled == window_samples:
                yield window
                window, filled = np.empty(window_samples, np.float32), 0
    if filled:
        yield window[:filled]
