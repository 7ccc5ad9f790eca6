"""A recording that is encoded while it grows, block by block."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from os import PathLike
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.contract.manifest import AudioSpec
from speechprune_ort.contract.specs import AUDIO_ENCODER
from speechprune_ort.errors import AudioError, OptionError
from speechprune_ort.runtime.hearing.decoding import BLOCK_FRAMES
from speechprune_ort.runtime.hearing.embeddings import AudioEmbeds, disk_errors
from speechprune_ort.runtime.hearing.encoder import WindowEncoder
from speechprune_ort.runtime.hearing.features import LogMel
from speechprune_ort.runtime.hearing.heard import Heard
from speechprune_ort.runtime.hearing.intake import Intake, WindowCutter
from speechprune_ort.runtime.hearing.samples import Samples, Source, sort_source
from speechprune_ort.runtime.hearing.windows import mel_window, mel_windows
from speechprune_ort.runtime.ort.session import memory_errors
from speechprune_ort.timings import Timings

__all__ = ["LIVE", "ByRecording", "ByWindow", "GrowingRecording", "Hearing"]

LIVE = "The live recording"
T = TypeVar("T")

Encoded = tuple[AudioEmbeds, NDArray[np.float32] | None]
"""Embeddings, and the attention (tokens,) that they received, or None."""

KEPT_BYTES = 1 << 26  # of waiting samples in memory: 17 minutes; more go to a temporary file
AT_ONCE = 1 << 20  # samples read from that file at a time


class Hearing(Protocol):
    """Encodes samples, (samples,) float32 at the bundle's rate, as they come."""

    def add(self, samples: NDArray[np.float32]) -> None:
        """Add samples."""
        ...

    def so_far(self) -> Encoded:
        """Encode all samples so far, as if the recording ended here."""
        ...

    def finish(self) -> Encoded:
        """Encode what is left and return the whole recording."""
        ...


class ByWindow:
    """Encodes each window once it is full, and the unfinished one when a question is asked.

    Args:
        encoder: makes a new encoder.
        log_mel: the model's feature extractor.
        audio: the model's audio settings.
        timings: the stages are added to it.
    """

    def __init__(
        self,
        encoder: Callable[[], WindowEncoder],
        log_mel: LogMel,
        audio: AudioSpec,
        timings: Timings,
    ) -> None:
        self._cutter, self._encoder = WindowCutter(audio.window_samples), encoder()
        self._mel = partial(mel_window, log_mel=log_mel, audio=audio, timings=timings)

    def add(self, samples: NDArray[np.float32]) -> None:
        """See ``Hearing``."""
        for window in self._cutter.add(samples):
            self._encoder.add(self._mel(window))

    def so_far(self) -> Encoded:
        """See ``Hearing``."""
        rest = self._cutter.rest
        return self._encoder.so_far(self._mel(rest) if len(rest) else None)

    def finish(self) -> Encoded:
        """See ``Hearing``."""
        if len(self._cutter.rest):
            self._encoder.add(self._mel(self._cutter.rest))
        return self._encoder.finish()


class ByRecording:
    """Keeps samples and encodes them when a question is asked, for models that scale by the whole.

    Args:
        encoder: makes a new encoder.
        log_mel: the model's feature extractor.
        audio: the model's audio settings.
        timings: the stages are added to it.
    """

    def __init__(
        self,
        encoder: Callable[[], WindowEncoder],
        log_mel: LogMel,
        audio: AudioSpec,
        timings: Timings,
    ) -> None:
        self._begin = encoder
        self._mel = partial(mel_windows, log_mel=log_mel, audio=audio, timings=timings)
        self._kept = tempfile.SpooledTemporaryFile(KEPT_BYTES, prefix="speechprune-ort-")  # noqa: SIM115

    def add(self, samples: NDArray[np.float32]) -> None:
        """See ``Hearing``."""
        self._kept.write(samples.tobytes())

    def so_far(self) -> Encoded:
        """See ``Hearing``."""
        encoder = self._begin()
        for window in self._mel(self._samples()):
            encoder.add(window)
        return encoder.finish()

    def finish(self) -> Encoded:
        """See ``Hearing``."""
        return self.so_far()

    def _samples(self) -> Iterator[NDArray[np.float32]]:
        self._kept.seek(0)
        while content := self._kept.read(4 * AT_ONCE):
            yield np.frombuffer(content, np.float32)


class GrowingRecording:
    """A recording that grows. Not safe for use by several threads at once.

    Args:
        intake: brings blocks to the bundle's rate.
        hearing: encodes them.
        audio: the model's audio settings.
        timings: the time is added to its ``audio``.

    Attributes:
        samples: number of samples so far, at the bundle's rate.
    """

    def __init__(
        self,
        intake: Intake,
        hearing: Hearing,
        audio: AudioSpec,
        timings: Timings,
    ) -> None:
        self._intake, self._hearing = intake, hearing
        self._rate, self._timings = audio.sampling_rate, timings
        self.samples = 0
        self._ended = False
        self._failed: Exception | None = None
        self._latest: tuple[int, Heard] | None = None

    def add(self, block: Source, sampling_rate: int | None = None) -> None:
        """Add a block.

        Args:
            block: samples as for ``load_audio``, but no file.
            sampling_rate: in Hz, unless the block says it.

        Raises:
            AudioError: it is not a block of samples, or exceeds a limit; the block is left out
                then.
            OptionError: the recording has ended.
            ComputeError: the encoder failed; no further block can be added.
        """
        self._check_open()
        given = None
        content = (str, bytes, bytearray, memoryview, PathLike)
        if not (isinstance(block, content) or hasattr(block, "read")):
            given = sort_source(block, sampling_rate)
        if not isinstance(given, Samples):
            raise AudioError("A block is samples, not a file: give an array, and its rate.")
        for part in given.blocks(BLOCK_FRAMES):
            with self._timings.measure("audio"):
                heard = self._intake.add(given.rate, part)
            self._hear(heard)

    def so_far(self) -> Heard:
        """The recording so far, as if it ended here.

        Raises:
            AudioError: it has been silent or too short so far.
            ComputeError: the encoder failed.
        """
        if self._failed is not None:
            raise self._failed
        if self._latest is None or self._latest[0] != self.samples:
            self._intake.refuse_silence()
            self._latest = self.samples, self._heard(self._hearing.so_far)
        return self._latest[1]

    def finish(self) -> Heard:
        """End the recording; no block may follow.

        Raises:
            AudioError: it is silent or too short, or there was no block.
            ComputeError: the encoder failed.
        """
        if not self._ended:
            self._check_open()
            self._ended = True
            try:
                self._hear(self._intake.end())
                self._intake.refuse_silence()
                self._latest = self.samples, self._heard(self._hearing.finish)
            except AudioError as error:  # which stands, as nothing can follow
                self._failed = error
                raise
        return self.so_far()

    def _hear(self, blocks: list[NDArray[np.float32]]) -> None:
        for samples in blocks:
            self._safely(partial(self._hearing.add, samples))
            self.samples += len(samples)

    def _heard(self, encoded: Callable[[], Encoded]) -> Heard:
        embeds, attention = self._safely(encoded)
        seconds = self.samples / self._rate
        notes = tuple(self._intake.notes)
        return Heard(embeds, seconds, seconds, attention, "array", notes)

    def _safely(self, work: Callable[[], T]) -> T:
        """Run work that must not leave the encoder half-way; if it fails, the recording is over."""
        try:
            with memory_errors(AUDIO_ENCODER), disk_errors():
                return work()
        except AudioError:  # too short for a token so far
            raise
        except Exception as error:
            self._failed = error
            raise

    def _check_open(self) -> None:
        if self._ended:
            raise OptionError("The live recording has ended: begin another with model.live().")
        if self._failed is not None:
            raise self._failed
