"""Chunks of a container: those with samples, and whether their sizes are what the file holds."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from math import prod
from typing import Literal

from speechprune_ort.errors import AudioError
from speechprune_ort.runtime.hearing.binary_file import BinaryFile, Repaired, Spliced

__all__ = ["CHUNKED", "TAGS", "W64", "Chunked", "one_by_one", "repair_sizes"]

W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
"""The first bytes of a Sony Wave64 file."""

STREAMED = 0x7F000000
"""A stated size from here on means that the writer (a pipe, a recorder) did not know it."""

FORMATS = (b"fmt ", b"COMM", b"desc")
"""Names of the chunks that say what kind of samples follow."""

W64_START, W64_HEADER = 40, 24  # bytes: of its first chunk, and of a chunk's name and size

MOST_CHUNKS = 10_000  # before the samples: zeros read as chunks without content
TRAILERS = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"JUNK", b"cue ", b"_PMX", b"fact", b"PEAK")
TAGS = (b"TAG", b"ID3", b"APE")  # that players write after the last chunk


@dataclass(frozen=True, slots=True)
class Chunked:
    """A container made of named chunks, each with its size before its content.

    Attributes:
        kinds: the names that may stand at byte 8; empty for a container without one.
        start: offset of the first chunk.
        width: bytes that a size takes.
        order: byte order of a size.
        sound: name of the chunk with the samples.
        even: whether chunks begin at even offsets.
    """

    kinds: tuple[bytes, ...]
    start: int
    width: int
    order: Literal["little", "big"]
    sound: bytes
    even: bool

    def chunks(self, file: BinaryFile, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
        """Yield name, offset of the content and stated size of each chunk between two offsets."""
        wide = None
        while start + 4 + self.width <= end:
            file.seek(start)
            header = file.read(4 + self.width)
            size, at = int.from_bytes(header[4:], self.order), start + 4 + self.width
            yield header[:4], at, size
            if header[:4] == b"ds64":  # holds the sizes of a wav that may exceed 4 GiB
                file.seek(at + 8)
                wide = int.from_bytes(file.read(8), "little")
            elif header[:4] == self.sound and size == 0xFFFFFFFF and wide is not None:
                size, wide = wide, None
            start = at + size
            if size % 2 and (self.even or (start < end and _is_zero(file, start))):
                start += 1  # no name begins with a zero: some writers pad unasked


CHUNKED = {
    b"RIFF": Chunked((b"WAVE",), 12, 4, "little", b"data", even=True),
    b"RF64": Chunked((b"WAVE",), 12, 4, "little", b"data", even=True),
    b"BW64": Chunked((b"WAVE",), 12, 4, "little", b"data", even=True),
    b"FORM": Chunked((b"AIFF", b"AIFC"), 12, 4, "big", b"SSND", even=True),
    b"caff": Chunked((), 8, 8, "big", b"data", even=False),
}


def one_by_one(file: BinaryFile, name: str) -> list[BinaryFile]:
    """A file for each chunk of samples of a wav, aiff, caf or w64, each with the same header.

    Of several chunks of samples decoders read one, and not all of them the same one.

    Args:
        file: any file.
        name: for messages.

    Returns:
        The file alone, as it is, where it has no second chunk of samples.

    Raises:
        AudioError: it has more chunks than any recorder writes.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(16)
    form = CHUNKED.get(head[:4])
    if head == W64:
        begin, sound, chunks = W64_START, b"data", _w64_chunks(file, end)
    elif form is not None and (not form.kinds or head[8:12] in form.kinds):
        begin, sound, header = form.start, form.sound, 4 + form.width
        chunks = ((n, at - header, at + size) for n, at, size in form.chunks(file, begin, end))
    else:
        return [file]
    # Of each chunk of samples: where its format starts and ends, and where it does.
    found: list[tuple[int, int, int, int]] = []
    since, described = begin, True
    for number, (kind, place, stop) in enumerate(chunks):
        if number == MOST_CHUNKS and len(found) > 1:
            raise AudioError(f"{name} is in more than {MOST_CHUNKS} pieces: save it as one.")
        if number == MOST_CHUNKS or (found and not _is_name(kind)):
            break
        if kind in FORMATS and not described:
            since, described = place, True
        elif kind == sound:
            ahead = (since, place) if described else found[-1][:2]
            if found:  # its content alone: decoders do not all believe its size
                found[-1] = (*found[-1][:3], min(found[-1][3], place))
            found.append((*ahead, place, stop))
            described = False
    file.seek(0)
    if len(found) < 2:
        return [file]
    found[-1] = (*found[-1][:3], end)  # whatever it states
    return [_alone(file, head, begin, *ranges) for ranges in found]


def _alone(
    file: BinaryFile, head: bytes, begin: int, since: int, until: int, start: int, stop: int
) -> BinaryFile:
    """A recording that is a container's first bytes, its format, and one chunk of samples."""
    if head == W64:  # it states the size of the whole
        file.seek(len(head))
        stated, end = int.from_bytes(file.read(8), "little"), file.seek(0, os.SEEK_END)
        lacks = max(0, stated - end) if stop == end else 0
        size = min(begin + until - since + stop - start + lacks, 256**8 - 1).to_bytes(8, "little")
        return Spliced(file, head, size, (len(head) + 8, begin), (since, until), (start, stop))
    # What RF64 states of sizes is about the first chunk alone.
    magic = b"RIFF" if start > until and head[8:12] == b"WAVE" else head[:4]
    return Spliced(file, magic, (4, begin), (since, until), (start, stop))


def _w64_chunks(file: BinaryFile, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the first letters of the name, the start and the end of each chunk of a w64."""
    place = W64_START
    while place + W64_HEADER <= end:
        file.seek(place)
        header = file.read(W64_HEADER)
        size = int.from_bytes(header[16:], "little")
        if size < W64_HEADER:
            return
        yield header[:4], place, place + size
        place += -(-size // 8) * 8


def _is_name(kind: bytes) -> bool:
    return all(32 <= letter < 127 for letter in kind)


def _is_zero(file: BinaryFile, place: int) -> bool:
    file.seek(place)
    return file.read(1) == b"\0"


def repair_sizes(file: BinaryFile) -> tuple[BinaryFile, str | None]:
    """A file whose samples end where the file or the next chunk does, whatever size it states.

    A recorder that crashes leaves a size of 0, and a size above 4 GiB is stated modulo 2**32: what
    follows the stated end is samples then, not chunks.

    Args:
        file: any file; one that is not a wav, aiff, caf or au is returned as it is.

    Returns:
        The file, repaired if that was needed, and what is wrong with it, or None.
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
        return file, _cut(file, head, end)
    wide: tuple[int, int] | None = None
    for name, at, size in islice(form.chunks(file, form.start, end), MOST_CHUNKS):
        if name == b"ds64":  # the sizes of a wav that may exceed 4 GiB stand here
            file.seek(at + 8)
            wide = at + 8, int.from_bytes(file.read(8), "little")
        if name != form.sound:
            continue
        place, width, stated = at - form.width, form.width, size
        if wide and size == 0xFFFFFFFF:
            (place, stated), width = wide, 8
        if stated >= STREAMED and form.even:  # libsndfile handles these itself
            return file, None
        rest = at + stated
        if stated % 2 and (form.even or (rest < end and _is_zero(file, rest))):
            rest += 1
        if at + stated <= end and (rest + 8 > end or _are_chunks(form, file, rest, end)):
            return file, None
        return _mended(file, place, width, form.order, stated, end - at)
    return file, None


def _cut(file: BinaryFile, head: bytes, end: int) -> str | None:
    """What a w64 or NIST file lacks; its decoder would read what is there and not complain."""
    file.seek(0)
    if head[:4] == W64[:4]:
        stated = int.from_bytes(file.read(24)[16:], "little")
    elif head[:7] == b"NIST_1A":
        found = dict(re.findall(rb"(sample_n_bytes|\w+_count) -i (\d{1,15})\s", file.read(1024)))
        counts = (
            found.get(n, b"1") for n in (b"sample_count", b"sample_n_bytes", b"channel_count")
        )
        stated = 1024 + prod(map(int, counts))
    else:
        return None
    if not end < stated < 1 << 62:
        return None
    return f"its header states {stated} bytes and {end} are there"


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
    """Whether a range holds chunks, one after the other: printable names, and sizes that fit.

    The last chunk may be cut, and zero padding may follow.
    """
    for number, (name, at, size) in enumerate(form.chunks(file, start, end)):
        if not name.strip(b"\0"):
            file.seek(at - 4 - form.width)
            return number > 0 or not file.read(1 << 16).strip(b"\0")
        if name.startswith(TAGS):
            return True
        if not _is_name(name):
            return False
        if at + size > end:
            return number > 0 or name in TRAILERS
    return True
