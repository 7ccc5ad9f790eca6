"""What the assembled checkpoint makes of people, spoken orders, a meeting, and synthetic speech.

The rules stood before the first run. Repeating is judged by word errors in words as they are
spoken, free answers by whether they hold the expected words, orders by which of four values has the
highest mean log-probability above that without audio.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from small_model.training.evaluate import (
    TRANSCRIBE,
    Listener,
    contained,
    interval,
    word_errors,
)
from small_model.training.spelling import words_of
from small_model.training.voices import RATE, Samples
from speechprune_ort.runtime.hearing.audio import load_audio
from speechprune_ort.statistics import proportion

LONGEST_S = 30
SLOTS = {
    "coffeeDrink": "Which drink is ordered?",
    "size": "What size is ordered?",
    "roast": "Which roast is ordered?",
}


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def repeat(listener: Listener, recordings: Iterable[tuple[str, Samples, str]]) -> dict[str, Any]:
    """Word error rate of each kind (kind, samples, text) that is to be repeated, and of all."""
    counts: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for kind, samples, text in recordings:
        limit = 20 + 8 * len(samples) // RATE
        heard = listener.answer(listener.encode(samples), TRANSCRIBE, limit)
        errors = word_errors(" ".join(words_of(text)), " ".join(words_of(heard)))
        for name in (kind, "all"):
            counts[name].append(errors)
    return {
        name: {
            "clips": len(found),
            "words": sum(words for _, words in found),
            "word_error_rate": round(
                sum(wrong for wrong, _ in found) / max(1, sum(words for _, words in found)), 4
            ),
        }
        for name, found in counts.items()
    }


def people(listener: Listener, manifest: Path, count: int) -> dict[str, Any]:
    """Recorded people of a manifest, clips up to 30 s, spread evenly over it."""
    clips = [clip for clip in lines_of(manifest) if clip["seconds"] <= LONGEST_S]
    chosen = [clips[i * len(clips) // count] for i in range(min(count, len(clips)))]
    return repeat(
        listener,
        ((c["kind"], load_audio(manifest.parent / c["file"]), c["transcript"]) for c in chosen),
    )


def orders(listener: Listener, manifest: Path) -> dict[str, Any]:
    """Spoken orders: for each slot the right value against three others that occur."""
    entries = lines_of(manifest)
    values = {
        slot: sorted({e["slots"][slot] for e in entries if slot in e["slots"]}) for slot in SLOTS
    }
    right: dict[str, list[float]] = defaultdict(list)
    for number, entry in enumerate(entries):
        audio = listener.encode(load_audio(manifest.parent / entry["file"]))
        for slot, question in SLOTS.items():
            if (wanted := entry["slots"].get(slot)) is None:
                continue
            rng = random.Random(f"{number}-{slot}")  # noqa: S311 - no secrets
            others = [value for value in values[slot] if value != wanted]
            choices = [wanted, *rng.sample(others, min(3, len(others)))]
            gain = listener.likelihoods(audio, question, choices) - listener.likelihoods(
                None, question, choices
            )
            right[slot].append(float(np.argmax(gain) == 0))
    return {slot: interval(proportion(found)) for slot, found in right.items()}


def asked(listener: Listener, recording: Path, questions: Path) -> list[dict[str, Any]]:
    """Questions about one recording, each with its answer and whether it is right."""
    entries = json.loads(questions.read_text(encoding="utf-8"))["questions"]
    audio = listener.encode(load_audio(recording))
    rows = []
    for entry in entries:
        answer = listener.answer(audio, entry["question"])
        accepted: Sequence[str] = [entry["answer"], *entry["accepted"]]
        right = any(contained(answer, text) for text in accepted)
        rows.append({"question": entry["question"], "answer": answer, "right": right})
    return rows
