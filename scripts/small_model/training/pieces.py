"""Rare tokens spelled in frequent ones: what the audio side is taught to say.

A token's embedding has to be met often to be learned: with 35 hours of speech, tokens of fewer than
20 occurrences were recognized in 14 % of their frames, frequent ones in 77 to 84 %. So a rare token
is taught as frequent pieces that spell it ("career" as " care" and "er"), which the language model
reads nearly as well, and words that were never heard can be said at all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int32]

SPACE = "\u0120"  # how byte-level BPE writes a space
LONGEST = 16  # characters of a piece
FIRST_MERGES = 1500  # ids below: single bytes and the most frequent merges, fit to spell with


class Pieces:
    """The tokens to teach as they are, and how the others are spelled in them.

    Args:
        strings: Text of every token, as byte-level BPE writes it.
        whole: Ids to teach as they are, beside the first merges.
    """

    def __init__(self, strings: list[str], whole: Iterable[int]) -> None:
        self.whole, self._strings = sorted(whole), strings
        self._ids = {strings[i]: i for i in (*range(FIRST_MERGES), *self.whole)}
        self.spell = cache(self._spell)

    @classmethod
    def count(cls, tokenizer: Any, labels: Labels, least: int) -> Pieces:
        """The tokens with at least ``least`` audio tokens among labels (n,)."""
        whole = np.flatnonzero(np.bincount(labels) >= least)
        return cls(tokenizer.convert_ids_to_tokens(range(len(tokenizer))), whole.tolist())

    def save(self, path: Path) -> None:
        """Write the ids of whole tokens as JSON."""
        path.write_text(json.dumps(self.whole) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, tokenizer: Any, path: Path) -> Pieces:
        """Read what :meth:`save` wrote."""
        whole = json.loads(path.read_text(encoding="utf-8"))
        return cls(tokenizer.convert_ids_to_tokens(range(len(tokenizer))), whole)

    def _spell(self, token: int) -> tuple[int, ...]:
        """A token in as few pieces as will do."""
        text = self._strings[token]
        if text in self._ids:
            return (token,)
        best: list[tuple[int, ...] | None] = [(), *[None] * len(text)]
        for end in range(1, len(text) + 1):
            for start in range(max(0, end - LONGEST), end):
                before, piece = best[start], self._ids.get(text[start:end])
                if before is None or piece is None:
                    continue
                found = best[end]
                if found is None or len(before) + 1 < len(found):
                    best[end] = (*before, piece)
        return best[-1] or (token,)

    def relabel(self, labels: Labels) -> Labels:
        """Labels (n,) with each run of a rare token divided among its pieces by their letters."""
        out = labels.copy()
        if not len(labels):
            return out
        edges = np.flatnonzero(np.diff(labels)) + 1
        for start, end in zip([0, *edges], [*edges, len(labels)], strict=True):
            token = int(labels[start])
            if token < 0 or len(pieces := self.spell(token)) == 1:
                continue
            letters = [len(self._strings[p].removeprefix(SPACE)) or 1 for p in pieces]
            middle = (np.arange(end - start) + 0.5) / (end - start) * sum(letters)
            out[start:end] = np.array(pieces)[np.searchsorted(np.cumsum(letters), middle)]
        return out
