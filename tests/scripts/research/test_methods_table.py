"""``research/methods_table.py``: the cells of one table, from what ``eval`` wrote for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from paths import ROOT
from research.methods_table import cells_of, draw, page

from speechprune_ort import DataError
from speechprune_ort.methods import METHODS

PACKAGE = "speechprune_ort."


def estimate(mean: float, clusters: int = 20) -> dict[str, Any]:
    return {"n": 40, "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "clusters": clusters,
            "p": None}  # fmt: skip


def written(folder: Path, settings: dict[str, float], **versus: float) -> None:
    folder.mkdir(parents=True)
    lines = [
        {"name": name, "accuracy": estimate(mean), "key_kept": None if name[0] == "s" else 0.5,
         "versus": {other: estimate(d, 4) for other, d in versus.items() if name[0] == "c"}}
        for name, mean in settings.items()
    ]  # fmt: skip
    controls = [{"name": name, "accuracy": estimate(0.25)} for name in ("question", "always B")]
    whole = {"name": "all", "settings": lines, "controls": controls}
    read = {"tflops": 0.5, "prefill_ms": 1234.0, "memory_gb": None}
    costs = {"none": read | {"selection_ms": None, "prefill_ms": 9000.0}}
    costs |= {f"{m}@0.2": read | {"selection_ms": n} for n, m in enumerate(("random", "coverage"))}
    content = {"about": {"command": "eval"}, "subsets": {"clean": [whole]}, "costs": costs}
    (folder / "results.json").write_text(json.dumps(content))


def rows(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_cells_stand_side_by_side_and_the_best_mean_first(tmp_path: Path) -> None:
    short = {"none": 0.8, "truncate@0": 0.4, "random@0.2": 0.3, "coverage@0.2": 0.7}
    written(tmp_path / "methods" / "people-5", {"random@0.2": 0.5, "coverage@0.2": 0.6})
    written(tmp_path / "methods" / "synthetic-own", short, **{"random@0.2": 0.4})
    written(tmp_path / "texts" / "people-5", {"sentences@0.2": 0.9})
    cells = cells_of([tmp_path / "methods", tmp_path / "texts"])
    text = page(cells)
    [head] = {r for r in rows(text, "| right") if "mean" in r}
    assert head == "| right, % | synthetic, as it is (n = 40) | people, 5 min (n = 40) | mean |"
    assert rows(text, "| `")[:3] == [
        "| `coverage` | 70 [60, 80] | 60 [50, 70] | 65.0 |",
        "| `random` | 30 [20, 40] | 50 [40, 60] | 40.0 |",
        "| `sentences` |  | 90 [80, 100] |  |",
    ]
    assert "| every token | 80 [70, 90] |  |" in text
    assert "| `random` | +40 [+30, +50] (4 groups) |  |" in text  # coverage minus random
    assert "| `coverage` | 1.0 |" in text
    assert "| every token | 9,000 | 0.50 |  |" in text
    assert "| `random@0.2`, `coverage@0.2` | 1,234 | 0.50 |  |" in text
    assert "| question | 25 [15, 35] | 25 [15, 35] |" in text
    assert "always" not in text
    # One budget here, and text has no share of a key sentence.
    assert "| people, 5 min (n = 40): right, % | 0.2 | mean | of key sentence kept, % |" in text
    assert rows(text, "| `sentences`")[-1] == "| `sentences` | 90 [80, 100] | 90.0 |  |"
    assert rows(text, "| `coverage` | 70")[-1].endswith("| 70.0 | 50 |")
    for cell in cells:
        cell.keep(tmp_path / "kept")
    assert page(cells_of([tmp_path / "kept"])) == text
    assert (tmp_path / "kept" / "people-5.json").is_file()


def test_a_method_that_came_later_is_a_row_of_its_cell(tmp_path: Path) -> None:
    settings = {"random@0.2": 0.5, "coverage@0.2": 0.6}
    written(tmp_path / "methods" / "people-5", settings, **{"random@0.2": 0.1})
    added = {"coverage@0.2": 0.6, "new@0.2": 0.7}
    written(tmp_path / "added" / "people-5", added, **{"new@0.2": -0.1})
    [cell] = cells_of([tmp_path / "methods", tmp_path / "added"])
    assert list(cell.lines) == ["random@0.2", "coverage@0.2", "new@0.2"]
    assert list(cell.lines["coverage@0.2"]["versus"]) == ["random@0.2", "new@0.2"]


def test_a_cell_is_drawn_with_every_method_and_without_transcripts(tmp_path: Path) -> None:
    [cell] = [c for c in cells_of([ROOT / "docs/results/cells"]) if c.name == "synthetic-own"]
    draw(cell, tmp_path / "pictures")
    drawn = (tmp_path / "pictures" / "synthetic-own.svg").read_text(encoding="utf-8")
    methods = {name.partition("@")[0] for name in cell.lines} - {"none"}
    assert {name for name in methods if f"{name}</text>" in drawn or f"<!-- {name} -->" in drawn} \
        == methods - {"sentences", "transcript"}  # fmt: skip
    assert "every token (1899 tokens)" in drawn
    assert (tmp_path / "pictures" / "synthetic-own.png").stat().st_size > 10_000


def test_no_cell_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no results of a cell"):
        cells_of([tmp_path])


def test_the_page_is_that_of_the_cells_that_are_kept() -> None:
    results = ROOT / "docs" / "results"
    kept = (results / "methods_tables.md").read_text(encoding="utf-8")
    assert kept == page(cells_of([results / "cells"]))
    # The main page shows rows of these tables, as they are.
    main = (results / "methods.md").read_text(encoding="utf-8").partition("## On the first")[0]
    shown = rows(main, "| `")
    own = {name for name, found in METHODS.items() if found.select.__module__.startswith(PACKAGE)}
    assert {row.split("`")[1] for row in shown} == own - {"none"}
    assert not set(shown) - set(kept.splitlines())
