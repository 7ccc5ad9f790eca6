"""Both phases against slow, literal forms of the paper's equations, over many sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from speechprune_ort import OptionError
from speechprune_ort.runtime.choosing import pruning
from speechprune_ort.runtime.choosing.pruning import (
    binarize,
    frame_budgets,
    frame_scores,
    keep_by_attention,
    keep_by_similarity,
    received_attention,
    similarity_scores,
)

# Few distinct values, so that ties are common.
SCORES = arrays(
    np.float32,
    st.integers(1, 120),
    elements=st.one_of(st.floats(-1, 1, width=32), st.sampled_from([-0.5, 0.0, 0.25, 0.25, 1.0])),
    fill=st.nothing(),
)
# Of the tokens there are; a few draws keep them all, and more.
SHARE = st.floats(0, 1.1)


def random(seed: int, *shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# --- phase 1 ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(("tokens", "query", "hidden"), [(1, 1, 1), (40, 7, 16), (700, 30, 64)])
def test_the_folded_mean_equals_the_matrix_of_cosines(
    tokens: int, query: int, hidden: int, dtype: Any
) -> None:
    audio, text = random(1, tokens, hidden).astype(dtype), random(2, query, hidden).astype(dtype)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True)
            for x in (audio.astype(np.float64), text.astype(np.float64))]  # fmt: skip
    expected = (unit[0] @ unit[1].T).mean(axis=1)  # eq. 3 and 4, literally
    np.testing.assert_allclose(similarity_scores(audio, text), expected, atol=2e-6)


def test_zero_embeddings_are_similar_to_nothing() -> None:
    audio = np.array([[0, 0], [1, 0]], np.float32)
    assert similarity_scores(audio, np.array([[1, 0], [0, 0]], np.float32)).tolist() == [0.0, 0.5]


def test_similarity_does_not_depend_on_the_length_of_an_embedding() -> None:
    audio, text = random(3, 50, 8), random(4, 5, 8)
    longer = audio * np.linspace(0.01, 100, 50, dtype=np.float32)[:, None]
    np.testing.assert_allclose(
        similarity_scores(longer, text), similarity_scores(audio, text), atol=1e-6
    )


def naive_budgets(
    scores: NDArray[Any], sizes: NDArray[Any], n_keep: int, temperature: float
) -> list[int]:
    """Token by token: floor, then largest remainder, then the best frames with room."""
    warm = [float(s) / temperature for s in scores]
    odds = [np.exp(w - max(warm)) for w in warm]
    n_keep = min(n_keep, int(sum(sizes)))
    shares = [n_keep * o / sum(odds) for o in odds]
    budgets = [min(int(share), int(size)) for share, size in zip(shares, sizes, strict=True)]
    lost = n_keep - sum(int(share) for share in shares)
    by_remainder = sorted(range(len(shares)), key=lambda i: (-(shares[i] - int(shares[i])), i))
    open_frames = [i for i in by_remainder if budgets[i] < sizes[i]]
    for i in open_frames[: max(lost, 0)]:
        budgets[i] += 1
    for i in sorted(range(len(scores)), key=lambda i: (-scores[i], i)):
        while sum(budgets) < n_keep and budgets[i] < sizes[i]:
            budgets[i] += 1
    return budgets


@given(SCORES, SHARE, st.integers(1, 25), st.sampled_from([0.05, 0.5, 1.0, 20.0]))
@settings(max_examples=300)
def test_budgets_are_exact_capped_and_equal_to_the_slow_form(
    scores: NDArray[np.float32], share: float, frame: int, temperature: float
) -> None:
    n_keep = max(1, round(share * len(scores)))
    sizes = np.bincount(np.arange(len(scores)) // frame)
    sums = frame_scores(scores, frame)
    assert len(sums) == len(sizes) == -(-len(scores) // frame)
    np.testing.assert_allclose(sums.sum(), scores.sum(dtype=np.float64), atol=1e-4)
    budgets = frame_budgets(sums, sizes, n_keep, temperature)
    assert budgets.sum() == min(n_keep, len(scores))
    assert (budgets >= 0).all()
    assert (budgets <= sizes).all()
    close = np.abs(sums[:, None] - sums[None]) + np.eye(len(sums)) > 1e-9
    if close.all():  # sums that differ by rounding alone may rank either way
        assert budgets.tolist() == naive_budgets(sums, sizes, n_keep, temperature)


@given(SCORES, SHARE, st.integers(1, 25))
@settings(max_examples=300)
def test_phase_1_keeps_the_best_of_each_frame_in_time_order(
    scores: NDArray[np.float32], share: float, frame: int
) -> None:
    n_keep = max(1, round(share * len(scores)))
    kept = keep_by_similarity(scores, n_keep, frame)
    assert len(kept) == min(n_keep, len(scores))
    assert (np.diff(kept) > 0).all()
    assert kept[-1] < len(scores)
    assert kept.tolist() == keep_by_similarity(scores, n_keep, frame).tolist()
    chosen = set(kept.tolist())
    for start in range(0, len(scores), frame):
        tokens = range(start, min(start + frame, len(scores)))
        ranked = sorted(tokens, key=lambda i: (-scores[i], i))
        count = len(chosen & set(tokens))
        assert chosen & set(tokens) == set(ranked[:count]), "ties go to the earlier token"


def test_a_short_last_frame_gives_only_what_it_has() -> None:
    # Frames of 2, 2 and 1 token: the best is the last one, and it has room for one alone.
    scores = np.array([0.1, 0.2, 0.3, 0.4, 0.9], np.float32)
    assert keep_by_similarity(scores, 3, 2).tolist() == [1, 3, 4]


def test_equal_scores_spread_the_budget_evenly() -> None:
    kept = keep_by_similarity(np.zeros(100, np.float32), 40, 25)
    assert np.bincount(kept // 25).tolist() == [10, 10, 10, 10]
    assert kept[:10].tolist() == list(range(10))


def test_temperature_concentrates_or_spreads() -> None:
    scores = np.repeat([0.0, 0.1, 0.0, 0.0], 25)
    sizes = [np.bincount(keep_by_similarity(scores, 30, 25, warmth) // 25, minlength=4)
             for warmth in (0.1, 1.0, 1000.0)]  # fmt: skip
    assert sizes[0][1] == 25
    assert sizes[1][1] == 24
    assert sizes[2].max() - sizes[2].min() <= 1


@given(SCORES, SHARE, st.integers(1, 130))
@settings(max_examples=200)
def test_phase_1_is_budgets_and_ranks_and_nothing_else(
    scores: NDArray[np.float32], share: float, frame: int
) -> None:
    n_keep = max(1, round(share * len(scores)))
    sizes = np.bincount(np.arange(len(scores)) // frame)
    budgets = frame_budgets(frame_scores(scores, frame), sizes, n_keep)
    expected: list[int] = []
    for number, budget in enumerate(budgets):
        tokens = range(number * frame, number * frame + int(sizes[number]))
        expected += sorted(sorted(tokens, key=lambda i: (-scores[i], i))[:budget])
    assert keep_by_similarity(scores, n_keep, frame).tolist() == expected


@pytest.mark.parametrize("temperature", [1e-310, 1e-12, 1e300])
def test_any_positive_temperature_is_exact(temperature: float) -> None:
    kept = keep_by_similarity(np.arange(90.0), 40, 25, temperature)
    assert len(kept) == 40
    # One-hot to flat: the best frame is the third, the fourth has the rest of 15.
    counts = np.bincount(kept // 25, minlength=4).tolist()
    assert counts == ([0, 0, 25, 15] if temperature < 1 else [10, 10, 10, 10])


def test_half_precision_scores_rank_like_single() -> None:
    scores = random(14, 333).astype(np.float16)
    single = keep_by_similarity(scores.astype(np.float32), 100, 25)
    np.testing.assert_array_equal(keep_by_similarity(scores, 100, 25), single)


def test_a_hot_softmax_over_an_hour_is_exact_and_quick() -> None:
    scores = np.random.default_rng(0).standard_normal(90_000)
    kept = keep_by_similarity(scores, 30_000, 25, 0.01)
    assert len(kept) == 30_000
    assert len(np.unique(kept)) == 30_000


# --- phase 2 ---------------------------------------------------------------------------------


def slow_attention(query: NDArray[Any], key: NDArray[Any]) -> NDArray[np.float64]:
    """Eq. 11 literally: (heads, tokens, tokens), K heads repeated for their group."""
    group = query.shape[1] // key.shape[1]
    wide = np.repeat(key, group, axis=1).astype(np.float64)
    scores = np.einsum("qhd,khd->hqk", query.astype(np.float64), wide) / np.sqrt(query.shape[2])
    odds = np.exp(scores - scores.max(axis=2, keepdims=True))
    attention: NDArray[np.float64] = odds / odds.sum(axis=2, keepdims=True)
    return attention


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (6, 2), (9, 3)])
@pytest.mark.parametrize("tokens", [1, 2, 33, 700])
def test_received_attention_is_the_column_mean(tokens: int, heads: int, kv_heads: int) -> None:
    query, key = random(5, tokens, heads, 8), random(6, tokens, kv_heads, 8)
    expected = slow_attention(query, key).mean(axis=(0, 1))
    found = received_attention(query, key)
    np.testing.assert_allclose(found, expected, rtol=2e-4, atol=1e-9)
    assert found.sum() == pytest.approx(1, abs=1e-4)


def test_the_other_axis_is_constant_and_ranks_nothing() -> None:
    attention = slow_attention(random(7, 40, 3, 8), random(8, 40, 3, 8))
    np.testing.assert_allclose(attention.mean(axis=2), 1 / 40, rtol=1e-12)


def test_a_single_head_is_one_softmax_over_the_whole_width() -> None:
    query, key = random(9, 30, 4, 8), random(10, 30, 2, 8)
    wide = np.repeat(key, 2, axis=1).reshape(30, 1, 32)
    expected = slow_attention(query.reshape(30, 1, 32), wide).mean(axis=(0, 1))
    np.testing.assert_allclose(
        received_attention(query, key, single_head=True), expected, rtol=2e-4, atol=1e-9
    )
    assert not np.allclose(received_attention(query, key), expected, rtol=1e-2)


@pytest.mark.parametrize("width", [64, 4096])
def test_products_of_signs_are_exact_in_int8_and_float32(width: int) -> None:
    signs, weights = binarize(random(11, 20, width)), binarize(random(12, width, 32))
    exact = signs.astype(np.int64) @ weights.astype(np.int64)
    assert (signs.astype(np.float32) @ weights.astype(np.float32) == exact).all()
    assert (signs.astype(np.int32) @ weights.astype(np.int32) == exact).all()
    assert set(np.unique(signs)) == {-1, 1}
    assert binarize(np.array([0.0, -0.0])).tolist() == [1, 1]


def test_attention_between_binarized_tokens_is_exact() -> None:
    # Logits in the hundred thousands, as at the width of a real model: rounding them before the
    # maximum is taken off is an error of 1e-4 in the result, and moves tokens in the ranking.
    width, heads = 4096, 2
    tokens = binarize(random(15, 60, width) + random(16, 1, width)).astype(np.float32)
    weights = binarize(random(17, width, 2 * heads * 128)).astype(np.float32)
    query, key = np.split((tokens @ weights).reshape(60, 2 * heads, 128), 2, axis=1)
    assert np.abs(query[:, 0] @ key[:, 0].T).max() > 1e5
    expected = slow_attention(query, key).mean(axis=(0, 1))
    np.testing.assert_allclose(received_attention(query, key), expected, rtol=1e-6, atol=1e-30)


def test_blocks_of_queries_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    query, key = random(18, 101, 4, 8), random(19, 101, 2, 8)
    whole = received_attention(query, key)
    for values in (1, 101 * 7, 101 * 50):
        monkeypatch.setattr(pruning, "ATTENTION_AT_ONCE", values)
        np.testing.assert_allclose(received_attention(query, key), whole, rtol=1e-5)


@given(SCORES, SHARE)
def test_phase_2_keeps_the_highest_scores(scores: NDArray[np.float32], share: float) -> None:
    n_keep = max(1, round(share * len(scores)))
    kept = keep_by_attention(scores, n_keep)
    ranked = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    assert kept.tolist() == sorted(ranked[:n_keep])


# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_errors(bad: float) -> None:
    audio, text = random(1, 300, 8), random(2, 4, 8)
    broken = audio.copy()
    broken[277, 3] = bad
    for call in (
        lambda: similarity_scores(broken, text),
        lambda: similarity_scores(audio, broken),
        lambda: keep_by_similarity(broken[:, 3], 5, 25),
        lambda: keep_by_attention(broken[:, 3], 5),
        lambda: frame_budgets(broken[270:280, 3], np.full(10, 25), 5),
        lambda: received_attention(broken[:, None], audio[:, None]),
        lambda: received_attention(audio[:, None], broken[:, None]),
        lambda: frame_scores(broken[:, 3], 25),
        lambda: binarize(broken),
    ):
        with pytest.raises(OptionError, match="NaN or infinity"):
            call()


def test_shapes_that_do_not_fit_are_errors() -> None:
    x = random(1, 4, 8)
    for call in (
        lambda: similarity_scores(x, random(2, 4, 9)),
        lambda: similarity_scores(x[:0], x),
        lambda: similarity_scores(x, x[:0]),
        lambda: similarity_scores(x[0], x),
        lambda: received_attention(random(1, 4, 3, 8), random(1, 4, 2, 8)),
        lambda: received_attention(random(1, 4, 2, 8), random(1, 5, 2, 8)),
        lambda: keep_by_similarity(x[0], 0, 25),
        lambda: keep_by_attention(x[0], 0),
        lambda: frame_budgets(x[0], np.ones(7, np.int64), 3),
        lambda: frame_budgets(x[0], np.ones(8, np.int64), -1),
        lambda: frame_budgets(x[0], np.ones(8, np.int64), 3, 0.0),
        lambda: frame_budgets(x[0], np.ones(8, np.int64), 3, float("nan")),
        lambda: frame_scores(x[0], 0),
        lambda: keep_by_similarity(x[0], 3, 0),
        lambda: received_attention(random(1, 4, 2, 8), random(1, 4, 4, 8)),
    ):
        with pytest.raises(OptionError):
            call()
