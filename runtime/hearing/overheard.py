"""What a decoder prints about a recording: heard by this process, and not by whoever runs it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from speechprune_ort.runtime.ort.printed import pass_on, printed

__all__ = ["overheard"]

OURS = re.compile(
    rb"\[[^\]\n]*libmpg123[^\]\n]*\] *(?:error|warning):|Note: |Warning: |big_values too large"
)
"""How lines of libmpg123 begin, which libsndfile does not tell to be quiet."""
DAMAGE = re.compile(rb"error: *(?P<error>.*)|Note: (?P<note>Illegal .*|Skipped .*)")


@contextmanager
def overheard() -> Iterator[list[str]]:
    """While a decoder works: what it prints of damage is in the list afterwards.

    What others print on standard error meanwhile is passed on.
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
