"""The short form of ``scripts/faults``: kills land while a command writes, and find what breaks."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from paths import SCRIPTS, TESTS

PATHS = {"PYTHONPATH": os.pathsep.join((str(SCRIPTS), str(TESTS / "helpers")))}
IN_PLACE = """
import sys
import time
from pathlib import Path

path = Path(sys.argv[1])
if path.read_text() != "whole":
    with path.open("w") as stream:
        for letter in "whole":
            stream.write(letter)
            stream.flush()
            time.sleep(0.01)
"""
TRIED = """
import sys, time
from pathlib import Path
from reliability import faults

def standing(path):
    text = path.read_text()
    if text not in ("earlier", "whole"):
        raise ValueError(f"{text!r} is half")
    return text

if __name__ == "__main__":
    out = Path(sys.argv[1]) / "out" / "file"
    command = faults.Command("in place", (str(out),), out, standing,
                             lambda: out.write_text("earlier"), code=sys.argv[2])
    for kind, tally in faults.tried(command, ("kills", "changes", "disk"), range(6), 0):
        print(kind, len(tally.broken), dict(tally.ends))
"""


def run(*args: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *map(str, args)]
    return subprocess.run(
        line, capture_output=True, text=True, check=False, timeout=300, env=os.environ | PATHS
    )


def test_kills_land_while_a_command_writes(bundle: Path) -> None:
    script = SCRIPTS / "reliability" / "faults.py"
    done = run(script, "--bundle", bundle, "--only", "ask --explain", "--kills", 4,
               "--kinds", "kills,changes")  # fmt: skip
    assert done.returncode == 0, done.stderr
    kills, changes = (line for line in done.stdout.splitlines() if line.startswith("| ask"))
    landed = re.findall(r"after (open|remove|fsync|rename) (\d+)", kills)
    assert sum(int(count) for _, count in landed) == 4, kills
    # A file is made and removed to try the place; then one is opened and synced, its folder is
    # opened for the name, and that is synced.
    assert int(re.findall(r"killed (\d+)", changes)[0]) >= 4


def test_a_command_that_writes_in_place_is_found(tmp_path: Path) -> None:
    (tmp_path / "tried.py").write_text(TRIED)
    done = run(tmp_path / "tried.py", tmp_path, IN_PLACE)
    assert done.returncode == 0, done.stderr
    found = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()}
    assert found["kills"] > 0
    assert found["disk"] > 0
