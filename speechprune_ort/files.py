"""Files and folders that are whole or absent: written beside their place, then renamed.

Every result is written through ``whole_file``, ``whole_folder`` or one of the ``write_`` functions.
Bundles have ``speechprune_ort.export.atomic_folder``, which builds on this module and also deals
with what a killed export left.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import secrets
import shutil
import signal
import stat
import threading
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from speechprune_ort.errors import DataError, OptionError
from speechprune_ort.text import check_path

__all__ = [
    "cannot_write",
    "content_of",
    "hidden_name",
    "locked",
    "make_folder",
    "picture_of",
    "put_folder",
    "save_figure",
    "sha256_of",
    "sync",
    "try_file",
    "uninterrupted",
    "whole_file",
    "whole_folder",
    "write_json",
    "write_jsonl",
    "write_whole",
]

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LONGEST = 200
"""Bytes of a name that leave room for what is added to it; file systems allow 255."""

HASHED = 1 << 32
"""Bytes up to which a recording is hashed whole: a sparse file may have any size."""
ENDS = 1 << 26
"""Bytes of each end of a larger one that are hashed."""

FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)

AT_WORKING_DIRECTORY = -100  # AT_FDCWD
NO_REPLACE, EXCHANGE = 1, 2  # RENAME_NOREPLACE, RENAME_EXCHANGE
UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that becomes ``path`` if the block succeeds.

    However the block ends, killed or not, ``path`` is what it was before or what the block wrote.
    What a killed writer left is removed by the next one to the same path; a living writer's file
    is locked and stays. Devices and pipes are written in place, and links are followed.

    Args:
        path: file to write, in a folder that exists.

    Yields:
        A file to open for writing, with the same ending as ``path``.

    Raises:
        OSError: it cannot be written; ``cannot_write`` has a sentence for it. Nothing is left.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        yield path
        return
    _remove_dead(path)
    partial, handle = _begin(path)
    try:
        yield partial
        os.fsync(handle)
        if path.exists():
            os.fchmod(handle, stat.S_IMODE(path.stat().st_mode))
        with uninterrupted():
            partial.replace(path)
            sync(path.parent)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def try_file(path: Path) -> None:
    """Find out whether ``whole_file`` could write a file: one is made beside it and removed.

    Args:
        path: the file, without links.

    Raises:
        OSError: it cannot.
    """
    partial, handle = _begin(path)
    partial.unlink()
    os.close(handle)


@contextlib.contextmanager
def whole_folder(place: Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary folder beside ``place`` that becomes ``place`` if the block succeeds.

    Args:
        place: folder to make; those above it are made where missing.
        replace: whether a folder that is there is replaced, whatever it holds.

    Yields:
        An empty folder to fill, in the same folder as ``place``.

    Raises:
        OSError: it cannot be written, or something stands in its place. What stood there still
            does, and nothing is left beside it.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    word = secrets.token_hex(4)
    built, kept = (
        place.with_name(hidden_name(place.name, f"{what}-{word}")) for what in ("partial", "kept")
    )
    built.mkdir()
    try:
        yield built
        if not replace and os.path.lexists(place):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place))
        with uninterrupted():
            put_folder(built, place, kept)
    finally:
        with uninterrupted():
            if kept.exists() and not os.path.lexists(place):
                kept.rename(place)
            for path in (built, kept):
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def locked(place: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock of a place: a file beside it, ``.NAME.lock``, that is removed with the lock.

    A process that ends, however it ends, holds no lock any more.

    Args:
        place: file or folder, in a folder that exists.
        wait: whether to wait for another process that holds it.

    Raises:
        BlockingIOError: another process holds it, and ``wait`` is False.
        OSError: the file cannot be made.
    """
    path = place.with_name(hidden_name(place.name, "lock"))
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            # The one before may have removed the file between our opening and our locking it.
            if os.path.lexists(path) and os.path.samestat(os.fstat(handle), path.lstat()):
                break
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
    try:
        yield
    finally:
        try:
            # A lock of ours is empty: what holds something is a user's file of that name.
            if not os.fstat(handle).st_size:
                with uninterrupted(), contextlib.suppress(OSError):
                    path.unlink()
        finally:
            os.close(handle)


def put_folder(built: Path, place: Path, kept: Path) -> None:
    """Give a new folder its name, in one step where the file system can exchange two names.

    Args:
        built: the new folder. What stood at ``place`` may have this name afterwards.
        place: its name, whether something stands there or not.
        kept: where an earlier folder is set aside if two names cannot be exchanged. It is left
            there if the last step fails, for the caller to put back.

    Raises:
        OSError: the file system refuses.
    """
    if not os.path.lexists(place):
        if not _rename(built, place, NO_REPLACE):
            built.rename(place)
    elif not _rename(built, place, EXCHANGE):
        place.rename(kept)
        sync(kept.parent)
        built.rename(place)
    sync(place.parent)


def write_whole(path: Path, content: str) -> None:
    """Write a text file whole or not at all.

    Args:
        path: the file; an earlier one is replaced. If it is a link, the file that it names is.
        content: what it holds; a name that is not UTF-8 in it is written in escapes.

    Raises:
        DataError: it cannot be written; an earlier file is as it was.
    """
    try:
        with whole_file(path) as partial:
            partial.write_bytes(content.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror or error}): make room there, or give "
            "another place."
        ) from None


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file that people can read: UTF-8, indented by 2, whole or not at all.

    Raises:
        DataError: as ``write_whole``.
    """
    write_whole(path, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def write_jsonl(path: Path, lines: Iterable[Any]) -> None:
    """Write a JSON Lines file, one value per line, whole or not at all.

    Raises:
        DataError: as ``write_whole``.
    """
    write_whole(path, "".join(json.dumps(line) + "\n" for line in lines))


def cannot_write(path: Path, error: OSError) -> str:
    """One sentence on why a file or folder could not be written, with the cure.

    Args:
        path: what was to be written.
        error: the error that was raised.
    """
    folder = path.parent
    if error.errno in FULL and path.exists() and not (path.is_file() or path.is_dir()):
        why, cure = "it is a device or pipe that takes no more", "give the name of a file"
    elif error.errno in FULL:
        there = next((p for p in (folder, *folder.parents) if p.exists()), Path("/"))
        free = shutil.disk_usage(there).free
        why = f"the disk under {folder} is full, {free / 2**30:.1f} GiB are free"
        cure = "free some space or write to another disk"
    elif error.errno in REFUSED:
        why = f"{error.strerror} in {folder}"
        cure = "give a folder that you may write"
    elif error.errno == errno.EISDIR:
        why, cure = "it is a folder", "give the name of a file"
    elif error.errno == errno.ENOENT and not folder.exists():
        why, cure = f"there is no folder {folder}", "make it, or give another"
    else:
        why, cure = error.strerror or str(error), "give another place"
    return f"{path} cannot be written ({why}): {cure}."


def save_figure(figure: Any, path: Path, kind: str) -> None:
    """Write a picture in a given format, whatever its file is called.

    Args:
        figure: a ``Figure`` of matplotlib.
        path: file to write; matplotlib itself would add an ending to one without.
        kind: the format as an ending, such as ``.png``.

    Raises:
        OSError: it cannot be written.
    """
    path.write_bytes(picture_of(figure, kind))


def picture_of(figure: Any, kind: str) -> bytes:
    """A figure as the content of a picture's file; see ``save_figure``."""
    import matplotlib

    form, stream = kind.lower().removeprefix("."), io.BytesIO()
    # No date and no random names: the same figure gives the same file.
    dated = {"svg": "Date", "pdf": "CreationDate"}.get(form)
    salted = matplotlib.rc_context({"svg.hashsalt": "speechprune-ort"})
    with salted, warnings.catch_warnings():
        # Letters that the font lacks are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(stream, format=form, metadata={dated: None} if dated else None)
    return stream.getvalue()


def make_folder(path: Path) -> None:
    """Make a folder for results, with those above it, unless it exists.

    Raises:
        OptionError: it cannot be made.
    """
    check_path(path, "The path of a folder", OptionError)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise OptionError(f"{path} is a file: give the name of a folder.") from None
    except NotADirectoryError:
        raise OptionError(f"{path} lies under a file: give another folder.") from None
    except OSError as error:
        raise OptionError(cannot_write(path, error)) from None


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_of(path: str) -> tuple[int, str] | None:
    """Size of a recording, and a hash of it or, of a huge one, of its ends.

    Not its time: a copy changes that, and a quick replacement need not.

    Args:
        path: where it lies.

    Returns:
        Bytes and sha256 in hex; None for a stream and for what cannot be read.
    """
    try:
        # Before it is opened: a pipe that is opened and closed loses its writer.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            return None
        with open(path, "rb", opener=_without_waiting) as stream:
            about = os.fstat(stream.fileno())
            if about.st_size <= HASHED:
                return about.st_size, hashlib.file_digest(stream, "sha256").hexdigest()
            first = stream.read(ENDS)
            stream.seek(-ENDS, os.SEEK_END)
            return about.st_size, hashlib.sha256(first + stream.read(ENDS)).hexdigest()
    except (OSError, ValueError):
        return None


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for its writer


def hidden_name(name: str, word: str) -> str:
    """A name for what lies beside a file or folder while it is written.

    Args:
        name: name of the file or folder.
        word: what the hidden one is.

    >>> hidden_name("bundle", "lock")
    '.bundle.lock'
    """
    if len(os.fsencode(name)) > LONGEST:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return f".{name}.{word}"


def sync(path: Path) -> None:
    """Wait until a file or folder is on disk; a file system that cannot tell is trusted."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back SIGINT, SIGTERM and SIGHUP until the block is done.

    For the few renames that belong together. In any thread but the main one there is nothing to
    do: Python's handlers run in the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    before: dict[int, Any] = {
        int(number): handler
        for number in SIGNALS
        if (handler := signal.getsignal(number)) not in (None, signal.SIG_IGN)
    }
    try:
        for number in before:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came[:1]:
            signal.raise_signal(number)


def _rename(source: Path, target: Path, flag: int) -> bool:
    """Rename in one step, by ``flag``; False where the system or the file system cannot do that.

    Raises:
        OSError: as ``os.rename`` raises it.
    """
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if call is None:
        return False
    names = (os.fsencode(source), os.fsencode(target))
    if call(AT_WORKING_DIRECTORY, names[0], AT_WORKING_DIRECTORY, names[1], flag) == 0:
        return True
    code = ctypes.get_errno()
    if code in UNKNOWN:
        return False
    raise OSError(code, os.strerror(code), str(source), None, str(target))


def _begin(path: Path) -> tuple[Path, int]:
    """A new locked file beside ``path``, and the handle that holds its lock."""
    while True:
        word = f"partial-{secrets.token_hex(4)}{path.suffix[: LONGEST // 10]}"
        partial = path.with_name(hidden_name(path.name, word))
        try:
            handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        except FileExistsError:
            continue
        with contextlib.suppress(OSError):  # no locks on this file system: nothing is swept there
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(handle).st_nlink:
            return partial, handle
        os.close(handle)  # another writer took it for a dead one's before it was locked


def _remove_dead(path: Path) -> None:
    """Remove what killed writers of ``path`` left: nobody holds its lock."""
    known = re.compile(re.escape(hidden_name(path.name, "partial-")) + r"[0-9a-f]{8}(\..*)?")
    with contextlib.suppress(OSError):
        for found in path.parent.iterdir():
            if not known.fullmatch(found.name) or found.is_symlink() or not found.is_file():
                continue
            with contextlib.suppress(OSError):
                handle = os.open(found, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    found.unlink()
                finally:
                    os.close(handle)
