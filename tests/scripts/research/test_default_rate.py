"""``research/default_rate.py``: the fewest tokens that are not worse than every token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from paths import SCRIPTS
from research.default_rate import holding

from speechprune_ort.evaluation.summary import Line
from speechprune_ort.statistics import Estimate


def line(kept: int, low: float) -> Line:
    found = Estimate(100, 0.8, 0.7, 0.9, 100)
    versus = {"none": Estimate(100, low + 0.05, low, low + 0.1, 100)}
    return Line(f"passages@{kept}", found, kept=kept, versus=versus)


@pytest.mark.parametrize(
    ("lows", "held"),
    [
        ({600: 0.01, 300: -0.02, 150: -0.08}, [600, 300]),
        # 150 tokens would hold by themselves, and are not looked at.
        ({600: 0.01, 300: -0.04, 150: 0.0}, [600]),
        ({600: -0.03, 300: 0.0}, []),
    ],
)
def test_the_first_rate_that_does_not_hold_ends_it(lows: dict[int, float], held: list[int]) -> None:
    lines = [line(kept, low) for kept, low in reversed(lows.items())]
    assert [found.kept for found in holding(lines, 0.03)] == held


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "research.default_rate", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_it_judges_and_says_what_follows(bundle: Path, tone: NDArray[Any], tmp_path: Path) -> None:
    entries = []
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", tone[number * 16_000 : 320_000], 16_000)
        entries.append(
            {"audio": f"{number}.wav", "question": "Who?", "choices": ["Ann", "Bob"], "answer": 0}
        )
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    arguments = ("run", bundle, tmp_path / "set.jsonl", "--out", tmp_path / "out")
    done = run(*arguments, "--rates", "0,0.9", "--method", "truncate")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "out" / "default_rate.json").read_text())
    assert found["method"] == "truncate"
    assert found["n"] == 3
    # Of three recordings no interval is narrow enough.
    assert found["rate"] is None
    assert "no rate holds" in done.stdout
    refused = run(*arguments, "--rates", "half")
    assert refused.returncode == 2
    assert "--rates takes numbers" in refused.stderr


def test_an_option_that_is_wrong_is_named_and_no_other(tmp_path: Path) -> None:
    line = {"audio": "a.wav", "question": "Who?", "choices": ["Ann", "Bob"], "answer": 0}
    (tmp_path / "set.jsonl").write_text(json.dumps(line) + "\n")
    soundfile.write(tmp_path / "a.wav", np.zeros(16_000), 16_000)
    refused = run("run", tmp_path / "bundle", tmp_path / "set.jsonl", "--method", "nothing")
    assert refused.returncode == 2
    assert refused.stderr.startswith("Error: method must be one of ")
    assert refused.stderr.count("\n") == 1
