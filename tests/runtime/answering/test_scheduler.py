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
from speechprune_ort.runtime.answering.beginning import divisible, open_decoder
from speechprune_ort.runtime.answering.decoder import Decoder
from speechprune_ort.runtime.answering.prompt import Prompt
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


def test_choices_are_not_scored_by_what_is_not_finite(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SpeechLLM(bundle, "cpu")
    recording, _ = recordings(model, 80, 80)
    steps = Decoder.steps

    def overflowing(self: Decoder, tokens: Any) -> Any:
        found = steps(self, tokens)
        found[max(found)][3] = np.inf
        return found

    monkeypatch.setattr(Decoder, "steps", overflowing)
    with pytest.raises(BundleError, match="not all finite"):
        recording.score("Who?", ["yes", "no"])


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


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens of each run that reads a prompt or a part of one."""
    extend, sizes = Decoder.extend, list[int]()

    def counted(self: Decoder, embeds: Any, positions: Any, row: int = 0) -> Any:
        sizes.append(len(positions))
        return extend(self, embeds, positions, row)

    monkeypatch.setattr(Decoder, "extend", counted)
    return sizes


def test_what_every_prompt_begins_with_is_read_once(bundle: Path, read: list[int]) -> None:
    model = SpeechLLM(bundle, "cpu")
    (recording,) = recordings(model, 60)
    beginning = len(Prompt.of(model.engine, "Who?").parts[0])
    assert beginning > 20, "the template has a system prompt"
    lengths = [
        asked(recording, question, 2, positions).answer.prompt_tokens
        for question, positions in zip(QUESTIONS[:2], ("renumbered", "original"), strict=True)
    ]
    assert read == [beginning, *(length - beginning for length in lengths)]
    recording.score("Who?", ["a", "b"])
    chat = recording.chat(pruning=PruningOptions(pruning_rate=0.5), max_new_tokens=2)
    assert chat.ask("Who?").prompt_tokens - beginning == read[-1] < read[-2]
    assert len(read) == 5
    other = SpeechLLM(bundle, "cpu")
    recordings(other, 60)[0].ask("Who?", max_new_tokens=1)
    assert read[5] == beginning, "each model reads its own"


def test_a_prompt_whose_beginning_is_known_gives_the_logits_of_the_whole(bundle: Path) -> None:
    model = SpeechLLM(bundle, "cpu")
    random, dims = np.random.default_rng(2), model.manifest.dimensions
    ids = model.manifest.prompt[0].ids
    start = model.engine.session("embed_tokens").run(["embeds"], {"token_ids": np.array(ids)})[0]
    rest = random.standard_normal((30, dims.hidden)).astype(np.float32)
    positions = np.concatenate([np.arange(len(ids)), len(ids) + np.arange(0, 60, 2)])
    known, plain = open_decoder(model.engine, 120, 2), Decoder.open(model.engine, 120, 2)
    assert known.beginning is not None
    other = start.copy()
    other[3] = 0  # begins otherwise, and is read as a whole
    for row, first in enumerate((start, other)):
        prompt = np.concatenate([first, rest])
        wanted = plain.prefill(prompt, positions, row).copy()
        np.testing.assert_allclose(known.prefill(prompt, positions, row), wanted, rtol=0, atol=1e-4)
        token, at = int(wanted.argmax()), int(positions[-1]) + 1
        np.testing.assert_allclose(
            known.steps({row: (token, at)})[row],
            plain.steps({row: (token, at)})[row],
            rtol=0,
            atol=1e-4,
        )
    assert known.lengths == plain.lengths == (len(positions) + 1,) * 2


def test_what_one_scale_rounds_is_read_as_a_whole(bundle: Path) -> None:
    manifest = Manifest.read(bundle)
    assert divisible(manifest)
    assert not divisible(msgspec.structs.replace(manifest, precision="w8a8"))
    model = SpeechLLM(bundle, "cpu")
    model.engine.manifest = msgspec.structs.replace(manifest, precision="w8a8")
    assert open_decoder(model.engine, 60).beginning is None


@pytest.mark.parametrize("rows", [1, 2, 8])
def test_samples_of_one_question_read_its_prompt_once(
    bundle: Path, read: list[int], rows: int
) -> None:
    model = SpeechLLM(bundle, "cpu", max_batch=rows)
    (recording,) = recordings(model, 100)
    options = GenerationOptions(max_new_tokens=8, temperature=1.0, seed=5, ignore_stop=True)
    half = PruningOptions(pruning_rate=0.5)
    answers = recording.sample("Who?", 5, pruning=half, generation=options)
    beginning = len(Prompt.of(model.engine, "Who?").parts[0])
    assert read == [beginning, answers[0].prompt_tokens - beginning]
    assert is_idle(model)
    assert [answer.generation.seed for answer in answers] == [5, 6, 7, 8, 9]
    assert len({answer.token_ids for answer in answers}) == 5
    for answer in answers:
        again = recording.ask("Who?", pruning=answer.pruning.options, generation=answer.generation)
        assert again.token_ids == answer.token_ids
        assert again.timings.seconds.keys() == answer.timings.seconds.keys()
    greedy = recording.sample("Who?", 3, pruning_rate=0.5, max_new_tokens=8)
    alone = recording.ask("Who?", pruning_rate=0.5, max_new_tokens=8)
    assert {answer.token_ids for answer in greedy} == {alone.token_ids}
    assert {answer.text for answer in greedy} == {alone.text}


def test_questions_that_hear_the_same_tokens_read_them_once(bundle: Path, read: list[int]) -> None:
    model = SpeechLLM(bundle, "cpu", max_batch=3)
    recording, other = recordings(model, 200, 200)
    every: dict[str, Any] = {"method": "none", "max_new_tokens": 6, "ignore_stop": True}
    alone = [recording.ask(question, **every) for question in QUESTIONS]
    elsewhere = other.ask("Who?", **every)
    del read[:]
    together = list(recording.ask_many(QUESTIONS, **every))
    assert [a.token_ids for a in together] == [a.token_ids for a in alone]
    assert len(read) == len(QUESTIONS)
    assert max(read[1:]) < 60 < 200 < read[0]
    # Another recording between two of them has nothing of theirs.
    streams = [r.stream("Who?", **every) for r in (recording, other, recording)]
    for stream in streams:
        stream.begin()
    found = [stream.answer.token_ids for stream in streams]
    assert found == [alone[0].token_ids, elsewhere.token_ids, alone[0].token_ids]


def test_a_prompt_that_is_the_beginning_of_another(bundle: Path) -> None:
    model = SpeechLLM(bundle, "cpu", max_batch=4)
    (recording,) = recordings(model, 50)
    asking = model.manifest.prompt
    assert asking[-1].kind == "ids", "what follows the question is the template's"
    # Without it one question can be the beginning of another's prompt.
    bare = msgspec.structs.replace(model.manifest, prompt=asking[:-1])
    model.engine.manifest = bare
    every: dict[str, Any] = {"method": "none", "max_new_tokens": 5, "ignore_stop": True}
    questions = ("Who was it then?", "Who", "Who was it then?", "Who was")
    alone = [recording.ask(question, **every).token_ids for question in questions]
    together = recording.ask_many(questions, **every)
    assert [answer.token_ids for answer in together] == alone


@pytest.mark.parametrize("n", [0, 257, 1.5, "two"])
def test_a_number_of_samples_that_is_none(bundle: Path, n: Any) -> None:
    (recording,) = recordings(SpeechLLM(bundle, "cpu"), 20)
    with pytest.raises(OptionError, match="n must be"):
        recording.sample("Who?", n)


def test_samples_end_together(bundle: Path) -> None:
    model = SpeechLLM(bundle, "cpu")
    (recording,) = recordings(model, 50)
    cancel = Cancel()
    streams = recording.stream_samples(
        "Who?", 3, cancel=cancel, max_new_tokens=400, ignore_stop=True
    )
    for stream in streams:
        stream.begin()
    next(streams[1])
    cancel.cancel()
    for stream in streams:
        with pytest.raises(CancelledError):
            _ = stream.answer
    assert is_idle(model)
    with pytest.raises(DeadlineError):
        recording.sample("Who?", 2, deadline=0.05, max_new_tokens=3000, ignore_stop=True)
    with pytest.raises(PromptError, match="empty"):
        recording.sample(" ", 2)
    assert is_idle(model)
