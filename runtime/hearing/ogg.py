"""The pages of an ogg file: where its streams begin, and what is wrong with them."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass

from speechprune_ort.runtime.hearing.binary_file import BinaryFile

__all__ = ["BEGIN", "Pages", "next_page", "read_pages", "sound_tracks"]

MAGIC = b"OggS"
BEGIN = MAGIC + b"\0\2" + bytes(8)
"""How the first page of a stream begins, up to the stream's own bytes."""

FIRST_PAGE, LAST_PAGE = 2, 4  # flags of the pages that begin and end a stream
HEADER = 27
SOUND = (b"\1vorbis", b"OpusHead", b"Speex   ", b"\x7fFLAC", b"fLaC", b"PCM     ")
"""How the first packet of a stream of sound begins."""
AT_ONCE = 1 << 20
REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


@dataclass(slots=True)
class Pages:
    """What the pages of a file say.

    Attributes:
        begins: offsets at which recordings begin.
        end: offset after the last page, or of the first byte that is not a page's.
        wrong: the first thing that is wrong with them, or None.
        last: whether the last page ends its stream.
    """

    begins: list[int]
    end: int
    wrong: str | None
    last: bool


def read_pages(file: BinaryFile, place: int = 0) -> Pages:
    """Read pages from an offset on, as long as one follows another.

    Decoders skip damaged and missing pages without an error.
    """
    end, at, begins = file.seek(0, os.SEEK_END), place, False
    pages, numbers = Pages([], place, None, True), dict[bytes, int]()
    while at + HEADER <= end:
        file.seek(at)
        page = file.read(HEADER)
        if page[:4] != MAGIC:
            break
        table = file.read(page[26])
        size = HEADER + len(table) + sum(table)
        if at + size > end and _next(file, at + 4, end) is None:
            pages.last, at = False, end
            break
        if not _is_whole(page + table + file.read(sum(table))):
            pages.wrong = pages.wrong or f"its page at byte {at} of {end} is damaged"
            following = _next(file, at + 4, end)
            pages.last, at = following is not None, following or end
            continue
        # The first pages of all streams of a recording come before any other page.
        if page[5] & FIRST_PAGE and not begins:
            pages.begins.append(at)
        begins, pages.last = bool(page[5] & FIRST_PAGE), bool(page[5] & LAST_PAGE)
        stream, number = page[14:18], int.from_bytes(page[18:22], "little")
        if not begins and stream in numbers and number != (numbers[stream] + 1) % 2**32:
            pages.wrong = pages.wrong or f"pages are missing before byte {at} of {end}"
        numbers[stream] = number
        at += size
    if 0 < end - at < HEADER:
        file.seek(at)
        if file.read(4) == MAGIC:
            pages.last, at = False, end
    pages.end = at
    return pages


def sound_tracks(file: BinaryFile) -> int:
    """How many streams of sound a recording has at the same time; 0 for one that is no ogg."""
    found = place = 0
    while True:
        file.seek(place)
        page = file.read(HEADER)
        if len(page) < HEADER or page[:4] != MAGIC or not page[5] & FIRST_PAGE:
            return found
        size = sum(file.read(page[26]))
        found += file.read(size).startswith(SOUND)
        place += HEADER + page[26] + size


def next_page(file: BinaryFile, at: int) -> int | None:
    """The offset of the next undamaged page; None if there is none."""
    end = file.seek(0, os.SEEK_END)
    found = _next(file, at, end)
    while found is not None:
        file.seek(found)
        page = file.read(HEADER)
        table = file.read(page[26]) if len(page) == HEADER else b""
        if len(page) == HEADER and _is_whole(page + table + file.read(sum(table))):
            return found
        found = _next(file, found + 4, end)
    return None


def _next(file: BinaryFile, at: int, end: int) -> int | None:
    while at < end:
        file.seek(at)
        block = file.read(AT_ONCE)
        found = block.find(MAGIC)
        if found >= 0:
            return at + found
        at += max(1, len(block) - len(MAGIC) + 1)
    return None


def _is_whole(page: bytes) -> bool:
    """Whether a page has the checksum that it states.

    The polynomial is zlib's, with the bits of each byte and of the sum in reverse order.
    """
    bare = (page[:22] + bytes(4) + page[26:]).translate(REVERSED)
    found = zlib.crc32(bare, 0xFFFFFFFF) ^ 0xFFFFFFFF
    return found.to_bytes(4, "big").translate(REVERSED) == page[22:26]
