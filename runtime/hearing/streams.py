"""Opens any source of bytes as a seekable file: paths, pipes, sockets, standard input."""

from __future__ import annotations

import io
import os
import select
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast

from speechprune_ort.cancel import checkpoint
from speechprune_ort.errors import AudioError, SpeechPruneError
from speechprune_ort.text import printable

__all__ = ["Spool", "opened", "rereadable"]

IN_MEMORY = 16 << 20  # bytes of a stream; a longer one goes to a temporary file
AT_ONCE = 1 << 16
UNWRITTEN_S = 10.0  # seconds after which a pipe that nobody has opened to write is refused
LOOK_MS = 100  # between two looks whether the call was ended
NO_HEADER = 1 << 20  # zero bytes at its start after which a stream is refused


class Spool(SpooledTemporaryFile[bytes]):
    """The content of a stream, which can be read from its start again.

    Args:
        title: name of the stream for messages.
    """

    def __init__(self, title: str) -> None:
        super().__init__(IN_MEMORY)
        self.title = title


class _Guarded:
    """A file whose errors become ``AudioError``, whatever a disk or a caller's object raises."""

    def __init__(self, file: Any, title: str) -> None:
        self._file, self._title = file, title

    def read(self, size: int = -1) -> bytes:
        try:
            content = self._file.read(size)
        except Exception as error:
            raise _unreadable(self._title, error) from error
        if not isinstance(content, (bytes, bytearray, memoryview)):
            raise AudioError(f"{self._title} does not give bytes: open it in binary mode.")
        return bytes(content)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            place = self._file.seek(offset, whence)
        except Exception as error:
            raise _unreadable(self._title, error) from error
        return place if isinstance(place, int) else self.tell()

    def tell(self) -> int:
        try:
            place = self._file.tell()
        except Exception as error:
            raise _unreadable(self._title, error) from error
        if not isinstance(place, int):
            raise AudioError(f"{self._title} does not say where it is: give the bytes it holds.")
        return place


def _unreadable(title: str, error: Exception) -> AudioError:
    if isinstance(error, AudioError):
        return error
    return AudioError(f"{title} cannot be read ({printable(str(error))}): give it again.")


def _spooled(stream: Any, title: str, limit_mb: float) -> Spool:
    """Read a stream to its end.

    Raises:
        AudioError: it cannot be read or stored, gives text or nothing, or exceeds the limit.
    """
    spool = Spool(title)
    try:
        while True:
            try:
                block = stream.read(AT_ONCE)
            except SpeechPruneError:  # of the call, or said already
                raise
            except Exception as error:
                raise _unreadable(title, error) from error
            if block is None:
                raise AudioError(f"{title} is not blocking and gave nothing: make it blocking.")
            if not isinstance(block, (bytes, bytearray, memoryview)):
                raise AudioError(f"{title} gives text, not bytes: open it in binary mode.")
            if not block:
                break
            if spool.tell() < NO_HEADER and not spool.tell() % NO_HEADER and not any(block):
                # No header and no sound begins like this, and a source of zeros may never end.
                raise AudioError(f"{title} begins with zeros: give a recording.")
            try:
                spool.write(bytes(block))
            except OSError as error:
                raise AudioError(
                    f"{title} cannot be kept in a temporary file ({error}): free some space or "
                    "set TMPDIR."
                ) from None
            if spool.tell() > limit_mb * 1e6:
                raise AudioError(
                    f"{title} gave more than {limit_mb:g} MB: raise max_stream_mb "
                    "(--max-stream-mb), or give a file."
                )
    except BaseException:
        spool.close()
        raise
    if not spool.tell():
        spool.close()
        raise AudioError(f"{title} is an empty file: give a recording.")
    spool.seek(0)
    return spool


class _Pipe:
    """A pipe, device or file without a size; a call that is ended does not wait for its bytes.

    Args:
        file: it, opened without a buffer and without waiting.
        name: its path, for messages.
    """

    def __init__(self, file: io.FileIO, name: str) -> None:
        self._file, self._name = file, name
        self._poll = select.poll()
        self._poll.register(file, select.POLLIN)
        self._begun = False

    def read(self, size: int) -> bytes:
        """Read ``size`` bytes; fewer at the end.

        Raises:
            AudioError: nobody opens it to write.
            CancelledError: the call was ended.
        """
        found = b""
        while len(found) < size:
            content = self._some(size - len(found))
            if not content:
                break
            found += content
        return found

    def _some(self, most: int) -> bytes:
        refused = time.monotonic() + UNWRITTEN_S
        while True:
            checkpoint()
            ready = self._poll.poll(LOOK_MS)
            late = not self._begun and time.monotonic() > refused
            if not ready and not late:
                continue
            content = self._file.read(most)
            if content is not None:
                if late and not ready and not content:
                    raise AudioError(
                        f"{self._name} is a pipe that nobody writes to, {UNWRITTEN_S:g} seconds "
                        "after it was opened: start what writes first, or give a file."
                    )
                self._begun = True
                return content
            self._begun = True  # there is a writer, who has not written


def _named(source: str | PathLike[str]) -> str:
    try:
        return os.fsdecode(source)
    except Exception as error:  # whatever a caller's own path-like object does
        raise AudioError(
            f"A {type(source).__name__} is not a path ({printable(str(error))}): give a text or a "
            "pathlib.Path."
        ) from error


def _opened_path(name: str, limit_mb: float) -> BinaryIO:
    if not name:
        raise AudioError("The path of the recording is empty: give a file.")
    path = Path(name)
    try:
        about = path.stat()
        if stat.S_ISDIR(about.st_mode):
            raise AudioError(f"{name} is a folder: give a recording.")
        if stat.S_ISREG(about.st_mode) and about.st_size:
            return path.open("rb")
        # A pipe has size 0 until it is read, as have the files of /proc.
        file = io.FileIO(path, opener=_without_waiting)
    except FileNotFoundError:
        hint = "download it and give the file" if "://" in name else "check the path"
        raise AudioError(f"No recording at {name}: {hint}.") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise AudioError(f"{name} cannot be opened ({reason}): check the path.") from None
    with file:
        if file.isatty():
            raise AudioError(f"{name} is a terminal: pipe a recording into it, or give a file.")
        return cast(BinaryIO, _spooled(_Pipe(file, name), name, limit_mb))


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _seekable(file: Any) -> bool:
    if getattr(file, "closed", False):
        raise AudioError("The file object is closed: open it again.")
    if isinstance(file, io.TextIOBase):
        raise AudioError("The file object gives text: open it in binary mode.")
    if hasattr(file, "seekable"):
        try:
            return bool(file.seekable())
        except Exception as error:
            raise _unreadable("The file object", error) from error
    return hasattr(file, "seek") and hasattr(file, "tell")


@contextmanager
def opened(source: str | PathLike[str] | BinaryIO, limit_mb: float) -> Iterator[tuple[Any, str]]:
    """Open a source as a seekable binary file at its start; also gives its name for messages.

    Regular files are read in place; everything else is read to its end first and kept in memory
    or, above 16 MiB, in a temporary file.

    Args:
        source: path or binary file object.
        limit_mb: largest size of a stream, in 1e6 bytes.

    Raises:
        AudioError: the source is missing or cannot be read.
    """
    if isinstance(source, (str, PathLike)):
        name = _named(source)
        with _opened_path(name, limit_mb) as file:
            yield _Guarded(file, name), name
        return
    title = getattr(source, "title", "The file object")
    if _seekable(source):
        guarded = _Guarded(source, title)
        guarded.seek(0)
        yield guarded, title
        return
    with _spooled(source, title, limit_mb) as spool:
        yield spool, title


@contextmanager
def rereadable(
    source: str | PathLike[str] | BinaryIO, limit_mb: float, title: str | None = None
) -> Iterator[Path | BinaryIO]:
    """A source that can be read more than once: a regular file as it is, a stream stored.

    Args:
        source: path or binary file object.
        limit_mb: largest size of a stream, in 1e6 bytes.
        title: name of a file object for messages.

    Raises:
        AudioError: a stream cannot be read.
    """
    if isinstance(source, (str, PathLike)):
        name = _named(source)
        file = _opened_path(name, limit_mb)
        if isinstance(file, Spool):
            with file:
                yield cast(BinaryIO, file)
            return
        file.close()
        yield Path(name)
        return
    if hasattr(source, "isatty") and source.isatty():
        raise AudioError(f"{title} is a terminal: pipe a recording into it, or give a file.")
    with _spooled(source, title or "The file object", limit_mb) as spool:
        yield cast(BinaryIO, spool)
