"""Views of a file for decoders: a part of it, one with bytes replaced, one with bytes added."""

from __future__ import annotations

import os
from typing import Protocol

__all__ = ["BinaryFile", "Extended", "Part", "Repaired"]


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


class Extended:
    """A file with the bytes ``ahead`` before its first and ``behind`` after its last."""

    def __init__(self, file: BinaryFile, ahead: bytes = b"", behind: bytes = b"") -> None:
        self._file, self._ahead, self._behind, self._at = file, ahead, behind, 0
        self._last = len(ahead) + file.seek(0, os.SEEK_END)

    def read(self, size: int = -1) -> bytes:
        """See ``BinaryFile``."""
        end = self._last + len(self._behind)
        left = max(0, end - self._at)
        size = left if size < 0 else min(size, left)
        found = self._ahead[self._at : self._at + size]
        if len(found) < size and self._at < self._last:
            self._file.seek(self._at + len(found) - len(self._ahead))
            found += self._file.read(size - len(found))
        if len(found) < size and self._at + len(found) >= self._last:
            place = self._at + len(found) - self._last
            found += self._behind[place : place + size - len(found)]
        self._at += len(found)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See ``BinaryFile``."""
        end = self._last + len(self._behind)
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: end}
        self._at = max(0, base[whence] + offset)
        return self._at

    def tell(self) -> int:
        """See ``BinaryFile``."""
        return self._at
