"""Standard output and error that fail in one sentence, wherever they are written to."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

from speechprune_ort.errors import OutputError

__all__ = ["BROKEN_PIPE", "guard"]

BROKEN_PIPE = 141  # what a shell reports of a process that SIGPIPE ended


class _Output(io.FileIO):
    """File descriptor 1 or 2; after a failure, further output is discarded."""

    def write(self, content: Any) -> int:
        """Write, or report once why that is not possible."""
        try:
            return super().write(content)
        except OSError as error:
            number = self.fileno()
            _nowhere(number)
            if isinstance(error, BrokenPipeError):
                # The reader has gone, as `head` does: nothing is left to say.
                raise SystemExit(BROKEN_PIPE) from None
            if number == 2:
                return len(content)
            raise OutputError(
                f"Standard output cannot be written ({error.strerror}): "
                "write to a file on a disk with room, or to a pipe that is open."
            ) from None


class _Text(io.TextIOWrapper):
    def close(self) -> None:
        """Stay open: other code that closes the stream must not silence an answer."""
        self.flush()


def guard() -> None:
    """Take the place of ``sys.stdout`` and ``sys.stderr``, be they closed, full or broken.

    A standard descriptor that is closed is replaced with one that refuses to be used: otherwise the
    next file that is opened would get its number, and whatever is printed.
    """
    for number, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, mode)  # gets the lowest number that is free, this one
    sys.stdout, sys.stderr = _text(1, sys.stdout), _text(2, sys.stderr)


def _text(number: int, before: Any) -> _Text:
    raw = _Output(number, "w", closefd=False)
    terminal = raw.isatty()
    return _Text(
        io.BufferedWriter(raw),
        encoding=getattr(before, "encoding", None) or "utf-8",
        # An answer in letters that the terminal lacks is still an answer.
        errors="backslashreplace",
        line_buffering=terminal or number == 2,
    )


def _nowhere(number: int) -> None:
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, number)
    os.close(nothing)
