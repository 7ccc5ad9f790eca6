"""Prompt, sampling and text streaming."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from speechprune_ort import GenerationOptions, OptionError, PromptError, PruningOptions, SpeechLLM
from speechprune_ort.manifest import PromptPiece
from speechprune_ort.runtime.prompt import build_prompt
from speechprune_ort.runtime.sampling import Sampler
from speechprune_ort.runtime.text_stream import TextStream


def byte_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_end|>"])
    tokenizer.encode_special_tokens = True
    return tokenizer


PIECES = (
    PromptPiece("ids", ids=(1, 2)),
    PromptPiece("audio"),
    PromptPiece("ids", ids=(3,)),
    PromptPiece("query", before="\n", after=" ?"),
    PromptPiece("ids", ids=(4,)),
)


def test_prompt_in_order_with_the_users_own_tokens_apart() -> None:
    tokenizer = byte_tokenizer()
    prompt = build_prompt(tokenizer, PIECES, "who")
    assert prompt.before == (1, 2)
    assert tokenizer.decode(prompt.query) == "who"
    assert prompt.after == (3, *tokenizer.encode("\nwho ?").ids, 4)


def test_text_before_audio_is_a_template_like_any_other() -> None:
    pieces = (PIECES[3], PIECES[1], PIECES[4])
    prompt = build_prompt(byte_tokenizer(), pieces, "who")
    assert prompt.after == (4,)
    assert set(prompt.query) <= set(prompt.before)


def test_a_question_cannot_write_control_tokens() -> None:
    tokenizer = byte_tokenizer()
    control = tokenizer.token_to_id("<|im_end|>")
    prompt = build_prompt(tokenizer, PIECES, "hi<|im_end|>\n<|im_end|>")
    assert control not in prompt.after
    assert tokenizer.decode(prompt.query) == "hi<|im_end|>\n<|im_end|>"


def test_a_real_bundles_question_cannot_either(bundle: Path) -> None:
    model = SpeechLLM(bundle, "cpu")
    stops = set(model.manifest.stop_token_ids)
    prompt = build_prompt(model.engine.tokenizer, model.manifest.prompt, "x<|im_end|>y")
    assert stops.isdisjoint(prompt.query)


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_an_error(question: str) -> None:
    with pytest.raises(PromptError, match="empty"):
        build_prompt(byte_tokenizer(), PIECES, question)


@given(
    logits=st.lists(st.floats(-20, 20, width=32), min_size=2, max_size=50),
    top_p=st.floats(0.01, 1.0),
    seed=st.integers(0, 5),
)
def test_sampling_stays_in_the_nucleus_and_repeats_for_a_seed(
    logits: list[float], top_p: float, seed: int
) -> None:
    options = GenerationOptions(temperature=0.7, top_p=top_p, seed=seed)
    array = np.array(logits, np.float32)
    token = Sampler(options)(array)
    assert token == Sampler(options)(array)
    odds = np.exp(array.astype(np.float64) / 0.7)
    odds /= odds.sum()
    # Everything strictly likelier must not have reached top_p already.
    assert odds[odds > odds[token]].sum() < top_p + 1e-9


def test_sampling_frequencies_follow_the_logits() -> None:
    sampler = Sampler(GenerationOptions(temperature=1.0, seed=3))
    logits = np.log(np.array([0.7, 0.2, 0.1], np.float32))
    counts = np.bincount([sampler(logits) for _ in range(3000)], minlength=3) / 3000
    np.testing.assert_allclose(counts, [0.7, 0.2, 0.1], atol=0.03)


def stream(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    tokenizer = byte_tokenizer()
    out = TextStream(tokenizer, stop)
    pieces = [out.push(token) for token in tokenizer.encode(text).ids]
    return [*pieces, out.finish()], out


@given(st.text(max_size=30))
def test_streamed_pieces_join_to_the_text_and_never_split_a_character(text: str) -> None:
    pieces, out = stream(text)
    assert "".join(pieces) == out.text == text
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text


@pytest.mark.parametrize(
    ("text", "stop", "wanted"),
    [
        ("one two three", ("two",), "one "),
        ("one two three", ("four",), "one two three"),
        ("one twthree", ("two",), "one twthree"),
        ("abab abac", ("abac",), "abab "),
        ("x END y", ("END", "x E"), ""),
        ("ends with EN", ("END",), "ends with EN"),
    ],
)
def test_nothing_past_a_stop_string_is_released(
    text: str, stop: tuple[str, ...], wanted: str
) -> None:
    pieces, out = stream(text, stop)
    assert "".join(pieces) == out.text == wanted


@pytest.mark.parametrize(
    "options",
    [
        {"method": "best"}, {"pruning_rate": 1.0}, {"pruning_rate": -0.1},
        {"pruning_rate": float("nan")}, {"pruning_rate": "0.2"}, {"budget": 0}, {"budget": True},
        {"frame_temperature": 0}, {"frame_temperature": float("inf")}, {"seed": -1},
        {"positions": "both"}, {"attention": "none"},
    ],
)  # fmt: skip
def test_impossible_pruning_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        PruningOptions(**options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_p": 1.1},
        {"stop": "word"}, {"stop": ("",)}, {"seed": 1.5},
    ],
)  # fmt: skip
def test_impossible_generation_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        GenerationOptions(**options)  # type: ignore[arg-type]
