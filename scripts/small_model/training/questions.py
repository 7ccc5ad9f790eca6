"""What is asked about training speech: facts, SPIRAL's questions, what is not said, transcripts."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from small_model.training.facts import SLOT, TEMPLATES, FactMaker, filled
from small_model.training.spelling import spoken
from small_model.training.text import Dialogue
from small_model.training.voices import plain

TRANSCRIPT_REQUESTS = (
    "Repeat the speech.",
    "Write down what is said.",
    "What does the recording say?",
    "Transcribe the recording.",
)
NOT_SAID = "That is not said."
WORDS_OF_ONE, HEAVIEST = 15, 4.0  # words of a transcript that weigh as much as an answer; at most
NOT_SAID_SHARE, TRANSCRIPT_SHARE = 0.12, 0.85
MEETING = re.compile(r"[A-Z]{3,}2? [A-Z]{3,}")
SENTENCE_END = re.compile(r"(?<=[.?!]) +")


class Turn(NamedTuple):
    """A question, its answer, and its weight in the loss."""

    question: str
    answer: str
    weight: float


def pattern_of(form: str) -> re.Pattern[str]:
    """What a template's statement looks like when its slots are filled.

    >>> pattern_of("The door of the PLACE is COLOUR.").match("The door of the bank is red.")[1]
    'bank'
    """
    seen: set[str] = set()
    text, at = "", 0
    for slot in SLOT.finditer(form):
        text += re.sub(r"\b([Aa])\\ $", r"[Aa]n?\\ ", re.escape(form[at : slot.start()]))
        text += f"(?P={slot[0]})" if slot[0] in seen else f"(?P<{slot[0]}>.+?)"
        seen.add(slot[0])
        at = slot.end()
    return re.compile(text + re.escape(form[at:]), re.IGNORECASE)


class Asker:
    """Finds questions about a text: those of made-up facts, and SPIRAL's by their key sentences."""

    def __init__(self, dialogues: Sequence[Dialogue], facts: FactMaker, rng: random.Random) -> None:
        self._facts, self._rng = facts, rng
        # Where two slots meet, nobody can say where one ends.
        forms = [form for form in TEMPLATES if not MEETING.search(form[0])]
        self._forms = [(pattern_of(statement), q, a) for statement, q, a in forms]
        self._known = {
            spoken(plain(d.sentences[d.key[0]])): (d.question, d.choices[d.answer])
            for d in dialogues
            if len(d.key) == 1
        }

    def asked(self, text: str) -> list[tuple[str, str]]:
        """Questions with one answer in a text as it is spoken, and these answers."""
        found: dict[str, str] = {}
        twice: set[str] = set()
        for sentence in SENTENCE_END.split(text):
            pairs = [self._known[sentence]] if sentence in self._known else []
            for pattern, question, answer in self._forms:
                if match := pattern.fullmatch(sentence):
                    words = match.groupdict()
                    pairs.append((filled(question, words), filled(answer, words)))
            twice |= {question for question, _ in pairs if question in found}
            found.update(pairs)
        return [(question, answer) for question, answer in found.items() if question not in twice]

    def turns(self, text: str, transcript: bool = True) -> list[Turn]:
        """Questions in random order, at times one that has no answer; at the end the transcript."""
        rng, pairs = self._rng, self.asked(text)
        if rng.random() < NOT_SAID_SHARE or not (pairs or transcript):
            other = self._facts.fact().question
            if other not in dict(pairs):
                pairs.append((other, NOT_SAID))
        rng.shuffle(pairs)
        turns = [Turn(question, answer, 1.0) for question, answer in pairs]
        if transcript and (not turns or rng.random() < TRANSCRIPT_SHARE):
            weight = min(HEAVIEST, max(1.0, len(text.split()) / WORDS_OF_ONE))
            turns.append(Turn(rng.choice(TRANSCRIPT_REQUESTS), text, weight))
        return turns
