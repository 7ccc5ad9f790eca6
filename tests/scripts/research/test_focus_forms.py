"""``research/focus_forms.py`` and the set of questions that share no word with what is said."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from research.said_spiral import main, sentences
from signals import speech_like
from typer.testing import CliRunner

from speechprune_ort import PruningOptions
from speechprune_ort.evaluation.samples import read_samples
from speechprune_ort.files import write_jsonl
from speechprune_ort.methods import METHODS
from speechprune_ort.runtime.choosing.methods import Selection
from speechprune_ort.runtime.choosing.scoring import NumpyScorer
from speechprune_ort.runtime.choosing.selection import select
from speechprune_ort.runtime.hearing.embeddings import HostEmbeds

FORMS = ("focused-0.1", "focused-1", "found-2", "found-4", "found-8", "half-found")


@pytest.fixture(scope="module", autouse=True)
def plugin() -> Iterator[ModuleType]:
    """The file, whose methods no other test sees."""
    before = dict(METHODS)
    yield importlib.import_module("research.focus_forms")
    METHODS.clear()
    METHODS.update(before)


def never(_: NDArray[Any], __: str) -> Any:
    raise AssertionError("no projection is needed")


@pytest.fixture(scope="module")
def scorer() -> NumpyScorer:
    """2,000 tokens, of which one says the question's word."""
    audio = np.random.default_rng(0).standard_normal((2000, 6)).astype(np.float32)
    audio[:, 0] = 0
    audio[1000] = (10, 0, 0, 0, 0, 0)
    return NumpyScorer(HostEmbeds(audio), np.eye(1, 6, dtype=np.float32), never)


def chosen(form: str, scorer: NumpyScorer) -> Selection:
    """80 of them, five a second: a passage has 50."""
    options = PruningOptions(method=form, pruning_rate=0.5, budget=160)
    return select(options, scorer, window_tokens=160, frame_tokens=5)


@pytest.mark.parametrize("form", FORMS)
def test_a_form_merges_and_looks_where_the_question_is_spoken(
    form: str, scorer: NumpyScorer
) -> None:
    found = chosen(form, scorer)
    assert len(found.indices) == 80
    assert found.embeds is not None
    assert (np.abs(found.indices - 1000) <= 25).sum() > 2.5 * 80 * 51 / 2000


def test_what_is_dropped_ends_a_group(scorer: NumpyScorer) -> None:
    inside = chosen("found-2", scorer).indices
    options = PruningOptions(method="coverage", pruning_rate=0.5, budget=320)
    kept = select(options, scorer, window_tokens=160, frame_tokens=5).indices
    assert len(kept) == 160
    assert np.isin(kept[1:][np.diff(kept) > 1], inside).all()


def test_sentences_are_asked_for_among_those_of_others(tmp_path: Path) -> None:
    from soundfile import write

    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "a.wav", speech_like(1.0), 16_000)
    texts = [
        " ".join(f"Speaker {number} says {word} in these six words." for word in "abcdefghijkl")
        for number in ("one", "two", "three", "four", "five")
    ]
    samples = [
        {"id": f"x/{i}", "audio": "a.wav", "question": "Who?", "choices": ["I", "you"], "answer": 0,
         "transcript": text, "group": f"g{i}", "kind": "talk"}
        for i, text in enumerate(texts)
    ]  # fmt: skip
    write_jsonl(tmp_path / "set" / "set.jsonl", samples)
    app = typer.Typer()
    app.command()(main)
    done = CliRunner().invoke(app, [str(tmp_path / "set"), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    for sample, text in zip(read_samples(tmp_path / "out" / "set.jsonl"), texts, strict=True):
        said = sentences(text)
        assert [choice in said for choice in sample.choices].count(True) == 1
        assert sample.choices[sample.answer] in said
        assert sample.audio.resolve() == (tmp_path / "set" / "a.wav").resolve()
    samples[0]["transcript"] = "Too short."
    write_jsonl(tmp_path / "set" / "set.jsonl", [json.loads(json.dumps(s)) for s in samples])
    done = CliRunner().invoke(app, [str(tmp_path / "set"), str(tmp_path / "more")])
    assert done.exit_code != 0
    assert not (tmp_path / "more").exists()
