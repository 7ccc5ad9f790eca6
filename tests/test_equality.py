"""The runtime computes what transformers computes, with and without pruning."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import TINY, Tiny
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

from speechprune_ort import (
    AudioError,
    GenerationOptions,
    OptionError,
    PromptError,
    PruningOptions,
    SpeechLLM,
)
from speechprune_ort.results import STAGES, Timings
from speechprune_ort.runtime.decoder import Decoder
from speechprune_ort.runtime.methods import Selection
from speechprune_ort.runtime.prompt import Prompt
from speechprune_ort.specs import FIRST_LAYER_QK

QUESTION = "Who owns the budget?"
NEW_TOKENS = 32
# Float32 against float32: only the order of sums differs.
LOGIT_TOLERANCE = 2e-4
SECONDS = (12.3, 41.0, 75.0)  # one, two and three windows


class Reference:
    """A checkpoint in transformers, asked the way its own processor asks it."""

    def __init__(self, folder: str, question: str = QUESTION) -> None:
        self.question = question
        self.processor = AutoProcessor.from_pretrained(folder)
        self.model = Qwen2AudioForConditionalGeneration.from_pretrained(
            folder, dtype=torch.float32
        ).eval()

    def inputs(self, samples: NDArray[np.float32]) -> Any:
        """Every 30 s window is an audio of its own, side by side at the placeholder."""
        windows = [samples[at : at + 480_000] for at in range(0, len(samples), 480_000)]
        content = [{"type": "audio", "audio_url": "x"}, {"type": "text", "text": self.question}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        text = text.replace("<|AUDIO|>", "<|AUDIO|>" * len(windows))
        return self.processor(text=text, audio=windows, sampling_rate=16_000, return_tensors="pt")

    def generate(self, samples: NDArray[np.float32]) -> list[int]:
        inputs = self.inputs(samples)
        out = self.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
        ids: list[int] = out[0, inputs["input_ids"].shape[1] :].tolist()
        return ids

    def logits(self, samples: NDArray[np.float32], ids: list[int]) -> NDArray[np.float32]:
        """(1 + len(ids), vocab): before each of ``ids`` and after the last, teacher-forced.

        From embeddings, as a random model may answer with the audio placeholder's own id.
        """
        before, after = self.text_embeds(samples)
        inner = self.model.model.language_model
        forced = inner.embed_tokens(torch.tensor(ids))
        embeds = torch.cat([before, self.audio_embeds(samples), after, forced])
        with torch.no_grad():
            hidden = inner(inputs_embeds=embeds[None]).last_hidden_state[0, -len(ids) - 1 :]
            rows: NDArray[np.float32] = self.model.lm_head(hidden).numpy()
        return rows

    def text_embeds(self, samples: NDArray[np.float32]) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings of the prompt ahead of the audio and behind it, (tokens, hidden) each."""
        ids = self.inputs(samples)["input_ids"][0]
        audio = (ids == self.model.config.audio_token_index).nonzero()
        table = self.model.model.language_model.embed_tokens
        with torch.no_grad():
            return table(ids[: int(audio[0])]), table(ids[int(audio[-1]) + 1 :])

    def audio_embeds(self, samples: NDArray[np.float32]) -> torch.Tensor:
        """(tokens, hidden) of the whole recording."""
        inputs = self.inputs(samples)
        lengths = inputs["feature_attention_mask"].sum(-1)
        rows = []
        tower, projector = self.model.model.audio_tower, self.model.model.multi_modal_projector
        for features, length in zip(inputs["input_features"], lengths, strict=True):
            encoded, tokens = tower._get_feat_extract_output_lengths(length)
            mask = torch.zeros(1, 1, 1, 1500)
            mask[..., int(encoded) :] = torch.finfo(torch.float32).min
            with torch.no_grad():
                hidden = tower(features[None], attention_mask=mask).last_hidden_state
                rows.append(projector(hidden)[0, : int(tokens)])
        return torch.cat(rows)

    def greedy(self, embeds: torch.Tensor, positions: torch.Tensor, stops: Any) -> list[int]:
        """Greedy ids from input embeddings (tokens, hidden) at given positions."""
        inner, ids, cache = self.model.model.language_model, [], None
        step, at = embeds[None], positions[None]
        with torch.no_grad():
            while len(ids) < NEW_TOKENS:
                out = inner(
                    inputs_embeds=step, position_ids=at, past_key_values=cache, use_cache=True
                )
                cache = out.past_key_values
                token = int(self.model.lm_head(out.last_hidden_state[0, -1]).argmax())
                if token in stops:
                    break
                ids.append(token)
                step = inner.embed_tokens(torch.tensor([[token]]))
                at = at[:, -1:] + 1
        return ids


@pytest.mark.parametrize("tiny", TINY, ids=lambda tiny: tiny.name)
def test_ids_and_logits_equal_transformers(
    tiny: Tiny, checkpoints: Any, bundles: Any, tone: NDArray[np.float32]
) -> None:
    seconds = SECONDS[tiny.seed % 3]
    samples = tone[: int(seconds * 16_000)]
    reference = Reference(str(checkpoints(tiny)))
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
    reference = Reference(str(checkpoints(tiny)))
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
    reference = Reference(str(checkpoints(tiny)))
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
    stream = model.stream(tone[:32_000], QUESTION, **options)
    pieces = list(stream)
    answer = model.ask(tone[:32_000], QUESTION, **options)
    assert len(pieces) > 1
    assert "".join(pieces) == stream.answer.text == answer.text
    assert stream.answer.token_ids == answer.token_ids
    assert set(answer.timings.seconds) == set(STAGES)
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
    reference = Reference(str(checkpoints(TINY[0])))
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
