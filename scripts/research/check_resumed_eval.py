#!/usr/bin/env python3
"""Kill an evaluation again and again, let it go on, and compare its table with an undisturbed one.

    python scripts/research/check_resumed_eval.py BUNDLE DATA [--sample 40] [--kills 3]

DATA is what ``speechprune-ort eval`` reads. Exit status 1 and the first differing line, where the
two tables are not the same.

Needs ``pip install -e '.[cpu,eval]'``.
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Annotated

import typer

TABLE = "results.csv"


def start(bundle: Path, data: Path, out: Path, sample: int) -> subprocess.Popen[bytes]:
    """The evaluation as a process of its own; it goes on from what is in ``out``."""
    arguments = (
        "eval", bundle, "--data", data, "--out", out, "--sample", sample,
        "--pruning-rates", "0.2,0.6",
        "--methods", "random,crop,similarity,speechprune", "--no-costs", "--no-plots",
    )  # fmt: skip
    command = [sys.executable, "-m", "speechprune_ort", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def main(
    bundle: Path,
    data: Path,
    sample: Annotated[int, typer.Option(min=1, help="Recordings.")] = 40,
    kills: Annotated[int, typer.Option(min=1, help="Times that it is killed.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
) -> None:
    """Compare both tables."""
    chance = random.Random(seed)  # noqa: S311 - no secrets are made of it
    folder = Path(tempfile.mkdtemp(prefix="speechprune-resumed-"))
    started = perf_counter()
    if start(bundle, data, folder / "whole", sample).wait():
        raise SystemExit("the undisturbed evaluation failed")
    seconds = perf_counter() - started
    killed = 0
    while killed < kills:
        process = start(bundle, data, folder / "killed", sample)
        try:
            process.wait(chance.uniform(0.1, 0.8) * seconds / kills)
            break  # it was done sooner than the blow
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            killed += 1
    if start(bundle, data, folder / "killed", sample).wait():
        raise SystemExit("the resumed evaluation failed")
    tables = [(folder / name / TABLE).read_text().splitlines() for name in ("whole", "killed")]
    for left, right in zip(*tables, strict=True):
        if left != right:
            raise SystemExit(f"the tables differ:\n{left}\n{right}")
    print(f"{sample} recordings, killed {killed} times: the same {len(tables[0])} lines of {TABLE}")
    shutil.rmtree(folder)


if __name__ == "__main__":
    typer.run(main)
