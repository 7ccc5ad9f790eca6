"""Any recording to 16 kHz mono float32, and into the windows that the encoder hears."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from os import PathLike, fspath
from typing import Any, BinaryIO

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from speechprune_ort.errors import AudioError, OptionError

__all__ = [
    "SAMPLING_RATE",
    "Source",
    "audio_seconds",
    "load_audio",
    "stream_audio",
    "stream_windows",
]

SAMPLING_RATE = 16_000
LONGEST_STATED = 30 * 86_400.0  # seconds
BLOCK_FRAMES = 1 << 18  # read at a time: a long stereo file is never in memory twice


Source = str | PathLike[str] | BinaryIO | NDArray[Any]


def load_audio(source: Source, sampling_rate: int | None = None) -> NDArray[np.float32]:
    """Decode, mix to mono and resample a recording.

    Args:
        source: path or binary file object (wav, flac, ogg, mp3, whatever libsndfile reads), or
            an array (samples,) or (samples, channels); integers are scaled by their full range.
        sampling_rate: of an array, in Hz; files say their own.

    Returns:
        (samples,) float32 at 16 kHz, channels averaged, full scale at 1.

    Raises:
        AudioError: the source is missing, is no audio, is empty, holds NaN or infinity, or an
            array comes without its rate.
    """
    return np.concatenate(list(stream_audio(source, sampling_rate)))


def audio_seconds(path: str | PathLike[str]) -> float | None:
    """Length of a recording by its header; None where it does not say, or cannot be read."""
    try:
        info = soundfile.info(fspath(path))
    except (OSError, RuntimeError):
        return None
    seconds = info.frames / info.samplerate
    # A stream of unknown length states the largest number that there is.
    return seconds if 0 < seconds < LONGEST_STATED else None


def stream_audio(source: Source, sampling_rate: int | None = None) -> Iterator[NDArray[np.float32]]:
    """The same in blocks, whatever their length: a recording of hours is never in memory whole.

    Arguments and errors are those of ``load_audio``; what is wrong with a block is raised when
    it is reached.

    Yields:
        (samples,) float32 at 16 kHz, none of them empty.
    """
    if isinstance(source, np.ndarray):
        name = "The array"
        samples, rate = _from_array(source, sampling_rate)
        blocks = (samples[at : at + BLOCK_FRAMES] for at in range(0, len(samples), BLOCK_FRAMES))
        yield from _resampled(blocks, rate, name)
        return
    name = fspath(source) if isinstance(source, (str, PathLike)) else "The file object"
    if sampling_rate is not None:
        raise AudioError(f"{name} says its own sampling rate: leave sampling_rate out for files.")
    try:
        with soundfile.SoundFile(source) as file:
            # Compressed files may not know their length: blocks, not one buffer of that size.
            blocks = (
                block.mean(axis=1, dtype=np.float32)
                for block in file.blocks(BLOCK_FRAMES, dtype="float32", always_2d=True)
            )
            yield from _resampled(blocks, file.samplerate, name)
    except FileNotFoundError:
        raise AudioError(f"No recording at {name}: check the path.") from None
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        # soundfile's errors are RuntimeErrors; a missing path is one of them, too.
        if isinstance(source, (str, PathLike)):
            raise _explained(name) from error
        raise AudioError(
            f"{name} cannot be decoded: give wav, flac, ogg or mp3, opened in binary mode."
        ) from error


def _resampled(
    blocks: Iterable[NDArray[np.float32]], rate: int, name: str
) -> Iterator[NDArray[np.float32]]:
    """Blocks at 16 kHz; where they are cut does not change a sample."""
    resampler = None
    if rate != SAMPLING_RATE:
        resampler = soxr.ResampleStream(rate, SAMPLING_RATE, 1, dtype="float32", quality="HQ")
    read = given = 0
    for block in blocks:
        if not np.isfinite(block).all():
            raise AudioError(f"{name} holds NaN or infinite samples: repair or record it again.")
        read += len(block)
        out = block if resampler is None else resampler.resample_chunk(block)
        given += len(out)
        if len(out):
            yield np.ascontiguousarray(out, np.float32)
    if read == 0:
        raise AudioError(f"{name} holds no samples: give a recording with sound in it.")
    if resampler is not None:
        rest = resampler.resample_chunk(np.zeros(0, np.float32), last=True)
        given += len(rest)
        if len(rest):
            yield np.ascontiguousarray(rest, np.float32)
    if given == 0:
        raise AudioError(f"{name} is shorter than one sample at 16 kHz: give a longer one.")


def _explained(name: str) -> AudioError:
    from pathlib import Path

    path = Path(name)
    if not path.exists():
        return AudioError(f"No recording at {name}: check the path.")
    if path.is_dir():
        return AudioError(f"{name} is a folder: give a recording.")
    if path.stat().st_size == 0:
        return AudioError(f"{name} is an empty file: give a recording.")
    return AudioError(f"{name} cannot be decoded as audio: give wav, flac, ogg or mp3.")


def _from_array(array: NDArray[Any], rate: int | None) -> tuple[NDArray[np.float32], int]:
    # A remainder compares False for NaN and infinity, too, where int() would raise.
    whole = isinstance(rate, (int, float, np.number)) and not isinstance(rate, bool)
    if rate is None or not whole or not rate > 0 or not rate % 1 == 0:
        raise AudioError(
            f"An array needs its sampling rate in Hz as a positive whole number, not {rate!r}: "
            "give sampling_rate."
        )
    if array.ndim not in (1, 2):
        raise AudioError(
            f"An array of samples has shape (samples,) or (samples, channels), not {array.shape}."
        )
    if array.ndim == 2 and array.shape[1] > max(array.shape[0], 1):
        raise AudioError(
            f"An array of shape {array.shape} has more channels than samples: transpose it."
        )
    if array.dtype.kind in "iu":
        limits = np.iinfo(array.dtype)
        middle = 0 if array.dtype.kind == "i" else (limits.max + 1) // 2
        samples = (array.astype(np.float32) - middle) / float(limits.max - middle + 1)
    elif array.dtype.kind == "f":
        samples = array.astype(np.float32)
    else:
        raise AudioError(f"Samples must be numbers, not {array.dtype}.")
    if samples.ndim == 2:
        samples = samples.mean(axis=1) if samples.shape[1] else samples[:, :0].ravel()
    return samples, int(rate)


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
