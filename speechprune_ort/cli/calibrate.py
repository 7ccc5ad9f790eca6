"""``speechprune-ort calibrate``: the balance of a method's phases, set for a bundle."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from speechprune_ort.cli.options import Bundle, Device, Threads
from speechprune_ort.cli.quiet import tell_error
from speechprune_ort.errors import OptionError
from speechprune_ort.numbers import numbers_in
from speechprune_ort.progress import Bar
from speechprune_ort.text import check_path, printable

__all__ = ["calibrate"]


def calibrate(
    bundle: Bundle,
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="JSONL or JSON file of recordings with choices."),
    ],
    method: Annotated[str, typer.Option(help="Method to calibrate; it must have two phases.")],
    out: Annotated[Path, typer.Option(help="File to write, for ask --calibration.")] = (
        Path("calibration.json")
    ),
    pruning_rate: Annotated[float, typer.Option(help="Pruning rate to calibrate at.")] = 0.2,
    candidates: Annotated[
        str,
        typer.Option(
            help="Candidates to try besides the method's own number, separated by commas."
        ),
    ] = "1.5,2,3,6,10",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Largest number of samples to use, counted from the first."),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
) -> None:
    """Set a method's candidates on training recordings, and write them for ask.

    What is judged is kept in OUT.partial until OUT is written: an interrupted run goes on where it
    stopped.
    """
    from speechprune_ort.evaluation.calibration import calibrate as run
    from speechprune_ort.evaluation.rows import discard
    from speechprune_ort.evaluation.samples import read_whole_set, shuffled
    from speechprune_ort.files import write_json
    from speechprune_ort.outputs import check_apart, check_out

    numbers = numbers_in("--candidates", candidates)
    if check_path(data, "DATA").is_dir() or not data.exists():
        raise OptionError(
            f"{data} is not a file: give a JSONL or JSON file of training recordings."
        )
    work = out.with_name(f"{out.name}.partial")
    given = read_whole_set(data)
    given = replace(given, samples=[shuffled(sample, 0) for sample in given.samples[:limit]])
    read = [bundle, data, *(sample.audio for sample in given.samples)]
    check_out(out, "--out", read, device=False)
    check_apart(work, "--out", read)
    console = Console(stderr=True, markup=False, soft_wrap=True)
    with Bar(console, "samples") as bar:
        found = run(bundle, given, method, pruning_rate, numbers, work, device, threads, bar)
    write_json(out, found.to_dict())
    discard(work)
    for name, reason in found.failed.items():
        tell_error(f"not used: {name}: {reason}")
    for name, share in found.accuracies.items():
        sys.stdout.write(f"{name}: {100 * share:.1f} % of {found.samples}\n")
    taken = "its own number of" if found.candidates is None else f"{found.candidates:g}"
    console.print(
        printable(f"{method} uses {taken} candidates for each kept token; written to {out}")
    )
