"""Answers: their confidence, how they print, and their published schema."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from numpy.typing import NDArray
from paths import ROOT

from speechprune_ort import Answer, Recording, SpeechLLM
from speechprune_ort.answer_record import answer_schema, line_schema
from speechprune_ort.options import PruningOptions
from speechprune_ort.runtime.answering.prompt import Prompt
from speechprune_ort.runtime.answering.question import Question
from speechprune_ort.timings import Timings

QUESTION = "Who was late?"


@pytest.fixture(scope="module")
def recording(bundle: Path, tone: NDArray[np.float32]) -> Recording:
    return SpeechLLM(bundle, "cpu").listen(tone, sampling_rate=16_000)


@pytest.fixture(scope="module")
def answer(recording: Recording) -> Answer:
    return recording.ask(QUESTION, max_new_tokens=5, ignore_stop=True)


def test_log_probabilities_are_those_of_scoring(recording: Recording, answer: Answer) -> None:
    engine, heard = recording._engine, recording._heard
    prompt = Prompt.of(engine, QUESTION)
    asked = Question(engine, prompt, heard, PruningOptions(), 5, Timings())
    (scored,) = asked.score([answer.token_ids], 1).log_probabilities
    np.testing.assert_allclose(answer.log_probabilities, scored, atol=1e-5)
    assert answer.confidence == pytest.approx(np.mean(scored), abs=1e-5)


def test_sampling_changes_the_choice_and_not_the_probabilities(recording: Recording) -> None:
    hot = recording.ask(QUESTION, max_new_tokens=1, ignore_stop=True, temperature=5.0, seed=3)
    again = recording.ask(QUESTION, max_new_tokens=1, ignore_stop=True)
    (found,), (greedy,) = hot.log_probabilities, again.log_probabilities
    assert hot.token_ids != again.token_ids  # or the seed shows nothing
    assert found < greedy


def test_print_shows_text_and_what_it_rests_on(answer: Answer) -> None:
    noted = replace(answer, text="Ten past nine.", notes=("The recording clips.",))
    shown = str(noted)
    assert shown.startswith("Ten past nine.\n")
    assert f"{answer.pruning.kept} of {answer.pruning.total} audio tokens" in shown
    assert f"{answer.confidence:.2f}" in shown
    assert shown.endswith("note        The recording clips.")
    assert len(repr(noted)) < 120  # no arrays


def test_an_answer_without_tokens_has_no_confidence(answer: Answer) -> None:
    empty = replace(answer, text="", token_ids=(), log_probabilities=())
    assert empty.confidence is None
    assert "confidence  " not in str(empty)
    jsonschema.validate(empty.to_dict(), answer_schema())


def test_the_published_schema_of_a_line_is_current_and_refuses_others() -> None:
    path = ROOT / "docs" / "reference" / "line.schema.json"
    schema = json.loads(path.read_text())
    assert schema == json.loads(json.dumps(line_schema())), "run scripts/write_schemas.py"
    for wrong in ({"id": "1"}, {"id": "1", "error": "No.", "text": "Yes."}, {"error": "No."}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_the_published_schema_is_current_and_true(answer: Answer) -> None:
    path = ROOT / "docs" / "reference" / "answer.schema.json"
    schema = json.loads(path.read_text())
    assert schema == json.loads(json.dumps(answer_schema())), "run scripts/write_schemas.py"
    content: dict[str, Any] = json.loads(json.dumps(answer.to_dict()))
    jsonschema.validate(content, schema)
    assert content["confidence"] == pytest.approx(answer.confidence, abs=1e-6)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**content, "score": 1}, schema)
