"""What a file's container says of its length, held against what the file has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from speechprune_ort.runtime.hearing.binary_file import BinaryFile, Repaired

__all__ = ["CHUNKED", "TAGS", "Chunked", "repair_sizes"]

STREAMED = 0x7F000000
"""Sizes from here on are those of writers that could not know them: pipes and recorders."""

TRAILERS = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"JUNK", b"cue ", b"_PMX", b"fact", b"PEAK")
TAGS = (b"TAG", b"ID3", b"APE")  # of players, behind the last chunk


@dataclass(frozen=True, slots=True)
class Chunked:
    """A container of named chunks, each with its size before its content.

    Attributes:
        kinds: what stands at byte 8, or nothing where nothing does.
        start: of the first chunk.
        width: bytes of a size.
        order: of these bytes.
        sound: the chunk with the samples.
        even: whether chunks begin at even places.
    """

    kinds: tuple[bytes, ...]
    start: int
    width: int
    order: Literal["little", "big"]
    sound: bytes
    even: bool

    def chunks(self, file: BinaryFile, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
        """Name, place of the content and stated size of each chunk between two places."""
        wide = None
        while start + 4 + self.width <= end:
            file.seek(start)
            header = file.read(4 + self.width)
            size, at = int.from_bytes(header[4:], self.order), start + 4 + self.width
            yield header[:4], at, size
            if header[:4] == b"ds64":  # the sizes of a wav that may exceed 4 GiB
                file.seek(at + 8)
                wide = int.from_bytes(file.read(8), "little")
            elif header[:4] == self.sound and size == 0xFFFFFFFF and wide is not None:
                size, wide = wide, None
            start = at + size + (size % 2 if self.even else 0)


CHUNKED = {
    b"RIFF": Chunked((b"WAVE",), 12, 4, "little", b"data", even=True),
    b"RF64": Chunked((b"WAVE",), 12, 4, "little", b"data", even=True),
    b"BW64": Chunked((b"WAVE",), 12, 4, "little", b"data", even=True),
    b"FORM": Chunked((b"AIFF", b"AIFC"), 12, 4, "big", b"SSND", even=True),
    b"caff": Chunked((), 8, 8, "big", b"data", even=False),
}


def repair_sizes(file: BinaryFile) -> tuple[BinaryFile, str | None]:
    """A file whose samples end where the file or the next chunk does, whatever it states.

    Recorders that crash leave a size of 0, and one of more than 4 GiB is stated modulo 2**32:
    behind what is stated there then stand samples, not chunks.

    Args:
        file: any file; what is no wav, aiff, caf or au is given back as it is.

    Returns:
        The file, repaired where that was needed, and what is wrong with it or None.
    """
    try:
        return _repaired(file, file.seek(0, os.SEEK_END))
    finally:
        file.seek(0)


def _repaired(file: BinaryFile, end: int) -> tuple[BinaryFile, str | None]:
    file.seek(0)
    head = file.read(12)
    form = CHUNKED.get(head[:4])
    if head[:4] == b".snd":
        at, size = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:], "big")
        if size == end - at or at > end:
            return file, None
        return _mended(file, 8, 4, "big", size, end - at)
    if form is None or (form.kinds and head[8:] not in form.kinds):
        return file, None
    wide: tuple[int, int] | None = None
    for name, at, size in form.chunks(file, form.start, end):
        if name == b"ds64":  # of a wav that may exceed 4 GiB: its sizes stand here
            file.seek(at + 8)
            wide = at + 8, int.from_bytes(file.read(8), "little")
        if name != form.sound:
            continue
        place, width, stated = at - form.width, form.width, size
        if wide and size == 0xFFFFFFFF:
            (place, stated), width = wide, 8
        if stated >= STREAMED and form.even:  # libsndfile knows these
            return file, None
        rest = at + stated + (stated % 2 if form.even else 0)
        if at + stated <= end and (rest + 8 > end or _are_chunks(form, file, rest, end)):
            return file, None
        return _mended(file, place, width, form.order, stated, end - at)
    return file, None


def _mended(
    file: BinaryFile,
    place: int,
    width: int,
    order: Literal["little", "big"],
    stated: int,
    left: int,
) -> tuple[BinaryFile, str | None]:
    content = min(left, 256**width - 1).to_bytes(width, order)
    wrong = f"its header states {stated} bytes of sound and {left} are there"
    return Repaired(file, place, content), wrong if stated < STREAMED else None


def _are_chunks(form: Chunked, file: BinaryFile, start: int, end: int) -> bool:
    """Whether what stands there is chunks, one after the other: names of letters, sizes that fit.

    A last chunk may be cut, and padding of zeros may follow.
    """
    for number, (name, at, size) in enumerate(form.chunks(file, start, end)):
        if not name.strip(b"\0"):
            file.seek(at - 4 - form.width)
            return number > 0 or not file.read(1 << 16).strip(b"\0")
        if name.startswith(TAGS):
            return True
        if not all(32 <= letter < 127 for letter in name):
            return False
        if at + size > end:
            return number > 0 or name in TRAILERS
    return True
