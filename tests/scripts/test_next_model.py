"""The pure parts of the next default model's recipe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_model_next.actors import trusted
from small_model_next.alignment import letter_times, piece_labels, steady
from small_model_next.rooms import faster, in_room, leveled, telephone
from small_model_next.spelling import (
    LONGEST,
    SPACE,
    Cutter,
    letter_ids,
    read_letters,
    spoken,
    words_of,
)

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
    ids = {SPACE + "so": 1, "me": 2, SPACE + "on": 3}
    times = [3, 4, 6, 7, 30, 32]
    labels = piece_labels([SPACE + "so", "me", SPACE + "on"], times, ids, 40, 0)
    runs = [int(b) for a, b in zip([-1, *labels], labels, strict=False) if a != b]
    assert runs == [0, 1, 2, 0, 3, 0]
    for label, (first, last) in {1: (3, 4), 2: (6, 7), 3: (30, 32)}.items():
        assert set(labels[first : last + 1]) == {label}


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
    from small_model_next import checkpoint
    from small_model_next.encoder import seeded_encoder
    from small_model_next.letters import Speller
    from small_model_next.writer import Writer

    encoder = seeded_encoder()
    speller = Speller(encoder)
    writer = Writer(encoder, speller, hidden=16)
    features = torch.randn(1, 20, 512)
    with torch.no_grad():
        below = writer.below(features)
        torch.testing.assert_close(writer.above(below), below, rtol=0, atol=0.02)
        for weights in writer.parameters():
            weights.copy_(weights.half())
        before = writer(features)
        checkpoint.write(tmp_path / "trained.safetensors", writer, speller)
        for weights in writer.parameters():
            weights.zero_()
        checkpoint.read(tmp_path / "trained.safetensors", writer, speller)
        torch.testing.assert_close(writer(features), before)


def test_damage_keeps_level_and_length() -> None:
    noise = np.random.default_rng(1)
    wave = np.sin(np.arange(16_000) * 0.2).astype(np.float32)
    assert len(faster(wave, 1.25)) == 12_800
    assert np.sqrt(np.mean(leveled(wave, 0.1) ** 2)) == pytest.approx(0.1, rel=1e-3)
    assert in_room(wave, noise, 0.3, 4.0).shape == wave.shape
    assert np.corrcoef(telephone(wave, 8000)[500:-500], wave[500:-500])[0, 1] > 0.98
