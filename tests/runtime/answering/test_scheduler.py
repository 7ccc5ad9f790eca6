"""Answers that are decoded together are those that each would be alone."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tiny import TINY

from speechprune_ort import (
    BundleError,
    Cancel,
    CancelledError,
    DeadlineError,
    GenerationOptions,
    OptionError,
    PromptError,
    PruningOptions,
    SpeechLLM,
)
from speechprune_ort.answer_stream import AnswerStream
from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.recording import Recording
from speechprune_ort.runtime.answering.decoder import Decoder
from speechprune_ort.runtime.answering.scheduler import most_rows

QUESTIONS = ("Who?", "What was decided about the budget?", "When is it?", "Why so?", "Where to?")


def recordings(model: SpeechLLM, *tokens: int) -> list[Recording]:
    random = np.random.default_rng(4)
    hidden = model.manifest.dimensions.hidden
    return [model.recall(random.standard_normal((n, hidden)).astype(np.float32)) for n in tokens]


def asked(recording: Recording, question: str, tokens: int, positions: Any) -> AnswerStream:
    return recording.stream(
        question,
        pruning=PruningOptions(pruning_rate=0.5, positions=positions),
        generation=GenerationOptions(max_new_tokens=tokens, ignore_stop=True),
    )


def is_idle(model: SpeechLLM) -> bool:
    scheduler = model.scheduler
    return not (scheduler._rows or scheduler._waiting or scheduler._decoder)


@pytest.mark.parametrize("positions", ["renumbered", "original"])
@pytest.mark.parametrize("tiny", [TINY[0], TINY[5]], ids=lambda tiny: tiny.name)
def test_answers_join_and_leave_between_steps(
    tiny: Any, positions: Any, bundles: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SpeechLLM(bundles(tiny), "cpu", max_batch=3)
    # Of two of the recordings the kept tokens are as many, at other positions.
    heard = recordings(model, 200, 60, 201, 90, 40)
    lengths = (14, 3, 20, 9, 5)
    wanted = [
        asked(recording, question, tokens, positions).answer
        for recording, question, tokens in zip(heard, QUESTIONS, lengths, strict=True)
    ]
    streams = [
        asked(recording, question, tokens, positions)
        for recording, question, tokens in zip(heard, QUESTIONS, lengths, strict=True)
    ]
    steps, sizes = Decoder.steps, set()

    def counted(self: Decoder, tokens: Any) -> Any:
        sizes.add(len(tokens))
        return steps(self, tokens)

    monkeypatch.setattr(Decoder, "steps", counted)
    next(streams[0])
    for stream in streams[1:]:  # in mid-flight, and more than there are rows
        stream.begin()
        next(streams[0], "")
    for stream, alone in zip(streams, wanted, strict=True):
        answer = stream.answer
        assert answer.token_ids == alone.token_ids
        assert (answer.text, answer.finish_reason) == (alone.text, "length")
        assert answer.timings.seconds.keys() == alone.timings.seconds.keys()
    assert max(sizes) == 3
    assert len(set(wanted[2].token_ids)) > 5, "an answer that repeats itself proves little"
    assert is_idle(model)


def test_threads_get_their_own_answers(bundle: Path) -> None:
    model = SpeechLLM(bundle, "cpu")
    heard = recordings(model, 100, 150, 120)
    pairs = [(r, q) for r in heard for q in QUESTIONS]
    wanted = [asked(r, q, 12, "original").answer.token_ids for r, q in pairs]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda p: asked(*p, 12, "original").answer.token_ids, pairs))
    assert found == wanted
    assert is_idle(model)


def test_who_leaves_is_not_waited_for(bundle: Path) -> None:
    model = SpeechLLM(bundle, "cpu", max_batch=2)
    (recording,) = recordings(model, 100)
    wanted = asked(recording, QUESTIONS[0], 10, "renumbered").answer
    cancel = Cancel()
    given_up = recording.stream(QUESTIONS[1], cancel=cancel, max_new_tokens=40, ignore_stop=True)
    closed = asked(recording, QUESTIONS[2], 40, "renumbered")
    staying = asked(recording, QUESTIONS[0], 10, "renumbered")
    for stream in (given_up, closed, staying):
        stream.begin()
    next(given_up)
    next(closed)
    assert len(model.scheduler._rows) == 2
    assert len(model.scheduler._waiting) == 1
    closed.close()
    cancel.cancel()
    with pytest.raises(CancelledError):
        next(given_up)
    assert staying.answer.token_ids == wanted.token_ids
    late = recording.stream(QUESTIONS[3], deadline=0.02, max_new_tokens=500, ignore_stop=True)
    other = asked(recording, QUESTIONS[0], 10, "renumbered")
    other.begin()
    with pytest.raises(DeadlineError):
        for _ in late:
            pass
    assert other.answer.token_ids == wanted.token_ids
    assert is_idle(model)


def test_what_fails_in_one_row_fails_there(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = SpeechLLM(bundle, "cpu")
    good, _ = recordings(model, 80, 80)
    bad = model.recall(np.full((40, model.manifest.dimensions.hidden), np.nan, np.float32))
    none = PruningOptions(method="none")
    wanted = good.ask("Who?", pruning=none, max_new_tokens=8)
    streams = [
        r.stream("Who?", pruning=none, generation=GenerationOptions(max_new_tokens=8))
        for r in (good, bad)
    ]
    for stream in streams:
        stream.begin()
    assert streams[0].answer.token_ids == wanted.token_ids
    with pytest.raises(BundleError, match="not all finite"):
        _ = streams[1].answer

    steps, calls = Decoder.steps, count()

    def failing(self: Decoder, tokens: Any) -> Any:
        found = steps(self, tokens)
        if next(calls) == 2:
            found[max(found)][3] = np.inf
        return found

    monkeypatch.setattr(Decoder, "steps", failing)
    pair = [asked(good, "Who?", 8, "renumbered") for _ in range(2)]
    for stream in pair:
        stream.begin()
    assert len(pair[0].answer.token_ids) == 8
    with pytest.raises(BundleError, match="not all finite"):
        _ = pair[1].answer
    assert is_idle(model)


def test_many_questions_are_answered_in_order_and_taken_as_there_is_room(bundle: Path) -> None:
    model = SpeechLLM(bundle, "cpu", max_batch=2)
    (recording,) = recordings(model, 70)
    taken: list[str] = []

    def source() -> Iterator[str]:
        for question in (*QUESTIONS[:3], "", QUESTIONS[3]):
            taken.append(question)
            yield question

    wanted = [recording.ask(q, max_new_tokens=6).token_ids for q in QUESTIONS[:4]]
    found = recording.ask_many(source(), return_exceptions=True, max_new_tokens=6)
    assert taken == []
    assert next(found).token_ids == wanted[0]  # type: ignore[union-attr]
    assert taken == list(QUESTIONS[:2])
    second, third, empty, last = found
    assert isinstance(empty, PromptError)
    assert [a.token_ids for a in (second, third, last)] == wanted[1:]  # type: ignore[union-attr]
    with pytest.raises(PromptError):
        list(recording.ask_many(["Who?", " "], max_new_tokens=2))
    with pytest.raises(OptionError, match="texts, not str"):
        recording.ask_many("Who?")
    with pytest.raises(OptionError, match="max_batch"):
        SpeechLLM(bundle, "cpu", max_batch=0)
    assert is_idle(model)


def test_what_rounds_all_rows_by_one_scale_is_decoded_alone(bundle: Path) -> None:
    manifest = Manifest.read(bundle)
    assert most_rows(manifest) == 8
    assert most_rows(manifest, 3) == 3
    assert most_rows(msgspec.structs.replace(manifest, precision="w8a8"), 3) == 1
