"""``focused-pooling``: everything merged, least where the question's words are spoken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from speechprune_ort import PruningOptions
from speechprune_ort.runtime.choosing.methods import Selection
from speechprune_ort.runtime.choosing.methods.focused import focused_likeness
from speechprune_ort.runtime.choosing.scoring import NumpyScorer
from speechprune_ort.runtime.choosing.selection import select
from speechprune_ort.runtime.hearing.embeddings import HostEmbeds

WORD = np.eye(1, 6, dtype=np.float32)


def never(_: NDArray[Any], __: str) -> Any:
    raise AssertionError("no projection is needed")


def choose(
    method: str, audio: NDArray[np.float32], word: NDArray[np.float32], n_keep: int
) -> Selection:
    """Five tokens a second: a passage of 10 s has 50."""
    scorer = NumpyScorer(HostEmbeds(audio), word, never)
    options = PruningOptions(method=method, pruning_rate=0.0, budget=n_keep)
    return select(options, scorer, window_tokens=20, frame_tokens=5)


def speech() -> NDArray[np.float32]:
    """400 tokens, of which one says the question's word."""
    audio = np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32)
    audio[:, 0] = 0
    audio[200] = 10 * WORD
    return audio


def test_by_hand() -> None:
    # At a temperature of 1 / ln 2, a border one below the best score counts half.
    cosines = np.float32([0.2, 0.0, 0.6])
    scores = np.float32([2.0, 2.0, 1.0, 1.0])
    likeness = focused_likeness(cosines, scores, 1 / np.log(2))
    np.testing.assert_allclose(likeness, [-0.8, -0.5, -0.2], rtol=1e-6)


@pytest.mark.parametrize("n_keep", [1, 2, 40, 399, 400])
def test_each_token_is_in_one_mean(n_keep: int) -> None:
    audio = speech()
    found = choose("focused-pooling", audio, WORD, n_keep)
    assert len(found.indices) == n_keep
    if n_keep == len(audio):  # nothing is to be chosen
        return
    assert found.embeds is not None
    sizes = np.diff(np.append(found.indices, len(audio)))
    np.testing.assert_allclose((found.embeds * sizes[:, None]).sum(0), audio.sum(0), atol=1e-3)


def test_it_merges_least_where_the_question_is_spoken() -> None:
    audio, near = speech(), range(175, 226)
    focused = np.isin(choose("focused-pooling", audio, WORD, 40).indices, near).sum()
    evenly = np.isin(choose("affinity-pooling", audio, WORD, 40).indices, near).sum()
    assert focused >= 35
    assert evenly <= 15


def test_of_a_question_that_is_nowhere_it_makes_nothing() -> None:
    audio, nowhere = speech(), np.zeros((1, 6), np.float32)
    found = choose("focused-pooling", audio, nowhere, 40)
    assert found.indices.tolist() == choose("affinity-pooling", audio, nowhere, 40).indices.tolist()
