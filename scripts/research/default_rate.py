#!/usr/bin/env python3
"""Choose the default pruning rate by a rule that was written before the run.

    scripts/research/default_rate SPIRAL [OUT]            # all of it
    python -m research.default_rate ids SPIRAL            # the development dialogues, an id a line
    python -m research.default_rate run BUNDLE DATA --out RESULTS

The rule (docs/results/protocol.md): from the most tokens down, a rate holds while the lower end of
the interval of its paired difference to every token is above ``-margin``; the default is the last
one that holds. A rate below one that does not hold is not looked at, so that the order of the
rates, fixed before the run, needs no correction for their number.

Needs ``pip install -e '.[cpu]'``; ``ids`` needs nothing more.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from small_model.training.text import TEST_IDS, read_spiral, split_dialogues
from user_errors import one_sentence

from speechprune_ort.evaluation.executor import LocalExecutor
from speechprune_ort.evaluation.plan import Plan
from speechprune_ort.evaluation.rows import judge_all
from speechprune_ort.evaluation.samples import read_samples, shuffled
from speechprune_ort.evaluation.settings import settings_of
from speechprune_ort.evaluation.summary import Line, Subset, summarize
from speechprune_ort.files import write_json, write_whole
from speechprune_ort.markdown import markdown_table
from speechprune_ort.numbers import numbers_in
from speechprune_ort.options import DEFAULT_METHOD
from speechprune_ort.progress import Bar

MARGIN = 0.03
RATES = "0.2,0.4,0.6,0.7,0.8,0.9"

app = typer.Typer(add_completion=False)
console = Console(stderr=True, highlight=False, soft_wrap=True)


def development(spiral: Path) -> list[str]:
    """Ids of dialogues that no test has: those that no training has, then the others by hash.

    Raises:
        PartError: the folder does not hold SPIRAL's files.
    """
    tested = TEST_IDS.read_text(encoding="utf-8").split()
    split = split_dialogues(read_spiral(spiral), tested)
    return [d.name for d in (*split.development, *split.align, *split.adapt)]


def holding(lines: Sequence[Line], margin: float) -> list[Line]:
    """Lines that hold, from the most tokens down; ends at the first that does not.

    Args:
        lines: each compared with ``none``.
        margin: how much worse than every token may be, as a share.
    """
    held = []
    for line in sorted(lines, key=lambda line: -(line.kept or 0.0)):
        if line.versus["none"].low <= -margin:
            break
        held.append(line)
    return held


def table(subset: Subset, lines: Sequence[Line], margin: float) -> str:
    """What was found, as Markdown."""
    held = {line.name for line in holding(lines, margin)}
    every = next(line for line in subset.settings if line.name == "none")

    def points(value: float) -> str:
        return f"{100 * value:+.1f}"

    def share(line: Line) -> str:
        found = line.accuracy
        return f"{100 * found.mean:.1f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"

    rows = [("every token", f"{every.kept:.0f}", share(every), "", "")]
    for line in lines:
        found = line.versus["none"]
        ends = f"[{points(found.low)}, {points(found.high)}]"
        holds = "yes" if line.name in held else "no"
        cells = (f"{line.pruning_rate:g}", f"{line.kept:.0f}", share(line))
        rows.append((*cells, f"{points(found.mean)} {ends}", holds))
    rows += [(line.name, "", share(line), "", "") for line in subset.controls]
    heads = ("rate", "tokens", "right choices in %", "minus every token", "holds")
    title = f"n = {every.accuracy.n} in {subset.groups} groups"
    return "\n".join([title, "", *markdown_table(heads, rows)])


@app.command()
def ids(
    spiral: Annotated[Path, typer.Argument(metavar="SPIRAL", help="Folder of SPIRAL's text.")],
    limit: Annotated[int | None, typer.Option(min=1, help="Recordings to be judged.")] = None,
) -> None:
    """Print the ids of the development dialogues."""
    with one_sentence(console, OSError):
        print("\n".join(development(spiral)[:limit]))


@app.command()
def run(
    bundle: Annotated[Path, typer.Argument(help="Bundle to choose for.")],
    data: Annotated[Path, typer.Argument(help="Development recordings, as eval reads them.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("results"),
    method: Annotated[str, typer.Option(help="Method whose rate is chosen.")] = DEFAULT_METHOD,
    rates: Annotated[str, typer.Option(help="Pruning rates, separated by commas.")] = RATES,
    margin: Annotated[float, typer.Option(help="Largest loss, as a share.")] = MARGIN,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first recordings.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads within an operator.")] = None,
) -> None:
    """Judge the rates and say which one the rule chooses."""
    with one_sentence(console):
        numbers = numbers_in("--rates", rates)
        samples = [shuffled(sample, 0) for sample in read_samples(data)[:limit]]
        settings = [
            setting
            for setting in settings_of(["none", method], numbers, [0])
            if setting.options.method in ("none", method)
        ]
        plan = Plan(bundle, tuple(samples), tuple(settings), threads=threads)
        with Bar(console, "samples") as bar:
            rows = judge_all(plan, out, LocalExecutor(), bar)
        summary = summarize(rows, settings, ())
    for name, reason in summary.failed.items():
        sys.stderr.write(f"not used: {name}: {reason}\n")
    subset = summary.subsets["clean"][0]
    lines = [line for line in subset.settings if line.name != "none"]
    held = holding(lines, margin)
    chosen = held[-1].pruning_rate if held else None
    with one_sentence(console):
        write_whole(out / "default_rate.md", table(subset, lines, margin) + "\n")
        content = {"method": method, "margin": margin, "rate": chosen, "n": len(samples)}
        write_json(out / "default_rate.json", content)
    print(table(subset, lines, margin))
    said = f"the default is {chosen:g}" if chosen is not None else "no rate holds: nothing changes"
    print(f"\nBy the rule {said}.")


if __name__ == "__main__":
    app()
