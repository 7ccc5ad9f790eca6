"""What a file's container says of its length, held against what the file has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from speechprune_ort.errors import AudioError

__all__ = [
    "BinaryFile",
    "Part",
    "Repaired",
    "links",
    "mp3_goes_on",
    "repair_sizes",
    "states_mp3_length",
]

W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
"""What a Sony Wave64 file begins with."""

MOST_CHUNKS = 1000  # of one recording, until another begins

STREAMED = 0x7F000000
"""Sizes from here on are those of writers that could not know them: pipes and recorders."""

# MPEG layer III, kbit/s by the header's index: MPEG 1, and MPEG 2 with 2.5.
BITRATES = (
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)
RATES = (44_100, 48_000, 32_000)
HALVINGS = {3: 0, 2: 1, 0: 2}  # of the rate, by the header's version
TRAILERS = (b"LIST", b"id3 ", b"ID3 ", b"bext", b"JUNK", b"cue ", b"_PMX", b"fact", b"PEAK")
TAGS = (b"TAG", b"ID3", b"APE")  # of players, behind the last chunk
FIRST_PAGE, LAST_PAGE = 2, 4  # flags of ogg pages that begin and end a stream
TAIL = 1 << 16  # bytes behind the last frame that are searched for more
MOST_KINDS = 50  # changes of container within one file
MORE_FRAMES = 3  # the encoder's padding is at most two


class BinaryFile(Protocol):
    """What is read of a file here."""

    def read(self, size: int = -1, /) -> bytes:
        """Up to so many bytes."""
        ...

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Go to a place, and say which."""
        ...

    def tell(self) -> int:
        """The place."""
        ...


class Repaired:
    """A file whose bytes at one place read as others, for a decoder that trusts them."""

    def __init__(self, file: BinaryFile, at: int, content: bytes) -> None:
        self._file, self._at, self._content = file, at, content

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        start = self._file.tell()
        found = bytearray(self._file.read(size))
        for place, value in enumerate(self._content, self._at - start):
            if 0 <= place < len(found):
                found[place] = value
        return bytes(found)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """As of a file."""
        return self._file.tell()


@dataclass(frozen=True, slots=True)
class _Chunked:
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
    b"RIFF": _Chunked((b"WAVE",), 12, 4, "little", b"data", even=True),
    b"RF64": _Chunked((b"WAVE",), 12, 4, "little", b"data", even=True),
    b"BW64": _Chunked((b"WAVE",), 12, 4, "little", b"data", even=True),
    b"FORM": _Chunked((b"AIFF", b"AIFC"), 12, 4, "big", b"SSND", even=True),
    b"caff": _Chunked((), 8, 8, "big", b"data", even=False),
}
BEGINS = frozenset([*CHUNKED, b"fLaC", b"OggS", b".snd"])


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


def _are_chunks(form: _Chunked, file: BinaryFile, start: int, end: int) -> bool:
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


class Part:
    """A stretch of a file, as a file of its own."""

    def __init__(self, file: BinaryFile, start: int, end: int) -> None:
        self._file, self._start, self._end = file, start, end
        self.depth: int = file.depth + 1 if isinstance(file, Part) else 0
        file.seek(start)

    def read(self, size: int = -1) -> bytes:
        """As of a file."""
        left = max(0, self._end - self._file.tell())
        return self._file.read(left if size < 0 else min(size, left))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of a file."""
        base = {os.SEEK_SET: self._start, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._end}
        return self._file.seek(max(self._start, base[whence] + offset)) - self._start

    def tell(self) -> int:
        """As of a file."""
        return self._file.tell() - self._start


def links(file: BinaryFile) -> tuple[list[int], str | None]:
    """Where the recordings of a file begin: some put one behind the other.

    Returns:
        Places in the file, the first of them 0, none where it may hold several but is of a kind
        that decoders go on in by themselves; and what is wrong with the file or None.
    """
    file.seek(0)
    head = file.read(16)
    file.seek(0)
    try:
        if head[:4] == b"OggS":
            return _ogg_links(file)
        if head[:4] == b".snd":
            return _au_links(file), None
        if head == W64:
            return _w64_links(file), None
        form = CHUNKED.get(head[:4])
        return (_mp3_links(file) if form is None else _chunked_links(form, head[:4], file)), None
    finally:
        file.seek(0)


def _from(file: BinaryFile, place: int) -> list[int]:
    """Where the recordings begin that stand at a place of a file, of whatever kind; none may."""
    end = file.seek(0, os.SEEK_END)
    file.seek(min(place, end))
    head = file.read(12)
    form = CHUNKED.get(head[:4])
    if form is not None:
        known = _is_begin(form, file, place)
    else:
        known = head[:4] in BEGINS or _mp3_end(file, place) is not None
    if not known:
        return []
    part = Part(file, place, end)
    if part.depth == MOST_KINDS:
        raise AudioError(
            f"The recording is more than {MOST_KINDS} files of several kinds, one after the other: "
            "give them one by one."
        )
    return [place + start for start in links(part)[0] or [0]]


def _mp3_links(file: BinaryFile) -> list[int]:
    """None but where something else follows: decoders go on in mp3s that follow each other."""
    end = _mp3_end(file, 0)
    if end is None or _mp3_end(file, end) is not None:
        return []
    following = _from(file, end)
    return [0, *following] if following else []


def _mp3_end(file: BinaryFile, place: int) -> int | None:
    """Where the frames end that stand at a place; None where no mp3 does."""
    place, frames = _behind_id3(file, place), 0
    file.seek(place)
    while size := _frame_bytes(file.read(4)):
        place, frames = place + size, frames + 1
        file.seek(place)
    return place if frames >= MORE_FRAMES else None


def _chunked_links(form: _Chunked, magic: bytes, file: BinaryFile) -> list[int]:
    """Each begins where a chunk of the one before it would."""
    end, start, found = file.seek(0, os.SEEK_END), 0, [0]
    while True:
        for number, (name, at, _) in enumerate(form.chunks(file, start + form.start, end)):
            place = at - 4 - form.width
            if name == magic and _is_begin(form, file, place):
                found.append(place)
                start = place
                break
            foreign = name in BEGINS or name.startswith(b"ID3") or _frame_bytes(name)
            if number and foreign and (others := _from(file, place)):
                return [*found, *others]
            if number == MOST_CHUNKS or not all(32 <= letter < 127 for letter in name):
                return found  # samples, of a size that is stated wrongly
        else:
            return found


def _is_begin(form: _Chunked, file: BinaryFile, place: int) -> bool:
    file.seek(place + 4)
    if not form.kinds:  # of caf, whose version and flags these are
        return file.read(4) == b"\0\1\0\0"
    return file.read(8)[4:] in form.kinds


def _au_links(file: BinaryFile) -> list[int]:
    end, found = file.seek(0, os.SEEK_END), [0]
    while True:
        file.seek(found[-1])
        head = file.read(12)
        offset, size = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:], "big")
        place = found[-1] + offset + size
        file.seek(min(place, end))
        if size in (0, 0xFFFFFFFF) or offset < 24:
            return found
        if file.read(4) != b".snd":
            return [*found, *_from(file, place)]
        found.append(place)


def _w64_links(file: BinaryFile) -> list[int]:
    """Each states the length of all of it."""
    end, found = file.seek(0, os.SEEK_END), [0]
    while True:
        file.seek(found[-1] + 16)
        size = int.from_bytes(file.read(8), "little")
        for place in (found[-1] + size, found[-1] + -(-size // 8) * 8):  # padded or not
            file.seek(min(place, end))
            if size >= 40 and file.read(16) == W64:
                found.append(place)
                break
        else:
            return found


def _ogg_links(file: BinaryFile) -> tuple[list[int], str | None]:
    """The same of an ogg file; internet radio makes such."""
    end = file.seek(0, os.SEEK_END)
    at, begins, last = 0, False, True
    found: list[int] = []
    while at + 27 <= end:
        file.seek(at)
        page = file.read(27)
        if page[:4] != b"OggS":
            break
        # Each stream of a recording begins with a page of its own, before any other.
        if page[5] & FIRST_PAGE and not begins:
            found.append(at)
        begins, last = bool(page[5] & FIRST_PAGE), bool(page[5] & LAST_PAGE)
        at += 27 + page[26] + sum(file.read(page[26]))
    file.seek(min(at, end))
    rest = file.read(8)
    file.seek(0)
    wrong = None
    if found and (at > end or not last):
        wrong = "it ends before its last page"
    elif found and rest and not rest.startswith(TAGS):
        wrong = f"its pages break off at byte {at} of {end}"
    return found, wrong


def states_mp3_length(file: BinaryFile) -> bool:
    """Whether an mp3 states its length, in its first frame; otherwise it is guessed."""
    file.seek(_behind_id3(file, 0))
    first = file.read(4096)
    return any(name in first for name in (b"Xing", b"Info", b"VBRI"))


def _behind_id3(file: BinaryFile, place: int) -> int:
    """The first byte after the tag that stands at a place; the place itself where none does."""
    file.seek(place)
    head = file.read(10)
    if head[:3] != b"ID3":
        return place
    sizes = zip(head[6:], (21, 14, 7, 0), strict=False)  # seven bits a byte
    return place + 10 + sum((byte & 127) << shift for byte, shift in sizes)


def _frame_bytes(header: bytes) -> int:
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


def mp3_goes_on(file: BinaryFile, at: int) -> bool:
    """Whether more sound than an encoder's padding stands behind a place in an mp3."""
    file.seek(at)
    tail = file.read(TAIL)
    for start in range(len(tail) - 4):
        place, frames = start, 0
        while size := _frame_bytes(tail[place : place + 4]):
            place, frames = place + size, frames + 1
            if frames == MORE_FRAMES:
                return True
    return False
