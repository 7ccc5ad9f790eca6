"""CDPruner and SA-MAP: sets with the largest determinant, and runs that are merged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from speechprune_ort import OptionError, PruningOptions
from speechprune_ort.methods import Request, SaMap
from speechprune_ort.runtime.choosing.methods.base import untimed
from speechprune_ort.runtime.choosing.methods.diverse import cdpruner, keep_diverse, sa_map

ONE, TWO, THREE = np.eye(3, dtype=np.float32)


class Scores:
    """A scorer of given embeddings and similarities."""

    def __init__(self, embeds: Any, similarity: Any = None) -> None:
        self.embeds = embeds
        self.tokens = len(embeds)
        self._similarity = np.asarray(similarity, np.float32)

    def similarity(self) -> Any:
        return self._similarity


def request(scorer: Any, n_keep: int, attention: Any = None) -> Request[Any]:
    return Request(SaMap(), 0, scorer, n_keep, n_keep, 25, attention, untimed)


def by_determinants(embeds: Any, relevance: Any, n_keep: int) -> list[int]:
    """The definition: the token that makes the determinant of the kernel's part the largest."""
    units = embeds / np.linalg.norm(embeds, axis=1, keepdims=True)
    kernel = relevance[:, None] * (units @ units.T) * relevance[None]
    chosen: list[int] = []
    for _ in range(n_keep):
        rest = [i for i in range(len(embeds)) if i not in chosen]
        parts = [[*chosen, i] for i in rest]
        chosen = max(parts, key=lambda some: np.linalg.det(kernel[np.ix_(some, some)]))
    return sorted(chosen)


def test_the_greedy_set_is_that_of_the_determinants() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        tokens = int(random.integers(2, 10))
        embeds = random.standard_normal((tokens, 12))
        relevance = (random.random(tokens) + 0.05).astype(np.float32)
        n_keep = int(random.integers(1, tokens + 1))
        found = keep_diverse(embeds, relevance, n_keep).tolist()
        assert found == by_determinants(embeds, relevance.astype(float), n_keep)


def test_more_tokens_than_dimensions_and_embeddings_of_zeros() -> None:
    embeds = np.stack([ONE[:2], TWO[:2], ONE[:2], TWO[:2], ONE[:2]])
    relevance = np.array([1.0, 0.9, 0.8, 0.7, 0.6], np.float32)
    # Two span all there is; the next two are the best of the rest, again different.
    assert keep_diverse(embeds, relevance, 4).tolist() == [0, 1, 2, 3]
    assert keep_diverse(np.zeros((4, 2)), np.ones(4, np.float32), 3).tolist() == [0, 1, 2]
    with pytest.raises(OptionError, match="at least 0"):
        keep_diverse(embeds, -relevance, 2)


def test_cdpruner_leaves_out_what_was_said_and_what_was_not_asked() -> None:
    audio = np.stack([ONE, ONE, TWO, THREE])
    found = cdpruner(request(Scores(audio, [0.8, 0.9, 0.5, 0.1]), 2))
    # The second is most like the question and the first its twin; the last is not like it at all.
    assert found.indices.tolist() == [1, 2]


def test_sa_map_merges_by_attention_and_keeps_the_attended() -> None:
    audio = np.stack([2 * ONE, 4 * ONE, TWO, THREE, THREE])
    attention = np.array([1.0, 3.0, 0.1, 1.0, 1.0], np.float32)
    found = sa_map(request(Scores(audio), 2, attention))
    assert found.indices.tolist() == [0, 3]
    assert found.embeds is not None
    # (1 * 2 + 3 * 4) / 4 along the first axis.
    assert found.embeds.tolist() == [[3.5, 0, 0], [0, 0, 1]]
    assert SaMap(threshold=0.5) == PruningOptions("sa-map", threshold=0.5).own
    with pytest.raises(OptionError, match="threshold must be from -1 to 1"):
        SaMap(threshold=2)
    # All alike would be one run: the threshold rises until there are enough.
    assert len(sa_map(request(Scores(np.stack([ONE] * 4)), 3, np.ones(4, np.float32))).indices) == 3
    with pytest.raises(OptionError, match=r"needs request\.encoder_attention"):
        sa_map(request(Scores(audio), 2))
