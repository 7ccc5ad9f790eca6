"""Coverage, the method of our own: what it computes, and what it finds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speechprune_ort import OptionError, PruningOptions
from speechprune_ort.runtime.choosing.methods.coverage import coverage_scores, moving_max
from speechprune_ort.runtime.choosing.pruning import cosine_matrix, similarity_scores, unit_rows
from speechprune_ort.runtime.choosing.scoring import NumpyScorer
from speechprune_ort.runtime.choosing.selection import select
from speechprune_ort.runtime.hearing.embeddings import HostEmbeds


@given(tokens=st.integers(1, 60), columns=st.integers(1, 4), width=st.integers(1, 90),
       seed=st.integers(0, 9))  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_a_moving_maximum_is_the_largest_within_reach(
    tokens: int, columns: int, width: int, seed: int
) -> None:
    values = np.random.default_rng(seed).standard_normal((tokens, columns)).astype(np.float32)
    back, ahead = width // 2, width - 1 - width // 2
    wanted = [values[max(0, i - back) : i + ahead + 1].max(axis=0) for i in range(tokens)]
    np.testing.assert_array_equal(moving_max(values, width), wanted)


def test_cosines_average_to_phase_1() -> None:
    random = np.random.default_rng(0)
    audio, text = random.standard_normal((700, 24)), random.standard_normal((5, 24))
    audio[3] = text[1] = 0
    found = cosine_matrix(audio, text)
    assert found.shape == (700, 5)
    assert not found[3].any()
    assert not found[:, 1].any()
    np.testing.assert_allclose(found.mean(axis=1), similarity_scores(audio, text), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(unit_rows(audio)[:3], axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("cosines", "width", "words"),
    [
        (np.zeros((0, 3)), 3, "non-empty"),
        (np.zeros(3), 3, "non-empty"),
        (np.full((2, 2), np.nan), 3, "NaN"),
        (np.zeros((2, 2)), 0, "width"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    cosines: np.ndarray, width: int, words: str
) -> None:  # fmt: skip
    with pytest.raises(OptionError, match=words):
        coverage_scores(cosines, width)


def test_a_constant_recording_is_scored_alike_everywhere() -> None:
    assert not coverage_scores(np.full((40, 3), 0.25, np.float32), 5).any()


@pytest.mark.parametrize("place", [0, 740, 1990])
def test_the_passage_that_says_the_question_is_kept_whole(place: int) -> None:
    """2,200 tokens that all resemble the question a little, and 210 in which it is spoken."""
    random = np.random.default_rng(place)
    common = random.standard_normal(64)
    words = random.standard_normal((6, 64)) + common
    audio = random.standard_normal((2200, 64)) + 1.5 * common
    # Frequent words of the question are heard everywhere.
    audio[random.choice(2200, 400, replace=False)] = words[0]
    passage = np.arange(place, place + 210)
    for number, start in enumerate(range(0, 210, 35)):
        audio[place + start : place + start + 6] = words[number]
    scorer = NumpyScorer(HostEmbeds(audio.astype(np.float32)), words, lambda part: (part, part))
    kept = {
        method: select(
            PruningOptions(method=method, pruning_rate=0.4),  # type: ignore[arg-type]
            scorer,
            window_tokens=750,
            frame_tokens=25,
        ).indices
        for method in ("coverage", "similarity")
    }
    assert len(kept["coverage"]) == len(kept["similarity"]) == 450
    share = {m: float(np.isin(passage, indices).mean()) for m, indices in kept.items()}
    assert share["coverage"] > 0.95
    assert share["similarity"] < 0.6


@pytest.mark.parametrize("method", ["coverage", "passages", "focused-pooling"])
@pytest.mark.parametrize(("rate", "width"), [(None, 250), (12.5, 125), (6.25, 62)])
def test_a_passage_is_ten_seconds_whatever_a_frame_is(
    method: str, rate: float | None, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    widths = list[int]()

    def scores(cosines: np.ndarray, width: int) -> np.ndarray:
        widths.append(width)
        return coverage_scores(cosines, width)

    monkeypatch.setattr("speechprune_ort.runtime.choosing.methods.coverage.coverage_scores", scores)
    random = np.random.default_rng(0)
    audio = HostEmbeds(random.standard_normal((400, 8)).astype(np.float32))
    scorer = NumpyScorer(audio, random.standard_normal((3, 8)), lambda part: (part, part))
    options = PruningOptions(method=method)  # type: ignore[arg-type]
    select(options, scorer, window_tokens=100, frame_tokens=25, tokens_per_second=rate)
    assert widths == [width]
