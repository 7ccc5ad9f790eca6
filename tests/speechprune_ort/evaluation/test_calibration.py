"""``calibrate`` and ``ask --calibration``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import soundfile
from click.testing import Result
from numpy.typing import NDArray
from typer.testing import CliRunner

from speechprune_ort import OptionError
from speechprune_ort.cli.app import app
from speechprune_ort.evaluation.calibration import read_calibration


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_what_was_calibrated_is_what_ask_takes(
    bundle: Path, tone: NDArray[Any], tmp_path: Path
) -> None:
    entries = []
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", tone[number * 16_000 : 320_000], 16_000)
        entries.append(
            {"audio": f"{number}.wav", "question": "Who?", "choices": ["Ann", "Bob"], "answer": 0}
        )
    data, out = tmp_path / "set.jsonl", tmp_path / "found.json"
    data.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    shown = run(
        "calibrate",
        bundle,
        data,
        "--method",
        "passages",
        "--out",
        out,
        "--pruning-rate",
        0.9,
        "--candidates",
        "2",
    )
    assert shown.exit_code == 0, shown.exception
    found = json.loads(out.read_text())
    assert set(found["accuracies"]) == {"passages@0.9", "passages@0.9x2"}
    best = max(found["accuracies"].values())
    own = found["accuracies"]["passages@0.9"]
    assert found["candidates"] == (None if own == best else 2)
    assert found["samples"] == 2

    # What is in the file is what counts.
    out.write_text(json.dumps({**found, "method": "speechprune", "candidates": 3}))
    asked = ("ask", bundle, tmp_path / "0.wav", "Who?", "--max-new-tokens", 1, "--json")
    answer = run(*asked, "--calibration", out)
    assert answer.exit_code == 0, answer.exception
    assert json.loads(answer.stdout)["pruning"]["options"]["candidates"] == 3

    out.write_text(json.dumps({**found, "bundle": "another"}))
    with pytest.raises(OptionError, match="calibrated for another bundle"):
        read_calibration(out, bundle)
    out.write_text("{}")
    with pytest.raises(OptionError, match="is not a calibration"):
        read_calibration(out, bundle)
