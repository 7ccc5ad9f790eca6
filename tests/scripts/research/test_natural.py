"""``research/natural.py``: sets of recordings of people, as they are and hidden in longer ones."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from paths import SCRIPTS
from signals import speech_like

from speechprune_ort.evaluation.plan import Plan
from speechprune_ort.evaluation.samples import Sample, read_samples
from speechprune_ort.evaluation.settings import ORIGINAL

RATE = 16_000
SENTENCES = (
    "the red bus stops at the old town hall",
    "nobody knows where the grey cat sleeps",
    "seven small boats lie in the harbour today",
    "my brother paints every door of his house blue",
    "the baker opens long before the sun comes up",
    "a letter without a stamp came back on friday",
)
DRINKS = ("iced mocha", "mocha", "latte", "espresso", "cappuccino")
ROASTS = ("light roast", "dark roast", "medium roast")


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "research.natural", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def clip(folder: Path, name: str, seconds: float, seed: int) -> str:
    soundfile.write(folder / name, speech_like(seconds, seed=seed), RATE)
    return name


def lines(path: Path, entries: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six clips of three people, and five orders of people without names."""
    made = tmp_path / "people"
    made.mkdir()
    manifest = [
        {
            "file": clip(made, f"clip{number}.flac", 2.0 + 0.25 * number, number),
            "transcript": text.capitalize() + ".",
            "speaker": f"speaker {number % 3}",
            "kind": "noisy" if number == 5 else "read",
        }
        for number, text in enumerate(SENTENCES)
    ]
    orders = [
        {
            "file": clip(made, f"order{number}.flac", 1.5, 10 + number),
            "transcript": None,
            "speaker": "crowd speaker, not named",
            "kind": "conversation",
            "slots": {"coffeeDrink": drink, **({"roast": ROASTS[number]} if number < 3 else {})},
        }
        for number, drink in enumerate(DRINKS)
    ]
    lines(made / "manifest.jsonl", manifest)
    lines(made / "orders.jsonl", orders)
    fact = {
        "clip": "clip0",
        "question": "Where does the bus stop?",
        "choices": ["at the town hall", "at the school", "at the bridge", "at the park"],
        "answer": "at the town hall",
        "said": "the old town hall",
    }
    lines(made / "facts.jsonl", [fact, {**fact, "clip": "elsewhere"}])
    return made


def made(folder: Path, out: Path, *arguments: object) -> dict[str, list[Sample]]:
    done = run(folder, out, "--facts", folder / "facts.jsonl", *arguments)
    assert done.returncode == 0, done.stderr
    return {path.parent.name: read_samples(path) for path in sorted(out.glob("*/set.jsonl"))}


def test_questions_of_four_choices_with_speakers_as_groups(folder: Path, tmp_path: Path) -> None:
    sets = made(folder, tmp_path / "out", "--minutes", "")
    assert list(sets) == ["facts-own", "orders-own", "said-own"]
    assert all(len(s.choices) == len(set(s.choices)) == 4 for part in sets.values() for s in part)
    for sample in sets["said-own"]:
        number = int(sample.name[-1])
        assert sample.choices[sample.answer] == SENTENCES[number]
        assert sample.group == f"speaker {number % 3}"
        assert sample.audio.resolve() == (folder / f"clip{number}.flac").resolve()
    [fact] = sets["facts-own"]  # that of a clip which is not there is left out
    assert (fact.choices[fact.answer], fact.transcript) == (
        "at the town hall",
        "The red bus stops at the old town hall.",
    )
    positions = {sample.answer for part in sets.values() for sample in part}
    assert len(positions) > 2


def test_orders_have_no_choice_that_could_be_meant_too(folder: Path, tmp_path: Path) -> None:
    orders = made(folder, tmp_path / "out", "--minutes", "")["orders-own"]
    drinks = {s.name: s for s in orders if s.kind == "drink"}
    assert set(drinks["order0-drink"].choices) == {"iced mocha", "latte", "espresso", "cappuccino"}
    assert "iced mocha" not in drinks["order1-drink"].choices
    roasts = {s.name: s for s in orders if s.kind == "roast"}
    assert all("none was named" in sample.choices for sample in roasts.values())
    right = [sample.choices[sample.answer] for sample in roasts.values()]
    assert sorted(right) == sorted([*ROASTS, "none was named"])  # each as often
    # Nobody is named: each recording is a group, whatever is asked of it.
    plan = Plan(folder, tuple(orders), (ORIGINAL,))
    assert set(plan.clusters) == {f"order{number}" for number in range(5)}


def test_a_clip_lies_at_its_key_among_clips_that_do_not_answer(
    folder: Path, tmp_path: Path
) -> None:
    sets = made(folder, tmp_path / "out", "--minutes", "0.1")
    assert set(sets) >= {"said-0.1", "orders-0.1", "facts-0.1"}
    starts = set()
    for sample in (*sets["orders-0.1"], *sets["said-0.1"]):
        joined, rate = soundfile.read(sample.audio, dtype="float32")
        assert (len(joined), rate) == (6 * RATE, RATE)
        name = sample.name.split("-")[0]
        own, _ = soundfile.read(folder / f"{name}.flac", dtype="float32")
        assert sample.key is not None
        first = round(sample.key[0] * RATE)
        start = max(0, first - 20)  # the key is rounded to milliseconds
        near = [
            np.abs(joined[i : i + len(own)] - own).max()
            for i in range(start, first + 20)
            if i + len(own) <= len(joined)
        ]
        assert min(near) < 1e-4
        assert sample.key[1] - sample.key[0] == pytest.approx(len(own) / RATE, abs=2e-3)
        starts.add(first)
    assert len(starts) > 5
    assert sets["facts-0.1"][0].key is None  # where in the clip is not known


def test_neighbours_say_none_of_the_choices(folder: Path) -> None:
    from research.natural import neighbours, read_clips, said

    clips = read_clips(folder / "manifest.jsonl")
    for question in said(clips, 0):
        names = {sample.name for sample in neighbours(question, clips)}
        assert names == {c.path.stem for c in clips if c.plain not in question.choices}


def test_a_limit_takes_as_many_kinds_and_speakers_as_can_be(folder: Path, tmp_path: Path) -> None:
    sets = made(folder, tmp_path / "out", "--minutes", "", "--limit", 3)
    assert [s.name for s in sets["said-own"]] == ["clip0", "clip5", "clip1"]


def test_a_length_has_as_many_samples_though_the_longest_clips_do_not_fit(
    folder: Path, tmp_path: Path
) -> None:
    sets = made(folder, tmp_path / "out", "--minutes", "0.04", "--limit", 2)
    assert [s.name for s in sets["said-own"]] == ["clip0", "clip5"]
    assert [s.name for s in sets["said-0.04"]] == ["clip0", "clip1"]  # clip5 has 3.25 of 2.4 s


def test_pooled_questions_are_one_set_of_each_length(folder: Path, tmp_path: Path) -> None:
    apart = made(folder, tmp_path / "apart", "--minutes", "0.1")
    pooled = made(folder, tmp_path / "pooled", "--minutes", "0.1", "--pooled")
    assert list(pooled) == ["people-0.1", "people-own"]
    for length in ("own", "0.1"):
        separate = [s for kind in ("said", "orders", "facts") for s in apart[f"{kind}-{length}"]]
        together = pooled[f"people-{length}"]
        assert sorted(s.name for s in together) == sorted(s.name for s in separate)
        assert len({s.name for s in together}) == len(together)


@pytest.mark.parametrize(
    ("file", "entry", "named"),
    [
        ("manifest.jsonl", {"file": "clip0.flac", "kind": "read"}, "it has no 'speaker'"),
        ("manifest.jsonl", {"file": "gone.flac", "kind": "read", "speaker": "a"}, "no file"),
        ("facts.jsonl", {"clip": "clip0", "question": "?", "choices": ["a", "b"], "answer": "a",
                         "said": "a green bus"}, "clip0.flac does not say 'a green bus'"),
        ("facts.jsonl", {"clip": "clip0", "question": "?", "choices": ["a", "b"], "answer": "c",
                         "said": "the red bus"}, "is not one of its choices"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_and_nothing_is_left(
    folder: Path, tmp_path: Path, file: str, entry: dict[str, Any], named: str
) -> None:
    lines(folder / file, [entry])
    done = run(folder, tmp_path / "out", "--facts", folder / "facts.jsonl", "--minutes", "")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert "Traceback" not in done.stderr
    assert re.search(named, done.stderr)
    assert not (tmp_path / "out").exists()


def test_lengths_that_are_no_numbers_and_a_folder_that_is_there(
    folder: Path, tmp_path: Path
) -> None:
    for arguments, named in (
        ((tmp_path / "out", "--minutes", "1,x"), "--minutes takes numbers"),
        ((folder,), "is there already"),
    ):
        done = run(folder, *arguments)
        assert done.returncode == 2
        assert named in done.stderr
