"""Sorts out what callers give as a recording: samples with their rate, a path or a file."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.errors import AudioError
from speechprune_ort.numbers import plain
from speechprune_ort.text import printable

__all__ = ["Samples", "Source", "sort_source"]

Source = (
    str
    | PathLike[str]
    | bytes
    | BinaryIO
    | NDArray[Any]
    | Sequence[float]
    | Mapping[str, Any]
    | Any
)
"""A path, a file's content, a binary file object, samples, a pair of samples and rate, or a mapping
with ``array`` and ``sampling_rate``."""

WANTED = "give a path, a binary file object, or a numpy array with its sampling_rate"


@dataclass(frozen=True, slots=True)
class Samples:
    """An array of samples.

    Attributes:
        array: (samples,) or (samples, channels), of any numeric type.
        rate: sampling rate in Hz.
    """

    array: NDArray[Any]
    rate: int

    def blocks(self, frames: int) -> Any:
        """Yield blocks (frames, channels) float32, full scale at 1."""
        array = self.array if self.array.ndim == 2 else self.array[:, None]
        for start in range(0, len(array), frames):
            yield _scaled(array[start : start + frames])


def sort_source(source: Source, rate: Any = None) -> Samples | str | PathLike[str] | BinaryIO:
    """Turn what a caller gave into one of the forms that can be read.

    Args:
        source: anything.
        rate: sampling rate in Hz of samples; files state their own.

    Raises:
        AudioError: it is not a recording, or its rate is missing, given twice or given for a file;
            the message says what to give.
    """
    if isinstance(source, Mapping):
        source, rate = _from_mapping(source, rate)
    elif isinstance(source, (tuple, list)) and len(source) == 2:
        source, rate = _from_pair(source, rate)
    if isinstance(source, (bytes, bytearray, memoryview)):
        source = io.BytesIO(_content(source))
    if isinstance(source, (str, PathLike)) or callable(getattr(source, "read", None)):
        if rate is not None:
            name = source if isinstance(source, (str, PathLike)) else "The file object"
            raise AudioError(
                f"{name} states its own sampling rate: leave sampling_rate out for files."
            )
        return cast(str | PathLike[str] | BinaryIO, source)
    return _samples(_array(source), rate)


def _content(given: bytes | bytearray | memoryview) -> bytes | bytearray:
    """The bytes of a file, in one piece; a view may leave some of its own out."""
    try:
        content = given.tobytes() if isinstance(given, memoryview) else given
    except ValueError as error:
        raise AudioError(f"The bytes cannot be read ({error}): give bytes.") from None
    if not content:
        raise AudioError("The bytes are empty: give the content of a file.")
    return content


def _from_mapping(given: Mapping[str, Any], rate: Any) -> tuple[Any, Any]:
    """A mapping as in a data set: ``array`` with ``sampling_rate``, ``bytes`` or ``path``."""
    for name in ("array", "bytes", "path"):
        if given.get(name) is not None:
            own = given.get("sampling_rate") if name == "array" else None
            return given[name], _one_rate(own, rate)
    held = ", ".join(map(repr, list(given)[:5])) or "nothing"
    raise AudioError(
        f"A mapping with {held} is not a recording: give one with 'array' and 'sampling_rate', or "
        "the array itself."
    )


def _from_pair(given: Sequence[Any], rate: Any) -> tuple[Any, Any]:
    """A pair (array, rate) or (rate, array); any other sequence is left as it is."""
    for samples, own in (given, tuple(reversed(given))):
        if _is_number(own) and _is_array(samples):
            return samples, _one_rate(own, rate)
    return given, rate


def _one_rate(own: Any, rate: Any) -> Any:
    if own is not None and rate is not None and plain(own) != plain(rate):
        raise AudioError(
            f"The recording comes with two sampling rates, {own!r} and {rate!r}: give one."
        )
    return rate if own is None else own


def _is_number(value: Any) -> bool:
    value = plain(value)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_array(value: Any) -> bool:
    if isinstance(value, (str, bytes, PathLike)):
        return False
    return hasattr(value, "__array__") or isinstance(value, (list, tuple))


def _array(source: Any) -> NDArray[Any]:
    if np.ma.is_masked(source):
        raise AudioError("Masked samples are not sound: fill them, such as array.filled(0).")
    if isinstance(source, np.ndarray):
        return np.asarray(source)
    kind = type(source).__name__
    if hasattr(source, "recv"):
        raise AudioError("A socket is read through a file object: give socket.makefile('rb').")
    if isinstance(source, (list, tuple)):
        return _from_list(source, kind)
    if not hasattr(source, "__array__"):
        shown = "None" if source is None else f"an object of type {kind}"
        raise AudioError(f"{shown[0].upper()}{shown[1:]} is not a recording: {WANTED}.")
    try:
        return np.asarray(source)
    except Exception as error:  # another library's tensors may raise anything
        raise AudioError(
            f"A {kind} cannot become a numpy array ({printable(str(error))}): give its values on "
            "the host, such as tensor.detach().cpu().numpy()."
        ) from None


def _from_list(source: Sequence[Any], kind: str) -> NDArray[Any]:
    if any(isinstance(item, (str, bytes, PathLike)) or hasattr(item, "read") for item in source):
        raise AudioError(f"A {kind} of recordings is not one recording: ask about each by itself.")
    try:
        array = np.asarray(source)
    except ValueError:
        raise AudioError(
            f"A {kind} whose parts differ in shape is not a recording: {WANTED}."
        ) from None
    if array.dtype.kind in "iu" and array.size:
        raise AudioError(
            f"A {kind} of whole numbers does not say its full scale: give a numpy array of its own "
            "type, such as np.array(samples, np.int16)."
        )
    if array.dtype.kind == "O":
        raise AudioError(f"A {kind} of these objects is not a recording: {WANTED}.")
    return array


def _samples(array: NDArray[Any], rate: Any) -> Samples:
    number = plain(rate)
    # A remainder compares False for NaN and infinity, too, where int() would raise.
    if not _is_number(number) or not number > 0 or not number % 1 == 0:
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
    if array.dtype.kind not in "iuf":
        raise AudioError(f"Samples must be numbers, not {array.dtype}.")
    return Samples(array, int(number))


def _scaled(array: NDArray[Any]) -> NDArray[np.float32]:
    """Integers divided by their full range."""
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):  # infinity is refused with a message of its own
            return array.astype(np.float32)
    limits = np.iinfo(array.dtype)
    middle = 0 if array.dtype.kind == "i" else (int(limits.max) + 1) // 2
    scaled: NDArray[np.float32] = (array.astype(np.float32) - middle) / float(
        int(limits.max) - middle + 1
    )
    return scaled
