"""The runtime computes what transformers computes, with and without pruning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from paths import SCRIPTS
from qwen2_audio_reference import NEW_TOKENS, Qwen2Audio
from safetensors.numpy import load_file
from tiny import TINY, Tiny

from speechprune_ort import (
    AudioError,
    GenerationOptions,
    OptionError,
    PromptError,
    PruningOptions,
    SpeechLLM,
)
from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.contract.onnx_file import read_graph
from speechprune_ort.contract.specs import FIRST_LAYER_QK
from speechprune_ort.results import STAGES, Timings
from speechprune_ort.runtime.answering.decoder import Decoder
from speechprune_ort.runtime.answering.prompt import Prompt
from speechprune_ort.runtime.choosing.methods import Selection
from speechprune_ort.runtime.hearing.audio import load_audio

RECORDING = SCRIPTS / "research" / "recording" / "meeting.ogg"
QUESTION = "Who owns the budget?"
# Float32 against float32: only the order of sums differs.
LOGIT_TOLERANCE = 2e-4
# One to three windows. Of these shapes each two settings meet in every combination: kind of text
# model, number of heads of keys, head tied or not.
CASES = [(TINY[0], 12.3), (TINY[3], 41.0), (TINY[5], 75.0), (TINY[6], 41.0)]


@pytest.mark.parametrize(
    ("tiny", "seconds"), CASES, ids=lambda given: getattr(given, "name", given)
)
def test_ids_and_logits_equal_transformers(
    tiny: Tiny, seconds: float, checkpoints: Any, bundles: Any, tone: NDArray[np.float32]
) -> None:
    samples = tone[: int(seconds * 16_000)]
    reference = Qwen2Audio(str(checkpoints(tiny)), QUESTION)
    model = SpeechLLM(bundles(tiny), "cpu")

    expected = reference.generate(samples)
    answer = model.ask(
        samples, QUESTION, sampling_rate=16_000, method="none", max_new_tokens=NEW_TOKENS
    )
    stops = set(model.manifest.stop_token_ids)
    assert list(answer.token_ids) == [i for i in expected if i not in stops]
    assert len(set(expected)) >= 8, "these weights repeat themselves: they would prove little"
    assert answer.pruning.total == answer.pruning.kept
    # One placeholder has become exactly the tokens of every window.
    assert answer.prompt_tokens == reference.inputs(samples)["input_ids"].shape[1]

    # And the numbers behind them, one teacher-forced step after the other.
    recording = model.listen(samples, sampling_rate=16_000)
    question = recording._about(
        Prompt.of(model.engine, QUESTION),
        PruningOptions(method="none", backend="numpy"),
        NEW_TOKENS,
        Timings(),
    )
    laid_out = question.lay_out(Selection(np.arange(recording.tokens)))
    prefill, positions = laid_out.embeds, laid_out.positions
    decoder = Decoder.open(model.engine, len(prefill) + NEW_TOKENS)
    rows = [decoder.prefill(prefill, positions).copy()]
    for number, token in enumerate(expected[:-1]):
        rows.append(decoder.step(token, int(positions[-1]) + 1 + number).copy())
    wanted = reference.logits(samples, expected[:-1])
    error = np.abs(np.stack(rows) - wanted).max() / np.abs(wanted).max()
    assert error < LOGIT_TOLERANCE


@pytest.mark.parametrize("positions", ["renumbered", "original"])
@pytest.mark.parametrize("method", ["speechprune", "random", "crop"])
@pytest.mark.parametrize("tiny", [TINY[0], TINY[5]], ids=lambda tiny: tiny.name)
def test_pruned_ids_equal_transformers_on_the_same_kept_embeddings(
    tiny: Tiny,
    method: Any,
    positions: Any,
    checkpoints: Any,
    bundles: Any,
    tone: NDArray[np.float32],
) -> None:
    samples = tone[: 41 * 16_000]
    reference = Qwen2Audio(str(checkpoints(tiny)), QUESTION)
    model = SpeechLLM(bundles(tiny), "cpu")
    pruning = PruningOptions(method=method, pruning_rate=0.4, positions=positions)
    answer = model.ask(
        samples,
        QUESTION,
        sampling_rate=16_000,
        pruning=pruning,
        generation=GenerationOptions(max_new_tokens=NEW_TOKENS),
    )
    indices = answer.pruning.indices
    assert len(indices) == 450
    assert (np.diff(indices) > 0).all()

    embeds = reference.audio_embeds(samples)
    assert answer.pruning.total == len(embeds)
    before, after = reference.text_embeds(samples)
    kept = embeds[torch.from_numpy(indices)]
    prefill = torch.cat([before, kept, after])
    at = torch.arange(len(prefill))
    if positions == "original":
        at = torch.cat(
            [
                torch.arange(len(before)),
                len(before) + torch.from_numpy(indices),
                len(before) + len(embeds) + torch.arange(len(after)),
            ]
        )
    expected = reference.greedy(prefill, at, set(model.manifest.stop_token_ids))
    assert list(answer.token_ids) == expected


@pytest.mark.parametrize(
    "pruning", [PruningOptions(method="none"), PruningOptions(pruning_rate=0.4)],
    ids=["all tokens", "pruned"],
)  # fmt: skip
def test_ids_equal_transformers_on_real_speech(
    pruning: PruningOptions, checkpoints: Any, bundles: Any
) -> None:
    samples = load_audio(RECORDING)
    assert len(samples) > 75 * 16_000
    model = SpeechLLM(bundles(TINY[0]), "cpu")
    answer = model.ask(
        RECORDING,
        QUESTION,
        pruning=pruning,
        generation=GenerationOptions(max_new_tokens=NEW_TOKENS),
    )
    reference = Qwen2Audio(str(checkpoints(TINY[0])), QUESTION)
    stops = set(model.manifest.stop_token_ids)
    if pruning.method == "none":
        expected = [i for i in reference.generate(samples) if i not in stops]
    else:
        before, after = reference.text_embeds(samples)
        kept = reference.audio_embeds(samples)[torch.from_numpy(answer.pruning.indices)]
        assert len(kept) == 450
        prefill = torch.cat([before, kept, after])
        expected = reference.greedy(prefill, torch.arange(len(prefill)), stops)
    assert list(answer.token_ids) == expected


def test_original_and_renumbered_positions_differ(bundle: Any, tone: NDArray[np.float32]) -> None:
    model = SpeechLLM(bundle, "cpu")
    ids = {
        positions: model.ask(
            tone,
            QUESTION,
            sampling_rate=16_000,
            positions=positions,
            pruning_rate=0.8,
            max_new_tokens=NEW_TOKENS,
        ).token_ids
        for positions in ("renumbered", "original")
    }
    assert ids["renumbered"] != ids["original"]


@pytest.mark.parametrize("precision", ["int8", "w8a8"])
def test_a_head_that_is_the_embedding_lies_in_a_bundle_once(
    checkpoints: Any, bundles: Any, precision: str
) -> None:
    tied = next(tiny for tiny in TINY if tiny.tied)
    folder = bundles(tied, precision)
    manifest = Manifest.read(folder)
    assert "embed_tokens.onnx.data" not in manifest.files
    assert manifest.graphs["embed_tokens"].precision == "the output head's"
    assert read_graph(folder / "embed_tokens.onnx").locations == {"decoder.onnx.data"}
    table = load_file(checkpoints(tied) / "model.safetensors")
    wanted = table["language_model.model.embed_tokens.weight"]
    with SpeechLLM(folder, "cpu") as model:
        session = model.engine.session("embed_tokens")
        (rows,) = session.run(["embeds"], {"token_ids": np.arange(len(wanted))})
    error = np.abs(rows - wanted).reshape(len(wanted), -1, 32).max(2)
    step = np.abs(wanted).reshape(len(wanted), -1, 32).max(2) / 127
    assert (error <= 1.01 * step).all()  # its scales let the largest of one sign be cut


@pytest.mark.parametrize("precision", ["fp16", "int8", "w8a8", "int4"])
def test_narrow_bundles_carry_their_figures_and_keep_the_same_tokens(
    precision: str, bundles: Any
) -> None:
    # Narrow weights: in 4 bits, wide random ones are another model.
    tiny = replace(TINY[0], spread=0.05) if precision == "int4" else TINY[0]
    narrow, wide = (SpeechLLM(bundles(tiny, p), "cpu") for p in (precision, "fp32"))
    figures = narrow.manifest.graphs["decoder"].parity
    assert {f.measure for f in figures} == {"cosine", "first_token"}
    assert all(f.value >= f.tolerance for f in figures)
    few, many = (m.ask(RECORDING, QUESTION, pruning_rate=0.4, max_new_tokens=8)
                 for m in (narrow, wide))  # fmt: skip
    assert few.token_ids
    shared = np.intersect1d(few.pruning.indices, many.pruning.indices)
    assert len(shared) > (0.7 if precision == "w8a8" else 0.8) * 450


@pytest.mark.parametrize(("precision", "cosine"), [("fp16", 0.9999), ("int8", 0.99)])
def test_narrow_precisions_stay_near_fp32(
    precision: str, cosine: float, bundles: Any, tone: NDArray[np.float32]
) -> None:
    narrow = SpeechLLM(bundles(TINY[0], precision), "cpu")
    wide = SpeechLLM(bundles(TINY[0]), "cpu")
    samples = tone[: 12 * 16_000]
    a, b = (model.listen(samples, sampling_rate=16_000).embeds.ravel() for model in (wide, narrow))
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > cosine
    figures = [p for p in narrow.manifest.graphs["decoder"].parity if p.measure == "cosine"]
    assert figures
    assert all(f.value >= f.tolerance >= 0.9 for f in figures)
    answer = narrow.ask(samples, QUESTION, sampling_rate=16_000, max_new_tokens=4)
    assert answer.token_ids


def test_negative_norm_gains_are_folded_into_the_binarized_weights(
    checkpoints: Any, bundles: Any, tone: NDArray[np.float32]
) -> None:
    tiny = replace(TINY[1], negative_gains=True)
    reference = Qwen2Audio(str(checkpoints(tiny)), QUESTION)
    model = SpeechLLM(bundles(tiny), "cpu")
    embeds = reference.audio_embeds(tone[: 5 * 16_000])
    layer = reference.model.model.language_model.layers[0]
    assert (layer.input_layernorm.weight < 0).any()
    with torch.no_grad():
        normed = torch.where(layer.input_layernorm(embeds) >= 0, 1.0, -1.0)
        weights = torch.where(layer.self_attn.q_proj.weight >= 0, 1.0, -1.0)
        wanted = (normed @ weights.T).unflatten(-1, (tiny.heads, tiny.head_dim)).numpy()
    session = model.engine.session(FIRST_LAYER_QK)
    (found,) = session.run(["query"], {"audio_embeds": embeds.numpy()})
    np.testing.assert_array_equal(found, wanted)


def test_a_stream_gives_the_same_answer_in_pieces(bundle: Any, tone: NDArray[np.float32]) -> None:
    model = SpeechLLM(bundle, "cpu")
    options = {"sampling_rate": 16_000, "max_new_tokens": 12, "temperature": 0.8, "seed": 5}
    options["method"] = "passages"  # of two phases
    stream = model.stream(tone[:32_000], QUESTION, **options)
    pieces = list(stream)
    answer = model.ask(tone[:32_000], QUESTION, **options)
    assert len(pieces) > 1
    assert "".join(pieces) == stream.answer.text == answer.text
    assert stream.answer.token_ids == answer.token_ids
    assert set(answer.timings.seconds) == set(STAGES) - {"lower_layers"}
    with pytest.raises(OptionError, match="no option 'pruning_rat'"):
        model.stream(tone, QUESTION, sampling_rate=16_000, pruning_rat=0.1)


def test_errors_in_a_stream_reach_its_reader(bundle: Any) -> None:
    stream = SpeechLLM(bundle, "cpu").stream("no/such.wav", QUESTION)
    with pytest.raises(AudioError, match="No recording"):
        list(stream)
    with pytest.raises(AudioError, match="No recording"):
        _ = stream.answer


def test_one_recording_answers_as_ask_does_for_every_question(
    bundle: Any, tone: NDArray[np.float32]
) -> None:
    model = SpeechLLM(bundle, "cpu")
    samples = tone[: 70 * 16_000]
    recording = model.listen(samples, sampling_rate=16_000)
    for question in (QUESTION, "And who was late?"):
        once = recording.ask(question, max_new_tokens=6)
        again = model.ask(samples, question, sampling_rate=16_000, max_new_tokens=6)
        assert once.token_ids == again.token_ids
        assert once.prompt_tokens == again.prompt_tokens
        np.testing.assert_array_equal(once.pruning.indices, again.pruning.indices)
        assert "encoder" not in once.timings.seconds
        assert "encoder" in again.timings.seconds
    recalled = model.recall(recording.embeds)
    assert recalled.seconds == pytest.approx(recording.seconds, abs=0.04)
    assert (
        recalled.ask(QUESTION, max_new_tokens=6).token_ids
        == recording.ask(QUESTION, max_new_tokens=6).token_ids
    )
    with pytest.raises(OptionError, match="Audio embeddings"):
        model.recall(recording.embeds[:, 1:])


@pytest.mark.parametrize("tokens", [0, 60])
def test_scores_are_the_teacher_forced_log_probabilities_of_transformers(
    tokens: int, checkpoints: Any, bundles: Any, tone: NDArray[np.float32]
) -> None:
    reference = Qwen2Audio(str(checkpoints(TINY[0])), QUESTION)
    model = SpeechLLM(bundles(TINY[0]), "cpu")
    samples = tone[: 5 * 16_000]
    before, after = reference.text_embeds(samples)
    audio = reference.audio_embeds(samples)[:tokens]
    choices = ["a ripe pear", "on Monday", "ripe"]
    recording = model.recall(audio.numpy())
    score = recording.score(QUESTION, choices, pruning=PruningOptions(method="none"))
    embed = reference.model.get_input_embeddings()
    for choice, found in zip(choices, score.log_probabilities, strict=True):
        ids = model.engine.tokenizer.encode(choice, add_special_tokens=False).ids
        with torch.no_grad():
            tail = embed(torch.tensor(ids[:-1], dtype=torch.long))
            inputs = torch.cat([before, audio, after, tail])[None]
            hidden = reference.model.model.language_model(inputs_embeds=inputs).last_hidden_state
            rows = reference.model.lm_head(hidden[0, -len(ids) :]).log_softmax(-1)
        wanted = [float(row[token]) for row, token in zip(rows, ids, strict=True)]
        np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert score.means.shape == (3,)
    with pytest.raises(PromptError, match="no token"):
        recording.score(QUESTION, ["a", ""])
