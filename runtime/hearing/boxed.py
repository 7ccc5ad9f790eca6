"""Recordings that FFmpeg decodes: how they begin, and where those made of boxes end.

Boxes are what mp4 calls boxes, matroska elements, asf objects and avi chunks: each states its size,
so that only headers are read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from speechprune_ort.runtime.hearing.binary_file import BinaryFile

__all__ = ["NEEDLES", "TYPE", "box_walk", "is_begin"]

ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
ASF_PARTS = frozenset(
    map(
        bytes.fromhex,
        (
            "3626b2758e66cf11a6d900aa0062ce6c",  # its sound
            "90080033b1e5cf1189f400a0c90349cb",  # an index
            "d329e2d6da35d111903400a0c90349be",  # an index
            "f803b1feadb2cc4a9a2d1a6ba9ab0ea0",  # an index of what it plays
            "d03fb73c4a0c0349953dedf7b6228f0c",  # an index of its times
        ),
    )
)
EBML = b"\x1aE\xdf\xa3"
WAVPACK = b"wvpk"
AVI = (b"AVI ", b"AVIX")  # of an avi, and of what continues it above 1 GiB
UNKNOWN = 0xFFFFFFFF  # the size of an avi that is still being written
TYPE, INDEX, SOUND = b"ftyp", b"moov", b"mdat"
MOVIE = frozenset((TYPE, INDEX, SOUND, b"wide", b"free", b"skip", b"pnot", b"styp"))
"""Boxes that an mp4 or a mov may begin with."""
LARGEST_TYPE = 4096  # bytes of what says which kind an mp4 or a matroska is

# Of matroska: what is descended into where its size is not stated (live), or more than is there.
SEGMENT, CLUSTER = 0x18538067, 0x1F43B675
TOP = frozenset((SEGMENT, CLUSTER, 0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469,
                 0x1043A770, 0x1254C367, 0xEC, 0xBF))  # fmt: skip
WITHIN = frozenset((0xE7, 0xA3, 0xA0, 0xAB, 0xA7, 0xAF, 0x5854))  # of a cluster

MAGICS = (ASF, WAVPACK, b"TTA1", b"FLV\x01", b"Creative Voice File\x1a", b".RMF\0\0\0\x12",
          b"#!AMR", b"MAC ", b"MPCK", b"MP+", b"DSD ", b"tBaK")  # fmt: skip
"""First bytes of recordings that libsndfile does not know."""

NEEDLES = (TYPE, EBML, ASF, WAVPACK, b"TTA1", b"FLV\x01", b"Creative Voice File\x1a",
           b".RMF\0\0\0\x12", b"#!AMR")  # fmt: skip
"""First bytes of recordings that do not occur in samples; those of ``TYPE`` stand at byte 4."""

MOST_BOXES = 1 << 21  # of one recording: a live webm of ten hours has as many


class End(NamedTuple):
    """Where the boxes of a recording end.

    Attributes:
        place: the offset.
        open_ended: whether more of it follows there: its last box does not state its size, or
            states more than the file has.
        lacks: bytes that its last box states and the file does not have.
    """

    place: int
    open_ended: bool
    lacks: int = 0


Walk = Callable[[BinaryFile, int, int], End]


def is_begin(file: BinaryFile, place: int) -> bool:
    """Whether a recording of these kinds begins at an offset."""
    file.seek(place)
    head = file.read(64)
    if head[4:8] == TYPE:  # its size, and the next box
        size = int.from_bytes(head[:4], "big")
        file.seek(place + size + 4)
        return 16 <= size <= LARGEST_TYPE and file.read(4).isalnum()
    if head[:4] == EBML:
        size, width = _variable(head[4:])
        file.seek(place + 4 + width + min(size, LARGEST_TYPE))
        return size > 0 and file.read(4) == SEGMENT.to_bytes(4, "big")
    if head[:4] == WAVPACK and head[9:10] != b"\4":  # its version's upper half
        return False
    return head.startswith(MAGICS) or (head[:4] == b"RIFF" and head[8:12] == AVI[0])


def box_walk(head: bytes) -> Walk | None:
    """What finds the end of the recording that begins with 16 bytes; None for one without boxes.

    The function takes the file, where the recording begins, and where the file ends.
    """
    if head[4:8] in MOVIE:
        return _movie
    if head[:4] == EBML:
        return _matroska
    if head == ASF:
        return _asf
    if head[:4] == b"RIFF" and head[8:12] in AVI:
        return _avi
    return _wavpack if head[:4] == WAVPACK else None


def _movie(file: BinaryFile, start: int, end: int) -> End:
    """Boxes of mp4, m4a, 3gp and mov: a recording has one type at most, and one index."""
    seen, place, behind_index, sound_first = set[bytes](), start, start, False
    for _ in range(MOST_BOXES):
        if place + 8 > end:
            return End(place, False)
        file.seek(place)
        head = file.read(16)
        size, name = int.from_bytes(head[:4], "big"), head[4:8]
        if name == TYPE and not seen.isdisjoint((TYPE, INDEX, SOUND)):
            return End(place, False)
        if name == INDEX and INDEX in seen:  # of a mov that has no type
            return End(behind_index if sound_first else place, False)
        if not name.isalnum() or 1 < size < 8:
            return End(place, False)
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        if size < 8 or place + size > end:
            known = name in MOVIE
            return End(place, known, max(0, place + size - end) if known else 0)
        place += size
        seen.add(name)
        if name == INDEX:
            behind_index, sound_first = place, SOUND in seen
    return End(place, True)


def _matroska(file: BinaryFile, start: int, end: int) -> End:
    """Elements of matroska and webm."""
    place = start
    for _ in range(MOST_BOXES):
        if place >= end:
            return End(place, False)
        file.seek(place)
        head = file.read(12)
        name, width = _variable(head, marked=True)
        size, more = _variable(head[width:])
        known = name in TOP or name in WITHIN or (place == start and head[:4] == EBML)
        if not known or not more:
            return End(place, False)
        behind = place + width + more + size
        if name in (SEGMENT, CLUSTER) and behind > end:  # live, or cut: what it holds is walked
            behind = place + width + more
        if behind > end:
            return End(place, True, behind - end)
        place = behind
    return End(place, True)


def _variable(head: bytes, *, marked: bool = False) -> tuple[int, int]:
    """A number of variable length, and its bytes: 0 where none begins."""
    width = 9 - head[0].bit_length() if head and head[0] else 0
    if not 0 < width <= len(head):
        return 0, 0
    value = int.from_bytes(head[:width], "big")
    return (value if marked else value & ((1 << 7 * width) - 1)), width


def _asf(file: BinaryFile, start: int, end: int) -> End:
    """Objects of wma and asf."""
    place = start
    for _ in range(MOST_BOXES):
        if place + 24 > end:
            return End(place, False)
        file.seek(place)
        head = file.read(24)
        size = int.from_bytes(head[16:], "little")
        if place != start and head[:16] not in ASF_PARTS:
            return End(place, False)
        if size < 24 or place + size > end:
            return End(place, True, max(0, place + size - end))
        place += size
    return End(place, True)


def _avi(file: BinaryFile, start: int, end: int) -> End:
    """Chunks of an avi; those after the first continue it."""
    place = start
    while place + 12 <= end:
        file.seek(place)
        head = file.read(12)
        size = int.from_bytes(head[4:8], "little")
        if head[:4] != b"RIFF" or head[8:] != AVI[place != start]:
            return End(place, False)
        if size < 4 or place + 8 + size > end:
            known = 4 <= size < UNKNOWN
            return End(place, True, place + 8 + size - end if known else 0)
        place += 8 + size + size % 2
    return End(place, False)


def _wavpack(file: BinaryFile, start: int, end: int) -> End:
    """Blocks of a wv; each has the number of its first sample, and several may have the same."""
    place, started = start, False
    while place + 32 <= end:
        file.seek(place)
        head = file.read(32)
        size = 8 + int.from_bytes(head[4:8], "little")
        samples = int.from_bytes(head[20:24], "little")
        first = samples > 0 and not any(head[16:20]) and bool(head[25] & 8)
        if head[:4] != WAVPACK or (first and started):
            return End(place, False)
        if place + size > end:
            return End(place, True, place + size - end)
        started = started or samples > 0
        place += size
    return End(place, False)
