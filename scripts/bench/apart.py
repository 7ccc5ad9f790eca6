"""Measure in a process of its own, so that its start and its peak of memory are its own, too.

A program that measures this way is started twice: as it is called, it asks ``apart`` for each point
and makes tables of what comes back; started again by ``apart``, it measures in ``measured``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer

POINT = "SPEECHPRUNE_POINT"  # names the file with what is to be measured, and then what was found


def measured(measure: Callable[[dict[str, Any]], dict[str, Any]]) -> bool:
    """Measure, in a process that ``apart`` started; False, and nothing done, in any other.

    Args:
        measure: takes the point that ``apart`` was given, and returns what it found, as plain data.
    """
    if not (given := os.environ.get(POINT)):
        return False
    point = json.loads(Path(given).read_text(encoding="utf-8"))
    Path(given).write_text(json.dumps(measure(point)), encoding="utf-8")
    return True


def apart(point: Mapping[str, Any]) -> dict[str, Any]:
    """What this program, started again with its arguments, measures at a point of plain data.

    Raises:
        typer.Exit: that process failed, and has said why.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "point.json")
        file.write_text(json.dumps(point), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, *sys.argv], env={**os.environ, POINT: str(file)}, check=False
        )
        if done.returncode:
            raise typer.Exit(done.returncode)
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return found
