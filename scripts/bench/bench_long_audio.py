#!/usr/bin/env python3
"""Long recordings through a bundle: memory, time, and what a further question costs.

    scripts/bench/bench_long_audio all BUNDLE RECORDING [--minutes 1,10,60,180] [--json FILE]

RECORDING is repeated up to each length. Each length runs in a process of its own, so that its peak
memory is its own; then ten questions are asked of one recording of ten minutes, and their time is
compared with one encoding and ten decodings.

``scripts/bench/bench_long_audio`` makes the environment.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import typer
from research.join_recordings import join
from rich.console import Console
from rich.table import Table

from speechprune_ort import SpeechLLM
from speechprune_ort.files import write_json
from speechprune_ort.runtime.hearing.audio import SAMPLING_RATE

QUESTIONS = tuple(
    f"What was said about {topic}?"
    for topic in (
        "the money", "the roof", "the walls", "the furniture", "the heating",
        "the opening", "the party", "the writer", "the invitations", "the next meeting",
    )
)  # fmt: skip
METHOD = "speechprune"
HEADINGS = ("minutes", "listen s", "x realtime", "ask s", "peak MB", "over the first")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)


@app.command()
def one(bundle: Path, audio: Path, threads: int) -> None:
    """Measure one recording; the figures go to stdout as JSON. ``all`` starts this."""
    model = SpeechLLM(bundle, "cpu", threads)
    started = perf_counter()
    recording = model.listen(audio)
    listened = perf_counter() - started
    started = perf_counter()
    answer = recording.ask(QUESTIONS[0], method=METHOD, max_new_tokens=16)
    asked = perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    figures = {
        "minutes": recording.seconds / 60,
        "listen_s": listened,
        "ask_s": asked,
        "peak_mb": peak / 1e6,
        "tokens": recording.tokens,
        "kept": answer.pruning.kept,
    }
    print(json.dumps(figures))


@app.command()
def ten(bundle: Path, audio: Path, threads: int) -> None:
    """Ask ten questions of one recording; the figures go to stdout as JSON."""
    model = SpeechLLM(bundle, "cpu", threads)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, SAMPLING_RATE).astype(np.float32)
    model.ask(noise, "Warm?", sampling_rate=SAMPLING_RATE)
    started = perf_counter()
    recording = model.listen(audio)
    answers = [recording.ask(question, method=METHOD, max_new_tokens=16) for question in QUESTIONS]
    whole = perf_counter() - started
    stages = [answer.timings.seconds for answer in answers]
    decodings = sum(s["prefill"] + s["decode"] for s in stages)
    figures = {
        "whole_s": whole,
        "encoding_s": recording.timings.total,
        "decodings_s": decodings,
        "ratio": whole / (recording.timings.total + decodings),
    }
    print(json.dumps(figures))


def run(command: str, bundle: Path, audio: Path, threads: int) -> dict[str, Any]:
    """One of the two in a process of its own."""
    arguments = [sys.executable, __file__, command, str(bundle), str(audio), str(threads)]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@app.command("all")
def every(
    bundle: Path,
    recording: Path,
    minutes: Annotated[str, typer.Option(help="Comma-separated.")] = "1,10,60,180",
    threads: Annotated[int, typer.Option(min=1, help="Threads within an operator.")] = 2,
    out: Annotated[Path | None, typer.Option("--json", help="File for all figures.")] = None,
) -> None:
    """Print both tables."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="speechprune-bench-") as folder:
        audio = Path(folder) / "recording.wav"
        for length in map(float, minutes.split(",")):
            with console.status(f"{length:g} minutes"):
                join([recording], audio, length)
                rows.append(run("one", bundle, audio, threads))
        with console.status("ten questions"):
            join([recording], audio, 10.0)
            questions = run("ten", bundle, audio, threads)
    table = Table(*HEADINGS)
    for row in rows:
        table.add_row(
            f"{row['minutes']:.0f}",
            f"{row['listen_s']:.1f}",
            f"{60 * row['minutes'] / row['listen_s']:.1f}",
            f"{row['ask_s']:.2f}",
            f"{row['peak_mb']:.0f}",
            f"{row['peak_mb'] - rows[0]['peak_mb']:+.0f}",
        )
    printed = Console(width=100)
    printed.print(table)
    printed.print(
        f"ten questions on ten minutes: {questions['whole_s']:.1f} s; one encoding "
        f"{questions['encoding_s']:.1f} s and ten decodings {questions['decodings_s']:.1f} s: "
        f"{questions['ratio']:.3f} times their sum"
    )
    if out is not None:
        content = {"threads": threads, "lengths": rows, "ten_questions": questions}
        write_json(out, content)


if __name__ == "__main__":
    app()
