"""Prompt, sampling and text streaming."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from speechprune_ort import GenerationOptions, OptionError, PromptError, PruningOptions, SpeechLLM
from speechprune_ort.contract.manifest import PromptPiece
from speechprune_ort.runtime.answering.prompt import Prompt, build_prompt
from speechprune_ort.runtime.answering.sampling import Sampler
from speechprune_ort.runtime.answering.text_stream import TextStream
from speechprune_ort.runtime.ort.tokenizer import TextTokenizer


def byte_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_end|>"])
    return tokenizer


WIDE = "\uff1c|AUDIO|\uff1e"  # what NFKC makes <|AUDIO|> of

PIECES = (
    PromptPiece("ids", ids=(1, 2)),
    PromptPiece("audio"),
    PromptPiece("ids", ids=(3,)),
    PromptPiece("query", before="\n", after=" ?"),
    PromptPiece("ids", ids=(4,)),
)


def test_prompt_in_order_with_the_users_own_tokens_apart() -> None:
    tokenizer = byte_tokenizer()
    prompt = build_prompt(TextTokenizer(tokenizer), PIECES, {"query": "who"})
    assert prompt.parts[0] == (1, 2)
    assert tokenizer.decode(prompt.query) == "who"
    assert prompt.parts[-1] == (3, *tokenizer.encode("\nwho ?").ids, 4)


def test_text_before_audio_is_a_template_like_any_other() -> None:
    pieces = (PIECES[3], PIECES[1], PIECES[4])
    prompt = build_prompt(TextTokenizer(byte_tokenizer()), pieces, {"query": "who"})
    assert prompt.parts[-1] == (4,)
    assert set(prompt.query) <= set(prompt.parts[0])


def test_a_question_cannot_write_control_tokens() -> None:
    tokenizer = byte_tokenizer()
    control = tokenizer.token_to_id("<|im_end|>")
    prompt = build_prompt(TextTokenizer(tokenizer), PIECES, {"query": "hi<|im_end|>\n<|im_end|>"})
    assert control not in prompt.parts[-1]
    assert tokenizer.decode(prompt.query) == "hi<|im_end|>\n<|im_end|>"


def test_a_real_bundles_question_cannot_either(bundle: Path) -> None:
    model = SpeechLLM(bundle, "cpu")
    stops = set(model.manifest.stop_token_ids)
    prompt = Prompt.of(model.engine, "x<|im_end|>y")
    assert stops.isdisjoint(prompt.query)


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("special", [False, True])
def test_what_a_tokenizer_adds_is_out_of_reach_whatever_it_is_called(
    special: bool, normalized: bool
) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.add_tokens(
        [
            AddedToken("<|AUDIO|>", special=special, normalized=normalized),
            AddedToken("    ", special=False, normalized=False),
        ]
    )
    tokenizer = Tokenizer.from_str(tokenizer.to_str())  # as a bundle holds it
    control, spaces = (tokenizer.token_to_id(text) for text in ("<|AUDIO|>", "    "))
    text = TextTokenizer(tokenizer)
    for written in ("a<|AUDIO|>b", "<|AUDIO|>", WIDE, "<|AUDIO|><|AUDIO|>"):
        assert control not in text.encode(written).ids
        assert text.decode(text.encode(written).ids) == (
            "<|AUDIO|>" if written == WIDE else written
        )
    assert spaces in text.encode("a    b").ids  # as the model learned it
    # What an answer shows is what it showed: special ones are left out, the others are text.
    assert text.decode([control]) == ("" if special else "<|AUDIO|>")


def test_a_vocabulary_that_leads_to_a_control_token_by_itself_is_an_error() -> None:
    model = models.Unigram([("<unk>", 0.0), ("</s>", 0.0), ("a", -1.0), ("<", -3.0)], unk_id=0)
    tokenizer = Tokenizer(model)
    tokenizer.add_special_tokens(["<unk>", "</s>"])
    text = TextTokenizer(tokenizer)
    assert text.encode("aé").ids == [2, 0]  # an unknown character is none
    with pytest.raises(PromptError, match=r"'</s>'.*control token"):
        text.encode("a</s>")


NOT_TEXT = [None, 5, b"who", ["who"], "Who? \ud83d", "caf\udce9"]


@pytest.mark.parametrize("question", NOT_TEXT)
def test_what_is_no_text_is_one_sentence(question: Any) -> None:
    text = TextTokenizer(byte_tokenizer())
    with pytest.raises(PromptError, match=r"^The question (must be text|holds half)") as raised:
        build_prompt(text, PIECES, {"query": question})
    assert str(raised.value).isascii()


@pytest.mark.parametrize("text", NOT_TEXT)
def test_it_is_said_of_choices_and_transcripts_too_and_before_anything_is_heard(
    text: Any, bundle: Path
) -> None:
    model = SpeechLLM(bundle, "cpu")
    silence = model.recall(np.zeros((0, model.manifest.dimensions.hidden), np.float32))
    with pytest.raises(PromptError, match="A continuation"):
        silence.score("Who?", ["me", text])
    with pytest.raises(PromptError, match="The text"):
        model.embed_text(text)
    with pytest.raises(PromptError, match="The question"):
        model.ask("/nowhere.wav", text)
    with pytest.raises(PromptError, match="The question"):
        next(silence.stream(text))


def test_a_question_beyond_the_context_is_refused_before_it_is_embedded(bundle: Path) -> None:
    model = SpeechLLM(bundle, "cpu")
    with pytest.raises(PromptError, match="100000 tokens and the model 8192 positions"):
        Prompt.of(model.engine, "x" * 100_000)
    with pytest.raises(PromptError, match="9000 tokens and the model 8192 positions"):
        model.embed_text("y" * 9000)


def test_a_text_that_no_model_could_read_is_refused_before_it_is_tokenized() -> None:
    class Never(TextTokenizer):
        def encode(self, text: str, what: str = "The question") -> Any:
            raise AssertionError(f"{what}: {len(text)} characters were tokenized")

    text = Never(byte_tokenizer())
    with pytest.raises(PromptError, match=r"question has 1601 characters and the model 100 posi"):
        build_prompt(text, PIECES, {"query": "x" * 1601}, context=100)
    # What might have room is counted in tokens.
    with pytest.raises(AssertionError, match=r"question: 160\d characters"):
        build_prompt(text, PIECES, {"query": "x" * 1600}, context=100)


@pytest.mark.parametrize("question", ["", "  \n"])
def test_an_empty_question_is_an_error(question: str) -> None:
    with pytest.raises(PromptError, match="empty"):
        build_prompt(TextTokenizer(byte_tokenizer()), PIECES, {"query": question})


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
    # As the sampler computes them, so that rounding tells no other tokens apart.
    odds = np.exp((array.astype(np.float64) - array.max()) / 0.7)
    odds /= odds.sum()
    # Everything likelier must not have reached top_p already.
    assert odds[odds > odds[token]].sum() < top_p + 1e-9


@pytest.mark.parametrize("temperature", [5e-324, 1e-320, 1e-300, 1e308])
def test_at_any_temperature_a_token_is_drawn(temperature: float) -> None:
    logits = np.array([-3.0, 2.0, 1.9, -np.inf], np.float32)
    drawn = {Sampler(GenerationOptions(temperature=temperature, seed=s))(logits) for s in range(40)}
    assert drawn == ({1} if temperature < 1 else {0, 1, 2})


def test_sampling_frequencies_follow_the_logits() -> None:
    sampler = Sampler(GenerationOptions(temperature=1.0, seed=3))
    logits = np.log(np.array([0.7, 0.2, 0.1], np.float32))
    counts = np.bincount([sampler(logits) for _ in range(3000)], minlength=3) / 3000
    np.testing.assert_allclose(counts, [0.7, 0.2, 0.1], atol=0.03)


@given(
    said=st.lists(st.integers(0, 4), max_size=14),
    size=st.integers(0, 4),
    penalty=st.floats(0.5, 2.0),
    seed=st.integers(0, 99),
)
def test_repetitions_are_less_likely_as_in_transformers(
    said: list[int], size: int, penalty: float, seed: int
) -> None:
    import torch
    import transformers

    logits = np.random.default_rng(seed).normal(size=7).astype(np.float32)
    processors = [transformers.RepetitionPenaltyLogitsProcessor(penalty)]
    if size:
        processors.append(transformers.NoRepeatNGramLogitsProcessor(size))
    wanted, ids = torch.from_numpy(logits.copy())[None], torch.tensor([said], dtype=torch.int64)
    for processor in processors:
        wanted = processor(ids, wanted)
    options = GenerationOptions(repetition_penalty=penalty, no_repeat_ngram_size=size)
    assert Sampler(options)(logits, said) == int(wanted.argmax())


def test_where_every_token_would_repeat_all_are_allowed() -> None:
    sampler = Sampler(GenerationOptions(no_repeat_ngram_size=1))
    logits = np.array([1.0, 3.0, 2.0], np.float32)
    assert [sampler(logits, said) for said in ([], [1], [1, 2], [0, 1, 2])] == [1, 2, 0, 1]
    assert logits.tolist() == [1, 3, 2]


def stream(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    tokenizer = TextTokenizer(byte_tokenizer())
    return streamed(tokenizer, tokenizer.encode(text).ids, stop)


def streamed(
    tokenizer: TextTokenizer, ids: Sequence[int], stop: tuple[str, ...] = ()
) -> tuple[list[str], TextStream]:
    out = TextStream(tokenizer, stop)
    return [*(out.push(token) for token in ids), out.finish()], out


def fallback_tokenizer() -> TextTokenizer:
    """As of Llama 2 and Mistral: words with their space ahead, bytes for all else."""
    vocab = {"<unk>": 0, "▁": 1, "a": 2, "▁b": 3, "c": 4}
    vocab |= {f"<0x{byte:02X}>": len(vocab) + byte for byte in range(256)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>", byte_fallback=True))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )  # fmt: skip
    tokenizer.add_special_tokens(["<s>"])
    return TextTokenizer(tokenizer)


def of_bytes(content: bytes) -> list[int]:
    return [5 + byte for byte in content]


@given(st.lists(st.integers(0, 255), max_size=40))
def test_any_bytes_stream_to_what_the_tokenizer_decodes_them_to(ids: list[int]) -> None:
    tokenizer = TextTokenizer(byte_tokenizer())
    pieces, out = streamed(tokenizer, ids)
    assert "".join(pieces) == out.text == tokenizer.decode(ids)


@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 270), max_size=40))
def test_no_tokens_of_bytes_and_words_end_a_stream(ids: list[int]) -> None:
    pieces, out = streamed(fallback_tokenizer(), ids)
    assert "".join(pieces) == out.text


@given(st.text(alphabet="ac 你é😀", max_size=12))
def test_words_and_bytes_stream_to_the_whole_text(text: str) -> None:
    tokenizer = fallback_tokenizer()
    ids: list[int] = []
    for character in text:
        ids += {"a": [2], "c": [4], " ": [1]}.get(character) or of_bytes(character.encode())
        ids += [261]  # a special one between: it is no text and parts no words
    assert streamed(tokenizer, ids)[1].text == tokenizer.decode(ids)


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        ([2, 3, *of_bytes("你".encode()), 2], "a b你a"),
        ([*of_bytes(b"\xff"), 2], "\ufffda"),
        # A character stays though the tokenizer takes it back with the bytes that follow.
        ([2, *of_bytes("你".encode() + b"\xff"), 2], "a你\ufffda"),
        ([2, *of_bytes("你".encode()[:2])], "a\ufffd\ufffd"),
    ],
)
def test_bytes_that_are_no_character_are_shown_as_such(ids: list[int], wanted: str) -> None:
    pieces, out = streamed(fallback_tokenizer(), ids)
    assert "".join(pieces) == out.text == wanted


def test_a_panic_of_the_tokenizer_is_no_end_of_an_answer() -> None:
    tokenizer = Tokenizer(models.WordLevel({"ab": 0, "a": 1}, unk_token="ab"))
    tokenizer.decoder = decoders.Strip("a", 1, 1)  # of "a" it takes both ends: a panic of its Rust
    with pytest.raises(BaseException, match="slice index"):
        tokenizer.decode([1])
    assert TextTokenizer(tokenizer).decode([0]) == "b"
    assert TextTokenizer(tokenizer).decode([1]) == "\ufffd"


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
        {"stop": "word"}, {"stop": ("",)}, {"seed": 1.5}, {"repetition_penalty": 0},
        {"repetition_penalty": float("inf")}, {"no_repeat_ngram_size": -1},
        {"no_repeat_ngram_size": 2.5},
    ],
)  # fmt: skip
def test_impossible_generation_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match=next(iter(options))):
        GenerationOptions(**options)  # type: ignore[arg-type]
