"""Prompts in every form that a chat template has: their pieces give the ids of the whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import tiny_audio_flamingo3
import tiny_glm_asr
import tiny_granite_speech
import tiny_qwen2_5_omni
import tiny_qwen3_asr
import tiny_ultravox
from tiny import TINY, write_checkpoint
from tiny_families import HEADER, write_diva, write_voxtral
from tokenizers import Tokenizer
from transformers import AutoProcessor, Qwen3ASRProcessor

from speechprune_ort.contract.manifest import PromptForm
from speechprune_ort.export.families import load_checkpoint
from speechprune_ort.export.families.base import Checkpoint
from speechprune_ort.runtime.answering.prompt import build_prompt
from speechprune_ort.runtime.ort.tokenizer import TextTokenizer

TEXTS = (
    ("Who owns the budget?", "Answer in one word."),
    (" what, then?\nSay: 3 & 4 ", "\n  Où?  \U0001f600\n"),
)
ANSWER = "It was Anna. 会"
LANGUAGE = "French"

Render = Callable[[Checkpoint, Path, PromptForm, str, str], str]


class Layout(NamedTuple):
    """How a family's own template writes a prompt, and which forms it has.

    Attributes:
        write: writes a checkpoint.
        whole: the first turn as one text, the placeholder once for each recording.
        further: between an answer and the next one.
        count: forms beside the template's own.
        audio: placeholder.
    """

    write: Callable[[Path], Path]
    whole: Render
    further: Callable[[Checkpoint, Path, str], str]
    count: int
    audio: str


def template(owner: Any, turns: Sequence[Any]) -> str:
    text: str = owner.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True)
    return text


def parts(form: PromptForm, question: str, system: str) -> list[Any]:
    """Messages whose contents have parts."""
    text = {"type": "text", "text": question}
    heard = [{"type": "audio", "audio_url": "x"}] * form.recordings
    content = [text, *heard] if form.text_first else [*heard, text]
    ahead = [{"role": "system", "content": [{"type": "text", "text": system}]}] * form.system
    return [*ahead, {"role": "user", "content": content}]


def by_processor(_: Checkpoint, folder: Path, form: PromptForm, question: str, system: str) -> str:
    return template(AutoProcessor.from_pretrained(folder), parts(form, question, system))


def by_tokenizer(loaded: Checkpoint, _: Path, form: PromptForm, question: str, system: str) -> str:
    return template(loaded.tokenizer, parts(form, question, system))


def texts(audio: str, join: str) -> Render:
    """Messages whose contents are texts."""

    def whole(loaded: Checkpoint, _: Path, form: PromptForm, question: str, system: str) -> str:
        heard = [audio] * form.recordings
        said = join.join([question, *heard] if form.text_first else [*heard, question])
        ahead = [{"role": "system", "content": system}] * form.system
        return template(loaded.tokenizer, [*ahead, {"role": "user", "content": said}])

    return whole


def asr(_: Checkpoint, folder: Path, form: PromptForm, question: str, system: str) -> str:
    """As ``apply_transcription_request`` does it: the context is the system's message."""
    processor = Qwen3ASRProcessor.from_pretrained(folder)
    found: str = processor.apply_transcription_request(
        audio="x", prompt=question, language=LANGUAGE if form.language else None, tokenize=False
    )[0]
    return found


def asr_questions(_: Checkpoint, folder: Path, form: PromptForm, question: str, system: str) -> str:
    processor = Qwen3ASRProcessor.from_pretrained(folder)
    begun = template(processor, parts(form, question, system))
    return begun + f"language {LANGUAGE}<asr_text>" * form.language


def mistral(_: Checkpoint, __: Path, form: PromptForm, question: str, system: str) -> str:
    """As mistral-common's InstructTokenizerV7 writes chunks, in their order."""
    heard = "[BEGIN_AUDIO][AUDIO]" * form.recordings
    said = question + heard if form.text_first else heard + question
    return f"<s>[INST]{said}[/INST]"


def diva(_: Checkpoint, __: Path, form: PromptForm, question: str, system: str) -> str:
    ends = "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
    if form.text_first:
        return f"{HEADER}\n{question}\n{HEADER}\nSPEECHPRUNEAUDIO{ends}"
    return f"{HEADER}\n\nSPEECHPRUNEAUDIO\n\n{question}{ends}"


def after_answer(owner: Any, turns: Sequence[Any], content: Callable[[str], Any], text: str) -> str:
    """What a template writes behind an answer, for another question."""
    said = [{"role": "assistant", "content": content(ANSWER)}]
    whole = template(owner, [*turns, *said, {"role": "user", "content": content(text)}])
    return whole.partition(ANSWER)[2]


def part(text: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text}]


def further_of_parts(_: Checkpoint, folder: Path, text: str) -> str:
    turns = parts(PromptForm(1, False, ()), "First?", "")
    return after_answer(AutoProcessor.from_pretrained(folder), turns, part, text)


def further_of_tokenizer(loaded: Checkpoint, _: Path, text: str) -> str:
    turns = parts(PromptForm(1, False, ()), "First?", "")
    return after_answer(loaded.tokenizer, turns, part, text)


def further_of_texts(loaded: Checkpoint, _: Path, text: str) -> str:
    turns = [{"role": "user", "content": "First?"}]
    return after_answer(loaded.tokenizer, turns, str, text)


LAYOUTS = {
    "qwen2-audio": Layout(
        lambda folder: write_checkpoint(folder, TINY[0]),
        by_processor,
        further_of_parts,
        31,
        "<|AUDIO|>",
    ),
    "audio-flamingo-3": Layout(
        tiny_audio_flamingo3.write, by_processor, further_of_parts, 3, "<sound>"
    ),
    "qwen2.5-omni": Layout(
        tiny_qwen2_5_omni.write, by_tokenizer, further_of_tokenizer, 31, "<|AUDIO|>"
    ),
    "qwen3-asr": Layout(tiny_qwen3_asr.write, asr, lambda *_: "", 1, "<|audio_pad|>"),
    "qwen3-asr-questions": Layout(
        lambda folder: tiny_qwen3_asr.write(folder, tiny_qwen3_asr.QUESTIONS),
        asr_questions,
        further_of_parts,
        7,
        "<|audio_pad|>",
    ),
    "glm-asr": Layout(tiny_glm_asr.write, by_processor, further_of_parts, 3, "<|pad|>"),
    "granite-speech": Layout(
        tiny_granite_speech.write, texts("<|audio|>", ""), further_of_texts, 31, "<|audio|>"
    ),
    "voxtral": Layout(
        write_voxtral, mistral, lambda _, __, text: f"</s>[INST]{text}[/INST]", 15, "[AUDIO]"
    ),
    "ultravox": Layout(
        tiny_ultravox.write, texts("<|audio|>", " "), further_of_texts, 31, "<|audio|>"
    ),
    "diva": Layout(
        lambda folder: write_diva(folder, 1, None),
        diva,
        further_of_texts,
        1,
        "SPEECHPRUNEAUDIO",
    ),
}


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return LAYOUTS[request.param]


@pytest.fixture(scope="module")
def folder(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layout.write(tmp_path_factory.mktemp("forms") / "checkpoint")


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Checkpoint:
    return load_checkpoint(str(folder), None, False)


def tokenizer_of(loaded: Checkpoint) -> TextTokenizer:
    """As a bundle holds it."""
    return TextTokenizer(Tokenizer.from_str(loaded.tokenizer.backend_tokenizer.to_str()))


def test_every_form_has_the_ids_of_the_whole(
    layout: Layout, folder: Path, loaded: Checkpoint
) -> None:
    text = tokenizer_of(loaded)
    kinds = [piece.kind for piece in loaded.prompt]
    own = PromptForm(1, kinds.index("query") < kinds.index("audio"), loaded.prompt)
    assert len(loaded.forms) == layout.count
    for form in (own, *loaded.forms):
        for question, system in TEXTS:
            given = {"query": question, "system": system, "language": LANGUAGE}
            prompt = build_prompt(text, form.pieces, given)
            whole = layout.whole(loaded, folder, form, question, system).split(layout.audio)
            ids = [loaded.tokenizer.encode(part, add_special_tokens=False) for part in whole]
            assert [list(part) for part in prompt.parts] == ids, form
            assert loaded.tokenizer.decode(prompt.query).strip() == question.strip()


def test_a_further_turn_has_them_too(layout: Layout, folder: Path, loaded: Checkpoint) -> None:
    for question, _ in TEXTS:
        whole = layout.further(loaded, folder, question)
        assert bool(loaded.further_turn) == bool(whole)
        if whole:
            prompt = build_prompt(tokenizer_of(loaded), loaded.further_turn, {"query": question})
            assert list(prompt.ids) == loaded.tokenizer.encode(whole, add_special_tokens=False)
