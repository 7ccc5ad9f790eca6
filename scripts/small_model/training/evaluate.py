"""What a bundle makes of speech that no training has heard: words, answers, orders, a meeting.

The rules stood before the first run. Repeating is judged by word errors in words as they are
spoken, free answers by whether they hold the expected words, orders by which of four values has the
highest mean log-probability above that without audio. Every audio token is read, but for the
meeting, which is asked at several budgets. Choices on SPIRAL and their controls are those of
``scripts/research/compare_methods``.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from small_model.training.facts import FactMaker
from small_model.training.questions import TRANSCRIPT_REQUESTS
from small_model.training.spelling import word_error_rate, word_errors, words_of
from small_model.training.text import Dialogue, chance
from small_model.training.voices import RATE, Samples, Speaker, plain
from speechprune_ort import PruningOptions, SpeechLLM
from speechprune_ort.evaluation.judge import EVERYTHING
from speechprune_ort.evaluation.samples import Sample
from speechprune_ort.evaluation.scoring import Chooser
from speechprune_ort.recording import Recording
from speechprune_ort.statistics import Estimate, proportion

PRUNED_RATES = (0.2, 0.6, 0.8)
PAUSE_S = 0.25  # behind each sentence
LONGEST_S = 30  # of a clip that is repeated
ANSWER_TOKENS = 24
SLOTS = {
    "coffeeDrink": "Which drink is ordered?",
    "size": "What size is ordered?",
    "roast": "Which roast is ordered?",
}
Item = TypeVar("Item")


def spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most ``count``, spread evenly.

    >>> spread("abcdef", 3)
    ['a', 'c', 'e']
    """
    return [items[i * len(items) // count] for i in range(min(count, len(items)))]


def interval(found: Estimate) -> dict[str, float]:
    """An estimate for the file of results.

    >>> interval(proportion([1.0] * 10))
    {'n': 10, 'mean': 1.0, 'low': 0.7225, 'high': 1.0}
    """
    return {"n": found.n, **{n: round(getattr(found, n), 4) for n in ("mean", "low", "high")}}


def contained(answer: str, expected: str) -> bool:
    """Whether an answer's words hold the expected words in order.

    >>> contained("It is due on the 4th of May.", "On the 4th of may")
    True
    """
    found, wanted = (" ".join(re.findall(r"\w+", text.lower())) for text in (answer, expected))
    return f" {wanted} " in f" {found} "


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def recited(sentences: Iterable[str], speaker: Speaker, voice: str) -> Samples:
    """Sentences spoken plainly, with pauses."""
    pause = np.zeros(int(PAUSE_S * RATE), np.float32)
    said = [speaker.say(plain(sentence), voice, vary=False) for sentence in sentences]
    return np.concatenate([part for one in said for part in (one, pause)])


def repeat(recordings: Iterable[tuple[str, Recording, str]]) -> dict[str, Any]:
    """Word error rate of each kind of (kind, recording, text) that is to be repeated, and of all.

    ``bounded`` counts at most as many errors as a clip has words: a loop of words is one lost clip.
    """
    counts: dict[str, list[tuple[int, int]]] = defaultdict(list)
    rows = []
    for kind, recording, text in recordings:
        limit = 20 + int(8 * recording.seconds)
        answer = recording.ask(TRANSCRIPT_REQUESTS[0], pruning=EVERYTHING, max_new_tokens=limit)
        heard = answer.text.strip()
        errors = word_errors(" ".join(words_of(text)), " ".join(words_of(heard)))
        rows.append({"said": text, "heard": heard})
        for name in dict.fromkeys((kind, "all")):
            counts[name].append(errors)
    rates: dict[str, Any] = {}
    for name, found in counts.items():
        bounded = ((min(wrong, said), said) for wrong, said in found)
        rates[name] = {
            "clips": len(found),
            "words": sum(said for _, said in found),
            "word_error_rate": round(word_error_rate(found), 4),
            "bounded": round(word_error_rate(bounded), 4),
        }
    return {**rates, "rows": rows}


def words(
    model: SpeechLLM, sentences: Sequence[str], speaker: Speaker, voice: str
) -> dict[str, Any]:
    """``repeat`` of single sentences by a voice."""
    return repeat(
        ("all", model.listen(recited([text], speaker, voice), sampling_rate=RATE), text)
        for text in sentences
    )


def people(model: SpeechLLM, manifest: Path, count: int) -> dict[str, Any]:
    """``repeat`` of recorded people of a manifest, clips up to 30 s, spread evenly over it."""
    clips = [clip for clip in lines_of(manifest) if clip["seconds"] <= LONGEST_S]
    return repeat(
        (clip["kind"], model.listen(manifest.parent / clip["file"]), clip["transcript"])
        for clip in spread(clips, count)
    )


def answers(
    model: SpeechLLM,
    dialogues: Sequence[Dialogue],
    speaker: Speaker,
    voice: str,
    facts: FactMaker,
    count: int,
) -> dict[str, Any]:
    """Free questions about facts spoken between sentences of unseen dialogues."""
    rng, rows = chance(99), []
    for index in range(count):
        made, dialogue = facts.fact(), dialogues[index % len(dialogues)]
        sentences = rng.sample(dialogue.sentences, min(2, len(dialogue.sentences)))
        sentences.insert(rng.randint(0, len(sentences)), made.sentence)
        recording = model.listen(recited(sentences, speaker, voice), sampling_rate=RATE)
        answer = recording.ask(made.question, pruning=EVERYTHING, max_new_tokens=ANSWER_TOKENS)
        said = answer.text.strip()
        rows.append(
            {"question": made.question, "expected": made.answer, "answer": said}
            | {"right": contained(said, made.answer)}
        )
    return {"accuracy": interval(proportion([float(row["right"]) for row in rows])), "rows": rows}


def orders(model: SpeechLLM, manifest: Path) -> dict[str, Any]:
    """Spoken orders: for each slot the right value against three others that occur."""
    entries = lines_of(manifest)
    values = {
        slot: sorted({e["slots"][slot] for e in entries if slot in e["slots"]}) for slot in SLOTS
    }
    silence = model.recall(np.zeros((0, model.manifest.dimensions.hidden), np.float32))
    right: dict[str, list[float]] = defaultdict(list)
    for number, entry in enumerate(entries):
        path = manifest.parent / entry["file"]
        recording = model.listen(path)
        for slot, question in SLOTS.items():
            if (wanted := entry["slots"].get(slot)) is None:
                continue
            rng = chance(f"{number}-{slot}")
            others = [value for value in values[slot] if value != wanted]
            choices = (wanted, *rng.sample(others, min(3, len(others))))
            sample = Sample(f"{number}-{slot}", path, question, choices, 0)
            chosen = Chooser(sample, "likelihood", silence)(recording, EVERYTHING)
            right[slot].append(float(chosen.index == 0))
    return {slot: interval(proportion(found)) for slot, found in right.items()}


def meeting(model: SpeechLLM, path: Path) -> dict[str, Any]:
    """The questions beside a recording at each pruning rate of the default method, and at 0."""
    entries = json.loads(path.with_name("questions.json").read_text(encoding="utf-8"))["questions"]
    recording = model.listen(path)
    questions = [entry["question"] for entry in entries]
    rows: list[dict[str, Any]] = [{"question": question} for question in questions]
    right: dict[str, int] = {}
    for rate in (0.0, *PRUNED_RATES):
        pruning = PruningOptions(pruning_rate=rate) if rate else EVERYTHING
        said = recording.ask_many(questions, pruning=pruning, max_new_tokens=ANSWER_TOKENS)
        right[f"{rate:g}"] = 0
        for entry, row, answer in zip(entries, rows, said, strict=True):
            accepted = [entry["answer"], *entry["accepted"]]
            right[f"{rate:g}"] += any(contained(answer.text, text) for text in accepted)
            row[f"{rate:g}"] = answer.text
    return {"questions": len(questions), "right": right, "rows": rows}
