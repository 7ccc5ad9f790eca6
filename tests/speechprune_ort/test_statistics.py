"""Intervals, tests and power: that they hold as often as they say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from speechprune_ort.evaluation.report import power, terminal_tables
from speechprune_ort.evaluation.settings import settings_of
from speechprune_ort.evaluation.summary import comparisons, summarize
from speechprune_ort.statistics import FEW, detectable, difference, holm, proportion


def test_clusters_are_counted_and_few_of_them_are_few() -> None:
    found = proportion([1.0, 0.0] * 20, [f"g{i % 4}" for i in range(40)])
    assert (found.n, found.clusters, found.few) == (40, 4, True)
    assert not proportion([1.0, 0.0] * 20).few
    assert proportion([1.0] * (FEW - 1)).few


def test_a_probability_is_that_of_all_signs_turned() -> None:
    # Of three differences of one sign, two of eight turns are as far from zero.
    assert difference([1.0, 1.0, 1.0]).p == pytest.approx(2 / 8)
    # Samples that agree say nothing of a difference: McNemar's exact test, by sign.
    values = [1.0] * 8 + [-1.0] * 2 + [0.0] * 50
    exact = sum(math.comb(10, k) for k in (0, 1, 2, 8, 9, 10)) / 2**10
    assert difference(values).p == pytest.approx(exact)
    assert difference([0.0] * 20).p == 1.0
    # Of one dialogue in many voices, one sign.
    assert difference([1.0] * 100, ["a"] * 100).p == 1.0


def test_chance_alone_is_found_no_more_often_than_five_in_a_hundred() -> None:
    random = np.random.default_rng(0)
    trials = [random.integers(-1, 2, 60).astype(float).tolist() for _ in range(120)]
    probabilities = [difference(values, seed=i).p for i, values in enumerate(trials)]
    found = sum(p is not None and p < 0.05 for p in probabilities)
    assert found <= 13  # 6 on average; more than 13 once in 300 times


def test_a_family_is_adjusted_as_holm_says() -> None:
    assert holm([]) == []
    assert holm([0.02]) == [0.02]
    assert holm([0.04, 0.01, 0.02, 0.5]) == pytest.approx([0.08, 0.04, 0.06, 0.5])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    random = np.random.default_rng(1)
    families = [holm(random.random(20).tolist()) for _ in range(400)]
    assert np.mean([min(family) < 0.05 for family in families]) < 0.08


def test_what_can_be_found_is_found_about_as_often_as_it_says() -> None:
    clusters, discordant = 200, 0.4
    size = detectable(clusters, discordant=discordant)
    won = (discordant + size) / 2
    random = np.random.default_rng(2)
    found = 0
    for trial in range(100):
        draw = random.random(clusters)
        values = np.where(draw < won, 1.0, np.where(draw < discordant, -1.0, 0.0))
        found += (difference(values.tolist(), seed=trial).p or 0) < 0.05
    assert 68 <= found <= 92
    assert detectable(200, 30) > detectable(200) > detectable(800)
    assert detectable(3) == math.inf


def judged(groups: int) -> list[dict[str, dict[str, Any]]]:
    """40 samples on which ``passages`` is right where ``random`` is not, but for a few."""
    rows = []
    for i in range(40):
        settings = {
            "none": {"seeds": [0], "chosen": [0], "kept": 100},
            "truncate@0": {"seeds": [0], "chosen": [i % 2], "kept": 50},
            "random@0.4": {"seeds": [0], "chosen": [int(i > 3)], "kept": 20},
            "passages@0.4": {"seeds": [0], "chosen": [int(i == 39)], "kept": 20},
        }
        row = {
            "sample": f"s{i}", "kind": "", "group": f"g{i % groups}", "hard": False,
            "seconds": 10.0, "tokens": 100, "answer": 0, "choices": 4, "longest": 0,
            "settings": settings,
        }  # fmt: skip
        rows.append({"clean": row})
    return rows


def test_a_table_is_one_family_and_says_so() -> None:
    settings = settings_of(["none", "random", "passages"], [0.4], [0])
    subset = summarize(judged(40), settings, ["passages", "random"]).subsets["clean"][0]
    lines = {line.name: line for line in subset.settings}
    # Every pair once: none, truncate@0, random@0.4 and passages@0.4.
    assert subset.comparisons == comparisons(settings, ["passages", "random"]) == 6
    won, lost = (
        lines["passages@0.4"].versus["random@0.4"],
        lines["random@0.4"].versus["passages@0.4"],
    )
    assert won.p == lost.p
    assert won.p is not None
    assert won.p < 0.01
    alone = difference([1.0])
    assert lines["passages@0.4"].versus["none"].p == alone.p == 1.0
    [table, *_, pairs] = terminal_tables(summarize(judged(40), settings, ["passages"]), {})
    assert "Holm" in str(table.caption)
    assert any("*" in str(cell) for cell in pairs.columns[2].cells)


def test_of_few_groups_a_table_is_grey() -> None:
    settings = settings_of(["none", "random", "passages"], [0.4], [0])
    for groups, grey in ((9, True), (10, False)):
        [table, *_] = terminal_tables(summarize(judged(groups), settings), {})
        assert ("descriptive only" in str(table.title)) is grey
        assert all((row.style == "dim") is grey for row in table.rows)


def test_power_is_a_sentence() -> None:
    assert "10 points in one comparison, 14 points with all 30" in power(300, 270, 30)
    assert power(40, 3, 1) == (
        "40 samples in 3 groups: too few to find a difference with a chance of 80 %, however large "
        "it is."
    )
    assert power(2, 1, 3).startswith("2 samples in 1 group: too few")
    assert "no settings are compared" in power(40, 40, 0)
