"""Every method keeps exactly as many tokens as it should, in order, the same every time."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from speechprune_ort import OptionError, PruningOptions
from speechprune_ort.runtime.choosing.methods import METHODS, Selection
from speechprune_ort.runtime.choosing.pruning import (
    keep_by_attention,
    keep_by_similarity,
    received_attention,
    similarity_scores,
)
from speechprune_ort.runtime.choosing.scoring import NumpyScorer
from speechprune_ort.runtime.choosing.selection import select
from speechprune_ort.runtime.hearing.embeddings import HostEmbeds

HIDDEN = 8
NAMES = tuple(METHODS)


def embeddings(tokens: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((tokens, HIDDEN)).astype(np.float32)


def project(
    audio: NDArray[Any], form: str = "binarized"
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return audio.reshape(len(audio), 2, 4) * 3, audio.reshape(len(audio), 2, 4)


def never(_: NDArray[Any], __: str) -> Any:
    raise AssertionError("this method has no use for projections")


def choose(options: PruningOptions, tokens: int, window: int = 50, with_: Any = None) -> Selection:
    scorer = NumpyScorer(HostEmbeds(embeddings(tokens)), embeddings(3, seed=1), with_ or project)
    attention = np.random.default_rng(2).random(tokens, np.float32)
    return select(
        options,
        scorer,
        window_tokens=window,
        frame_tokens=5,
        encoder_attention=attention,
        decoder_attention=attention,
    )


@given(
    method=st.sampled_from(NAMES),
    tokens=st.integers(1, 130),
    rate=st.floats(0, 0.99),
    budget=st.one_of(st.none(), st.integers(1, 200)),
    seed=st.integers(0, 3),
)
@settings(max_examples=300, deadline=None)
def test_exact_count_time_order_and_determinism(
    method: Any, tokens: int, rate: float, budget: int | None, seed: int
) -> None:
    if method == "none":
        budget = None  # it is refused
    options = PruningOptions(method=method, pruning_rate=rate, budget=budget, seed=seed)
    kept = choose(options, tokens).indices
    assert len(kept) == options.kept_tokens(tokens, 50)
    assert 1 <= len(kept) <= tokens
    assert kept.dtype == np.int64
    assert (np.diff(kept) > 0).all()
    assert 0 <= kept[0] <= kept[-1] < tokens
    assert kept.tolist() == choose(options, tokens).indices.tolist()


def test_counts_are_the_papers() -> None:
    for rate, kept in ((0.2, 600), (0.4, 450), (0.6, 300), (0.8, 150)):
        assert PruningOptions(pruning_rate=rate).kept_tokens(2200, 750) == kept
    assert PruningOptions(pruning_rate=0).kept_tokens(2200, 750) == 750
    assert PruningOptions(pruning_rate=0.2).kept_tokens(100, 750) == 80
    assert PruningOptions(method="none").kept_tokens(2200, 750) == 2200
    assert PruningOptions(pruning_rate=0.99).kept_tokens(10, 750) == 1


def test_speechprune_is_phase_2_among_what_phase_1_left() -> None:
    found = choose(PruningOptions(method="speechprune", pruning_rate=0.4), 120)
    audio = embeddings(120)
    scores = similarity_scores(audio, embeddings(3, seed=1))
    first = keep_by_similarity(scores, 50, 5)
    second = received_attention(*project(audio[first]))
    by_similarity, by_attention = found.scores
    np.testing.assert_array_equal(by_similarity.values, scores)
    assert by_similarity.tokens is None
    np.testing.assert_array_equal(by_attention.tokens, first)
    np.testing.assert_array_equal(by_attention.values, second)
    np.testing.assert_array_equal(found.indices, first[keep_by_attention(second, 30)])


def test_phase_2_is_left_out_when_it_has_nothing_to_remove() -> None:
    found = choose(PruningOptions(method="speechprune", pruning_rate=0.0), 120, with_=never)
    assert [scores.name for scores in found.scores] == ["similarity to the question"]
    np.testing.assert_array_equal(
        found.indices, choose(PruningOptions(method="similarity", pruning_rate=0), 120).indices
    )


def test_baselines_are_what_their_names_say() -> None:
    options: dict[str, Any] = {"pruning_rate": 0.2}
    first = choose(PruningOptions(method="truncate", **options), 120, with_=never).indices
    assert first.tolist() == list(range(40))
    assert choose(PruningOptions(method="none"), 120, with_=never).indices.tolist() == list(
        range(120)
    )
    starts, randoms = set(), set()
    for seed in range(20):
        crop = choose(PruningOptions(method="crop", seed=seed, **options), 120, with_=never).indices
        assert (np.diff(crop) == 1).all()
        starts.add(int(crop[0]))
        random = choose(
            PruningOptions(method="random", seed=seed, **options), 120, with_=never
        ).indices
        randoms.add(tuple(random.tolist()))
    assert len(starts) > 10
    assert len(randoms) == 20


READ_TEXT = ("speechprune", "similarity", "coverage", "passages", "focused-pooling", "cdpruner")


def test_methods_that_read_the_text_refuse_nan_in_it() -> None:
    nan = np.full((3, HIDDEN), np.nan, np.float32)
    for method in NAMES:
        options = PruningOptions(method=method, pruning_rate=0.5)
        scorer = NumpyScorer(HostEmbeds(embeddings(60)), nan, project)
        attention = np.ones(60, np.float32)
        call = partial(
            select,
            options,
            scorer,
            window_tokens=50,
            frame_tokens=5,
            encoder_attention=attention,
            decoder_attention=attention,
        )
        if method in READ_TEXT:
            with pytest.raises(OptionError, match="text embeddings"):
                call()
        else:
            call()


@pytest.mark.parametrize("method", NAMES)
@pytest.mark.parametrize("change", ["tokens", "hidden", "axes", "window_tokens", "frame_tokens"])
def test_nothing_to_choose_from_is_an_error(method: Any, change: str) -> None:
    audio = {
        "tokens": embeddings(0),
        "hidden": embeddings(60)[:, :0],
        "axes": embeddings(60)[0],
    }.get(change, embeddings(60))
    sizes = {"window_tokens": 50, "frame_tokens": 5}
    if change in sizes:
        sizes[change] = 0

    def call() -> None:
        scorer = NumpyScorer(HostEmbeds(audio), embeddings(3), project)
        attention = np.ones(len(audio), np.float32)
        given = {"encoder_attention": attention, "decoder_attention": attention}
        select(PruningOptions(method=method), scorer, **sizes, **given)

    with pytest.raises(OptionError, match=change if change in sizes else "audio embeddings"):
        call()


def test_a_projection_that_loses_tokens_is_an_error() -> None:
    with pytest.raises(OptionError, match="project gave 49 tokens for 50"):
        choose(
            PruningOptions(method="speechprune"),
            120,
            with_=lambda audio, form: project(audio[1:], form),
        )


@pytest.mark.parametrize("method", NAMES)
def test_inputs_are_never_changed(method: Any) -> None:
    audio, text = embeddings(120), embeddings(3, seed=1)
    audio.flags.writeable = text.flags.writeable = False  # numpy raises on a write
    scorer = NumpyScorer(HostEmbeds(audio), text, project)
    attention = np.ones(120, np.float32)
    attention.flags.writeable = False
    select(
        PruningOptions(method=method),
        scorer,
        window_tokens=50,
        frame_tokens=5,
        encoder_attention=attention,
        decoder_attention=attention,
    )


def test_as_many_candidates_as_a_number_can_say_are_all_tokens() -> None:
    options = PruningOptions(method="speechprune", pruning_rate=0.4, candidates=1e308)
    assert options.own.candidate_tokens(300, 2200, 750) == 2200


def test_single_head_reaches_phase_2() -> None:
    options = PruningOptions(method="speechprune", pruning_rate=0.4)
    many = choose(options, 120)
    one = choose(replace(options, single_head=True), 120)
    np.testing.assert_array_equal(many.scores[1].tokens, one.scores[1].tokens)
    assert not np.allclose(many.scores[1].values, one.scores[1].values)


READ_AUDIO = (*READ_TEXT, "affinity-pooling", "fastadasp", "sa-map")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("method", READ_AUDIO)
def test_methods_that_read_the_audio_refuse_what_is_not_finite(method: str, value: float) -> None:
    audio = embeddings(60)
    audio[7, 3] = value
    scorer = NumpyScorer(HostEmbeds(audio), embeddings(3, seed=1), project)
    attention = np.ones(60, np.float32)
    options = PruningOptions(method=method, pruning_rate=0.5)
    with pytest.raises(OptionError, match="NaN or infinity in the audio embeddings"):
        select(options, scorer, window_tokens=50, frame_tokens=5, encoder_attention=attention)


OTHER = {"frame_temperature": 0.5, "attention": "float", "single_head": True, "candidates": 2.0}


@pytest.mark.parametrize("option", OTHER)
@pytest.mark.parametrize("method", NAMES)
def test_an_option_is_read_or_refused(method: str, option: str) -> None:
    given: dict[str, Any] = {option: OTHER[option]}
    if option in METHODS[method].options.names():
        options = PruningOptions(method=method, pruning_rate=0.5, **given)
        assert getattr(options.own, option) is OTHER[option]
        assert option not in options.for_method("none").to_dict()
        return
    with pytest.raises(OptionError, match=f"The method {method} does not read {option}: "):
        PruningOptions(method=method, **given)


def test_every_token_has_no_budget() -> None:
    with pytest.raises(OptionError, match="none keeps every token: leave out budget"):
        PruningOptions(method="none", budget=10)
    with pytest.raises(OptionError, match="leave out pruning_rate='auto'"):
        PruningOptions(method="none", pruning_rate="auto")
