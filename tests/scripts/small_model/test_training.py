"""The pure parts of the next default model's recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_model.training.actors import trusted
from small_model.training.alignment import letter_times, piece_places, steady
from small_model.training.facts import FactMaker
from small_model.training.questions import NOT_SAID, Asker
from small_model.training.rooms import faster, in_room, telephone
from small_model.training.spelling import (
    LONGEST,
    SPACE,
    Cutter,
    letter_ids,
    misheard,
    read_letters,
    spoken,
    words_of,
)
from small_model.training.text import chance
from small_model.training.voices import Speaker, leveled, plain

from speechprune_ort.errors import PartError

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
# Single letters, and the pieces that the words below need.
KNOWN = {*LETTERS, *(SPACE + letter for letter in LETTERS)} | {
    SPACE + "mot", "her", SPACE + "int", SPACE + "in", "ter", "nat", "ion", "al", "ern",
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("It costs $1,200.", "It costs one thousand two hundred dollars."),
        ("In 1905 and 2014", "In nineteen oh five and two thousand fourteen"),
        ("the 21st, 3.5%", "the twenty first, three point five percent"),
        ("Mr. Hale met Dr. Bell.", "mister Hale met doctor Bell."),
    ],
)
def test_numbers_and_signs_are_spoken(text: str, said: str) -> None:
    assert spoken(text) == said


def test_pieces_spell_their_word_in_few_parts() -> None:
    cutter = Cutter(KNOWN)
    assert cutter.cut("mother") == (SPACE + "mot", "her")
    assert cutter.cut("international") == (SPACE + "in", "ter", "nat", "ion", "al")
    for word in ("mother", "international", "zebra", "it's"):
        pieces = cutter.cut(word)
        assert "".join(pieces) == SPACE + word
        assert max(len(piece.removeprefix(SPACE)) for piece in pieces) <= LONGEST


def test_letters_of_pieces_read_as_the_text() -> None:
    cutter = Cutter(KNOWN)
    text = "mother zoo it's"
    classes = [0]
    for word in words_of(text):
        for letter in letter_ids(cutter.cut(word)):
            classes += [letter, letter, 0]
    assert read_letters(classes) == text


def test_letters_are_found_where_they_were_written() -> None:
    rng = np.random.default_rng(1)
    letters = [3, 3, 7, 1, 1, 9] * 20
    at = [start + token for start in range(0, 400, 20) for token in (2, 5, 6, 11, 14, 15)]
    scores = rng.uniform(-9, -5, (400, 12)).astype(np.float32)
    scores[:, 0] = -0.5
    scores[at, letters] = -0.1
    scores[at, 0] = -4.0
    assert letter_times(scores, letters).tolist() == at


def test_every_piece_lasts_and_pauses_are_their_own() -> None:
    times = [3, 4, 6, 7, 30, 32]
    places = piece_places([SPACE + "so", "me", SPACE + "on"], times, 40)
    runs = [int(b) for a, b in zip([9, *places], places, strict=False) if a != b]
    assert runs == [-1, 0, 1, -1, 2, -1]
    for place, (first, last) in enumerate([(3, 4), (6, 7), (30, 32)]):
        assert set(places[first : last + 1]) == {place}


@pytest.mark.export
def test_a_token_lies_between_its_piece_and_its_word() -> None:
    torch = pytest.importorskip("torch")
    from small_model.training.targets import Targets

    class Tokenizer:
        """Words of one token each, and pieces, by a list."""

        def convert_tokens_to_ids(self, texts: list[str]) -> list[int]:
            return [TOKENS.index(text) for text in texts]

        def __call__(self, text: str, **_: bool) -> dict[str, list[int]]:
            return {"input_ids": [TOKENS.index(SPACE + text.strip())]}

    parts = [SPACE + "Fri", SPACE + "fri", "day", SPACE + "on", SPACE + "a", SPACE + "is"]
    TOKENS = ["\u010a", *parts, SPACE + "Friday"]  # noqa: N806 - of this test alone
    table = torch.randn(len(TOKENS), 256, generator=torch.Generator().manual_seed(1))
    targets = Targets(["A is on Friday."], Cutter(TOKENS), Tokenizer(), table)
    assert set(targets.words) == {"friday"}  # the others are one piece
    pieces = torch.tensor([0, targets.rows[SPACE + "on"], targets.rows["day"]])
    said = targets.between(pieces, torch.tensor([0, 0, 1]))
    around = (said - targets.centre)[:, None]
    likeness = torch.cosine_similarity(around, table - targets.centre, -1)
    assert likeness[0].argmax() == 0
    assert likeness[1].argmax() == TOKENS.index(SPACE + "on")
    both = {TOKENS.index("day"), TOKENS.index(SPACE + "Friday")}
    assert set(likeness[2].topk(2).indices.tolist()) == both
    weak = targets.between(pieces, torch.tensor([0, 0, 1]), torch.tensor([[1.0], [1.0], [0.0]]))
    assert torch.equal(weak[:2], said[:2])
    assert torch.allclose(weak[2] - targets.centre, 0.75 * targets.pieces[pieces[2]], atol=1e-5)
    assert targets.read([0, int(pieces[1]), int(pieces[1]), 0]) == "on"


def test_a_penalty_steadies_what_flickers() -> None:
    scores = np.log(np.float32([[0.9, 0.1], [0.4, 0.6], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]]))
    assert steady(scores, 0.0).tolist() == [0, 1, 0, 1, 1]
    assert steady(scores, 1.0).tolist() == [0, 0, 0, 1, 1]


def test_text_that_a_decoder_made_up_is_not_trusted() -> None:
    said = "they went over the bridge before the storm came"
    assert trusted(said, -0.2, 0.01, 3.0)
    assert not trusted(said, -1.0, 0.01, 3.0)
    assert not trusted(said, -0.2, 0.9, 3.0)
    assert not trusted(said, -0.2, 0.01, 20.0)


@pytest.mark.export
def test_added_layers_begin_as_identity_and_a_checkpoint_is_whole(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from small_model.training.encoder import seeded_encoder
    from small_model.training.writer import Writer

    writer = Writer(seeded_encoder(), hidden=16)
    features = torch.randn(1, 20, 512)
    with torch.no_grad():
        below = writer.below(features)
        torch.testing.assert_close(writer.above(below), below, rtol=0, atol=0.02)
        for weights in writer.parameters():
            weights.copy_(weights.half())
        before = writer(features)
        writer.save(tmp_path / "trained.safetensors")
        for weights in writer.parameters():
            weights.zero_()
        writer.load(tmp_path / "trained.safetensors")
        torch.testing.assert_close(writer(features), before)


@pytest.mark.parametrize(
    ("voice", "missing"),
    [
        ("flite:slt", "flite does not speak"),
        ("espeak:en-us", "espeak-ng does not speak"),
        ("piper:joe", "piper:joe needs its file"),
    ],
)
def test_a_voice_that_is_not_there_is_named(
    voice: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PartError, match=missing):
        Speaker(None, chance(1)).say("Hello.", voice)


def test_typography_becomes_ascii() -> None:
    assert plain("\u201cCaf\u00e9\u201d \u2014 it\u2019s\u2026  so") == '"Cafe" , it\'s... so'


def test_damage_keeps_level_and_length() -> None:
    noise = np.random.default_rng(1)
    wave = np.sin(np.arange(16_000) * 0.2).astype(np.float32)
    assert len(faster(wave, 1.25)) == 12_800
    assert np.sqrt(np.mean(leveled(wave, 0.1) ** 2)) == pytest.approx(0.1, rel=1e-3)
    assert in_room(wave, noise, 0.3, 4.0).shape == wave.shape
    assert np.corrcoef(telephone(wave, 8000)[500:-500], wave[500:-500])[0, 1] > 0.98


def test_questions_are_read_off_a_text() -> None:
    facts = FactMaker(["blorp"], chance(1))
    asker = Asker([], facts, chance(2))
    text = "We met at noon. The old lamp in the attic is red. The old desk in the garage is white."
    assert asker.asked(text) == [
        ("What colour is the old lamp in the attic?", "Red"),
        ("What colour is the old desk in the garage?", "White"),
    ]
    # Two answers to one question are none.
    twice = "The fire started in the attic. The fire started in the garage."
    assert asker.asked(twice) == []


def test_every_fact_that_is_made_up_is_found_again_or_left_out() -> None:
    facts = FactMaker(["blorp", "zanty"], chance(3))
    asker = Asker([], facts, chance(2))
    found = wrong = 0
    for _ in range(400):
        fact = facts.fact()
        if pairs := asker.asked(spoken(fact.sentence)):
            found += (fact.question, fact.answer) in pairs
            wrong += (fact.question, fact.answer) not in pairs
    assert found > 300
    assert wrong <= 4


def test_what_is_asked_in_vain_is_said_to_be_missing() -> None:
    asker = Asker([], FactMaker(["blorp"], chance(1)), chance(2))
    turns = [turn for _ in range(60) for turn in asker.turns("Good morning.", transcript=True)]
    answers = {turn.answer for turn in turns}
    assert answers == {"Good morning.", NOT_SAID}
    assert all(turn.weight == 1 for turn in turns)


def test_a_misheard_word_is_off_by_one_letter() -> None:
    rng = chance(5)
    for word in ("garden", "of", "a", "o'clock"):
        for _ in range(50):
            heard = misheard(word, rng)
            assert abs(len(heard) - len(word)) <= 1
            if len(heard) == len(word):
                assert sum(a != b for a, b in zip(heard, word, strict=True)) <= 1


@pytest.mark.export
def test_a_pack_is_its_recordings_one_by_one_as_transformers_and_peft_read_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    from small_model.training import packing
    from transformers import Qwen2Config, Qwen2ForCausalLM

    monkeypatch.setattr(packing, "SHORT", 8)  # so that one recording takes each way
    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=30, hidden_size=64, intermediate_size=96, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2)  # fmt: skip
    lora = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["q_proj", "o_proj", "down_proj"])
    model = peft.get_peft_model(Qwen2ForCausalLM(config), lora)
    for name, values in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(values, std=0.1)
    inner = model.base_model.model
    lengths = [5, 8, 21]
    recordings = [torch.randn(1, length, 64, requires_grad=True) for length in lengths]

    def gradients() -> list[Any]:
        of = [*recordings, *(p for p in model.parameters() if p.requires_grad)]
        found = [one.grad.clone() for one in of]
        for one in of:
            one.grad = None
        return found

    wanted = [inner.model(inputs_embeds=one).last_hidden_state for one in recordings]
    torch.cat(wanted, 1).square().sum().backward()
    expected = gradients()
    packing.attend_in_packs(inner)
    packing.fuse(model)
    packed = inner.model(
        inputs_embeds=torch.cat(recordings, 1),
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        lengths=lengths,
        use_cache=False,
    ).last_hidden_state
    torch.testing.assert_close(packed, torch.cat(wanted, 1), atol=1e-5, rtol=1e-5)
    packed.square().sum().backward()
    for ours, theirs in zip(gradients(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    alone = inner.model(inputs_embeds=recordings[2]).last_hidden_state  # not a pack
    torch.testing.assert_close(alone, wanted[2], atol=1e-5, rtol=1e-5)


@pytest.mark.export
def test_a_reader_learns_an_answer_and_its_factors_can_be_merged() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("peft")
    from small_model.training.questions import Turn
    from small_model.training.reader import HEARD_WEIGHT, SCALE, Reader, Spoken, factors_of
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(vocab_size=300, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=2)  # fmt: skip
    model = Qwen2ForCausalLM(config)
    plain = {name: values.clone() for name, values in model.state_dict().items()}
    reader = Reader(model, lambda text, **_: {"input_ids": list(text.encode("latin-1"))})
    audio = torch.randn(12, 64)
    one = Spoken(audio, [Turn("Who?", "Ann", 1.0), Turn("What?", "Tea", 0.5)])
    optimizer = torch.optim.AdamW(reader.masters, 1e-2)
    losses = []
    for _ in range(24):
        loss = reader.loss([one])
        loss.total.backward()
        reader.to_masters()
        optimizer.step()
        reader.from_masters()
        losses.append(float(loss.total.detach()))
        assert [len(turns) for turns in loss.turns] == [2]
        assert loss.positions > 12 + len("Who?What?AnnTea")
    assert losses[-1] < 0.9 * losses[0]
    # Reading back what was kept gives the same reader, and merging gives the same matrices.
    kept = {name: values.clone() for name, values in reader.state().items()}
    for master in reader.masters:
        master.data.zero_()
    reader.load(kept)
    again, once_more = (float(reader.loss([one]).total.detach()) for _ in range(2))
    assert abs(again - once_more) < 1e-6
    # A word is asked for at the token where it ends, by its first token's id.
    heard = reader.loss([Spoken(audio, one.turns, [(11, "tea")])])
    first_id = reader.ids(" tea")[0]
    hidden = reader.inner.model(inputs_embeds=reader.prompt(audio, [])).last_hidden_state[0, -1]
    told = torch.log_softmax(reader.inner.lm_head(hidden).float(), -1)[first_id]
    assert abs(heard.heard + float(told.detach())) < 0.02
    assert abs(float(heard.total.detach()) - again - HEARD_WEIGHT * heard.heard) < 1e-4
    factors = factors_of(kept)
    matrices = {n.removeprefix("language_model.").rpartition(".")[0] for n in factors}
    assert matrices <= set(plain)
    name = "model.layers.0.self_attn.q_proj.weight"
    merged = reader.model.merge_and_unload().state_dict()[name].float()
    first, second = (factors[f"language_model.{name}.lora_{letter}"] for letter in "ab")
    torch.testing.assert_close(merged, plain[name] + SCALE * second @ first, rtol=0.02, atol=2e-3)


@pytest.mark.export
@pytest.mark.parametrize("frames", [40, 420])
def test_the_encoders_attention_is_torchs_forward_and_backward(frames: int) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from small_model.training.encoder import SHORT, attend

    torch.manual_seed(0)
    mask = torch.zeros(2, 1, 1, frames)
    mask[1, ..., frames // 2 :] = -1e4
    parts = [torch.randn(2, 8, frames, 64, requires_grad=True) for _ in range(3)]

    def found(said: Any) -> list[Any]:
        said.square().sum().backward()
        gradients = [part.grad.clone() for part in parts]
        for part in parts:
            part.grad = None
        return [said.detach(), *gradients]

    wanted = torch.nn.functional.scaled_dot_product_attention(*parts, attn_mask=mask)
    expected = found(wanted.transpose(1, 2))
    for ours, theirs in zip(found(attend(None, *parts, mask)[0]), expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(attend(None, *parts, mask)[0], expected[0])
    assert 40 <= SHORT < 420
