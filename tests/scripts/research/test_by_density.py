"""``research/by_density.py``: the budget shared out over stretches of a recording."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from speechprune_ort import PruningOptions, SpeechLLM
from speechprune_ort.methods import METHODS

NAMES = ("coverage-even", "coverage-dense", "similarity-even", "similarity-dense")
STRETCH = 250  # tokens of 10 s


@pytest.fixture(scope="module")
def plugin() -> Iterator[ModuleType]:
    """The file, whose methods no other test sees."""
    before = dict(METHODS)
    yield importlib.import_module("research.by_density")
    METHODS.clear()
    METHODS.update(before)


def test_what_is_alike_is_no_change(plugin: ModuleType) -> None:
    embeds = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    embeds[20:] = embeds[20]
    found = plugin.changes(embeds)
    assert found.shape == (40,)
    assert found[0] == 0
    assert found[1:20].min() > 0.01
    np.testing.assert_allclose(found[21:], 0, atol=1e-6)


@pytest.mark.parametrize("count", [1, 7, 60, 99, 100])
def test_every_token_of_the_budget_is_shared_out(plugin: ModuleType, count: int) -> None:
    room = np.array([40, 40, 20])
    for weights in ([5.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1e6]):
        shares = plugin.shared_out(np.array(weights), room, count)
        assert sum(shares) == count
        assert (np.array(shares) <= room).all()
    assert plugin.shared_out(np.array([5.0, 1.0, 0.0]), room, 6) == [5, 1, 0]


def test_speech_gets_the_budget_where_it_is_shared_out_by_density(
    plugin: ModuleType, bundle: Path
) -> None:
    assert set(NAMES) <= set(METHODS), plugin
    model = SpeechLLM(bundle, "cpu", threads=1)
    hidden = model.manifest.dimensions.hidden
    embeds = np.random.default_rng(1).normal(size=(4 * STRETCH, hidden)).astype(np.float32)
    embeds[STRETCH : 3 * STRETCH] = embeds[STRETCH]  # half of it is a pause
    recording = model.recall(embeds)
    for name in NAMES:
        kept = recording.prune("Who?", PruningOptions(name, pruning_rate=0.6)).indices
        assert len(kept) == len(set(kept.tolist())) == 300
        counts = np.bincount(kept // STRETCH, minlength=4)
        if name.endswith("even"):
            assert counts.tolist() == [75] * 4
        else:
            assert counts[1:3].sum() < 10
