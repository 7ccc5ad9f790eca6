"""Made-up facts with questions that a few words of them answer; `texts` holds their words."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from small_model.training.spelling import ONES, number_words, ordinal

TEXTS = Path(__file__).with_name("texts")
SLOT = re.compile(r"[A-Z]{3,}2?")


@dataclass(frozen=True)
class Fact:
    """A made-up statement, and a question that a few words of it answer."""

    sentence: str
    question: str
    answer: str


def templates(name: str) -> tuple[tuple[str, ...], ...]:
    """Lines of a text file of `texts`: statement, question and answer, bars between them.

    Slots in capitals are filled anew for each fact, equal slots of a fact alike; a 2 behind a slot
    asks for another filling.
    """
    lines = (TEXTS / name).read_text(encoding="utf-8").splitlines()
    return tuple(tuple(line.split(" | ")) for line in lines)


WORDS: dict[str, list[str]] = json.loads((TEXTS / "words.json").read_text(encoding="utf-8"))
TEMPLATES = templates("facts.txt")
# Only ever used to evaluate: statements and questions of forms that no training has.
UNSEEN_TEMPLATES = templates("facts_unseen.txt")


def filled(text: str, words: Mapping[str, str]) -> str:
    """A text of a template with words in its slots.

    >>> filled("On DATE", {"DATE": "the fourth of May"})
    'On the fourth of May'
    """
    text = SLOT.sub(lambda match: words.get(match[0], match[0]), text)
    text = re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", text)
    return text[0].upper() + text[1:]


class FactMaker:
    """Draws facts by forms; ``rare`` are words for the slot ``WORD``."""

    def __init__(
        self,
        rare: Sequence[str],
        rng: random.Random,
        forms: Sequence[tuple[str, ...]] = TEMPLATES,
    ) -> None:
        self._words, self._rng, self._forms = {**WORDS, "WORD": rare}, rng, forms

    def _fill(self, slot: str) -> str:
        rng = self._rng
        if slot in self._words:
            return rng.choice(self._words[slot])
        if slot == "FULLNAME":
            return f"{self._fill('NAME')} {self._fill('LASTNAME')}"
        if slot == "DATE":
            day, month = ordinal(rng.randint(1, 31)), self._fill("MONTH")
            return f"the {day} of {month}" if rng.random() < 0.7 else f"{month} {day}"
        if slot == "CLOCK":
            hours = (f"{ONES[rng.randint(1, 12)]} o'clock", f"half past {rng.choice(ONES[1:12])}")
            return rng.choice([hours[0], "noon", hours[1]])
        if slot == "AMOUNT":
            return number_words(rng.randint(2, 99) * rng.choice([1, 10, 100, 1000]))
        return number_words(rng.choice([rng.randint(2, 20), rng.randint(20, 99)]))

    def fact(self) -> Fact:
        """One fact; equal slots of a template get equal words, numbered ones another."""
        form = self._rng.choice(self._forms)
        words: dict[str, str] = {}
        for slot in dict.fromkeys(SLOT.findall(form[0])):
            while (drawn := self._fill(slot.removesuffix("2"))) in words.values():
                pass
            words[slot] = drawn
        if "WORD WORD" in form[0]:
            pair = f"{self._fill('WORD')} {self._fill('WORD')}"
            form = tuple(text.replace("WORD WORD", pair) for text in form)
        sentence, question, answer = (filled(text, words) for text in form)
        return Fact(sentence, question, answer)
