"""``research/precision_table.py``: what export compared, and what eval found, a row a precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from research.precision_table import page

from speechprune_ort import DataError


def test_a_row_holds_the_worst_of_what_was_compared(bundles: Any, tmp_path: Path) -> None:
    from tiny import TINY

    (tmp_path / "int8").symlink_to(bundles(TINY[0], "int8"))
    (tmp_path / "fp32").symlink_to(bundles(TINY[0]))
    found = tmp_path / "key-awb-int8"
    found.mkdir()
    accuracy = {"n": 40, "mean": 0.5, "low": 0.35, "high": 0.65, "clusters": 40}
    whole = {"name": "all", "settings": [{"name": "none", "accuracy": accuracy}]}
    (found / "results.json").write_text(json.dumps({"subsets": {"clean": [whole]}}))
    manifest = json.loads((tmp_path / "int8" / "manifest.json").read_text())
    parity = manifest["graphs"]["decoder"]["parity"]
    worst = min(p["value"] for p in parity if p["measure"] == "cosine")

    head, _, wide, narrow = page(tmp_path).splitlines()
    assert head.split(" | ")[-1] == "key sentences right, awb, % |"
    assert wide.split(" | ")[0] == "| fp32"
    assert wide.split(" | ")[2:4] == ["1.000000", "1.000000"]
    assert narrow.split(" | ")[3] == f"{worst:.6f}" != "1.000000"
    assert narrow.endswith("| 50.0 [35, 65], n = 40 |")


def test_no_bundle_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no bundle named fp32"):
        page(tmp_path)
