"""What a library prints on standard error from outside Python, kept for its caller to judge."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["pass_on", "printed"]

STDERR = 2

_one_at_a_time = threading.RLock()


@contextmanager
def printed() -> Iterator[list[bytes]]:
    """While a library works, standard error leads into memory; the lines are listed afterwards.

    They are those of the whole process: ``pass_on`` those that come from elsewhere.
    """
    lines: list[bytes] = []
    with _one_at_a_time:
        try:
            before = os.dup(STDERR)
        except OSError:  # it is closed: nothing is printed there
            yield lines
            return
        with os.fdopen(os.memfd_create("printed"), "rb") as file:
            try:
                os.dup2(file.fileno(), STDERR)
                yield lines
            finally:
                os.dup2(before, STDERR)
                os.close(before)
                file.seek(0)
                lines += file.read().splitlines(keepends=True)


def pass_on(line: bytes) -> None:
    """Print a line where it would have gone."""
    with suppress(OSError):  # a full disk: it would have been lost anyway
        os.write(STDERR, line)
