"""Log-mel features of a recording, one window at a time, however long it is."""

from __future__ import annotations

import math
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import IO, TypeVar

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.contract.manifest import AudioSpec
from speechprune_ort.errors import AudioError
from speechprune_ort.runtime.hearing.audio import stream_windows
from speechprune_ort.runtime.hearing.features import FLOOR, LogMel, scaled
from speechprune_ort.timings import Timings

__all__ = ["MelWindow", "mel_window", "mel_windows"]

Samples = NDArray[np.float32]
Made = TypeVar("Made")

KEPT_BYTES = 1 << 26
"""Size of the features that wait in memory for the recording's end, 20 minutes of 80 mel bins; more
go to a temporary file."""


@dataclass(frozen=True, slots=True)
class MelWindow:
    """The features of one window.

    Attributes:
        features: (mel_bins, frames) float32, padded to a whole window. Frames after ``length`` are
            silence, or not used if the model pads nothing.
        length: frames that hold sound.
        seconds: length of the part of the recording that it covers.
        silent: whether it has no sound at all; all silent windows of one length are alike.
    """

    features: NDArray[np.float32]
    length: int
    seconds: float
    silent: bool


def mel_windows(
    blocks: Iterable[Samples],
    log_mel: LogMel,
    audio: AudioSpec,
    timings: Timings,
    workers: int = 1,
) -> Iterator[MelWindow]:
    """Features of a recording, window by window.

    Where they are scaled by the loudest value of the whole recording, it is read to its end before
    the first window comes; until then the features wait in memory or in a temporary file.

    Args:
        blocks: (samples,) float32 each, of any length.
        log_mel: the model's feature extractor.
        audio: the model's audio settings.
        timings: the time is added to its ``log_mel``: with several workers, the time that windows
            were waited for.
        workers: threads, each for a window of its own, while the caller works on those before; one
            does everything in the caller's.

    Raises:
        AudioError: a sample is NaN or infinite, or the recording is too short to be mirrored.
    """
    windows = stream_windows(blocks, audio.window_samples)
    if audio.log_mel.over == "recording":
        yield from _of_recording(windows, log_mel, audio, timings, workers)
        return
    yield from _ahead(
        (partial(_window, samples, log_mel, audio) for samples in windows), timings, workers
    )


def _ahead(calls: Iterable[Callable[[], Made]], timings: Timings, workers: int) -> Iterator[Made]:
    """What each call gives, in order; with several workers, so many of them are ahead."""
    if workers == 1:
        for call in calls:
            with timings.measure("log_mel"):
                made = call()
            yield made
        return
    begun: deque[Future[Made]] = deque()
    with ThreadPoolExecutor(workers, "log-mel") as pool:
        try:
            for call in calls:
                begun.append(pool.submit(call))
                if len(begun) > workers:
                    yield _waited_for(begun.popleft(), timings)
            while begun:
                yield _waited_for(begun.popleft(), timings)
        finally:
            pool.shutdown(cancel_futures=True)


def _waited_for(begun: Future[Made], timings: Timings) -> Made:
    with timings.measure("log_mel"):
        return begun.result()


def mel_window(samples: Samples, log_mel: LogMel, audio: AudioSpec, timings: Timings) -> MelWindow:
    """Features of one window (samples,), scaled by its own loudest value.

    Arguments and errors as for ``mel_windows``.
    """
    with timings.measure("log_mel"):
        return _window(samples, log_mel, audio)


def _window(samples: Samples, log_mel: LogMel, audio: AudioSpec) -> MelWindow:
    features, length = log_mel(samples)
    return MelWindow(features, length, len(samples) / audio.sampling_rate, not samples.any())


def _of_recording(
    windows: Iterable[Samples], log_mel: LogMel, audio: AudioSpec, timings: Timings, workers: int
) -> Iterator[MelWindow]:
    floor = np.log10(np.float32(FLOOR))
    loudest = floor
    lengths: list[int] = []
    with tempfile.SpooledTemporaryFile(KEPT_BYTES, prefix="speechprune-ort-") as kept:
        pieces = _Running(windows, log_mel, audio)
        calls = (partial(log_mel.decades, *piece) for piece in pieces.cut)
        for decades in _ahead(calls, timings, workers):
            with timings.measure("log_mel"):
                loudest = max(loudest, decades.max())
                kept.write(decades.tobytes())
                lengths.append(decades.shape[1])
        kept.seek(0)
        for number, count in enumerate(lengths):
            with timings.measure("log_mel"):
                features = np.full((log_mel.mel_bins, log_mel.frames), floor, np.float32)
                features[:, :count] = _read(kept, log_mel.mel_bins, count)
                silent = bool(features.max() == floor)
                scaled(features, loudest)
            heard = pieces.samples - number * audio.window_samples
            length = count
            if audio.log_mel.ending == "silence":
                length = min(count, math.ceil(heard / audio.hop_length))
            seconds = min(max(heard, 0), audio.window_samples) / audio.sampling_rate
            yield MelWindow(features, length, seconds, silent)


def _read(kept: IO[bytes], mel_bins: int, count: int) -> NDArray[np.float32]:
    content = kept.read(4 * mel_bins * count)
    return np.frombuffer(content, np.float32).reshape(mel_bins, count)


class _Running:
    """Frames that continue across the edges of windows.

    Args:
        windows: (samples,) float32 each, all but the last of full length.
        log_mel: the model's feature extractor.
        audio: the model's audio settings.

    Attributes:
        cut: yields (samples,) float32 and the number of frames to make of them, those of a window
            at a time.
        samples: number of samples of the recording, known once ``cut`` has ended.
    """

    def __init__(self, windows: Iterable[Samples], log_mel: LogMel, audio: AudioSpec) -> None:
        self._windows, self._log_mel, self._audio = windows, log_mel, audio
        self.samples = 0
        self.cut = self._run()

    def _run(self) -> Iterator[tuple[Samples, int]]:
        log_mel, spec = self._log_mel, self._audio.log_mel
        hop, half, frames = log_mel.hop_length, log_mel.n_fft // 2, log_mel.frames
        # One hop more than a window's frames see, so that all that is mirrored at the end is left.
        enough = frames * hop + log_mel.n_fft
        held, begun, given = np.zeros(0, np.float32), False, 0
        for window in self._windows:
            self.samples += len(window)
            held = np.concatenate([held, window])
            if not begun and len(held) > half:
                held, begun = np.concatenate([held[half:0:-1], held]), True
            if begun and len(held) >= enough:
                yield held, frames
                held, given = held[frames * hop :], given + frames
        total = self.samples
        if not total:
            return
        wanted = max(total, spec.least_samples)
        if spec.ending == "silence":
            wanted = -(-wanted // (frames * hop)) * frames * hop
        held = np.concatenate([held, np.zeros(wanted - total, np.float32)])
        if wanted <= half:
            raise AudioError(
                "The recording is too short for one log-mel frame: give at least "
                f"{(half + 1) / log_mel.sampling_rate:.2f} seconds."
            )
        if not begun:
            held = np.concatenate([held[half:0:-1], held])
        held = np.concatenate([held, held[-half - 1 : -1][::-1]])
        left = wanted // hop + spec.last_frame
        left = left // spec.stack * spec.stack - given
        while left > 0:
            count = min(frames, left)
            yield held, count
            held, left = held[count * hop :], left - count
