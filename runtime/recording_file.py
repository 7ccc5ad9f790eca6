"""A recording's embeddings in a file: an uncompressed zip of a JSON and a numpy array.

No pickle is written or read: what the file says is data. It belongs to one bundle, by digest.
"""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.errors import RecordingError
from speechprune_ort.files import cannot_write, whole_file
from speechprune_ort.runtime.device import Device
from speechprune_ort.runtime.embeddings import AudioEmbeds, EmbedsBuilder

__all__ = ["load_embeds", "save_embeds"]

FORMAT = "speechprune-ort recording 1"
ABOUT, EMBEDS, ATTENTION = "about.json", "embeds.npy", "attention.npy"
ROWS_AT_ONCE = 4096


def save_embeds(
    path: Path,
    embeds: AudioEmbeds,
    digest: str,
    seconds: tuple[float, float],
    attention: NDArray[np.float32] | None = None,
) -> None:
    """Write a recording; the file appears once it is whole.

    Args:
        path: file to write; an earlier one is replaced.
        embeds: of the recording.
        digest: of the bundle that made them.
        seconds: length of the recording, and of what was heard of it.
        attention: (tokens,) that was received in the audio encoder, where it was kept.

    Raises:
        RecordingError: the file cannot be written.
    """
    about = {"format": FORMAT, "bundle": digest, "seconds": seconds[0], "seconds_heard": seconds[1]}
    header = {
        "descr": np.lib.format.dtype_to_descr(embeds.dtype),
        "fortran_order": False,
        "shape": (embeds.tokens, embeds.hidden),
    }
    try:
        with (
            whole_file(path) as partial,
            zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive,
        ):
            archive.writestr(ABOUT, json.dumps(about))
            with archive.open(EMBEDS, "w", force_zip64=True) as stream:
                np.lib.format.write_array_header_1_0(stream, header)
                for block in embeds.blocks():
                    stream.write(np.ascontiguousarray(block).data)
            if attention is not None:
                with archive.open(ATTENTION, "w") as stream:
                    np.lib.format.write_array(stream, attention, (1, 0), allow_pickle=False)
    except OSError as error:
        raise RecordingError(cannot_write(path, error)) from None


def load_embeds(
    path: Path, digest: str, hidden: int, dtype: np.dtype[Any], device: Device, budget: int
) -> tuple[AudioEmbeds, tuple[float, float], NDArray[np.float32] | None]:
    """Read a recording of this bundle.

    Args:
        path: what ``save_embeds`` wrote.
        digest: of the bundle.
        hidden: width of its embeddings.
        dtype: of its embeddings.
        device: where they are to lie.
        budget: bytes that they may take there; longer ones go to a temporary file.

    Returns:
        The embeddings; in seconds the length of the recording and of what was heard of it; and
        (tokens,) attention received in the audio encoder, where it was kept.

    Raises:
        RecordingError: there is no such file, it is none of these, or of another bundle.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            about = json.loads(archive.read(ABOUT))
            if about["format"] != FORMAT:
                raise ValueError(f"its format is {about['format']!r}")
            if about["bundle"] != digest:
                raise RecordingError(
                    f"{path} was made with another bundle: listen to the recording again."
                )
            seconds = float(about["seconds"]), float(about["seconds_heard"])
            with archive.open(EMBEDS) as stream:
                if np.lib.format.read_magic(stream) != (1, 0):
                    raise ValueError("its array has another version")
                shape, _, found = np.lib.format.read_array_header_1_0(stream)
                if len(shape) != 2 or shape[1] != hidden or found != dtype:
                    raise ValueError(f"its array is {shape} of {found}")
                embeds = _read(stream, shape[0], hidden, dtype, device, budget)
            attention = None
            if ATTENTION in archive.namelist():
                with archive.open(ATTENTION) as stream:
                    attention = np.lib.format.read_array(stream, allow_pickle=False)
                if attention.shape != (embeds.tokens,):
                    raise ValueError(f"its attention is {attention.shape}")
            # The zip's checksum has been compared by now: a changed byte is an error.
    except FileNotFoundError:
        raise RecordingError(f"No recording at {path}: check the path.") from None
    except (
        OSError, ValueError, KeyError, TypeError, EOFError, struct.error, zipfile.BadZipFile
    ) as error:  # fmt: skip
        raise RecordingError(
            f"{path} is no recording that speechprune-ort saved, or is damaged ({error}): listen "
            "to the recording again."
        ) from None
    return embeds, seconds, attention


def _read(
    stream: Any, tokens: int, hidden: int, dtype: np.dtype[Any], device: Device, budget: int
) -> AudioEmbeds:
    builder = EmbedsBuilder((ROWS_AT_ONCE, hidden), dtype, device, budget)
    for start in range(0, tokens, ROWS_AT_ONCE):
        count = min(ROWS_AT_ONCE, tokens - start)
        content = stream.read(count * hidden * dtype.itemsize)
        rows: NDArray[Any] = np.frombuffer(content, dtype).reshape(count, hidden)
        builder.append(rows)
    if stream.read(1):
        raise ValueError("it goes on behind its array")
    return builder.finish()
