"""``research/methods_table.py``: the cells of one table, from what ``eval`` wrote for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from research.methods_table import page

from speechprune_ort import DataError


def estimate(mean: float, clusters: int = 20) -> dict[str, Any]:
    return {"n": 40, "mean": mean, "low": mean - 0.1, "high": mean + 0.1, "clusters": clusters,
            "p": None}  # fmt: skip


def written(folder: Path, settings: dict[str, float], **versus: float) -> None:
    folder.mkdir(parents=True)
    lines = [
        {"name": name, "accuracy": estimate(mean),
         "versus": {other: estimate(d, 4) for other, d in versus.items() if name[0] == "c"}}
        for name, mean in settings.items()
    ]  # fmt: skip
    controls = [{"name": "question", "accuracy": estimate(0.25)}]
    whole = {"name": "all", "settings": lines, "controls": controls}
    costs = {"random@0.2": {"tflops": 0.5, "selection_ms": None, "prefill_ms": 1234.0,
                            "memory_gb": 1.5}}  # fmt: skip
    content = {"subsets": {"clean": [whole]}, "costs": costs}
    (folder / "results.json").write_text(json.dumps(content))


def rows(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_cells_stand_side_by_side_and_the_best_mean_first(tmp_path: Path) -> None:
    short = {"none": 0.8, "truncate@0": 0.4, "random@0.2": 0.3, "coverage@0.2": 0.7}
    written(tmp_path / "methods" / "people-5", {"random@0.2": 0.5, "coverage@0.2": 0.6})
    written(tmp_path / "methods" / "synthetic-own", short, **{"random@0.2": 0.4})
    written(tmp_path / "texts" / "people-5", {"sentences@0.2": 0.9})
    text = page([tmp_path / "methods", tmp_path / "texts"])
    [head] = {r for r in rows(text, "| right") if "mean" in r}
    assert head == "| right, % | synthetic, as it is (n = 40) | people, 5 min (n = 40) | mean |"
    assert rows(text, "| `")[:3] == [
        "| `coverage` | 70 [60, 80] | 60 [50, 70] | 65.0 |",
        "| `random` | 30 [20, 40] | 50 [40, 60] | 40.0 |",
        "| `sentences` |  | 90 [80, 100] |  |",
    ]
    assert "| every token | 80 [70, 90] |  |" in text
    assert "| `random` | +40 [+30, +50] (4 groups) |  |" in text  # coverage minus random
    assert "| `random@0.2` |  | 1,234 | 0.50 | 1.50 |" in text


def test_no_cell_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there are no results of a cell"):
        page([tmp_path])
