"""Ctrl-C and SIGTERM end a command within a second, whatever it is doing, without a message.

Python runs a signal's handler in the main thread, and only once that returns from library code. So
a second thread is told of the signal as well: it ends the graphs that are running and, if the
command is still there shortly after, the process.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from speechprune_ort.cancel import UNFINISHED, WHOLE_PROCESS, Interrupted
from speechprune_ort.errors import CancelledError

__all__ = ["install", "leave_if_received", "leave_to_server"]

ENDING = (signal.SIGINT, signal.SIGTERM)
GRACE_SECONDS = 0.4  # for a command to clean up after itself
SHOW_CURSOR = b"\x1b[?25h"  # progress bars hide it

_exit = os._exit  # the real one, even if a plugin replaces os._exit
_first: int | None = None


def install() -> None:
    """Let SIGINT and SIGTERM end the process: exit codes 130 and 143."""
    heard, told = os.pipe()
    os.set_blocking(told, False)
    for number in ENDING:
        signal.signal(number, _in_main_thread)
    sys.unraisablehook = _unraisable
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(heard,), name="signals", daemon=True).start()


def leave_to_server() -> None:
    """From here on no thread ends the process: a server takes its own time to finish."""
    signal.set_wakeup_fd(-1)


def leave_if_received() -> None:
    """End the process with the exit code of the signal that came, if one did.

    Everything that needed cleaning up has been cleaned up by now. What libraries do while Python
    shuts down may take seconds, and the thread that would cut it short no longer runs.
    """
    if _first is not None:
        _leave(_first)


def _in_main_thread(number: int, frame: FrameType | None) -> None:
    global _first
    if _first is not None:
        _leave(number)
    _first = number
    while frame is not None:
        if _loses_exceptions(frame.f_code.co_filename):
            _leave(number)
        frame = frame.f_back
    raise Interrupted(128 + number)


def _loses_exceptions(file: str) -> bool:
    """Whether C code may print what is raised in a file instead of passing it on.

    Libraries that import others from C do so, and so do libsndfile's callbacks.
    """
    return file.startswith("<frozen importlib") or file.endswith("soundfile.py")


def _unraisable(found: sys.UnraisableHookArgs) -> None:
    if isinstance(found.exc_value, Interrupted):  # raised in a destructor, and lost otherwise
        _leave(found.exc_value.code - 128)
    sys.__unraisablehook__(found)


def _watch(heard: int) -> None:
    for number in _numbers(heard):
        if number in ENDING:
            WHOLE_PROCESS.end(CancelledError("The command was interrupted."))
            time.sleep(GRACE_SECONDS)
            _leave(number)


def _numbers(heard: int) -> Iterator[int]:
    while True:
        yield from os.read(heard, 64)


def _leave(number: int) -> NoReturn:
    for folder in tuple(UNFINISHED):
        shutil.rmtree(folder, ignore_errors=True)
    try:
        if sys.stderr is not None and os.isatty(2):
            os.write(2, SHOW_CURSOR)
    except OSError:
        pass  # the terminal has gone
    _exit(128 + number)
