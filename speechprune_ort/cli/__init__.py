"""``speechprune-ort``: what surrounds every subcommand. Nothing heavy is imported before that."""

from __future__ import annotations

import codecs
import mmap
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

from speechprune_ort.errors import OutOfMemoryError, SpeechPruneError

__all__ = ["main"]

LIBRARIES_MIB = 480  # of address space that a command's libraries need
CORE_MIB = 16  # and for each core, for their threads
TOO_LITTLE = (
    "There is not enough memory for the command and its libraries: free memory, or raise the "
    "limit (ulimit -v)."
)
NOWHERE = "The working folder was deleted: change to another (cd), or give absolute paths."
OUT_OF_MEMORY = (
    "failed to map segment",
    "annot allocate memory",
    "std::bad_alloc",
    "can't start new thread",
)


def main() -> None:
    """Run the command line; user errors print one sentence to stderr and exit with 2."""
    from speechprune_ort.cli import signals, streams

    _speak_utf8()
    if code := _finished(_check_room):
        sys.exit(code)
    streams.guard()  # first: a pipe that is opened may otherwise get the number of a closed stream
    signals.install()
    code = _finished(_run)
    # What is still in the buffer may fail as well; the first failure counts.
    code = _finished(sys.stdout.flush) or code
    signals.leave_if_received()
    sys.exit(code)


def _speak_utf8() -> None:
    """Start again in UTF-8 mode where the locale is plain ASCII, which has no accents.

    Python decides at its start how it decodes arguments and file names. A user without a locale
    (``LC_ALL=C``) has said nothing about the terminal's encoding; that of any other locale is kept.
    """
    if sys.executable and codecs.lookup(sys.getfilesystemencoding()).name == "ascii":
        os.environ["PYTHONUTF8"] = "1"  # for processes that this one starts
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])  # noqa: S606


def _run() -> None:
    from speechprune_ort.cli.app import app

    app()


def _finished(work: Callable[[], object]) -> int:
    """Do a piece of work, and return its exit code."""
    try:
        work()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
            return 1
        return int(end.code or 0)
    except SpeechPruneError as error:
        from speechprune_ort.text import printable

        sys.stderr.write(f"error: {printable(str(error))}\n")
        return 2
    except (MemoryError, ImportError, OSError, RuntimeError) as error:
        if isinstance(error, FileNotFoundError) and _is_nowhere():
            sys.stderr.write(f"error: {NOWHERE}\n")
            return 2
        if not _of_memory(error):
            raise
        sys.stderr.write(f"error: {TOO_LITTLE}\n")
        return 2
    return 0


def _is_nowhere() -> bool:
    """Whether the working folder was deleted, so that relative paths lead nowhere."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def _check_room() -> None:
    """Refuse an address space that the libraries do not fit into.

    Some of them, such as OpenBLAS, retry forever while they are being loaded, and no signal reaches
    a Python handler meanwhile.

    Raises:
        OutOfMemoryError: the address space is too small.
    """
    if resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY:
        return
    needed = LIBRARIES_MIB + CORE_MIB * len(os.sched_getaffinity(0))
    try:
        mmap.mmap(-1, needed << 20).close()
    except OSError:
        raise OutOfMemoryError(TOO_LITTLE) from None


def _of_memory(error: BaseException) -> bool:
    """Whether an error, or one of its causes, says that memory ran out.

    Libraries that are imported with too little memory each say so in their own words.
    """
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, MemoryError) or any(words in str(found) for words in OUT_OF_MEMORY):
            return True
        found = found.__cause__ or found.__context__
    return False
