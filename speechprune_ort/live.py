"""``LiveRecording``: a recording that grows by blocks while it is asked about."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Unpack

from speechprune_ort.answer_stream import AnswerStream
from speechprune_ort.cancel import Cancel
from speechprune_ort.options import GenerationOptions, Options, PruningOptions
from speechprune_ort.recording import Recording
from speechprune_ort.results import Answer
from speechprune_ort.runtime.hearing.audio import Source
from speechprune_ort.runtime.hearing.heard import Heard
from speechprune_ort.runtime.hearing.live import GrowingRecording
from speechprune_ort.timings import Timings

__all__ = ["LiveRecording"]


class LiveRecording:
    """A recording that grows: blocks are added as they arrive, and questions asked meanwhile.

    Made by ``SpeechLLM.live``. Windows (30 s) are encoded as soon as they are full, so that a
    question waits only for the last few seconds. At every moment it is what ``SpeechLLM.listen``
    would make of all the blocks so far, bit for bit on the CPU; but if their rate is not the
    bundle's, the last hundredths of a second are added with the next block or at the end.
    Models that scale the sound by all of the recording (Voxtral, Qwen3-ASR, Granite Speech) encode
    all of it when they are asked.

    Safe to use from several threads: one may add blocks from a microphone while another asks.

    Args:
        growing: what encodes it as it grows.
        timings: the timings that its stages are added to.
        rate: the bundle's sampling rate, in Hz.
        sampling_rate: rate of blocks that do not state their own, in Hz.
        recording: makes a recording of what was heard.
    """

    def __init__(
        self,
        growing: GrowingRecording,
        timings: Timings,
        rate: int,
        sampling_rate: int | None,
        recording: Callable[[Heard, Timings], Recording],
    ) -> None:
        self._growing, self._timings, self._rate = growing, timings, rate
        self._sampling_rate, self._recording = sampling_rate, recording
        self._lock = threading.Lock()

    @property
    def seconds(self) -> float:
        """Seconds of sound that were added so far."""
        return self._growing.samples / self._rate

    def add(self, block: Source, sampling_rate: int | None = None) -> None:
        """Add a block; if it fills a window, that is encoded before this returns.

        Args:
            block: (samples,) of any length, or (samples, channels) of at least as many samples as
                channels; integers are scaled by their full range. A pair of samples and rate is
                accepted, too.
            sampling_rate: in Hz; by default that of ``SpeechLLM.live``.

        Raises:
            AudioError: it is not a block of sound, has no rate, or makes the recording exceed a
                limit; nothing of the block is added then.
            OptionError: the recording has ended.
            ComputeError: the encoder failed, or there was not enough memory; the recording cannot
                go on.
        """
        own = isinstance(block, (tuple, dict))  # it may say its own
        rate = self._sampling_rate if sampling_rate is None and not own else sampling_rate
        with self._lock:
            self._growing.add(block, rate)

    def so_far(self) -> Recording:
        """What was said until now, as a recording of its own that no longer grows.

        Raises:
            AudioError: it is silent so far, or too short for a single token.
            ComputeError: the encoder failed.
        """
        with self._lock:
            return self._made(self._growing.so_far())

    def finish(self) -> Recording:
        """End the recording, and return all of it.

        Raises:
            AudioError: it is silent, or too short for a single token.
            ComputeError: the encoder failed.
        """
        with self._lock:
            return self._made(self._growing.finish())

    def ask(
        self,
        question: str,
        *,
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[Options],
    ) -> Answer:
        """Answer a question about what was said until now; see ``Recording.ask``."""
        return self.stream(
            question,
            pruning=pruning,
            generation=generation,
            deadline=deadline,
            cancel=cancel,
            **options,
        ).answer

    def stream(
        self,
        question: str,
        *,
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[Options],
    ) -> AnswerStream:
        """Like ``ask``, piece by piece as the text is generated; see ``Recording.stream``."""
        return self.so_far().stream(
            question,
            pruning=pruning,
            generation=generation,
            deadline=deadline,
            cancel=cancel,
            **options,
        )

    def _made(self, heard: Heard) -> Recording:
        return self._recording(heard, Timings(dict(self._timings.seconds)))
