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
from speechprune_ort.evaluation.executor import LocalExecutor


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def data(tone: NDArray[Any], tmp_path: Path) -> Path:
    """Two recordings with choices."""
    entries = []
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", tone[number * 16_000 : 320_000], 16_000)
        entries.append(
            {"audio": f"{number}.wav", "question": "Who?", "choices": ["Ann", "Bob"], "answer": 0}
        )
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_what_was_calibrated_is_what_ask_takes(bundle: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
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
    del found["failed"]  # as one of an earlier version
    changes = ({"method": "none"}, {"method": []}, {"accuracies": 3}, {"samples": "2"}, {"x": 1})
    for content in ({}, [], 3, None, *(found | change for change in changes)):
        out.write_text(json.dumps(content))
        with pytest.raises(OptionError, match="is not a calibration"):
            read_calibration(out, bundle)
    out.write_text(json.dumps(found))
    refused = run(*asked, "--calibration", out, "--method", "speechprune")
    assert "a calibration of passages, not of speechprune" in str(refused.exception)


def test_what_was_not_used_is_said_even_quietly(bundle: Path, data: Path, tmp_path: Path) -> None:
    with data.open("a", encoding="utf-8") as stream:
        entry = {"audio": "none.wav", "question": "Who?", "choices": ["Ann", "Bob"], "answer": 0}
        stream.write(json.dumps({**entry, "id": "a\nb"}) + "\n")
    out = tmp_path / "found.json"
    line = ("calibrate", bundle, data, "--method", "passages", "--candidates", "2", "--out", out)
    shown = run(*line, "--quiet")
    assert shown.exit_code == 0, shown.exception
    assert shown.stderr.startswith("error: not used: a\\nb: No recording at ")
    assert shown.stderr.count("\n") == 1
    found = json.loads(out.read_text())
    assert (found["samples"], list(found["failed"])) == (2, ["a\nb"])


def test_what_was_cut_goes_on_and_a_place_that_will_not_do_is_refused_first(
    bundle: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, work = tmp_path / "found.json", tmp_path / "found.json.partial"
    line = ("calibrate", bundle, data, "--method", "speechprune", "--candidates", "2", "--out")
    for place, message in ((tmp_path / "none" / "x", "is not a folder"), (tmp_path, "is a folder")):
        with monkeypatch.context() as patch:
            patch.setattr(LocalExecutor, "run", lambda *_: pytest.fail("it was judged first"))
            refused = run(*line, place)
        assert isinstance(refused.exception, OptionError)
        assert message in str(refused.exception)
    judge, judged = LocalExecutor.run, []

    def cut(self: LocalExecutor, plan: Any, missing: Any) -> Any:
        for index, rows in judge(self, plan, missing):
            judged.append(index)
            yield index, rows
            if len(judged) == 1:
                raise KeyboardInterrupt

    monkeypatch.setattr(LocalExecutor, "run", cut)
    assert run(*line, out).exit_code != 0
    assert not out.exists()
    assert work.is_dir()
    (work / "mine.txt").write_text("a user's")
    assert run(*line, out).exit_code == 0
    assert sorted(judged) == [0, 1]  # none of them twice
    assert json.loads(out.read_text())["samples"] == 2
    assert [path.name for path in work.iterdir()] == ["mine.txt"]
