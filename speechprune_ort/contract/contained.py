"""Running other people's code: whatever it does instead of its work becomes one sentence."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from speechprune_ort.cancel import Interrupted
from speechprune_ort.errors import CancelledError, OptionError

__all__ = ["contained", "refuse_silent_exits"]

LONGEST = 300  # characters of a reason that fit in a sentence

_exit = os._exit
_process = os.getpid()


@contextmanager
def contained(what: str, passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """A block of foreign code.

    Args:
        what: what the code is, as the subject of the sentence.
        passing: errors that it is expected to raise.

    Raises:
        OptionError: it raises anything, or asks the process to end.
    """
    process, streams = os.getpid(), (sys.stdout, sys.stderr)
    try:
        yield
    except (CancelledError, Interrupted, KeyboardInterrupt):
        raise
    except SystemExit as error:
        raise OptionError(
            f"{what} asked the process to end (exit code {error.code!r}): correct it, or leave it "
            "out."
        ) from error
    except BaseException as error:
        if isinstance(error, passing):
            raise
        raise OptionError(
            f"{what} fails ({type(error).__name__}: {_reason(error)}): correct it, or leave it out."
        ) from error
    finally:
        if os.getpid() != process:
            _exit(1)  # it forked: one answer is enough
        sys.stdout, sys.stderr = streams


def refuse_silent_exits() -> None:
    """Let ``os._exit`` raise as ``sys.exit`` does, where plugins run in the command's process.

    Otherwise a plugin could end a command that has not answered with exit code 0.
    """

    def leave(status: int) -> NoReturn:
        if os.getpid() != _process:  # a child that was forked ends as it should
            _exit(status)
        raise SystemExit(status)

    os._exit = leave


def _reason(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except Exception:  # its own __str__ fails as well
        return "no reason given"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
