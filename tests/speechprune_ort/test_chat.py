"""A chat's turns have the ids of the whole conversation read anew by transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from qwen2_audio_reference import Qwen2Audio
from tiny import TINY

from speechprune_ort import (
    GenerationOptions,
    OptionError,
    PromptError,
    PruningOptions,
    RecordingError,
    SpeechLLM,
)
from speechprune_ort.options import Positions
from speechprune_ort.runtime.answering.decoder import Decoder

pytestmark = pytest.mark.export

QUESTIONS = ("Who owns the budget?", " what, then?\nSay: 3 & 4 ", "Où est-il ?")
RATE = 16_000


@pytest.fixture(scope="module")
def model(bundle: Path) -> SpeechLLM:
    return SpeechLLM(bundle, "cpu")


@pytest.fixture(scope="module")
def reference(checkpoints: Any) -> Qwen2Audio:
    return Qwen2Audio(str(checkpoints(TINY[0])), QUESTIONS[0])


def further_ids(reference: Qwen2Audio, question: str) -> list[int]:
    """What the processor's template puts between an answer and the next one, tokenized."""
    talk = [
        {"role": "user", "content": [{"type": "audio", "audio_url": "x"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "ANSWER"}]},
        {"role": "user", "content": [{"type": "text", "text": question}]},
    ]
    text = reference.processor.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    ids: list[int] = reference.processor.tokenizer(text.split("ANSWER")[1])["input_ids"]
    return ids


@pytest.mark.parametrize("length", [32, 7])
@pytest.mark.parametrize("positions", ["renumbered", "original"])
def test_turns_equal_a_whole_re_reading(
    model: SpeechLLM,
    reference: Qwen2Audio,
    tone: NDArray[np.float32],
    positions: Positions,
    length: int,
) -> None:
    samples = tone[: 41 * RATE]
    recording = model.listen(samples, sampling_rate=RATE)
    options = PruningOptions(method="speechprune", pruning_rate=0.6, positions=positions)
    kept = torch.from_numpy(recording.prune(QUESTIONS[0], options).indices.copy())
    before, after = reference.text_embeds(samples)
    audio = reference.audio_embeds(samples)
    table = reference.model.model.language_model.embed_tokens
    embeds = torch.cat([before, audio[kept], after])
    at = torch.arange(len(embeds))
    if positions == "original":
        behind = len(before) + len(audio) + torch.arange(len(after))
        at = torch.cat([at[: len(before)], len(before) + kept, behind])
    stops = model.manifest.stop_token_ids
    chat = recording.chat(pruning=options, max_new_tokens=length)
    varied = set()
    for number, question in enumerate(QUESTIONS):
        answer = chat.ask(question)
        if number:
            ids = [*chat.answers[-2].token_ids, *further_ids(reference, question)]
            embeds = torch.cat([embeds, table(torch.tensor(ids)).detach()])
            at = torch.cat([at, at[-1] + 1 + torch.arange(len(ids))])
        expected = reference.greedy(embeds, at, stops)[:length]
        assert list(answer.token_ids) == expected
        assert answer.question == question
        assert answer.prompt_tokens == len(embeds)
        assert answer.pruning.kept == len(kept)
        varied |= set(expected)
    assert len(varied) >= 6, "these weights repeat themselves: they would prove little"
    assert [a.question for a in chat.answers] == list(QUESTIONS)


def test_a_further_turn_reads_its_own_text_alone(
    model: SpeechLLM, tone: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    extend = Decoder.extend  # a whole prompt goes through it, too
    monkeypatch.setattr(
        Decoder, "extend", lambda *given: (read.append(len(given[2])), extend(*given))[1]
    )
    chat = model.chat(tone[: 3 * RATE], sampling_rate=RATE, method="none", max_new_tokens=5)
    for question in QUESTIONS:
        chat.ask(question)
    assert read[0] > 75
    assert max(read[1:]) < 75


def test_the_first_answer_is_that_of_ask(model: SpeechLLM, tone: NDArray[np.float32]) -> None:
    recording = model.listen(tone[: 9 * RATE], sampling_rate=RATE)
    asked = recording.ask(QUESTIONS[0], pruning_rate=0.5, max_new_tokens=9)
    chatted = recording.chat(pruning_rate=0.5, max_new_tokens=9).ask(QUESTIONS[0])
    assert chatted.token_ids == asked.token_ids
    assert chatted.text == asked.text


def test_a_turn_that_was_given_up_is_forgotten(model: SpeechLLM, tone: NDArray[np.float32]) -> None:
    recording = model.listen(tone[: 3 * RATE], sampling_rate=RATE)
    whole, broken = (recording.chat(max_new_tokens=9) for _ in range(2))
    expected = [whole.ask(question).token_ids for question in QUESTIONS[:2]]
    given_up = broken.stream("What else?")
    next(given_up)
    with pytest.raises(OptionError, match="still answering"):
        broken.ask(QUESTIONS[0])
    given_up.close()
    assert broken.answers == ()
    found = [broken.ask(QUESTIONS[0]).token_ids]
    with pytest.raises(PromptError, match="empty"):
        broken.ask(" ")
    with pytest.raises(PromptError, match="begin a new chat"):
        broken.ask("More?", generation=GenerationOptions(max_new_tokens=8192))
    given_up = broken.stream("What else?")
    next(given_up)
    given_up.close()
    found.append(broken.ask(QUESTIONS[1]).token_ids)
    assert found == expected


def test_a_template_without_further_turns_says_so(
    bundle: Path, tone: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    import msgspec

    model = SpeechLLM(bundle, "cpu")
    alone = msgspec.structs.replace(model.manifest, further_turn=())
    monkeypatch.setattr(model.engine, "manifest", alone)
    chat = model.chat(tone[: 3 * RATE], sampling_rate=RATE, max_new_tokens=3)
    chat.ask(QUESTIONS[0])
    with pytest.raises(PromptError, match="has no further turn"):
        chat.ask(QUESTIONS[1])
    assert len(chat.answers) == 1


def test_a_worded_recording_answers_as_transformers_reads_the_whole(
    model: SpeechLLM, reference: Qwen2Audio, tone: NDArray[np.float32]
) -> None:
    samples = tone[: 9 * RATE]
    heard, text = {"type": "audio", "audio_url": "x"}, {"type": "text", "text": QUESTIONS[0]}
    system = "Answer in one word."
    talk = [
        {"role": "system", "content": [{"type": "text", "text": system}]},
        {"role": "user", "content": [text, heard]},
    ]
    whole = reference.processor.apply_chat_template(
        talk, tokenize=False, add_generation_prompt=True
    )
    table = reference.model.model.language_model.embed_tokens
    before, after = (
        table(torch.tensor(reference.processor.tokenizer(part)["input_ids"])).detach()
        for part in whole.split("<|AUDIO|>")
    )
    embeds = torch.cat([before, reference.audio_embeds(samples), after])
    expected = reference.greedy(embeds, torch.arange(len(embeds)), model.manifest.stop_token_ids)
    recording = model.listen(samples, sampling_rate=RATE)
    worded = recording.worded(system=system, text_first=True)
    answer = worded.ask(QUESTIONS[0], method="none", max_new_tokens=32)
    assert list(answer.token_ids) == expected
    chat = worded.chat(method="none", max_new_tokens=32)
    assert list(chat.ask(QUESTIONS[0]).token_ids) == expected
    assert chat.ask(QUESTIONS[1]).prompt_tokens > len(embeds) + len(expected)
    plain = recording.ask(QUESTIONS[0], method="none", max_new_tokens=32)
    assert plain.token_ids != answer.token_ids


def test_what_a_template_does_not_have_is_refused_by_name(
    model: SpeechLLM, tone: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    import msgspec

    recording = model.listen(tone[:RATE], sampling_rate=RATE)
    with pytest.raises(PromptError, match=r"\(qwen2_audio\) has no place for a language"):
        recording.worded(language="en")
    with pytest.raises(OptionError, match="system= is empty"):
        recording.worded(system=" ")
    manifest = msgspec.structs.replace(model.manifest, forms=model.manifest.forms[:1])
    monkeypatch.setattr(model.engine, "manifest", manifest)
    assert (manifest.forms[0].system, manifest.forms[0].text_first) == (True, False)
    with pytest.raises(PromptError, match="no form with the question before the audio"):
        recording.worded(text_first=True)
    manifest = msgspec.structs.replace(model.manifest, forms=())
    monkeypatch.setattr(model.engine, "manifest", manifest)
    with pytest.raises(PromptError, match="holds one form of its prompt"):
        recording.worded(system="Be brief.")


@pytest.mark.parametrize("positions", ["renumbered", "original"])
def test_several_recordings_answer_as_transformers_reads_the_whole(
    model: SpeechLLM, reference: Qwen2Audio, tone: NDArray[np.float32], positions: Positions
) -> None:
    samples = [tone[: 4 * RATE], tone[5 * RATE : 36 * RATE], tone[40 * RATE : 42 * RATE]]
    first, *others = [model.listen(one, sampling_rate=RATE) for one in samples]
    every = first.beside(*others)
    audio = [reference.audio_embeds(one) for one in samples]
    lengths = [len(one) for one in audio]
    assert (every.seconds, every.tokens) == (37.0, sum(lengths))
    options = PruningOptions(method="speechprune", pruning_rate=0.6, positions=positions)
    pruning = every.prune(QUESTIONS[0], options)
    assert pruning.kept == round(0.4 * 750)
    talk = [{"role": "user", "content": [{"type": "audio", "audio_url": "x"}] * 3
             + [{"type": "text", "text": QUESTIONS[0]}]}]  # fmt: skip
    processor = reference.processor
    whole = processor.apply_chat_template(talk, tokenize=False, add_generation_prompt=True)
    table = reference.model.model.language_model.embed_tokens
    embeds, at, start, place = [], [], 0, 0
    for text, heard in zip(whole.split("<|AUDIO|>"), [*audio, audio[0][:0]], strict=True):
        ids = torch.tensor(processor.tokenizer(text)["input_ids"])
        own = (pruning.indices >= start) & (pruning.indices < start + len(heard))
        kept = torch.from_numpy(pruning.indices[own] - start)
        embeds += [table(ids).detach(), heard[kept]]
        at += [place + torch.arange(len(ids)), place + len(ids) + kept]
        start, place = start + len(heard), place + len(ids) + len(heard)
    rows, found = torch.cat(embeds), torch.cat(at)
    if positions == "renumbered":
        found = torch.arange(len(rows))
    expected = reference.greedy(rows, found, model.manifest.stop_token_ids)
    answer = every.ask(QUESTIONS[0], pruning=options, generation=GenerationOptions(32))
    assert list(answer.token_ids) == expected
    assert all(0 <= span.start < span.end <= 37.0 for span in pruning.spans)
    crossing = [s for s in pruning.spans for edge in (4.0, 35.0) if s.start < edge < s.end]
    assert not crossing
    told = every.with_evidence(answer, 99).evidence
    assert told is not None
    assert all(e.span.end <= 37.0 for e in told)


def test_recordings_that_cannot_stand_beside_each_other_are_refused(
    model: SpeechLLM, tone: NDArray[np.float32], tmp_path: Path
) -> None:
    one = model.listen(tone[:RATE], sampling_rate=RATE)
    assert one.beside(one).beside(one).seconds == 3.0
    with pytest.raises(PromptError, match="has 8 recordings at most, not 9"):
        one.beside(*[one] * 8)
    with pytest.raises(OptionError, match=r"beside\(\)"):
        one.beside(tone)  # type: ignore[arg-type]
    with pytest.raises(RecordingError, match="save each"):
        one.beside(one).save(tmp_path / "both.recording")


def test_the_command_line_words_a_prompt_too(bundle: Path, tmp_path: Path) -> None:
    import soundfile
    from typer.testing import CliRunner

    from speechprune_ort.cli.app import app

    audio = tmp_path / "tone.wav"
    soundfile.write(audio, np.sin(np.arange(RATE)).astype(np.float32), RATE)
    asked = ["ask", str(bundle), str(audio), QUESTIONS[0], "--max-new-tokens", "8", "--json"]
    found = CliRunner().invoke(app, [*asked, "--system", "Be brief.", "--text-first"])
    model = SpeechLLM(bundle, "cpu")
    expected = model.listen(audio).worded(system="Be brief.", text_first=True)
    answer = expected.ask(QUESTIONS[0], max_new_tokens=8)
    assert json.loads(found.stdout)["token_ids"] == list(answer.token_ids)
    both = ["ask", str(bundle), str(audio), str(audio), "-q", QUESTIONS[0], "--together", "--json"]
    found = CliRunner().invoke(app, [*both, "--max-new-tokens", "8"])
    one = model.listen(audio)
    answer = one.beside(one).ask(QUESTIONS[0], max_new_tokens=8)
    assert json.loads(found.stdout)["token_ids"] == list(answer.token_ids)
    refused = CliRunner().invoke(app, [*asked, "--language", "en"])
    assert isinstance(refused.exception, PromptError)
    assert "no place for a language" in str(refused.exception)
