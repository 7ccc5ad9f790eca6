"""Text to train on: SPIRAL's dialogues and who sees which, and sentences of random words."""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from small_model.training.voices import plain
from speechprune_ort.errors import PartError

DEVELOPMENT_DIALOGUES, ADAPT_SHARE = 16, 0.25
COMMON = re.findall(
    r"\w+", "the a of to and in is that for was on with as it at by an or from are be not this"
)
TEST_IDS = Path(__file__).parents[1] / "test_ids.txt"


@dataclass(frozen=True)
class Dialogue:
    """One dialogue of SPIRAL in plain ASCII."""

    name: str  # its id
    sentences: tuple[str, ...]
    key: tuple[int, ...]  # indices of the sentences that hold the answer
    question: str
    choices: tuple[str, ...]  # without their letters
    answer: int  # index of the right choice


@dataclass(frozen=True)
class Split:
    """Dialogues by use. What ``align`` trains the audio side on, ``adapt`` does not hear."""

    test: tuple[Dialogue, ...]
    development: tuple[Dialogue, ...]
    adapt: tuple[Dialogue, ...]
    align: tuple[Dialogue, ...]


def chance(seed: int | str) -> random.Random:
    """A source of chance that gives the same on every run."""
    return random.Random(seed)  # noqa: S311 - no secrets are made of it


def words_of(text: str) -> set[str]:
    """Lower-case words of a text."""
    return set(re.findall(r"\w+", text.lower()))


def key_indices(sentences: Sequence[str], key: str) -> tuple[int, ...]:
    """Which sentences make up the key sentence, which some dialogues cut elsewhere."""
    wanted, key_words = key.lower(), words_of(key)
    found = []
    for index, sentence in enumerate(sentences):
        own = words_of(sentence)
        overlap = len(own & key_words) > 0.8 * len(own) and len(sentence) > 15
        if sentence.lower().strip() in wanted or wanted in sentence.lower() or overlap:
            found.append(index)
    return tuple(found)


def read_dialogue(entry: dict[str, Any]) -> Dialogue:
    """One line of SPIRAL's files."""
    test = entry["test_question"]
    choices = [choice.strip() for choice in test["choices"]]
    spoken = entry["audio_data"]["combined"]["sentences"]
    sentences = tuple(text for text in map(plain, spoken) if re.search(r"\w", text))
    return Dialogue(
        entry["metadata"]["id"],
        sentences,
        key_indices(sentences, plain(entry["original_key_sentence"])),
        plain(test["question"]),
        tuple(plain(re.sub(r"^[A-D][.)]\s*", "", choice)) for choice in choices),
        choices.index(test["correct_answer"].strip()),
    )


def read_spiral(folder: Path) -> list[Dialogue]:
    """All dialogues of ``data.jsonl`` and ``data_h.jsonl``, each once, ordered by sha256 of its id.

    Dialogues whose key sentence is not among their sentences are left out.
    """
    found: dict[str, Dialogue] = {}
    for name in ("data.jsonl", "data_h.jsonl"):
        try:
            lines = (folder / name).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise PartError(f"{folder / name} cannot be read: give SPIRAL's folder.") from error
        for line in lines:
            dialogue = read_dialogue(json.loads(line))
            if dialogue.key:
                found.setdefault(dialogue.name, dialogue)
    return sorted(found.values(), key=lambda d: hashlib.sha256(d.name.encode()).hexdigest())


def split_dialogues(dialogues: Sequence[Dialogue], test_ids: Iterable[str]) -> Split:
    """Set dialogues aside: for testing, then the first by hash for development, adapt and align.

    Sentences that a test dialogue shares are taken out of all others.
    """
    names = set(test_ids)
    test = tuple(d for d in dialogues if d.name in names)
    seen = {sentence.lower() for d in test for sentence in d.sentences}
    rest = []
    for dialogue in dialogues:
        if dialogue.name in names:
            continue
        keep = tuple(s for s in dialogue.sentences if s.lower() not in seen)
        key_texts = [dialogue.sentences[index] for index in dialogue.key]
        key = tuple(keep.index(text) for text in key_texts if text in keep)
        if key:
            rest.append(replace(dialogue, sentences=keep, key=key))
    development, rest = rest[:DEVELOPMENT_DIALOGUES], rest[DEVELOPMENT_DIALOGUES:]
    adapt = round(len(rest) * ADAPT_SHARE)
    return Split(test, tuple(development), tuple(rest[:adapt]), tuple(rest[adapt:]))


@dataclass(frozen=True)
class Lexicon:
    """Words for random sentences."""

    spiral: tuple[str, ...]  # of SPIRAL's training dialogues, each once
    single: tuple[str, ...]  # of a dictionary, of one token
    double: tuple[str, ...]  # of two tokens


def read_lexicon(words: Path, dialogues: Iterable[Dialogue], tokenizer: Any) -> Lexicon:
    """Sort a word list (one a line; Debian: ``apt-get install wamerican``) by tokens a word."""
    try:
        lines = words.read_text(encoding="utf-8").split()
    except OSError as error:
        raise PartError(f"{words} cannot be read: apt-get install wamerican.") from error
    listed = [word for word in lines if word.isascii() and word.isalpha() and len(word) > 1]
    ids = tokenizer([" " + word for word in listed], add_special_tokens=False)["input_ids"]
    by_size = {
        size: tuple(w for w, i in zip(listed, ids, strict=True) if len(i) == size)
        for size in (1, 2)
    }
    spoken = {
        word.strip("'\"()-")
        for dialogue in dialogues
        for sentence in (*dialogue.sentences, *dialogue.choices)
        for word in re.findall(r"[\w'-]+", sentence)
    }
    return Lexicon(tuple(sorted(w for w in spoken if len(w) > 2)), by_size[1], by_size[2])


def random_sentence(lexicon: Lexicon, rng: random.Random) -> str:
    """Six to fourteen unrelated words: no context helps to guess them."""
    words = []
    for _ in range(rng.randint(6, 14)):
        draw = rng.random()
        if draw < 0.33:
            words.append(rng.choice(lexicon.single))
        elif draw < 0.72:
            words.append(rng.choice(lexicon.spiral))
        elif draw < 0.85:
            words.append(rng.choice(lexicon.double))
        elif draw < 0.96:
            words.append(rng.choice(COMMON))
        else:
            words.append(str(rng.randint(1, 2030)))
        if rng.random() < 0.06:
            words[-1] += ","
    return " ".join(words).rstrip(",") + "."
