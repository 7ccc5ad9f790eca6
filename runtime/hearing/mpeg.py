"""The frames of an mp3 or mp2: where they end, change their format, or are cut off."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from speechprune_ort.runtime.hearing.binary_file import BinaryFile, Spliced

__all__ = ["MORE_FRAMES", "Run", "behind_tags", "cut_mp2", "format_at", "frame_bytes", "goes_on",
           "is_told", "resync", "run", "states_length", "stating_length"]  # fmt: skip

# MPEG layer III, kbit/s by the header's index: MPEG 1, then MPEG 2 and 2.5.
BITRATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
MP2_BITRATES = (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384)  # of MPEG 1
MP2 = 4  # layer II, as bits of a header's second byte
RATES = (44_100, 48_000, 32_000)
# Bytes of side information after a header, by whether it is MPEG 1 and whether it is mono.
ASIDE = {(True, False): 32, (True, True): 17, (False, False): 17, (False, True): 9}
HALVINGS = {3: 0, 2: 1, 0: 2}  # halvings of the sampling rate, by the header's version
DELAY = 529  # samples by which a decoder of layer III is late
TAIL = 1 << 16  # bytes after the last frame that are searched for more
AT_ONCE = 1 << 20
ID3V1 = 128  # bytes
MOST_TAGS = 50  # one after the other
MORE_FRAMES = 3  # frames; the encoder's padding is at most two
SYNC = re.compile(rb"\xff[\xe2\xe3\xf2\xf3\xfa\xfb]")
Format = tuple[int, int, bool]  # version, index of the sampling rate, and whether it is mono


@dataclass(frozen=True, slots=True)
class Run:
    """A run of frames, one after the other.

    Attributes:
        starts: offsets at which a format begins; the first is the start of the run.
        last: offset of the last frame.
        end: offset after it; beyond the end of the file if the frame is cut.
        frames: how many there are.
    """

    starts: list[int]
    last: int
    end: int
    frames: int


def run(file: BinaryFile, place: int, least: int = MORE_FRAMES) -> Run | None:
    """The run of frames at an offset, after any tags; None if there is no mp3.

    Args:
        file: the file.
        place: offset of the first frame or of its tags.
        least: fewest frames that count as an mp3.
    """
    starts, at, last, frames = [place], behind_tags(file, place), place, 0
    current: Format | None = None
    file.seek(at)
    header = file.read(4)
    while size := frame_bytes(header):
        if current is None:
            current = _format(header)
        elif _format(header) != current and _lasts(file, at):
            current = _format(header)
            starts.append(at)
        last, at, frames = at, at + size, frames + 1
        file.seek(at)
        header = file.read(4)
    return Run(starts, last, at, frames) if frames >= least else None


def resync(file: BinaryFile, place: int, end: int) -> int | None:
    """The next offset at which a few frames follow one another."""
    while place < end:
        file.seek(place)
        block = file.read(AT_ONCE)
        for found in SYNC.finditer(block):
            at = place + found.start()
            if frame_bytes(block[found.start() : found.start() + 4]) and _lasts(file, at):
                return at
        place += max(1, len(block) - 1)
    return None


def cut_mp2(file: BinaryFile) -> tuple[int, int] | None:
    """Where the last frame of an mp2 begins and how many bytes it lacks; None if it is whole.

    Only the end of an mp2 is looked for: frames of layer II are known from its start on.
    """
    last, at, frames = 0, behind_tags(file, 0), 0
    file.seek(at)
    while size := _mp2_frame_bytes(file.read(4)):
        last, at, frames = at, at + size, frames + 1
        file.seek(at)
    lacks = at - file.seek(0, os.SEEK_END)
    return (last, lacks) if lacks > 0 and frames >= MORE_FRAMES else None


def goes_on(file: BinaryFile, at: int) -> bool:
    """Whether more than an encoder's padding follows an offset in an mp3."""
    file.seek(at)
    tail = file.read(TAIL)
    for start in range(len(tail) - 4):
        place, frames = start, 0
        while size := frame_bytes(tail[place : place + 4]):
            place, frames = place + size, frames + 1
            if frames == MORE_FRAMES:
                return True
    return False


def is_told(frame: bytes) -> bool:
    """Whether the sound of a frame is there, although the file ends within the frame.

    A frame's sound may begin in the frames before it, and what ends it may be the next one's.

    Args:
        frame: its bytes, as far as they are there.
    """
    version, _, mono = _format(frame)
    first = version == 3
    start, size = (4 if frame[1] & 1 else 6), ASIDE[first, mono]  # a checksum may stand between
    if len(frame) < start + size:
        return False
    bits = int.from_bytes(frame[start : start + size], "big")
    at, channels = 8 * size, 1 if mono else 2

    def take(count: int) -> int:
        nonlocal at
        at -= count
        return bits >> at & ((1 << count) - 1)

    before = take(9 if first else 8)
    at -= (5 if mono else 3) + 4 * channels if first else channels  # private, and shared factors
    told = 0
    for _ in range(channels * (2 if first else 1)):
        told += take(12)
        at -= 47 if first else 51
    return told <= 8 * (before + len(frame) - start - size)


def stating_length(file: BinaryFile, guess: int) -> BinaryFile:
    """An mp3 with a first frame that states its length, if it has none and is longer than guessed.

    Args:
        file: the mp3, or any other file.
        guess: samples per channel that a decoder estimates.

    Returns:
        That mp3; the file itself if nothing has to be added.
    """
    place, end = file.tell(), file.seek(0, os.SEEK_END)
    found = None if states_length(file) else run(file, 0)
    begin = behind_tags(file, 0)
    file.seek(begin)
    first = file.read(4)
    file.seek(place)
    if found is None or found.frames * _samples(first) <= guess:
        return file
    # Decoders read nothing of a first frame that a tag follows.
    return Spliced(file, _info(first, found.frames), (begin, end))


def states_length(file: BinaryFile) -> bool:
    """Whether the first frame of an mp3 states its length; decoders estimate it otherwise."""
    file.seek(behind_tags(file, 0))
    first = file.read(4096)
    return any(name in first for name in (b"Xing", b"Info", b"VBRI"))


def _samples(header: bytes) -> int:
    """Samples per channel in a frame."""
    return 1152 if header[1] >> 3 & 3 == 3 else 576


def _info(header: bytes, frames: int) -> bytes:
    """Two frames without sound, of the same format: the first states how many follow it.

    Where a length is stated, decoders leave out the first samples: all of the second, as it says.
    """
    version, _, mono = _format(header)
    # No checksum, 128 or 80 kbit/s, no padding: large enough, and a size that readers expect.
    start = bytes([0xFF, header[1] | 1, 0x90 | header[2] & 0x0C, header[3]])
    silent = start.ljust(frame_bytes(start), b"\0")
    skipped = (_samples(header) - DELAY) << 12 | DELAY
    stated = b"Info\0\0\0\1" + (frames + 1).to_bytes(4, "big")
    stated += b"LAME".ljust(21, b"\0") + skipped.to_bytes(3, "big")
    at = len(start) + ASIDE[version == 3, mono]
    return silent[:at] + stated + silent[at + len(stated) :] + silent


def behind_tags(file: BinaryFile, place: int) -> int:
    """The offset after the players' tags at ``place``; ``place`` itself if there are none."""
    for _ in range(MOST_TAGS):
        file.seek(place)
        head = file.read(16)
        if head[:3] == b"ID3" and len(head) >= 10:
            sizes = zip(head[6:10], (21, 14, 7, 0), strict=True)  # seven bits a byte
            place += 10 + sum((byte & 127) << shift for byte, shift in sizes)
        elif head[:8] == b"APETAGEX" and len(head) == 16:
            place += 32 + int.from_bytes(head[12:], "little")
        elif head[:3] == b"TAG":
            place += ID3V1
        else:
            break
    return place


def frame_bytes(header: bytes) -> int:
    """Length of the layer III frame that begins with these four bytes; 0 if none does."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return 0
    first = header[1] >> 3 & 3 == 3
    return _frame_bytes(header, 144 if first else 72, BITRATES[0 if first else 1])


def _mp2_frame_bytes(header: bytes) -> int:
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE0 | MP2:
        return 0
    return _frame_bytes(header, 144, MP2_BITRATES if header[1] >> 3 & 3 == 3 else BITRATES[1])


def _frame_bytes(header: bytes, eighths: int, bitrates: tuple[int, ...]) -> int:
    """Length of a frame that has ``eighths`` times eight samples; 0 if nothing has that format."""
    version, bits, rate = header[1] >> 3 & 3, header[2] >> 4, header[2] >> 2 & 3
    if version == 1 or bits in (0, 15) or rate == 3:
        return 0
    hertz = RATES[rate] >> HALVINGS[version]
    return eighths * bitrates[bits] * 1000 // hertz + (header[2] >> 1 & 1)


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
    """Whether the next frames have the format of the one at an offset, too."""
    formats = [_format(header) for header, _ in zip(_headers(file, at), "abc", strict=False)]
    return len(formats) == MORE_FRAMES and len(set(formats)) == 1


def format_at(file: BinaryFile, place: int) -> Format | None:
    """The format of the frame at an offset, after any tags; None if there is no frame."""
    return next(map(_format, _headers(file, behind_tags(file, place))), None)
