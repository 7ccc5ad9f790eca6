"""Frames of an mp3: where they end, change their format, or are broken off."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from speechprune_ort.runtime.hearing.binary_file import BinaryFile, Prefixed

__all__ = ["MORE_FRAMES", "Run", "behind_id3", "format_at", "frame_bytes", "goes_on", "resync",
           "run", "states_length", "stating_length"]  # fmt: skip

# MPEG layer III, kbit/s by the header's index: MPEG 1, and MPEG 2 with 2.5.
BITRATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
RATES = (44_100, 48_000, 32_000)
HALVINGS = {3: 0, 2: 1, 0: 2}  # of the rate, by the header's version
TAIL = 1 << 16  # bytes behind the last frame that are searched for more
AT_ONCE = 1 << 20
MORE_FRAMES = 3  # the encoder's padding is at most two
SYNC = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
Format = tuple[int, int, bool]  # version, index of the rate, and whether it is mono


@dataclass(frozen=True, slots=True)
class Run:
    """Frames one behind the other.

    Attributes:
        starts: places at which a format begins, the first that of the run.
        end: place behind the last frame.
        frames: how many there are.
    """

    starts: list[int]
    end: int
    frames: int


def run(file: BinaryFile, place: int, least: int = MORE_FRAMES) -> Run | None:
    """The frames that stand at a place, behind a tag; None where an mp3 does not.

    Args:
        file: the file.
        place: where it begins, or its tag does.
        least: frames that make an mp3.
    """
    starts, at, frames = [place], behind_id3(file, place), 0
    current: Format | None = None
    file.seek(at)
    header = file.read(4)
    while size := frame_bytes(header):
        if current is None:
            current = _format(header)
        elif _format(header) != current and _lasts(file, at):
            current = _format(header)
            starts.append(at)
        at, frames = at + size, frames + 1
        file.seek(at)
        header = file.read(4)
    return Run(starts, at, frames) if frames >= least else None


def resync(file: BinaryFile, place: int, end: int) -> int | None:
    """The next place at which a few frames stand one behind the other."""
    while place < end:
        file.seek(place)
        block = file.read(AT_ONCE)
        for found in SYNC.finditer(block):
            at = place + found.start()
            if frame_bytes(block[found.start() : found.start() + 4]) and _lasts(file, at):
                return at
        place += max(1, len(block) - 1)
    return None


def goes_on(file: BinaryFile, at: int) -> bool:
    """Whether more sound than an encoder's padding stands behind a place in an mp3."""
    file.seek(at)
    tail = file.read(TAIL)
    for start in range(len(tail) - 4):
        place, frames = start, 0
        while size := frame_bytes(tail[place : place + 4]):
            place, frames = place + size, frames + 1
            if frames == MORE_FRAMES:
                return True
    return False


def stating_length(file: BinaryFile, guess: int) -> BinaryFile:
    """An mp3 whose first frame states its length, where it states none and has more than guessed.

    Args:
        file: the mp3, or whatever else.
        guess: samples a channel that a decoder takes it to have.

    Returns:
        The file itself where nothing has to be stated.
    """
    place = file.tell()
    found = None if states_length(file) else run(file, 0)
    file.seek(behind_id3(file, 0))
    first = file.read(4)
    file.seek(place)
    if found is None or found.frames * _samples(first) <= guess:
        return file
    return Prefixed(file, _info(first, found.frames))


def states_length(file: BinaryFile) -> bool:
    """Whether an mp3 states its length, in its first frame; otherwise it is guessed."""
    file.seek(behind_id3(file, 0))
    first = file.read(4096)
    return any(name in first for name in (b"Xing", b"Info", b"VBRI"))


def _samples(header: bytes) -> int:
    """Samples a channel of a frame."""
    return 1152 if header[1] >> 3 & 3 == 3 else 576


def _info(header: bytes, frames: int) -> bytes:
    """A frame without sound, of the same format, that states how many follow it."""
    version, _, mono = _format(header)
    # No checksum, 128 or 80 kbit/s, no padding: room enough, and a size that readers know.
    start = bytes([0xFF, header[1] | 1, 0x90 | header[2] & 0x0C, header[3]])
    aside = {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}
    content = start + bytes(aside[version == 3, mono]) + b"Info\0\0\0\1" + frames.to_bytes(4, "big")
    return content.ljust(frame_bytes(start), b"\0")


def behind_id3(file: BinaryFile, place: int) -> int:
    """The first byte after the tag that stands at a place; the place itself where none does."""
    file.seek(place)
    head = file.read(10)
    if head[:3] != b"ID3":
        return place
    sizes = zip(head[6:], (21, 14, 7, 0), strict=False)  # seven bits a byte
    return place + 10 + sum((byte & 127) << shift for byte, shift in sizes)


def frame_bytes(header: bytes) -> int:
    """Length of the layer III frame that begins with these four bytes; 0 where none does."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    version, bits, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bits in (0, 15) or rate == 3:
        return 0
    first = version == 3
    hertz = RATES[rate] >> HALVINGS[version]
    kilobits = BITRATES[0 if first else 1][bits]
    return (144 if first else 72) * kilobits * 1000 // hertz + (header[2] >> 1 & 1)


def _format(header: bytes) -> Format:
    return header[1] >> 3 & 3, header[2] >> 2 & 3, header[3] >> 6 == 3


def _headers(file: BinaryFile, at: int) -> Iterator[bytes]:
    file.seek(at)
    header = file.read(4)
    while size := frame_bytes(header):
        yield header
        at += size
        file.seek(at)
        header = file.read(4)


def _lasts(file: BinaryFile, at: int) -> bool:
    """Whether the format of the frame at a place is that of the next ones, too."""
    formats = [_format(header) for header, _ in zip(_headers(file, at), "abc", strict=False)]
    return len(formats) == MORE_FRAMES and len(set(formats)) == 1


def format_at(file: BinaryFile, place: int) -> Format | None:
    """The format of the frame that stands at a place, behind a tag."""
    return next(map(_format, _headers(file, behind_id3(file, place))), None)
