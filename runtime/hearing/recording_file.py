"""A recording's embeddings in a safetensors file: numbers and a few words, never code.

It belongs to one bundle, by that bundle's digest, and carries a hash over its whole content: a
changed byte is found before anything is used. Nothing is compressed, so it cannot expand.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from speechprune_ort.errors import RecordingError
from speechprune_ort.files import cannot_write, whole_file
from speechprune_ort.runtime.hearing.embeddings import AudioEmbeds, EmbedsBuilder, disk_errors
from speechprune_ort.runtime.ort.device import Device
from speechprune_ort.text import parse_json, printable

__all__ = ["About", "load_embeds", "save_embeds"]

FORMAT = "speechprune-ort recording 2"
EMBEDS, ATTENTION = "embeds", "attention"
DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16)}
"""Names of the types in safetensors."""
ROWS_AT_ONCE = 4096
HEADER_BYTES = 1 << 20
HASH = "sha256"
UNHASHED = "0" * 64  # in place of the hash while it is computed
LONGEST = 1e9
"""Seconds: thirty years."""
MOST_NOTES = 1000
DECODER_LETTERS = 100


@dataclass(frozen=True, slots=True)
class About:
    """What is known about a recording besides its embeddings, as in ``Recording``.

    Attributes:
        seconds: length of the recording.
        seconds_heard: seconds that were encoded.
        decoder: which decoder read it.
        notes: sentences about what is wrong with it.
    """

    seconds: float
    seconds_heard: float
    decoder: str = ""
    notes: tuple[str, ...] = ()


def save_embeds(
    path: Path,
    embeds: AudioEmbeds,
    digest: str,
    heard: About,
    attention: NDArray[np.float32] | None = None,
) -> None:
    """Write a recording; the file appears once it is complete.

    Args:
        path: file to write; an earlier one is replaced.
        embeds: embeddings of the recording.
        digest: digest of the bundle that made them.
        heard: what else is known about the recording.
        attention: (tokens,) received in the audio encoder, if it was kept.

    Raises:
        RecordingError: the file cannot be written.
    """
    about = {
        "format": FORMAT,
        "bundle": digest,
        "seconds": repr(float(heard.seconds)),
        "seconds_heard": repr(float(heard.seconds_heard)),
        "decoder": heard.decoder,
        "notes": json.dumps([printable(note) for note in heard.notes]),
        HASH: UNHASHED,
    }
    tensors: list[tuple[str, np.dtype[Any], tuple[int, ...]]] = [
        (EMBEDS, embeds.dtype, (embeds.tokens, embeds.hidden))
    ]
    if attention is not None:
        tensors.append((ATTENTION, np.dtype(np.float32), (embeds.tokens,)))
    header = _header(about, tensors)
    taken = hashlib.sha256(header)
    try:
        # The library would need all of a recording in memory at once.
        with whole_file(path) as partial, partial.open("wb") as stream:
            stream.write(header)
            for block in embeds.blocks():
                content = np.ascontiguousarray(block).data
                taken.update(content)
                stream.write(content)
            if attention is not None:
                content = np.ascontiguousarray(attention, np.float32).data
                taken.update(content)
                stream.write(content)
            stream.seek(0)
            stream.write(header.replace(UNHASHED.encode(), taken.hexdigest().encode()))
    except OSError as error:
        raise RecordingError(cannot_write(path, error)) from None


def _header(
    about: dict[str, str], tensors: list[tuple[str, np.dtype[Any], tuple[int, ...]]]
) -> bytes:
    """The header of a safetensors file, length and JSON, for tensors that follow one another."""
    names = {dtype: name for name, dtype in DTYPES.items()}
    content: dict[str, Any] = {"__metadata__": about}
    start = 0
    for name, dtype, shape in tensors:
        end = start + math.prod(shape) * dtype.itemsize
        content[name] = {"dtype": names[dtype], "shape": shape, "data_offsets": (start, end)}
        start = end
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def load_embeds(
    path: Path, digest: str, hidden: int, dtype: np.dtype[Any], device: Device, budget: int
) -> tuple[AudioEmbeds, About, NDArray[np.float32] | None]:
    """Read a recording that this bundle encoded.

    Args:
        path: what ``save_embeds`` wrote.
        digest: digest of the bundle.
        hidden: width of its embeddings.
        dtype: dtype of its embeddings.
        device: where they are to be kept.
        budget: bytes that they may take there; larger ones go to a temporary file.

    Returns:
        The embeddings; what else is known about the recording; and (tokens,) attention received in
        the audio encoder, if it was kept.

    Raises:
        RecordingError: there is no such file, it is not a recording, or it is another bundle's.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("it is not a regular file")
        with path.open("rb") as stream:
            header = _read_header(path, stream)
            with safe_open(path, framework="numpy") as opened:
                about = opened.metadata() or {}
                if about.get("format") != FORMAT:
                    raise ValueError(f"its format is {about.get('format', '')[:60]!r}")
                _check_hash(header, about.get(HASH, ""), stream)
                if about.get("bundle") != digest:
                    raise RecordingError(
                        f"{path} was made with another bundle: listen to the recording again."
                    )
                heard = _heard(about)
                names = set(opened.keys())
                if not {EMBEDS} <= names <= {EMBEDS, ATTENTION}:
                    raise ValueError(f"it holds {sorted(names)}")
                with disk_errors():
                    embeds = _embeds(opened.get_slice(EMBEDS), hidden, dtype, device, budget)
                attention = None
                if ATTENTION in names:
                    attention = _attention(opened.get_slice(ATTENTION), embeds.tokens)
    except FileNotFoundError:
        raise RecordingError(f"No recording at {path}: check the path.") from None
    except MemoryError:
        raise RecordingError(
            f"There is not enough memory for {path}: lower the memory budget of recordings."
        ) from None
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise RecordingError(
            f"{path} is not a recording that speechprune-ort saved, or is damaged ({error}): "
            "listen to the recording again."
        ) from None
    return embeds, heard, attention


def _read_header(path: Path, stream: IO[bytes]) -> bytes:
    """The header, length and JSON, as bytes that have not been checked yet."""
    begin = stream.read(8)
    if begin.startswith(b"PK"):
        raise RecordingError(
            f"{path} was saved by an earlier version of speechprune-ort: listen to the recording "
            "again."
        )
    size = int.from_bytes(begin, "little")
    if len(begin) < 8 or size > HEADER_BYTES:
        raise ValueError("it does not begin with a header")
    return begin + stream.read(size)


def _check_hash(header: bytes, told: str, stream: IO[bytes]) -> None:
    """Compare the hash in the header with that of the whole file."""
    if len(told) != len(UNHASHED) or header.count(told.encode()) != 1:
        raise ValueError("its hash is not a hash")
    taken = hashlib.sha256(header.replace(told.encode(), UNHASHED.encode()))
    while block := stream.read(1 << 20):
        taken.update(block)
    if taken.hexdigest() != told:
        raise ValueError("its content is not what was saved")


def _heard(about: dict[str, str]) -> About:
    whole, part = float(about["seconds"]), float(about["seconds_heard"])
    if not 0 <= part <= whole <= LONGEST:  # NaN fails this, too
        raise ValueError(f"{part} of {whole} seconds were heard")
    decoder = about.get("decoder", "")
    if len(decoder) > DECODER_LETTERS or not (decoder.isascii() and decoder.isprintable()):
        raise ValueError("its decoder is not a name")
    notes = parse_json(about.get("notes", "[]").encode())
    # Notes are shown on terminals, which unprintable characters may control.
    if (
        not isinstance(notes, list)
        or len(notes) > MOST_NOTES
        or not all(isinstance(note, str) and note.isprintable() for note in notes)
    ):
        raise ValueError("its notes are not a list of sentences")
    return About(whole, part, decoder, tuple(notes))


def _embeds(
    rows: Any, hidden: int, dtype: np.dtype[Any], device: Device, budget: int
) -> AudioEmbeds:
    shape, found = rows.get_shape(), DTYPES.get(rows.get_dtype())
    if len(shape) != 2 or shape[1] != hidden or found != dtype:
        raise ValueError(f"its embeddings are {shape} of {rows.get_dtype()}")
    builder = EmbedsBuilder((ROWS_AT_ONCE, hidden), dtype, device, budget)
    for start in range(0, shape[0], ROWS_AT_ONCE):
        block = rows[start : min(start + ROWS_AT_ONCE, shape[0])]
        if not np.isfinite(block).all():
            raise ValueError("there is NaN or infinity in its embeddings")
        builder.append(block)
    return builder.finish()


def _attention(values: Any, tokens: int) -> NDArray[np.float32]:
    shape = values.get_shape()
    if shape != [tokens] or values.get_dtype() != "F32":
        raise ValueError(f"its attention is {shape} of {values.get_dtype()}")
    attention: NDArray[np.float32] = values[:]
    if not np.isfinite(attention).all():
        raise ValueError("there is NaN or infinity in its attention")
    return attention
