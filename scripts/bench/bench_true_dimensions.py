#!/usr/bin/env python3
"""What the export of every family costs at its true dimensions, beside what was expected of it.

    scripts/bench/bench_true_dimensions WORK FIGURES.json [--models qwen3-asr-0.6b,voxtral-mini-3b]

One model after the other: a checkpoint of random weights is written to WORK, exported, asked one
question, and deleted with its bundle. The export and the question run in processes of their own,
whose CPU time and peak memory the kernel counts, as ``/usr/bin/time -v`` reports them. Figures are
kept after each model; models that FIGURES.json has are not measured again. The table goes to
stdout as Markdown. Random weights say nothing about accuracy.

``scripts/bench/bench_true_dimensions`` makes the environment.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from time import perf_counter
from typing import Annotated, Any

import typer
from bench.make_random_checkpoint import make, remove
from bench.true_dimensions import MODELS, Model, shortened
from rich.console import Console

from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.contract.specs import AUDIO_ENCODER, DECODER
from speechprune_ort.errors import OptionError, SpeechPruneError
from speechprune_ort.files import write_json
from speechprune_ort.machine import machine_words
from speechprune_ort.markdown import markdown_table
from speechprune_ort.text import read_json

QUESTION = "Who owns the budget?"
RECORDING = Path(__file__).parents[1] / "research" / "recording" / "meeting.ogg"
ASKED = ("--method", "speechprune", "--pruning-rate", "0.6", "--max-new-tokens", "4", "--json")
HEADS = (
    "model", "weights, billions", "bundle, GB", "expected", "peak of export, GB", "expected",
    "minutes", "expected", "CPU minutes", "encoder, cosine", "decoder, cosine", "first tokens",
    "prompt", "first token, s", "peak of the question, GB",
)  # fmt: skip
USER_ERROR = 2
GB = 1e9
ROOM = {"fp32": 4.5, "fp16": 2.5, "int8": 1.6, "w8a8": 1.6, "int4": 1.1}
"""Bytes of a bundle for each weight, at most."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)


def spent(command: Sequence[str | Path]) -> tuple[str, str, dict[str, float]]:
    """Run a command to its end.

    Returns:
        What it wrote to stdout and to stderr, and ``seconds``, ``cpu_seconds`` and ``peak_bytes``,
        the memory of its largest process.

    Raises:
        OptionError: it failed; the message ends with its last line.
    """
    started = perf_counter()
    with TemporaryFile("w+", encoding="utf-8") as out, TemporaryFile("w+", encoding="utf-8") as err:
        child = subprocess.Popen([str(word) for word in command], stdout=out, stderr=err)
        _, status, used = os.wait4(child.pid, 0)
        seconds = perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        err.seek(0)
        said, complained = out.read(), err.read()
    if child.returncode:
        last = complained.strip().splitlines()[-1:] or ["nothing"]
        raise OptionError(f"{command[3]} ended with {child.returncode} and said: {last[0]}")
    return said, complained, {
        "seconds": seconds,
        "cpu_seconds": used.ru_utime + used.ru_stime,
        "peak_bytes": used.ru_maxrss * 1024.0,
    }  # fmt: skip


def command_line(*words: str | Path) -> list[str | Path]:
    """A command of the package, by this Python."""
    return [sys.executable, "-m", "speechprune_ort", *words]


def expected(checkpoint: Path, precision: str) -> dict[str, float]:
    """What ``export --dry-run`` says of a checkpoint, in a process of its own."""
    arguments = [sys.executable, "-m", "bench.bench_true_dimensions", "estimate"]
    said, _, _ = spent([*arguments, checkpoint, precision])
    found: dict[str, float] = json.loads(said)
    return found


@app.command("estimate")
def print_estimate(checkpoint: Path, precision: str) -> None:
    """Print what an export should take, as JSON; ``all`` starts this."""
    from speechprune_ort.export.estimate import count, estimate
    from speechprune_ort.export.families import check_checkpoint

    counts = count(*check_checkpoint(str(checkpoint)))
    (found,) = (e for e in estimate(counts, "cpu") if e.precision == precision)
    figures = {
        "weights": counts.sizes.all - (counts.table if counts.tied else 0),
        "bundle_bytes": found.size,
        "peak_bytes": found.memory,
        "seconds": found.seconds,
    }
    print(json.dumps(figures))


def parity(bundle: Path) -> dict[str, Any]:
    """The worst comparison with torch of each measure and graph."""
    found: dict[str, Any] = {}
    for name, entry in Manifest.read(bundle).graphs.items():
        worst: dict[str, float] = {}
        for figure in entry.parity:
            measure, value = figure.measure, figure.value
            if measure == "first_token":
                worst["first_tokens"] = worst.get("first_tokens", 0) + value
                worst["prompts"] = worst.get("prompts", 0) + 1
            else:
                worse = max if measure == "max_relative_error" else min
                worst[measure] = worse(worst.get(measure, value), value)
        found[name] = worst
    return found


def measured(work: Path, model: Model, precision: str) -> dict[str, Any]:
    """Figures of one model; what was written for it is deleted, whatever happens.

    Raises:
        OptionError: its export or the question failed, or the disk has too little room.
    """
    checkpoint, bundle = work / "checkpoint", work / "bundle"
    room = shutil.disk_usage(work).free
    weights = sum(v.numel() for part in model.drawn().parts for v in part.shapes.values())
    wanted = (2 + ROOM[precision]) * weights
    if room < wanted:
        raise OptionError(
            f"{work} has room for {room / GB:.0f} GB and {model.published} needs "
            f"{wanted / GB:.0f}: give another folder."
        )
    try:
        started = perf_counter()
        stored = make(checkpoint, model)
        made = perf_counter() - started
        estimated = expected(checkpoint, precision)
        _, table, exported = spent(
            command_line("export", checkpoint, bundle, "--precision", precision, "--target", "cpu")
        )
        size = sum(path.stat().st_size for path in bundle.iterdir())
        compared = parity(bundle)
        said, _, asked = spent(
            command_line("ask", bundle, RECORDING, QUESTION, "--device", "cpu", *ASKED)
        )
        answer = json.loads(said)
    finally:
        remove(checkpoint)
        shutil.rmtree(bundle, ignore_errors=True)
    return {
        "published": model.published,
        "checkpoint_bytes": stored,
        "making_seconds": made,
        "expected": estimated,
        "export": {**exported, "bundle_bytes": size, "table": table.splitlines()},
        "parity": compared,
        "ask": {
            **asked,
            "prompt_tokens": answer["prompt_tokens"],
            "audio_tokens": answer["pruning"]["total"],
            "token_ids": answer["token_ids"],
            "timings": answer["timings"],
        },
    }


def row(name: str, found: Mapping[str, Any]) -> list[str]:
    """Cells of the table."""
    export, estimated, asked = found["export"], found["expected"], found["ask"]
    encoder, decoder = found["parity"][AUDIO_ENCODER], found["parity"][DECODER]

    def cosine(worst: Mapping[str, float]) -> str:
        return f"{worst['cosine']:.5f}" if "cosine" in worst else "exact"

    stages = asked["timings"]
    first = sum(seconds for stage, seconds in stages.items() if stage != "decode")
    tokens = f"{decoder.get('first_tokens', 0):.0f}/{decoder.get('prompts', 0):.0f}"
    return [
        name,
        f"{estimated['weights'] / 1e9:.2f}",
        f"{export['bundle_bytes'] / GB:.2f}",
        f"{estimated['bundle_bytes'] / GB:.2f}",
        f"{export['peak_bytes'] / GB:.1f}",
        f"{estimated['peak_bytes'] / GB:.1f}",
        f"{export['seconds'] / 60:.1f}",
        f"{estimated['seconds'] / 60:.1f}",
        f"{export['cpu_seconds'] / 60:.1f}",
        cosine(encoder),
        cosine(decoder),
        tokens,
        str(asked["prompt_tokens"]),
        f"{first:.1f}",
        f"{asked['peak_bytes'] / GB:.1f}",
    ]


@app.command("all")
def every(
    work: Annotated[Path, typer.Argument(help="Folder for checkpoint and bundle, one at a time.")],
    figures: Annotated[Path, typer.Argument(help="JSON file that keeps what was measured.")],
    models: Annotated[str, typer.Option(help="Comma-separated names; by default all.")] = ",".join(
        MODELS
    ),
    precision: Annotated[str, typer.Option(help="Of the bundles.")] = "int4",
    layers: Annotated[int | None, typer.Option(min=1, help="Of each language model.")] = None,
    encoder_layers: Annotated[int | None, typer.Option(min=1, help="Of each encoder.")] = None,
) -> None:
    """Measure and print the table; the exit code is 1 if a model could not be measured."""
    names = models.split(",")
    if unknown := [name for name in names if name not in MODELS]:
        console.print(f"error: there is no model {unknown[0]!r}: give some of {', '.join(MODELS)}.")
        raise typer.Exit(USER_ERROR)
    if precision not in ROOM:
        console.print(f"error: there is no precision {precision!r}: give one of {', '.join(ROOM)}.")
        raise typer.Exit(USER_ERROR)
    work.mkdir(parents=True, exist_ok=True)
    kept: dict[str, Any] = {"machine": machine_words(), "precision": precision, "models": {}}
    if figures.exists():
        kept = read_json(figures)
        if kept["precision"] != precision:
            console.print(f"error: {figures} holds {kept['precision']}: give another file.")
            raise typer.Exit(USER_ERROR)
    failed = False
    for name in names:
        if name in kept["models"]:
            continue
        try:
            with console.status(name):
                found = measured(work, shortened(MODELS[name], layers, encoder_layers), precision)
        except SpeechPruneError as error:
            console.print(f"error: {name}: {error}", markup=False)
            failed = True
            continue
        kept["models"][name] = found
        write_json(figures, kept)
    rows = [row(name, kept["models"][name]) for name in names if name in kept["models"]]
    print("\n".join(markdown_table(HEADS, rows)))
    if failed:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
