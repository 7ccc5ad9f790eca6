"""What a decoder prints about a recording: heard by this process, and not by whoever runs it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["overheard"]

STDERR = 2
OURS = re.compile(
    rb"\[[^\]\n]*libmpg123[^\]\n]*\] *(?:error|warning):|Note: |Warning: |big_values too large"
)
"""How lines of libmpg123 begin, which libsndfile does not tell to be quiet."""
DAMAGE = re.compile(rb"error: *(?P<error>.*)|Note: (?P<note>Illegal .*|Skipped .*)")

_one_at_a_time = threading.RLock()


@contextmanager
def overheard() -> Iterator[list[str]]:
    """While a decoder works: what it prints of damage is in the list afterwards.

    Standard error leads into memory meanwhile, and what others wrote there is passed on.
    """
    said: list[str] = []
    with _one_at_a_time:
        try:
            before = os.dup(STDERR)
        except OSError:  # it is closed: nothing is printed there
            yield said
            return
        with os.fdopen(os.memfd_create("overheard"), "rb") as file:
            try:
                os.dup2(file.fileno(), STDERR)
                yield said
            finally:
                os.dup2(before, STDERR)
                os.close(before)
                file.seek(0)
                _sort(file.read(), said)


def _sort(printed: bytes, said: list[str]) -> None:
    for line in printed.splitlines(keepends=True):
        if not OURS.match(line):
            with suppress(OSError):  # a full disk: it would have been lost anyway
                os.write(STDERR, line)
        elif found := DAMAGE.search(line):
            reason = found["error"] or found["note"]
            said.append(reason.decode("utf-8", "replace").strip().rstrip("."))
