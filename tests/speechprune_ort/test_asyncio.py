"""Answers in coroutines: the same ones, and a cancelled task leaves nothing at work."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from speechprune_ort import CancelledError, PromptError, SpeechLLM
from speechprune_ort.recording import Recording

QUESTION = "Who owns the budget?"


@pytest.fixture(scope="module")
def model(bundle: Path) -> SpeechLLM:
    return SpeechLLM(bundle, "cpu")


@pytest.fixture(scope="module")
def recording(model: SpeechLLM, tone: NDArray[np.float32]) -> Recording:
    return model.listen(tone[:160_000], sampling_rate=16_000)


def test_pieces_and_answer_are_those_of_ask(recording: Recording) -> None:
    wanted = recording.ask(QUESTION, max_new_tokens=12, ignore_stop=True)

    async def both() -> tuple[str, tuple[int, ...]]:
        stream = recording.stream(QUESTION, max_new_tokens=12, ignore_stop=True)
        text = "".join([piece async for piece in stream])
        return text, (await stream).token_ids

    assert asyncio.run(both()) == (wanted.text, wanted.token_ids)


def test_the_event_loop_goes_on_beside_several_answers(recording: Recording) -> None:
    questions = (QUESTION, "Who was late?", "What was ordered?")
    wanted = [recording.ask(q, max_new_tokens=96, ignore_stop=True).token_ids for q in questions]

    async def together() -> tuple[list[tuple[int, ...]], int]:
        async def one(question: str) -> tuple[int, ...]:
            return (await recording.stream(question, max_new_tokens=96, ignore_stop=True)).token_ids

        answers, turns = asyncio.gather(*map(one, questions)), 0
        while not answers.done():
            await asyncio.sleep(0)
            turns += 1
        return await answers, turns

    found, turns = asyncio.run(together())
    assert found == wanted
    assert turns > 10


def test_a_cancelled_task_ends_its_answer(model: SpeechLLM, recording: Recording) -> None:
    stream = recording.stream(QUESTION, max_new_tokens=900, ignore_stop=True)

    async def impatient() -> None:
        async for _ in stream:
            asyncio.current_task().cancel()  # type: ignore[union-attr]

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(impatient())
    with pytest.raises(CancelledError):
        _ = stream.answer
    assert not model.scheduler._rows
    assert recording.ask(QUESTION, max_new_tokens=2).token_ids  # the model is as before


def test_errors_are_those_of_ask(recording: Recording) -> None:
    async def ask() -> None:
        await recording.stream("")

    with pytest.raises(PromptError):
        asyncio.run(ask())
