"""What an audio token shall say to the language model: its piece, and the word that it is part of.

A piece alone tells what is spoken, but a question is made of whole words, whose embeddings are not
near those of their own pieces: pruning by likeness would find little. So a token lies between the
embedding of its piece and the one of its word.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

import torch

from small_model.training.spelling import SPACE, Cutter, spoken

PAUSE = "\u010a"  # a line end stands for a pause
SHARE = 0.75  # of the piece, and of the word, where these are two
AT_BEGINNING = 0.01  # weight of a word's form at the beginning of a sentence
FORM = re.compile(r"(^|[.?!] +)?([A-Za-z][A-Za-z']*)")


def written_forms(texts: Iterable[str]) -> dict[str, str]:
    """Each lower-case word as it is mostly written, wherever no sentence begins with it.

    >>> written_forms(["Then on Friday. Tea is good.", "And then tea."])["friday"]
    'Friday'
    >>> written_forms(["Tea is good.", "And then tea."])["tea"]
    'tea'
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        for match in FORM.finditer(spoken(text).replace("\u2019", "'")):
            form = match[2].strip("'")
            counts[form.lower()][form] += 1 if match[1] is None else AT_BEGINNING  # type: ignore[assignment]
    return {word: max(sorted(forms), key=forms.__getitem__) for word, forms in counts.items()}


class Targets:
    """The pieces and words that are taught.

    Rows of pieces: the pause first. Rows of words: at 0 no word, for pauses, for words that are one
    piece, and for words that are not known.

    Args:
        texts: All that is said in training.
        cutter: Cuts words.
        tokenizer: Of the language model.
        embeddings: Of the language model, (vocabulary, hidden).
    """

    def __init__(
        self, texts: Sequence[str], cutter: Cutter, tokenizer: Any, embeddings: torch.Tensor
    ) -> None:
        self.cutter = cutter
        forms = written_forms(texts)
        cuts = {word: cutter.cut(word) for word in sorted(forms)}
        # Pieces as byte-level BPE writes them, and the rows of pieces and of lower-case words.
        self.texts = [PAUSE, *sorted({piece for cut in cuts.values() for piece in cut})]
        self.rows = {text: row for row, text in enumerate(self.texts)}
        known = [word for word, cut in cuts.items() if len(cut) > 1]
        self.words = {word: row for row, word in enumerate(known, 1)}
        # Embeddings around their mean: of pieces, and for words the mean of their tokens.
        table = embeddings.float()
        self.centre = table.mean(0)
        tokens: list[int] = tokenizer.convert_tokens_to_ids(self.texts)
        self.pieces = table[tokens] - self.centre
        self.whole = torch.zeros(len(known) + 1, table.shape[1])
        for word, row in self.words.items():
            ids = tokenizer(f" {forms[word]}", add_special_tokens=False)["input_ids"]
            self.whole[row] = table[ids].mean(0) - self.centre

    def between(
        self, pieces: torch.Tensor, words: torch.Tensor, strength: torch.Tensor | float = 1.0
    ) -> torch.Tensor:
        """What tokens shall say, (n, hidden), of rows of pieces and of words, (n,).

        ``strength``, (n, 1), weakens words.
        """
        share = torch.where(words > 0, SHARE, 1.0)[:, None]
        said = share * self.pieces[pieces] + SHARE * strength * self.whole[words]
        return self.centre + said

    def read(self, labels: Sequence[int]) -> str:
        """Words of a sequence of rows of pieces, repetitions dropped."""
        texts = (self.texts[row] for row, _ in groupby(labels))
        return "".join(t if t != PAUSE else SPACE for t in texts).replace(SPACE, " ").strip()
