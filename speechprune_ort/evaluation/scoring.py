"""Three ways to let a model choose, each defined here once.

``likelihood``: the choice whose text the model finds most likely, given the audio and the question,
over and above what it finds given the question alone, per token::

    (log p(choice | audio, question) - log p(choice | question)) / tokens of the choice

where the question alone is the same prompt with nothing in the audio's place. The order of the
choices does not matter. ``letter``: the choices stand in the prompt, and the most likely of their
letters as the first token of the answer counts. ``generate``: the same prompt, the answer is
generated, and the letter that it begins with counts, or else the only choice that it mentions; an
answer with neither is wrong.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.choices import EVERY_TOKEN
from speechprune_ort.evaluation.samples import Sample
from speechprune_ort.options import GenerationOptions, PruningOptions
from speechprune_ort.recording import Recording
from speechprune_ort.results import Pruning
from speechprune_ort.timings import Timings

__all__ = ["Choice", "Chooser", "Scoring", "choice_in", "letter_prompt"]

Scoring = Literal["likelihood", "letter", "generate"]

ANSWER_TOKENS = 32


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen, and from what.

    Attributes:
        index: index of the choice; None if the answer names none.
        pruning: what was kept.
        timings: seconds per stage.
    """

    index: int | None
    pruning: Pruning
    timings: Timings


def letter_prompt(sample: Sample) -> str:
    """The question with its choices, for the scorings that read letters.

    >>> from pathlib import Path
    >>> print(letter_prompt(Sample("1", Path("a.wav"), "Who?", ("Ann", "Bob"), 0)))
    Who?
    A. Ann
    B. Bob
    Answer with the letter of the right choice.
    """
    lines = [
        f"{letter}. {text}" for letter, text in zip(sample.letters, sample.choices, strict=True)
    ]
    return "\n".join([sample.question, *lines, "Answer with the letter of the right choice."])


def choice_in(answer: str, sample: Sample) -> int | None:
    """Which choice an answer names: by its letter, else by the text of exactly one.

    >>> from pathlib import Path
    >>> sample = Sample("1", Path("a.wav"), "Who?", ("Ann", "Bob"), 0)
    >>> choice_in("B. Bob", sample), choice_in("It was Ann.", sample), choice_in("A man", sample)
    (1, 0, None)
    """
    text = answer.strip()
    found = re.match(rf"\(?([{sample.letters}])(?:[.):,\s]*$|[.):]\s)", text)
    if found:
        return sample.letters.index(found[1])
    words = f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} "
    named = [
        index
        for index, choice in enumerate(sample.choices)
        if f" {' '.join(re.findall(r'[a-z0-9]+', choice.lower()))} " in words
    ]
    return named[0] if len(named) == 1 else None


class Chooser:
    """Lets a bundle choose among the choices of one sample.

    Args:
        sample: question and choices.
        scoring: how it chooses.
        alone: a recording without audio, of the same bundle.
    """

    def __init__(self, sample: Sample, scoring: Scoring, alone: Recording) -> None:
        self._sample, self._alone = sample, alone
        self._choose = {
            "likelihood": self._by_likelihood,
            "letter": self._by_letter,
            "generate": self._by_generating,
        }[scoring]

    def __call__(self, recording: Recording, pruning: PruningOptions) -> Choice:
        """Choose from a recording."""
        return self._choose(recording, pruning)

    def without_audio(self) -> int | None:
        """What is chosen given the question alone.

        Under ``likelihood`` there is nothing to subtract from: the most likely per token.
        """
        if self._choose == self._by_likelihood:
            return int(self._means_alone.argmax())
        return self._choose(self._alone, PruningOptions(method=EVERY_TOKEN)).index

    @cached_property
    def _means_alone(self) -> NDArray[np.float64]:
        return self._alone.score(self._sample.question, self._sample.choices).means

    def _by_likelihood(self, recording: Recording, pruning: PruningOptions) -> Choice:
        score = recording.score(self._sample.question, self._sample.choices, pruning=pruning)
        chosen = int((score.means - self._means_alone).argmax())
        return Choice(chosen, score.pruning, score.timings)

    def _by_letter(self, recording: Recording, pruning: PruningOptions) -> Choice:
        letters = list(self._sample.letters)
        score = recording.score(letter_prompt(self._sample), letters, pruning=pruning)
        # The first token: whether a tokenizer splits a letter further says nothing.
        first = [values[0] for values in score.log_probabilities]
        return Choice(int(np.argmax(first)), score.pruning, score.timings)

    def _by_generating(self, recording: Recording, pruning: PruningOptions) -> Choice:
        answer = recording.ask(
            letter_prompt(self._sample),
            pruning=pruning,
            generation=GenerationOptions(max_new_tokens=ANSWER_TOKENS),
        )
        return Choice(choice_in(answer.text, self._sample), answer.pruning, answer.timings)
