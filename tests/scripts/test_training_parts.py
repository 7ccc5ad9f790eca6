"""Parts of ``scripts/train_small_model.py`` that need neither voices nor weights."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from small_model.delta import apply_delta, merge, write_delta
from small_model.errors import SmallModelError
from small_model.training.adapt import Sample, join, joined_turns, mean_of_factors
from small_model.training.data import Clip, clip_texts, token_labels
from small_model.training.evaluate import contained, interval, word_errors
from small_model.training.facts import TEMPLATES, UNSEEN_TEMPLATES, FactMaker
from small_model.training.pieces import FIRST_MERGES, SPACE, Pieces
from small_model.training.spikes import (
    drop_blanks,
    one_each,
    runs,
    spike,
    with_blank,
)
from small_model.training.text import TEST_IDS, Dialogue, chance, split_dialogues

from speechprune_ort.statistics import proportion


@pytest.mark.parametrize("name", ["training.evaluate", "training.facts", "training.spikes"])
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(f"small_model.{name}"))
    assert result.failed == 0
    assert result.attempted > 0


def test_test_dialogues_are_listed_once_and_enough() -> None:
    ids = TEST_IDS.read_text().split()
    assert len(set(ids)) == len(ids) >= 120


def dialogue(name: str, *sentences: str) -> Dialogue:
    return Dialogue(name, sentences, (0,), "Who?", ("a", "b"), 0)


def test_no_sentence_of_a_test_dialogue_is_left_for_training() -> None:
    shared = "Everybody says this."
    dialogues = [dialogue("test", "Only here.", shared)] + [
        dialogue(f"train-{i}", f"Sentence {i}.", shared, "only HERE.") for i in range(80)
    ]
    split = split_dialogues(dialogues, ["test"])
    assert [d.name for d in split.test] == ["test"]
    rest = (*split.development, *split.adapt, *split.align)
    assert len(rest) == 80
    assert len({d.name for d in rest}) == 80
    assert {s for d in rest for s in d.sentences} == {f"Sentence {i}." for i in range(80)}


def test_labels_cover_each_token_and_silence_elsewhere() -> None:
    labels = token_labels(25, [(7, 0.2, 0.4), (8, 0.4, 0.42), (9, 0.8, 5.0)], silence=1)
    assert len(labels) == 25
    assert set(labels[:4].tolist()) == {1}
    assert set(labels[6:9].tolist()) == {7}
    assert set(labels[21:].tolist()) == {9}


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    random = np.random.default_rng(0)
    weights = {name: random.standard_normal((6, 4)).astype(np.float32) for name in ("w", "v", "u")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text("{}")
    return folder


def test_a_delta_is_added_and_checked(base: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    new = random.standard_normal((6, 4)).astype(np.float32)
    first, second = random.standard_normal((2, 4)), random.standard_normal((6, 2))
    write_delta(tmp_path / "delta", base, {"v": new}, {"w": (first, second)}, 2.0)
    before = load_file(base / "model.safetensors")
    after = load_file(apply_delta(base, tmp_path / "delta", tmp_path / "out"))
    np.testing.assert_array_equal(after["v"], new.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(after["u"], before["u"])
    np.testing.assert_allclose(after["w"], before["w"] + 2 * second @ first, atol=0.02)
    assert (tmp_path / "out" / "config.json").exists()

    with pytest.raises(SmallModelError, match="exists already"):
        apply_delta(base, tmp_path / "delta", tmp_path / "out")
    content = bytearray((base / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (base / "model.safetensors").write_bytes(bytes(content))
    with pytest.raises(SmallModelError, match="base checkpoint"):
        apply_delta(base, tmp_path / "delta", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_delta_of_another_model_is_refused() -> None:
    with pytest.raises(SmallModelError, match="has no w"):
        merge({"v": np.zeros(1, np.float32)}, {"w": np.zeros(1, np.float16)}, 1.0)
    with pytest.raises(SmallModelError, match="shape"):
        merge({"w": np.zeros(1, np.float32)}, {"w": np.zeros(2, np.float16)}, 1.0)


def test_facts_hold_their_answer_and_repeat_for_a_seed() -> None:
    words = ("lantern", "marble", "sandal", "thistle")
    made = [FactMaker(words, chance("seed")).fact() for _ in range(2)]
    assert made[0] == made[1]
    for forms in (TEMPLATES, UNSEEN_TEMPLATES):
        maker = FactMaker(words, chance(1), forms)
        for _ in range(400):
            fact = maker.fact()
            assert fact.question.endswith("?")
            assert not re.search(r"[A-Z]{3}", fact.sentence + fact.question + fact.answer)
            # A preposition or an article may be the answer's own.
            _, _, rest = fact.answer.partition(" ")
            assert contained(fact.sentence, fact.answer) or contained(fact.sentence, rest), fact


def test_no_question_for_the_test_is_asked_in_training() -> None:
    assert not {form[1] for form in UNSEEN_TEMPLATES} & {form[1] for form in TEMPLATES}
    assert not {form[0] for form in UNSEEN_TEMPLATES} & {form[0] for form in TEMPLATES}


def test_numbered_slots_of_a_fact_differ() -> None:
    forms = [("NAME met NAME2 in CITY and CITY2.", "Who met NAME2?", "NAME")]
    for seed in range(200):
        sentence = FactMaker((), chance(seed), forms).fact().sentence
        name, _, other, _, city, _, second = sentence.rstrip(".").split()
        assert name != other
        assert city != second


def clip_of(tokens: int, *questions: str) -> Sample:
    asked = tuple((question, f"of {question}") for question in questions)
    clip = Clip("facts", "x", "v", "text", asked, ())
    return Sample(clip, [], np.zeros(tokens, np.int32))


def test_clips_are_joined_up_to_a_length_and_never_with_the_same_question() -> None:
    samples = [clip_of(100, "a?"), clip_of(200, "b?", "c?"), clip_of(300, "d?")]
    assert join(samples, 1000) == samples
    assert join(samples, 599) == samples[:2]
    assert join(samples, 50) == samples[:1]
    assert join([*samples, clip_of(1, "b?"), clip_of(1, "e?")], 1000) == samples
    turns = joined_turns(samples, chance(3))
    assert sorted(turn[0] for turn in turns) == ["a?", "b?", "c?", "d?"]
    assert {turn[1] for turn in turns} == {"of a?", "of b?", "of c?", "of d?"}
    assert sum(turn[2] for turn in turns) == pytest.approx(1.0)


def test_extra_clips_leave_whole_dialogues_and_key_sentences_out() -> None:
    spoken = dialogue("d", *(f"Sentence {i}." for i in range(9)))
    facts = FactMaker(("lantern",), chance(1))
    kinds = [kind for kind, *_ in clip_texts(spoken, facts, chance(1), whole=False)]
    assert set(kinds) == {"context", "facts"}
    every = [kind for kind, *_ in clip_texts(spoken, facts, chance(1))]
    assert every.count("whole") == every.count("key") == 1


def test_scores_are_what_their_names_say() -> None:
    assert word_errors("the cat sat", "the cat sat") == (0, 3)
    assert word_errors("the cat sat", "a cat") == (2, 3)
    found = interval(proportion([1.0] * 30 + [0.0] * 10))
    assert found["mean"] == 0.75
    assert found["low"] < 0.75 < found["high"]


def test_rare_tokens_are_spelled_in_few_pieces_over_the_same_time() -> None:
    strings = [f"<{i}>" for i in range(FIRST_MERGES)]
    for place, text in enumerate([*"abcdefgh", "de", f"{SPACE}a", "fg"]):
        strings[place] = text
    strings += [f"{SPACE}abcdefg", "abc", f"{SPACE}often", "\u00e9"]
    rare, abc, often, foreign = range(FIRST_MERGES, FIRST_MERGES + 4)
    pieces = Pieces(strings, [abc, often])
    spelled = [strings[i] for i in pieces.spell(rare)]
    assert spelled == [f"{SPACE}a", "b", "c", "de", "fg"]
    assert pieces.spell(often) == (often,)
    assert pieces.spell(foreign) == (foreign,)  # what cannot be spelled stays as it is

    labels = np.array([often] * 3 + [rare] * 14 + [-1] * 2 + [rare], dtype=np.int32)
    found = pieces.relabel(labels)
    assert found.dtype == np.int32
    wanted = 2 * f"{SPACE}a b c de de fg fg".split()
    assert sorted(strings[i] for i in found[3:17]) == sorted(wanted)
    assert found[:3].tolist() == [often] * 3
    assert found[17:19].tolist() == [-1, -1]
    # A run shorter than its pieces gets the middle ones.
    assert found[19] in pieces.spell(rare)
    assert len(pieces.relabel(labels[:0])) == 0


def test_a_run_is_likely_where_one_of_its_tokens_writes_it_and_the_others_are_blank() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(9, 4, generator=generator).log_softmax(-1)
    labels, run, blank = [1, 1, 1, 2, 2, 3, 1, 1, 1], [4, 4, 4, 5, 5, 6, 9, 9, 9], 0
    own = scores[torch.arange(9), torch.tensor(labels)]
    likelihood, share = one_each(own, scores[:, blank], torch.tensor(run))
    p = scores.exp().double()
    for place, (start, end) in enumerate([(0, 3), (3, 5), (5, 6), (6, 9)]):
        paths = []
        for writer in range(start, end):  # every way of writing it once
            others = [p[t, blank] for t in range(start, end) if t != writer]
            paths.append(p[writer, labels[start]] * torch.tensor(others).prod())
        wanted = torch.stack(paths)
        assert float(likelihood[place].exp()) == pytest.approx(float(wanted.sum()), rel=1e-5)
        np.testing.assert_allclose(share[start:end], wanted / wanted.sum(), rtol=1e-5)
    nothing, none = one_each(own[:0], own[:0], torch.tensor(run[:0]))
    assert len(nothing) == len(none) == 0


def test_the_likelihood_of_a_run_teaches_one_of_its_tokens_to_write_it() -> None:
    logits = (0.1 * torch.randn(12, 3, generator=torch.Generator().manual_seed(1))).requires_grad_()
    run = torch.tensor([0] * 5 + [1] * 7)
    optimizer = torch.optim.Adam([logits], 0.3)
    for _ in range(150):
        scores = logits.log_softmax(-1)
        own = torch.where(run == 0, scores[:, 1], scores[:, 2])
        optimizer.zero_grad()
        (-one_each(own, scores[:, 0], run)[0].sum()).backward()
        optimizer.step()
    assert sorted(logits.argmax(-1)[:5].tolist()) == [0, 0, 0, 0, 1]
    assert sorted(logits.argmax(-1)[5:].tolist()) == [0] * 6 + [2]


def test_each_run_is_spiked_once_within_its_time() -> None:
    labels = np.array([9, 9, 4, 4, 4, 5, 9, 9, 9, 4, 4], np.int32)
    places = set()
    for seed in range(40):
        found = spike(labels, 9, chance(seed))
        spoken = np.flatnonzero(found != 9)
        assert found[spoken].tolist() == [4, 5, 4]
        assert (found[spoken] == labels[spoken]).all()
        places.add(int(spoken[0]))
    assert places == {2, 3, 4}
    assert len(spike(labels[:0], 9, chance(0))) == 0
    assert runs(torch.from_numpy(labels)[None]).max() == 4


def test_dropping_takes_blanks_first() -> None:
    generator = torch.Generator().manual_seed(2)
    embeddings = 1.0 + torch.randn(50, 16, generator=generator)
    targets = with_blank(embeddings, 3)
    torch.testing.assert_close(targets[3], -embeddings.mean(0))
    assert torch.equal(targets[4:], embeddings[4:])
    words = targets[[7, 9, 11]]
    tokens = torch.cat([targets[[3] * 50], words, targets[[3] * 47]])
    torch.manual_seed(0)
    torch.testing.assert_close(drop_blanks(tokens, targets[3], 0.97), words)
    half = drop_blanks(tokens, targets[3], 0.5)
    assert len(half) == 50
    assert [row.tolist() for row in words] == [r for r in half.tolist() if r != targets[3].tolist()]


def test_two_parts_of_a_training_have_a_mean() -> None:
    left, right = {"q.a": torch.tensor([1.0, 3.0])}, {"q.a": torch.tensor([3.0, 5.0])}
    assert mean_of_factors(left, right)["q.a"].tolist() == [2.0, 4.0]
    with pytest.raises(ValueError, match="different matrices"):
        mean_of_factors(left, {"v.a": torch.zeros(2)})
