"""Finds where recordings begin in a file that has several joined, of one format or of more."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise

from speechprune_ort.errors import AudioError
from speechprune_ort.runtime.hearing import adts, boxed, mpeg, ogg, transport
from speechprune_ort.runtime.hearing.binary_file import BinaryFile, Part
from speechprune_ort.runtime.hearing.containers import CHUNKED, TAGS, W64, Chunked
from speechprune_ort.text import counted

__all__ = ["BEGINS", "Joints", "find_joints"]

FLAC = b"fLaC"
FLAC_HEADER = 8  # bytes: the name, and the header of the first block, which states the length

MOST_CHUNKS = 1000  # of one recording, before the next begins
MOST_KINDS = 50  # changes of the container within one file
AT_ONCE = 1 << 22
SURE_FRAMES = 8  # frames of an mp3 that may begin anywhere: samples do not look like so many
MANY_FRAMES = 40  # frames that no packet of another container holds
LOOKED_THROUGH = 1 << 32  # bytes, for what follows: a sparse file may have any size
UNREAD = 4096  # bytes behind an mp3 that may be tags of an unknown kind
BEGINS = frozenset(
    [*CHUNKED, FLAC, b"OggS", b".snd", W64[:4], *(magic[:4] for magic in boxed.MAGICS)]
)
"""First letters of the recordings that are not taken for a chunk of another one."""
NEEDLES = (b"RIFF", b"RF64", b"BW64", b"FORM", b"caff\0\1\0\0", ogg.BEGIN, W64, b"ID3", b".snd",
           FLAC + b"\0\0\0\x22", FLAC + b"\x80\0\0\x22", *boxed.NEEDLES)  # fmt: skip
"""First bytes of the recordings that must be searched for, besides frames."""
SEARCHED = (
    re.compile(b"\xff[\xe2\xe3\xf1\xf2\xf3\xf9\xfa\xfb]"),  # the frames of mp3 and aac
    re.compile(b"|".join(map(re.escape, NEEDLES))),  # together with the others, it is much slower
)


@dataclass(frozen=True, slots=True)
class Joints:
    """The recordings found in a file.

    Attributes:
        starts: offsets at which they begin, the first of them 0; empty where a decoder finds all
            of them by itself.
        wrong: what is wrong with the file.
        ends: by its start, the end of a recording that ends before the next one begins.
        lacks: bytes that the last frame of the file lacks, where that is an mp3's or an mp2's.
        cut: what shows that the file is cut, for where its decoder has nothing to say of it.
    """

    starts: list[int] = field(default_factory=list)
    wrong: tuple[str, ...] = ()
    ends: dict[int, int] = field(default_factory=dict)
    lacks: int = 0
    cut: str = ""

    def parts(self, end: int) -> Iterator[tuple[int, int]]:
        """Yield start and end of each recording of a file that is ``end`` bytes long."""
        for start, following in pairwise((*(self.starts or [0]), end)):
            yield start, self.ends.get(start, following)


def find_joints(file: BinaryFile) -> Joints:
    """Find where the recordings of a file begin.

    Raises:
        AudioError: the format changes too often.
    """
    start = mpeg.behind_tags(file, 0)
    file.seek(start)
    head = file.read(16)
    form = CHUNKED.get(head[:4])
    try:
        if head[:4] == FLAC:
            return _flac(file, start)
        if boxed.box_walk(head):
            return _boxed(file, start)
        if form is None and head[:4] not in (b"OggS", b".snd") and head != W64:
            file.seek(0)
            if transport.begins_transport(file.read(transport.SURE_BYTES)):
                return _transport(file)
            return _mp3(file)
        if start:
            return _from(file, start) or Joints()
        if head[:4] == b"OggS":
            return _ogg(file)
        if head[:4] == b".snd":
            return _au(file)
        return _w64(file) if form is None else _chunked(form, head[:4], file)
    finally:
        file.seek(0)


def _joined(first: Joints, following: Joints | None) -> Joints:
    if following is None:
        return first
    return Joints(
        [*first.starts, *following.starts],
        (*first.wrong, *following.wrong),
        first.ends | following.ends,
        following.lacks,
        first.cut or following.cut,
    )


def _from(file: BinaryFile, place: int, frames: int = mpeg.MORE_FRAMES) -> Joints | None:
    """The recordings that begin at an offset, of whatever format; None if none does."""
    end = file.seek(0, os.SEEK_END)
    if place >= end:  # a damaged header may state any offset
        return None
    place = min(mpeg.behind_tags(file, place), end)
    file.seek(place)
    head = file.read(16)
    form = CHUNKED.get(head[:4])
    if form is not None:
        known = _is_begin(form, file, place) or boxed.is_begin(file, place)
    elif head[:4] == b".snd":
        known = _is_au(head)
    else:
        known = (
            head == W64
            or head[:4] in (b"OggS", FLAC)
            or mpeg.run(file, place, frames) is not None
            or adts.run_end(file, place, min(frames, SURE_FRAMES)) is not None
            or boxed.is_begin(file, place)
        )
    if not known:
        return None
    part = Part(file, place, end)
    if part.depth == MOST_KINDS:
        raise AudioError(
            f"The recording is more than {MOST_KINDS} files of several kinds, one after the other: "
            "give them one by one."
        )
    found = find_joints(part)
    return Joints(
        [place + start for start in found.starts or [0]],
        found.wrong,
        {place + start: place + stop for start, stop in found.ends.items()},
        found.lacks,
        found.cut,
    )


def _mp3(file: BinaryFile) -> Joints:
    """Split at changes of format only: decoders read on from one mp3 to the next."""
    end = file.seek(0, os.SEEK_END)
    run = mpeg.run(file, 0)
    if run is None:
        if cut := mpeg.cut_mp2(file):
            return Joints([0], ends={0: cut[0]}, lacks=cut[1], cut=_lacks("frame", cut[1]))
        begin = mpeg.behind_tags(file, 0)
        place = adts.run_end(file, begin, mpeg.MORE_FRAMES)
        found = Joints([0], cut=_lacks("frame", max(0, (place or 0) - end)))
        return _then(file, found, place or begin, open_ended=place is None)
    found, wrong, last, place = Joints([0]), list[str](), 0, 0
    while run is not None:
        found.starts.extend(run.starts[1:])
        last, place = run.last, run.end
        run = mpeg.run(file, place)
        if run is not None:
            if mpeg.format_at(file, found.starts[-1]) != mpeg.format_at(file, place):
                found.starts.append(place)
            continue
        following = _from(file, place)
        if following is not None:
            return _joined(Joints(found.starts, tuple(wrong), found.ends), following)
        again = mpeg.resync(file, place, end)
        if again is not None:
            wrong.append(f"bytes {place} to {again} of {end} are not frames of an mp3")
            found.ends[found.starts[-1]] = place  # a decoder may lose seconds there
            found.starts.append(again)
            run = mpeg.run(file, again)
        elif (rest := _rest(file, place, end)) and end - place > UNREAD:
            wrong.append(rest)
            found.ends[found.starts[-1]] = place
    lacks = max(0, place - end)
    if lacks:
        file.seek(last)
        if not mpeg.is_told(file.read()):
            found.ends[found.starts[-1]] = last  # a decoder may make up the rest of it
    told = _lacks("frame", lacks)
    if len(found.starts) == 1 and not found.ends:
        return Joints(lacks=lacks, cut=told)
    return Joints(found.starts, tuple(wrong), found.ends, lacks, told)


def _boxed(file: BinaryFile, start: int) -> Joints:
    """Each box states its size, so that a recording ends where something else begins."""
    end, found = file.seek(0, os.SEEK_END), [0]
    while True:
        file.seek(start)
        head = file.read(16)
        walk = boxed.box_walk(head)
        if walk is None:
            raise AssertionError(head)
        place, open_ended, lacks = walk(file, start, end)
        file.seek(min(place, end))
        if open_ended or place == start or boxed.box_walk(file.read(16)) is not walk:
            return _then(
                file, Joints(found, cut=_lacks("part", lacks)), place, open_ended=open_ended
            )
        found.append(place)
        start = place


def _transport(file: BinaryFile) -> Joints:
    """Packets of one size follow each other, and what begins behind them is another recording."""
    starts, place = transport.transport_starts(file)
    following = _from(file, place)
    lacks = 0 if following else transport.lacking(file, place)
    return _joined(Joints(starts, cut=_lacks("packet", lacks)), following)


def _then(file: BinaryFile, found: Joints, place: int, *, open_ended: bool) -> Joints:
    """Add the recordings that follow one.

    Args:
        file: the file.
        found: what begins before.
        place: where the last of it ends.
        open_ended: whether it may go on from there.
    """
    end = file.seek(0, os.SEEK_END)
    if place >= end:
        return found
    following = None if open_ended else _from(file, place)
    if following is None:
        places = _places(file, place + 1, min(end, place + LOOKED_THROUGH))
        found_there = (_from(file, at, SURE_FRAMES) for at in places if _stands_alone(file, at))
        following = next(filter(None, found_there), None)
        stop = following.starts[0] if following else end
        if not open_ended and (rest := _rest(file, place, stop)):
            found = replace(found, wrong=(*found.wrong, rest))
    if not open_ended:  # tags that its decoder does not know may follow
        found.ends[found.starts[-1]] = place
    return _joined(found, following)


def _lacks(what: str, count: int) -> str:
    return f"its last {what} lacks {counted(count, 'byte')}" if count else ""


def _stands_alone(file: BinaryFile, place: int) -> bool:
    """Whether what begins at an offset is not a few frames within another container."""
    run, begin = mpeg.run(file, place, SURE_FRAMES), mpeg.behind_tags(file, place)
    stop = run.end if run else adts.run_end(file, begin, SURE_FRAMES)
    if stop is None or mpeg.behind_tags(file, stop) >= file.seek(0, os.SEEK_END):
        return True
    return run.frames >= MANY_FRAMES if run else adts.run_end(file, begin, MANY_FRAMES) is not None


def _rest(file: BinaryFile, start: int, stop: int) -> str | None:
    """What a range is called that belongs to no recording; None for tags and zeros."""
    start, end = mpeg.behind_tags(file, start), file.seek(0, os.SEEK_END)
    looked_to = min(stop, start + LOOKED_THROUGH)
    while start < looked_to:
        file.seek(start)
        if file.read(min(AT_ONCE, stop - start)).strip(b"\0"):
            return f"bytes {start} to {stop} of {end} are of no recording that is known"
        start += AT_ONCE
    return None


def _flac(file: BinaryFile, start: int) -> Joints:
    """A flac does not state where it ends: the file is searched for the next beginning."""
    end, place, last = file.seek(0, os.SEEK_END), start + len(FLAC), False
    while not last and place + 4 <= end:
        file.seek(place)
        header = file.read(4)
        last = bool(header[0] & 0x80)
        place += 4 + int.from_bytes(header[1:], "big")
    for found in _places(file, place, end):
        following = _from(file, found, SURE_FRAMES)
        if following is not None:
            return _joined(Joints([0]), following)
    return Joints([0])


def _places(file: BinaryFile, start: int, end: int) -> Iterator[int]:
    """Yield the offsets at which a recording may begin, in order."""
    longest = max(map(len, NEEDLES))
    while start < end:
        file.seek(start)
        block = file.read(AT_ONCE + longest)
        found = set[int]()
        for match in chain.from_iterable(kind.finditer(block) for kind in SEARCHED):
            before = 4 if match[0] == boxed.TYPE else 0
            if match.start() < AT_ONCE:
                found.add(max(0, match.start() - before))
        yield from (start + at for at in sorted(found) if _may_begin(block[at : at + 12]))
        start += AT_ONCE


def _may_begin(head: bytes) -> bool:
    """Whether it is worth a closer look."""
    if head[0] == 0xFF:
        return mpeg.frame_bytes(head) > 0 or adts.frame_bytes(head) > 0
    if head[:3] == b"ID3":  # its version, and the size in seven bits a byte
        return len(head) > 9 and 2 <= head[3] <= 4 and not head[4] and max(head[6:10]) < 128
    return True


def _chunked(form: Chunked, magic: bytes, file: BinaryFile) -> Joints:
    """The next recording begins where the next chunk of the one before would."""
    end, start, found = file.seek(0, os.SEEK_END), 0, [0]
    while True:
        for number, (name, at, _) in enumerate(form.chunks(file, start + form.start, end)):
            place = at - 4 - form.width
            if name == magic and _is_begin(form, file, place):
                found.append(place)
                start = place
                break
            strange = not all(32 <= letter < 127 for letter in name)
            foreign = strange or name in BEGINS or name.startswith(TAGS)
            if number and foreign and (others := _from(file, place)):
                return _joined(Joints(found), others)
            if number == MOST_CHUNKS or strange:
                return Joints(found)  # samples whose stated size is wrong
        else:
            return Joints(found)


def _is_begin(form: Chunked, file: BinaryFile, place: int) -> bool:
    file.seek(place + 4)
    if not form.kinds:  # a caf: these are its version and flags
        return file.read(4) == b"\0\1\0\0"
    return file.read(8)[4:] in form.kinds


def _is_au(head: bytes) -> bool:
    """Whether an au's header has a possible length and encoding."""
    return (
        24 <= int.from_bytes(head[4:8], "big") < 1 << 16
        and 0 < head[15] < 32
        and not any(head[12:15])
    )


def _au(file: BinaryFile) -> Joints:
    end, found = file.seek(0, os.SEEK_END), [0]
    while True:
        file.seek(found[-1])
        head = file.read(12)
        offset, size = int.from_bytes(head[4:8], "big"), int.from_bytes(head[8:], "big")
        place = found[-1] + offset + size
        file.seek(min(place, end))
        if size in (0, 0xFFFFFFFF) or offset < 24:
            return Joints(found)
        if file.read(4) != b".snd":
            return _joined(Joints(found), _from(file, place))
        found.append(place)


def _w64(file: BinaryFile) -> Joints:
    """Each recording states its whole length."""
    end, found = file.seek(0, os.SEEK_END), [0]
    while True:
        file.seek(found[-1] + 16)
        size = int.from_bytes(file.read(8), "little")
        ends = (found[-1] + size, found[-1] + -(-size // 8) * 8)  # padded or not
        for place in ends if size >= 40 else ():
            file.seek(min(place, end))
            if file.read(16) == W64:
                found.append(place)
                break
        else:
            if size < 40:
                return Joints(found)
            known = (place for place in ends if _from(file, place))
            return _then(file, Joints(found), next(known, ends[1]), open_ended=False)


def _ogg(file: BinaryFile) -> Joints:
    """Joined ogg files, as internet radio makes them."""
    end, at = file.seek(0, os.SEEK_END), 0
    found, wrong = list[int](), list[str]()
    while True:
        pages = ogg.read_pages(file, at)
        found += pages.begins
        wrong += [pages.wrong] if pages.wrong else []
        if not found:
            return Joints([], tuple(wrong))
        if not pages.last:
            wrong.append("it ends before its last page")
        file.seek(min(pages.end, end))
        rest = file.read(8)
        following = _from(file, pages.end)
        if following is not None:
            return _joined(Joints(found, tuple(wrong)), following)
        again = ogg.next_page(file, pages.end)
        if not rest or (rest.startswith(TAGS) and again is None):
            return Joints(found, tuple(wrong))
        wrong.append(f"its pages break off at byte {pages.end} of {end}")
        if again is None:
            return Joints(found, tuple(wrong))
        at = again
