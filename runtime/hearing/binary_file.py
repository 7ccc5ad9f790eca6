"""Views of a file for decoders: a part of it, one with bytes replaced, one spliced."""

from __future__ import annotations

import os
from typing import Protocol

__all__ = ["BinaryFile", "Part", "Repaired", "Spliced"]


class BinaryFile(Protocol):
    """The part of a file object that the decoders use."""

    def read(self, size: int = -1, /) -> bytes:
        """Read up to ``size`` bytes."""
        ...

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to an offset and return it."""
        ...

    def tell(self) -> int:
        """The current offset."""
        ...


class Repaired:
    """A file that reads as ``content`` at one offset, for a decoder that trusts those bytes."""

    def __init__(self, file: BinaryFile, at: int, content: bytes) -> None:
        self._file, self._at, self._content = file, at, content

    def read(self, size: int = -1) -> bytes:
        """See ``BinaryFile``."""
        start = self._file.tell()
        found = bytearray(self._file.read(size))
        for place, value in enumerate(self._content, self._at - start):
            if 0 <= place < len(found):
                found[place] = value
        return bytes(found)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See ``BinaryFile``."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """See ``BinaryFile``."""
        return self._file.tell()


class Part:
    """The bytes from ``start`` to ``end`` of a file, as a file of their own."""

    def __init__(self, file: BinaryFile, start: int, end: int) -> None:
        self._file, self._start, self._end = file, start, end
        self.depth: int = file.depth + 1 if isinstance(file, Part) else 0
        file.seek(start)

    def read(self, size: int = -1) -> bytes:
        """See ``BinaryFile``."""
        left = max(0, self._end - self._file.tell())
        return self._file.read(left if size < 0 else min(size, left))

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See ``BinaryFile``."""
        base = {os.SEEK_SET: self._start, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._end}
        return self._file.seek(max(self._start, base[whence] + offset)) - self._start

    def tell(self) -> int:
        """See ``BinaryFile``."""
        return self._file.tell() - self._start


class Spliced:
    """A file put together from ranges of another one and from bytes of its own.

    Args:
        file: the other one.
        pieces: bytes, or the offsets at which a range starts and ends.
    """

    def __init__(self, file: BinaryFile, *pieces: bytes | tuple[int, int]) -> None:
        self._file, self._at, self._end = file, 0, 0
        self._pieces = list[tuple[int, int, bytes | int]]()  # where each starts and ends here
        for piece in pieces:
            size = len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]
            content = piece if isinstance(piece, bytes) else piece[0]
            self._pieces.append((self._end, self._end + size, content))
            self._end += size

    def read(self, size: int = -1) -> bytes:
        """See ``BinaryFile``."""
        stop = self._end if size < 0 else min(self._at + size, self._end)
        found = b""
        for start, end, content in self._pieces:
            skip, least = self._at + len(found) - start, min(end, stop) - start
            if not 0 <= skip < least:
                continue
            if isinstance(content, bytes):
                found += content[skip:least]
            else:
                self._file.seek(content + skip)
                found += self._file.read(least - skip)
        self._at += len(found)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See ``BinaryFile``."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._end}
        self._at = max(0, base[whence] + offset)
        return self._at

    def tell(self) -> int:
        """See ``BinaryFile``."""
        return self._at
