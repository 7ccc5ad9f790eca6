#!/usr/bin/env python3
"""A bundle as a small device runs it: one process and one thread, from its start to an answer.

    .venv/bin/python scripts/bench/bench_edge.py BUNDLE AUDIO [--threads 1] [--pruning-rate 0.8]
                                                 [--rounds 5]

Each round is a process of its own: it imports the package, opens the bundle, and answers one
question about AUDIO. The page cache is warm and the bundle's checksums are known, as from the
second start on: the first round does not count. Medians, and the least and the most, of the seconds
to import, to load, to the first token (the recording read, heard, pruned and its prompt read), of
the tokens a second behind it, and of the resident memory at its peak.

Needs ``pip install -e '.[cpu]'``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated

import typer

RESULT = "SPEECHPRUNE_EDGE"  # names the file that a round writes
QUESTION = "How large is the budget that the city council has approved?"
TOKENS = 32
FIGURES = {
    "import": "import, s",
    "load": "load, s",
    "first_token": "first token, s",
    "decode": "tokens a second",
    "peak": "peak memory, MB",
}


def answer(bundle: Path, audio: Path, threads: int, rate: float, out: Path) -> None:
    """One round, in a process that has imported nothing yet."""
    started = perf_counter()
    from speechprune_ort import GenerationOptions, SpeechLLM
    from speechprune_ort.meters import resident

    imported = perf_counter()
    model = SpeechLLM(bundle, "cpu", threads)
    loaded = perf_counter()
    said = model.ask(
        audio, QUESTION, pruning_rate=rate,
        generation=GenerationOptions(max_new_tokens=TOKENS, ignore_stop=True),
    )  # fmt: skip
    found = {
        "import": imported - started,
        "load": loaded - imported,
        "first_token": said.timings.first_token,
        "decode": (len(said.token_ids) - 1) / said.timings.seconds["decode"],
        "peak": resident("VmHWM") / 1e6,
    }
    out.write_text(json.dumps(found), encoding="utf-8")


def main(
    bundle: Annotated[Path, typer.Argument(help="Folder that export wrote.")],
    audio: Annotated[Path, typer.Argument(help="Recording to ask about.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads of the process.")] = 1,
    pruning_rate: Annotated[float, typer.Option(help="Of one window.")] = 0.8,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 5,
) -> None:
    """Print the table."""
    if result := os.environ.get(RESULT):
        answer(bundle, audio, threads, pruning_rate, Path(result))
        return
    import tempfile

    from speechprune_ort.machine import machine_words
    from speechprune_ort.markdown import markdown_table

    found = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds + 1):
            out = Path(folder, str(number))
            done = subprocess.run(
                [sys.executable, *sys.argv], env={**os.environ, RESULT: str(out)}, check=False
            )
            if done.returncode:
                raise typer.Exit(done.returncode)
            if number:
                found.append(json.loads(out.read_text(encoding="utf-8")))
    rows = []
    for figure, title in FIGURES.items():
        values = [one[figure] for one in found]
        digits = 0 if figure == "peak" else 2
        cells = (median(values), min(values), max(values))
        rows.append((title, *(f"{value:,.{digits}f}" for value in cells)))
    print(f"{bundle.name}, {threads} threads, rate {pruning_rate:g}, {rounds} rounds;")
    print(f"load average {os.getloadavg()[0]:.1f} on {machine_words()}")
    print("\n".join(markdown_table(("", "median", "least", "most"), rows)))


if __name__ == "__main__":
    typer.run(main)
