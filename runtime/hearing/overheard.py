"""Catches what a decoder prints about a recording, so that it becomes a note."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from speechprune_ort.runtime.ort.printed import pass_on, printed

__all__ = ["overheard"]

OURS = re.compile(
    rb"\[[^\]\n]*libmpg123[^\]\n]*\] *(?:error|warning):|Note: |Warning: |big_values too large"
)
"""How the lines of libmpg123 begin, which libsndfile does not keep quiet."""
DAMAGE = re.compile(rb"error: *(?P<error>.*)|Note: (?P<note>Illegal .*|Skipped .*)")


@contextmanager
def overheard() -> Iterator[list[str]]:
    """Collect in a list what a decoder prints about damage while the block runs.

    What others write to standard error meanwhile is passed on.
    """
    said: list[str] = []
    lines: list[bytes] = []
    try:
        with printed() as lines:
            yield said
    finally:
        for line in lines:
            if not OURS.match(line):
                pass_on(line)
            elif found := DAMAGE.search(line):
                reason = found["error"] or found["note"]
                said.append(reason.decode("utf-8", "replace").strip().rstrip("."))
