"""The rules by which the default model is judged, on answers that are known."""

from __future__ import annotations

import doctest
import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray
from small_model.training import evaluate
from small_model.training.spelling import word_errors

from speechprune_ort import SpeechLLM
from speechprune_ort.statistics import proportion

KNOWN = {"Who?": "It was Ann.", "When?": "At noon."}


class Told:
    """In the place of a recording: its answers are known, but less of it says less."""

    seconds = 2.0

    def __init__(self, heard: str = "") -> None:
        self._heard = heard

    def ask(self, question: str, **_: Any) -> SimpleNamespace:
        assert question == evaluate.TRANSCRIPT_REQUESTS[0]
        return SimpleNamespace(text=f" {self._heard}")

    def ask_many(
        self, questions: Iterable[str], *, pruning: Any, max_new_tokens: int
    ) -> list[SimpleNamespace]:
        assert max_new_tokens == evaluate.ANSWER_TOKENS
        little = pruning.pruning_rate == 0.8
        return [
            SimpleNamespace(text="That is not said." if little else KNOWN[q]) for q in questions
        ]


def test_examples() -> None:
    result = doctest.testmod(evaluate)
    assert result.failed == 0
    assert result.attempted > 0


def test_scores_are_what_their_names_say() -> None:
    assert word_errors("the cat sat", "the cat sat") == (0, 3)
    assert word_errors("the cat sat", "a cat") == (2, 3)
    found = evaluate.interval(proportion([1.0] * 30 + [0.0] * 10))
    assert found["mean"] == 0.75
    assert found["low"] < 0.75 < found["high"]


def test_a_loop_counts_once_where_errors_are_bounded() -> None:
    loop: Any = Told("the roof the roof the roof the roof the roof")
    right: Any = Told("Forty two!")
    found = evaluate.repeat([("read", loop, "the roof is"), ("noisy", right, "42")])
    assert found["read"] == {"clips": 1, "words": 3, "word_error_rate": 2.6667, "bounded": 1.0}
    assert found["noisy"]["word_error_rate"] == 0
    assert found["all"] == {"clips": 2, "words": 5, "word_error_rate": 1.6, "bounded": 0.6}


def test_a_meeting_is_asked_at_every_budget(tmp_path: Path) -> None:
    asked = [
        {"question": "Who?", "answer": "Ann", "accepted": ["anne"]},
        {"question": "When?", "answer": "at midnight", "accepted": ["at twelve", "noon"]},
    ]
    (tmp_path / "questions.json").write_text(json.dumps({"questions": asked}))
    model: Any = SimpleNamespace(listen=lambda _: Told())
    found = evaluate.meeting(model, tmp_path / "meeting.ogg")
    assert found["questions"] == 2
    assert found["right"] == {"0": 2, "0.2": 2, "0.6": 2, "0.8": 0}
    assert found["rows"][0] == {
        "question": "Who?", "0": "It was Ann.", "0.2": "It was Ann.", "0.6": "It was Ann.",
        "0.8": "That is not said.",
    }  # fmt: skip


def test_orders_are_judged_slot_by_slot(
    bundle: Path, tone: NDArray[np.float32], tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "order.wav", tone[:8000], 16_000)
    slots = [{"coffeeDrink": "latte", "size": "small"}, {"coffeeDrink": "mocha"}, {"roast": "dark"}]
    lines = [json.dumps({"file": "order.wav", "slots": one}) for one in slots]
    (tmp_path / "orders.jsonl").write_text("\n".join(lines))
    found = evaluate.orders(SpeechLLM(bundle, "cpu"), tmp_path / "orders.jsonl")
    assert {slot: one["n"] for slot, one in found.items()} == {
        "coffeeDrink": 2, "size": 1, "roast": 1
    }  # fmt: skip
    assert found["size"]["mean"] == found["roast"]["mean"] == 1  # the only value that occurs
