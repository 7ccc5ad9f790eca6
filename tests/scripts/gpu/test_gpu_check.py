"""The check of a GPU: pieces are whole or refused, and no stage outlasts its limit."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from gpu import pack
from gpu.run import Check
from paths import SCRIPTS

GPU = SCRIPTS / "gpu"


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """A folder as ``pack`` writes it, with nothing to install in it."""
    content = tmp_path / "content"
    content.mkdir()
    about = {"target": "cpu", "python": "2.7", "bundles": ["cpu-fp32"]}
    (content / "about.json").write_text(json.dumps(about), encoding="utf-8")
    (content / "large").write_bytes(bytes(range(256)) * 100)
    with tarfile.open(tmp_path / "check.tar", "w") as tar:
        tar.add(content, "check")
    out = tmp_path / "packed"
    out.mkdir()
    pack.split(tmp_path / "check.tar", out, 10_000)
    assert len(list(out.glob("check.tar.*"))) > 2
    assert all(piece.stat().st_size <= 10_000 for piece in out.glob("check.tar.*"))
    return out


def run(packed: Path, results: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, packed / "run.py", results]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_pieces_become_what_was_packed(packed: Path, tmp_path: Path) -> None:
    done = run(packed, tmp_path / "results")
    assert (packed / "work/check/large").read_bytes() == bytes(range(256)) * 100
    assert done.returncode == 2
    assert "the wheels are for Python 2.7" in done.stderr
    assert run(packed, tmp_path / "results").stderr == done.stderr


@pytest.mark.parametrize("harm", ["changed", "lost"])
def test_a_piece_that_is_not_whole_is_named(harm: str, packed: Path, tmp_path: Path) -> None:
    piece = packed / "check.tar.001"
    if harm == "changed":
        piece.write_bytes(piece.read_bytes()[:-1] + b"x")
    else:
        piece.unlink()
    done = run(packed, tmp_path / "results")
    assert done.returncode == 2
    assert done.stderr.startswith("error: check.tar.001 is not ")
    assert len(done.stderr.splitlines()) == 1
    assert not (packed / "work/check").exists()


def test_results_of_another_run_are_left_alone(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "00-driver.json").touch()
    assert "is not empty" in run(packed, tmp_path / "results").stderr


def test_a_stage_ends_at_its_limit_and_leaves_a_json(tmp_path: Path) -> None:
    check = Check(tmp_path, tmp_path, tmp_path / "site")
    assert not check.stage("slow", 1, "-c", "print('{\"a\": 1}', flush=True); input() or 1; 1 / 0")
    endless = "import time; print('working', flush=True); time.sleep(60)"
    assert not check.stage("endless", 1, "-c", endless)
    assert check.stage("quick", 60, "-c", "print('{\"b\": 2}')")
    slow, endless_row, quick = (
        json.loads(path.read_text(encoding="utf-8")) for path in sorted(tmp_path.glob("*.json"))
    )
    assert (slow["well"], slow["found"]) == (False, {"a": 1})
    assert (endless_row["timed_out"], endless_row["found"]) == (True, "working\n")
    assert (quick["code"], quick["found"], quick["timed_out"]) == (0, {"b": 2}, False)
