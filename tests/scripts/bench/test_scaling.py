"""``bench_scaling``: each point a process of its own, and a run that goes on where it was cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import bench
import pytest
from bench.bench_scaling import Points

COMMON = {"bundle": "int8", "threads": 2}
PROGRAM = """
import os
from bench.apart import apart, measured

def measure(point):
    if point["n"] > 2:
        raise SystemExit(3)
    return {"twice": 2 * point["n"], "process": os.getpid()}

if not measured(measure):
    found = [apart({"n": n}) for n in (1, 2)]
    print([one["twice"] for one in found], len({os.getpid(), *(one["process"] for one in found)}))
    apart({"n": 3})
    print("not reached")
"""


def test_each_point_is_a_process_and_its_failure_ends_the_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    scripts = Path(next(iter(bench.__path__))).parent
    done = subprocess.run(
        [sys.executable, program], env={**os.environ, "PYTHONPATH": str(scripts)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout.splitlines() == ["[2, 4] 3"]
    assert done.returncode


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    point = {"seconds": 30, "rate": "0.2"}
    Points(path, COMMON).add("lengths", point, [{"peak": 1.0}])

    again = Points(path, COMMON)
    assert again.found("lengths", point) == [{"peak": 1.0}]
    assert again.found("lengths", {**point, "rate": "none"}) is None

    again.content["complete"] = True
    again.write()
    assert Points(path, COMMON).found("lengths", point) is None, "a finished run begins anew"


@pytest.mark.parametrize("left", ["", "{", json.dumps({"complete": False, "threads": 1})])
def test_what_is_not_of_the_same_run_is_not_gone_on_with(tmp_path: Path, left: str) -> None:
    path = tmp_path / "out.json"
    path.write_text(left)
    assert Points(path, COMMON).content["lengths"] == []
