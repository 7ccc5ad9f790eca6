"""Parts of ``scripts/train_small_model.py`` that need neither voices nor weights."""

from __future__ import annotations

import doctest
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from small_model.delta import Delta, read_delta, record_of, record_result, write_delta
from small_model.training.evaluate import contained
from small_model.training.facts import TEMPLATES, UNSEEN_TEMPLATES, FactMaker
from small_model.training.text import TEST_IDS, Dialogue, chance, split_dialogues

from speechprune_ort import PartError
from speechprune_ort.models.delta import FACTOR_A, FACTOR_B, merge


@pytest.mark.parametrize("name", ["language_model", "training.facts", "training.spelling"])
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


@pytest.fixture
def delta(tmp_path: Path) -> Path:
    random = np.random.default_rng(1)
    first, second = random.standard_normal((2, 4)), random.standard_normal((6, 2))
    new = {"v": random.standard_normal((6, 4)), "speller.head.bias": np.ones(3)}
    folder = tmp_path / "delta"
    tensors = {**new, f"w{FACTOR_A}": first, f"w{FACTOR_B}": second}
    write_delta(folder, Delta(tensors, record_of(2.0, ["a note"])))
    return folder


def test_a_delta_replaces_adds_and_multiplies(delta: Path) -> None:
    pytest.importorskip("torch")
    from small_model.assemble import checkpoint_weights

    random = np.random.default_rng(0)
    base = {name: random.standard_normal((6, 4)).astype(np.float32) for name in ("w", "u")}
    changed = read_delta(delta)
    assert set(changed.tensors) == {"v", f"w{FACTOR_A}", f"w{FACTOR_B}"}  # not what trains alone
    made = checkpoint_weights(base, changed)
    assert {values.dtype for values in made.values()} == {np.dtype(np.float16)}
    np.testing.assert_array_equal(made["v"], changed.tensors["v"])
    np.testing.assert_array_equal(made["u"], base["u"].astype(np.float16))
    product = (
        2
        * changed.tensors[f"w{FACTOR_B}"].astype(np.float64)
        @ changed.tensors[f"w{FACTOR_A}"].astype(np.float64)
    )
    np.testing.assert_allclose(made["w"], base["w"] + product, atol=0.01)
    with pytest.raises(PartError, match="has no w"):
        checkpoint_weights({"u": base["u"]}, changed)


def test_a_damaged_delta_and_other_weights_are_refused(delta: Path, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    save_file({"w": np.zeros(3)}, weights)
    read_delta(delta).check(weights)  # nothing is known of the result yet
    record_result(delta, weights)
    read_delta(delta).check(weights)
    save_file({"w": np.ones(3)}, weights)
    with pytest.raises(PartError, match="The finished checkpoint has sha256"):
        read_delta(delta).check(weights)
    content = bytearray((delta / "delta.safetensors").read_bytes())
    content[-1] ^= 1
    (delta / "delta.safetensors").write_bytes(bytes(content))
    with pytest.raises(PartError, match="The delta has sha256"):
        read_delta(delta)
    record = json.loads((delta / "delta.json").read_text())
    del record["scale"]
    (delta / "delta.json").write_text(json.dumps(record))
    with pytest.raises(PartError, match="holds no delta that can be used"):
        read_delta(delta)


def test_a_delta_of_another_model_is_refused() -> None:
    with pytest.raises(PartError, match="has no w"):
        merge({"v": np.zeros(1, np.float32)}, {"w": np.zeros(1, np.float16)}, 1.0)
    with pytest.raises(PartError, match="shape"):
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
