#!/usr/bin/env python3
"""One table of every method: kinds of speech and lengths side by side, a part for each budget.

    python -m research.methods_table RESULTS... [--out FILE]

A RESULTS folder holds a folder for each cell, named by its kind of speech and length
(``people-5``), with the ``results.json`` of ``speechprune-ort eval``; several of them, such as one
of the methods and one of transcripts at as many tokens, are rows of one table. Rows go by the mean
of the cells that all of them have. An accuracy whose interval rests on fewer than ten groups, and
a cell that has not been run, say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from research.reproduce import Results
from rich.console import Console
from user_errors import one_sentence

from speechprune_ort.errors import DataError
from speechprune_ort.files import write_whole
from speechprune_ort.markdown import markdown_table
from speechprune_ort.statistics import FEW

KINDS = ("synthetic", "noisy", "people")
LENGTHS = ("own", "1", "5", "20")
WHOLE = {"none": "every token", "truncate@0": "the first window"}
COMPARED = ("coverage", "speechprune")

console = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Cell:
    """A kind of speech at a length.

    Attributes:
        name: such as ``people-5``.
        lines: of every setting, by its name.
        controls: of every control, by its name.
        costs: of every setting that was measured.
    """

    name: str
    lines: Mapping[str, Mapping[str, Any]]
    controls: Mapping[str, Mapping[str, Any]]
    costs: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, name: str, folders: Sequence[Path]) -> Cell | None:
        """Of the folders of results that have it; None where none has.

        Raises:
            DataError: a file of results cannot be read.
        """
        found = [r for folder in folders if (r := Results.read(folder / name)) is not None]
        if not found:
            return None
        lines: dict[str, Mapping[str, Any]] = {}
        controls: dict[str, Mapping[str, Any]] = {}
        costs: dict[str, Mapping[str, Any]] = {}
        for results in found:
            whole = results.content["subsets"]["clean"][0]
            lines |= {line["name"]: line for line in whole["settings"]}
            controls |= {line["name"]: line for line in whole["controls"]}
            costs |= results.content["costs"]
        return cls(name, lines, controls, costs)

    @property
    def heading(self) -> str:
        """``people, 5 min (n = 40)``."""
        kind, _, length = self.name.rpartition("-")
        n = next(iter(self.lines.values()))["accuracy"]["n"]
        return f"{kind}, {'as it is' if length == 'own' else f'{length} min'} (n = {n})"


def percent(estimate: Mapping[str, Any], sign: str = "") -> str:
    """An estimate in %, with its interval.

    >>> percent({"mean": 0.5, "low": 0.4, "high": 0.61, "clusters": 12})
    '50 [40, 61]'
    >>> percent({"mean": -0.5, "low": -0.9, "high": 0.0, "clusters": 4}, "+")
    '-50 [-90, +0] (4 groups)'
    """
    mean, low, high = (f"{100 * estimate[key]:{sign}.0f}" for key in ("mean", "low", "high"))
    few = f" ({estimate['clusters']} groups)" if estimate["clusters"] < FEW else ""
    return f"{mean} [{low}, {high}]{few}"


def cells_of(folders: Sequence[Path]) -> list[Cell]:
    """Every cell that is there, by length and kind.

    Raises:
        DataError: there is none, or one cannot be read.
    """
    names = [f"{kind}-{length}" for length in LENGTHS for kind in KINDS]
    found = [cell for name in names if (cell := Cell.read(name, folders)) is not None]
    if not found:
        raise DataError(f"{', '.join(map(str, folders))}: there are no results of a cell.")
    return found


def accuracy(cells: Sequence[Cell], settings: Sequence[str]) -> list[str]:
    """Settings in rows, cells in columns, the best mean first."""

    def mean(setting: str) -> float:
        means = [c.lines[setting]["accuracy"]["mean"] for c in cells if setting in c.lines]
        return sum(means) / len(means) if len(means) == len(cells) else -1.0

    rows = []
    for setting in sorted(settings, key=mean, reverse=True):
        shown = [percent(c.lines[setting]["accuracy"]) if setting in c.lines else "" for c in cells]
        whole = f"{100 * mean(setting):.1f}" if mean(setting) >= 0 else ""
        rows.append((f"`{setting.partition('@')[0]}`", *shown, whole))
    return markdown_table(("right, %", *(cell.heading for cell in cells), "mean"), rows)


def references(cells: Sequence[Cell]) -> list[str]:
    """Every token, the first window, and the controls."""
    rows = [
        (title, *(percent(c.lines[s]["accuracy"]) if s in c.lines else "" for c in cells))
        for s, title in WHOLE.items()
    ]
    controls = dict.fromkeys(name for cell in cells for name in cell.controls)
    rows += [
        (name, *(percent(c.controls[name]["accuracy"]) if name in c.controls else ""
                 for c in cells))
        for name in controls
    ]  # fmt: skip
    return markdown_table(("right, %", *(cell.heading for cell in cells)), rows)


def differences(cells: Sequence[Cell], settings: Sequence[str], other: str) -> list[str]:
    """A method against every other at the same budget, recording by recording."""
    rows = []
    for setting in settings:
        method, _, rate = setting.partition("@")
        if method == other:
            continue
        found = [c.lines.get(f"{other}@{rate}", {}).get("versus", {}).get(setting) for c in cells]
        if any(found):
            rows.append((f"`{method}`", *(percent(e, "+") if e else "" for e in found)))
    return markdown_table((f"`{other}` minus", *(cell.heading for cell in cells)), rows)


def cost(cell: Cell, settings: Sequence[str]) -> list[str]:
    """What choosing the tokens and reading the prompt cost."""

    def shown(setting: str, figure: str, digits: int) -> str:
        value = cell.costs.get(setting, {}).get(figure)
        return "" if value is None else f"{value:,.{digits}f}"

    rows = [
        (f"`{s}`", shown(s, "selection_ms", 1), shown(s, "prefill_ms", 0), shown(s, "tflops", 2),
         shown(s, "memory_gb", 2))
        for s in settings
        if s in cell.costs
    ]  # fmt: skip
    heads = (f"{cell.heading}", "choosing, ms", "prefill, ms", "TFLOPs", "memory, GB")
    return markdown_table(heads, rows)


def page(folders: Sequence[Path]) -> str:
    """Every table.

    Raises:
        DataError: there is no cell, or one cannot be read.
    """
    cells = cells_of(folders)
    settings = list(dict.fromkeys(name for cell in cells for name in cell.lines))
    rates = sorted({s.partition("@")[2] for s in settings if s not in WHOLE})
    lines = ["## Without a choice, and the controls", "", *references(cells), ""]
    for rate in rates:
        at = [s for s in settings if s not in WHOLE and s.partition("@")[2] == rate]
        lines += [f"## Pruning rate {rate}", "", *accuracy(cells, at), ""]
        for other in COMPARED:
            lines += [*differences(cells, at, other), ""]
    lines += ["## Costs", ""]
    for cell in cells:
        if cell.costs:
            lines += [*cost(cell, settings), ""]
    return "\n".join(lines)


def main(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Folders of cells.")],
    out: Annotated[Path | None, typer.Option(help="File to write, beside printing it.")] = None,
) -> None:
    """Print the tables of docs/results/methods.md."""
    with one_sentence(console, OSError):
        made = page(results)
        if out:
            write_whole(out, made)
    print(made)


if __name__ == "__main__":
    typer.run(main)
