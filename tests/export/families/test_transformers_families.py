"""Families, each held against transformers: exported and run, they answer as it does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qwen2_audio_reference
import tiny_audio_flamingo3
import tiny_families
import tiny_glm_asr
import tiny_granite_speech
import tiny_qwen2_5_omni
import tiny_qwen3_asr
import tiny_ultravox
import torch
from numpy.typing import NDArray
from references import RATE, Family, Reference, greedy_ids, pruned_ids, until_stop

from speechprune_ort import AudioError, PromptError, PruningOptions, SpeechLLM
from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.export.pipeline import export_bundle
from speechprune_ort.options import Positions
from speechprune_ort.runtime.answering.prompt import build_prompt

FAMILIES = (
    *qwen2_audio_reference.STATES,
    *tiny_audio_flamingo3.STATES,
    *tiny_ultravox.STATES,
    *tiny_qwen2_5_omni.STATES,
    *tiny_qwen3_asr.STATES,
    *tiny_glm_asr.STATES,
    *tiny_granite_speech.STATES,
    *tiny_families.STATES,
)
QUESTION = "Who owns the budget?"
NEW_TOKENS = 32
SHORT_AND_ODD = (RATE // 10, RATE // 2 + 1, RATE, 2 * RATE + 159, 5 * RATE - 1, 7 * RATE + 80)


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


@pytest.fixture(scope="module")
def made(family: Family, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Checkpoint and bundle."""
    folder = tmp_path_factory.mktemp(family.name)
    checkpoint = family.write(folder / "checkpoint")
    export_bundle(str(checkpoint), folder / "bundle")
    return checkpoint, folder / "bundle"


@pytest.fixture(scope="module")
def model(made: tuple[Path, Path]) -> SpeechLLM:
    return SpeechLLM(made[1], "cpu")


@pytest.fixture(scope="module")
def reference(family: Family, made: tuple[Path, Path]) -> Reference:
    return family.open(made[0])


@pytest.mark.parametrize("windows", [0.7, 1.0, 1.4, 2.5])
def test_greedy_ids_equal_those_of_generate(
    family: Family,
    model: SpeechLLM,
    reference: Reference,
    tone: NDArray[np.float32],
    windows: float,
) -> None:
    samples = tone[: round(windows * family.seconds * RATE)]
    expected = greedy_ids(reference, samples, QUESTION, NEW_TOKENS)
    answer = model.ask(
        samples, QUESTION, sampling_rate=RATE, method="none", max_new_tokens=NEW_TOKENS
    )
    assert list(answer.token_ids) == until_stop(expected, model.manifest.stop_token_ids)
    assert len(set(expected)) >= 8, "these weights repeat themselves: they would prove little"


@pytest.mark.parametrize("samples", SHORT_AND_ODD)
def test_short_and_odd_lengths_answer_alike(
    family: Family,
    model: SpeechLLM,
    reference: Reference,
    tone: NDArray[np.float32],
    samples: int,
) -> None:
    heard = tone[RATE : RATE + samples]
    assert model.listen(heard, sampling_rate=RATE).tokens == family.tokens(samples)
    expected = greedy_ids(reference, heard, QUESTION, 12)
    answer = model.ask(heard, QUESTION, sampling_rate=RATE, method="none", max_new_tokens=12)
    assert list(answer.token_ids) == until_stop(expected, model.manifest.stop_token_ids)


@pytest.mark.parametrize("positions", ["renumbered", "original"])
@pytest.mark.parametrize("method", ["speechprune", "random"])
def test_pruned_ids_equal_those_of_the_kept_tokens(
    family: Family,
    model: SpeechLLM,
    reference: Reference,
    tone: NDArray[np.float32],
    method: str,
    positions: Positions,
) -> None:
    samples = tone[: round(1.4 * family.seconds * RATE)]
    options = PruningOptions(method=method, pruning_rate=0.6, positions=positions)
    kept = model.listen(samples, sampling_rate=RATE).prune(QUESTION, options).indices
    expected = pruned_ids(
        reference, samples, QUESTION, kept.tolist(), positions == "original", NEW_TOKENS
    )
    answer = model.ask(
        samples,
        QUESTION,
        sampling_rate=RATE,
        method=method,
        pruning_rate=0.6,
        positions=positions,
        max_new_tokens=NEW_TOKENS,
    )
    assert list(answer.token_ids) == until_stop(expected, model.manifest.stop_token_ids)


@pytest.mark.parametrize("question", [QUESTION, " what, then?\nSay: 3 & 4 ", "Où est-il ?"])
def test_prompt_tokens_equal_the_processors(
    family: Family,
    model: SpeechLLM,
    reference: Reference,
    tone: NDArray[np.float32],
    question: str,
) -> None:
    samples = tone[: round(1.4 * family.seconds * RATE)]
    manifest = model.manifest
    prompt = build_prompt(model.engine.text, manifest.prompt, {"query": question})
    audio = [reference.audio_token] * family.tokens(len(samples))
    expected = reference.inputs(samples, question)["input_ids"][0].tolist()
    assert [*prompt.parts[0], *audio, *prompt.parts[1]] == expected


def test_a_language_is_written_where_transformers_writes_it(
    model: SpeechLLM, reference: Reference, tone: NDArray[np.float32]
) -> None:
    samples = tone[: 7 * RATE]
    recording = model.listen(samples, sampling_rate=RATE)
    if not model.manifest.languages:
        with pytest.raises(PromptError, match="no place for a language"):
            recording.worded(language="fr")
        return
    given = reference.inputs(samples, QUESTION)
    written = model.engine.text.encode("language French", "It").ids
    ends = model.engine.tokenizer.token_to_id("<asr_text>")
    more = torch.tensor([[*written, ends]])
    given["input_ids"] = torch.cat([given["input_ids"], more], dim=1)
    given["attention_mask"] = torch.ones_like(given["input_ids"])
    said: Any = reference.model.generate(**given, max_new_tokens=NEW_TOKENS, do_sample=False)
    expected = said[0, given["input_ids"].shape[1] :].tolist()
    for language in ("fr", "FRENCH"):
        answer = recording.worded(language=language).ask(
            QUESTION, method="none", max_new_tokens=NEW_TOKENS
        )
        assert list(answer.token_ids) == until_stop(expected, model.manifest.stop_token_ids)
    with pytest.raises(PromptError, match="There is no language 'xx' for this bundle: give one of"):
        recording.worded(language="xx")


def test_every_graph_was_compared_with_torch(made: tuple[Path, Path]) -> None:
    for name, entry in Manifest.read(made[1]).graphs.items():
        assert entry.parity, f"{name} was compared with nothing"
        assert entry.unverified is None, name


def test_spans_are_stretches_of_the_recording(
    family: Family, model: SpeechLLM, tone: NDArray[np.float32]
) -> None:
    seconds = 1.4 * family.seconds
    audio = model.manifest.audio
    assert (audio.span_tokens, audio.frame_tokens) == (family.span_tokens, family.frame_tokens)
    recording = model.listen(tone[: round(seconds * RATE)], sampling_rate=RATE)
    for method in ("crop", "speechprune", "random"):
        found = recording.prune(QUESTION, PruningOptions(method=method, pruning_rate=0.8))
        assert found.kept == round(family.tokens(round(family.seconds * RATE)) * 0.2)
        per_token = family.seconds / family.tokens(round(family.seconds * RATE))
        length = per_token * family.span_tokens
        for span in found.spans:
            assert 0 <= span.start < span.end <= round(seconds, 3)
            assert abs(span.start / length - round(span.start / length)) < 0.02
        inside = {i // family.span_tokens for i in found.indices.tolist()}
        # Where a window is heard to its end, tokens of the silence cover nothing of the recording.
        inside = {place for place in inside if place * length < seconds}
        assert sum(span.end - span.start for span in found.spans) == pytest.approx(
            len(inside) * length, abs=length
        )


def test_too_short_for_a_token_is_refused(
    family: Family, model: SpeechLLM, tone: NDArray[np.float32]
) -> None:
    if family.tokens(100):
        assert model.listen(tone[16_000:16_100], sampling_rate=RATE).tokens == family.tokens(100)
        return
    with pytest.raises(AudioError, match="too short"):
        model.listen(tone[16_000:16_100], sampling_rate=RATE)
