"""MPEG transport streams, as broadcasts and cameras write them: where another one begins.

FFmpeg reads on where the tracks are numbered as before. Tracks with other numbers are new ones to
it, and only the first of a file is heard.
"""

from __future__ import annotations

import os

import numpy as np

from speechprune_ort.runtime.hearing.binary_file import BinaryFile

__all__ = ["SURE_BYTES", "begins_transport", "lacking", "transport_starts"]

PACKET = 188  # bytes
SYNC = 0x47
AT_ONCE = PACKET * 20_000
DAMAGE = 1 << 16  # bytes at most, until packets go on
SURE_BYTES = 2 * PACKET + 1  # three first bytes of packets show that these are packets
DIRECTORY = 0  # the number of the packets that say where each list of tracks is
NULL = 0x1FFF


def begins_transport(head: bytes) -> bool:
    """Whether a transport stream begins with these ``SURE_BYTES`` bytes."""
    return len(head) == SURE_BYTES and set(head[::PACKET]) == {SYNC}


def transport_starts(file: BinaryFile) -> tuple[list[int], int]:
    """Where transport streams begin that have no track of the one before them.

    Args:
        file: a file that begins with one.

    Returns:
        Their offsets, the first of them 0, and where the packets end.
    """
    starts, directory, place = [0], 0, 0
    lists, tracks = set[int](), set[int]()
    end = file.seek(0, os.SEEK_END)
    while place < end:
        file.seek(place)
        content = file.read(AT_ONCE)
        packets = np.frombuffer(content, np.uint8, len(content) // PACKET * PACKET)
        packets = packets.reshape(-1, PACKET)
        wrong = np.flatnonzero(packets[:, 0] != SYNC)
        packets = packets[: wrong[0]] if len(wrong) else packets
        numbers = (packets[:, 1].astype(np.int64) & 0x1F) << 8 | packets[:, 2]
        first = packets[:, 1] & 0x40 > 0  # of a table, or of a frame
        for index in np.flatnonzero(first & (numbers != NULL)):
            number, at = int(numbers[index]), place + PACKET * int(index)
            if number == DIRECTORY:
                directory = at
                lists |= _lists(_table(packets[index].tobytes(), 0))
            elif number in lists:
                found = _tracks(_table(packets[index].tobytes(), 2))
                if tracks and found and tracks.isdisjoint(found):
                    starts.append(max(directory, starts[-1] + PACKET))
                    tracks.clear()
                tracks |= found
        place += PACKET * len(packets)
        if len(packets) * PACKET < AT_ONCE:
            again = _again(file, place)
            if again is None:
                break
            place = again
    return starts, place


def lacking(file: BinaryFile, place: int) -> int:
    """Bytes that the last packet of a file lacks, from where its whole packets end; 0 if none."""
    file.seek(place)
    rest = file.read(PACKET)
    return PACKET - len(rest) if rest[:1] == bytes([SYNC]) else 0


def _again(file: BinaryFile, place: int) -> int | None:
    """Where packets go on behind damage, as FFmpeg finds them; None if they do not."""
    file.seek(place)
    content = file.read(DAMAGE)
    at = content.find(SYNC)
    while at >= 0:
        if begins_transport(content[at : at + SURE_BYTES]):
            return place + at
        at = content.find(SYNC, at + 1)
    return None


def _table(packet: bytes, kind: int) -> bytes:
    """The table that begins in a packet, from behind its header to its checksum."""
    start = 4 + (1 + packet[4] if packet[3] & 0x20 else 0)
    if start >= PACKET:
        return b""
    start += 1 + packet[start]
    if start + 8 > PACKET or packet[start] != kind:
        return b""
    size = (packet[start + 1] & 0xF) << 8 | packet[start + 2]
    return packet[start + 8 : start + 3 + max(size - 4, 5)]


def _lists(table: bytes) -> set[int]:
    """Of a directory, the numbers of the packets with lists of tracks."""
    entries = (table[at : at + 4] for at in range(0, len(table) - 3, 4))
    return {_number(entry[2:]) for entry in entries if entry[0] or entry[1]}


def _tracks(table: bytes) -> set[int]:
    """The numbers of the tracks in a list."""
    found = set[int]()
    if len(table) < 4:
        return found
    at = 4 + (_number(table[2:]) & 0xFFF)
    while at + 5 <= len(table):
        found.add(_number(table[at + 1 :]))
        at += 5 + (_number(table[at + 3 :]) & 0xFFF)
    return found


def _number(two: bytes) -> int:
    return (two[0] & 0x1F) << 8 | two[1]
