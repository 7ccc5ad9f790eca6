"""The frames of an aac that stands in no container: where they end."""

from __future__ import annotations

from speechprune_ort.runtime.hearing.binary_file import BinaryFile

__all__ = ["frame_bytes", "run_end"]

HEADER = 7  # bytes
RATES = 13  # sampling rates that a header can name


def frame_bytes(header: bytes) -> int:
    """Length of the frame that begins with these seven bytes; 0 if none does."""
    if len(header) < HEADER or header[0] != 0xFF or header[1] & 0xF6 != 0xF0:
        return 0
    size = (header[3] & 3) << 11 | header[4] << 3 | header[5] >> 5
    return size if size > HEADER and header[2] >> 2 & 15 < RATES else 0


def run_end(file: BinaryFile, place: int, least: int) -> int | None:
    """The offset after a run of frames; beyond the end of the file if the last one is cut.

    Args:
        file: the file.
        place: offset of the first frame.
        least: fewest frames that count as an aac; None is returned for fewer.
    """
    frames = 0
    while True:
        file.seek(place)
        size = frame_bytes(file.read(HEADER))
        if not size:
            return place if frames >= least else None
        place, frames = place + size, frames + 1
