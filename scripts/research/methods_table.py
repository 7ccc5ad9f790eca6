#!/usr/bin/env python3
"""One table of every method: kinds of speech and lengths side by side, a part for each budget.

    python -m research.methods_table RESULTS... [--out FILE] [--keep FOLDER] [--pictures FOLDER]

A RESULTS folder holds a folder for each cell, named by its kind of speech and length
(``people-5``), with the ``results.json`` of ``speechprune-ort eval``, or what ``--keep`` left of
it: ``people-5.json``, as docs/results/cells has them. Several of them, such as one of the methods
and one of transcripts at as many tokens, are rows of one table. Rows go by the mean of the cells
that all of them have. An accuracy whose interval rests on fewer than ten groups says so.

To add what OUT has to docs/results, give docs/results/cells, OUT/results and OUT/texts as RESULTS,
the first one as ``--keep``, and docs/results/methods_tables.md as ``--out``. With ``--pictures``,
which needs ``pip install -e '.[eval]'``, each cell is drawn over the tokens that are kept, too:
``people-5.png``, and the same as SVG and PDF.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer
from research.reproduce import Results
from rich.console import Console
from user_errors import one_sentence

from speechprune_ort.choices import EVERY_TOKEN
from speechprune_ort.errors import DataError
from speechprune_ort.evaluation.plots import draw_accuracy
from speechprune_ort.evaluation.summary import Line, Subset
from speechprune_ort.files import write_json, write_whole
from speechprune_ort.markdown import markdown_table
from speechprune_ort.methods import METHODS
from speechprune_ort.statistics import FEW, Estimate
from speechprune_ort.text import read_json

KINDS = ("synthetic", "noisy", "people")
LENGTHS = ("own", "1", "5", "20")
WHOLE = {"none": "every token", "truncate@0": "the first window"}
COMPARED = ("coverage", "speechprune")
ABOUT = """Made by `scripts/research/compare_methods`. Right choices in % with their 95 % intervals,
by a [rule that stood before the run](protocol.md#the-present-default-model); differences are
paired, in percentage points. Rows go by their mean."""
NAMED = 4  # settings with the same costs that a row names one by one
PLACES = ("command", "bundle", "machine")  # of what a run says of itself, where it was made

console = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Cell:
    """A kind of speech at a length.

    Attributes:
        name: such as ``people-5``.
        about: what each command that it is from says of itself.
        lines: of every setting, by its name.
        controls: of every control, by its name.
        costs: of every setting that was measured.
    """

    name: str
    about: list[Mapping[str, Any]] = field(default_factory=list)
    lines: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    controls: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    costs: dict[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, folders: Sequence[Path]) -> Cell | None:
        """Of the folders of results that have it; None where none has.

        Raises:
            DataError: a file of results cannot be read.
        """
        cell = cls(name)
        for folder in folders:
            if (results := Results.read(folder / name)) is not None:
                content = rounded(results.content)
                whole, about = content["subsets"]["clean"][0], content["about"]
                said = [{name: v for name, v in about.items() if name not in PLACES}]
                cell.add(whole["settings"], content["costs"])
                cell.controls.update({line["name"]: line for line in whole["controls"]})
            elif (kept := folder / f"{name}.json").is_file():
                content = read_json(kept)
                said = content["about"]
                cell.add(content["lines"].values(), content["costs"])
                cell.controls.update(content["controls"])
            else:
                continue
            cell.about.extend(one for one in said if one not in cell.about)
        return cell if cell.lines else None

    def add(
        self, lines: Iterable[Mapping[str, Any]], costs: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Lines and costs of one run.

        What an earlier run has compared a setting with stays, and so do its costs: those of one run
        are measured side by side.
        """
        for line in lines:
            known = self.lines.get(line["name"], {}).get("versus", {})
            self.lines[line["name"]] = {**line, "versus": {**known, **line["versus"]}}
        self.costs.update({name: cost for name, cost in costs.items() if name not in self.costs})

    def keep(self, folder: Path) -> None:
        """Write it, for ``read``."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{self.name}.json", asdict(self))

    @property
    def heading(self) -> str:
        """``people, 5 min (n = 40)``."""
        kind, _, length = self.name.rpartition("-")
        n = next(iter(self.lines.values()))["accuracy"]["n"]
        return f"{kind}, {'as it is' if length == 'own' else f'{length} min'} (n = {n})"


def rounded(value: Any) -> Any:
    """Plain data with four digits behind the point.

    >>> rounded({"mean": [1 / 3, None]})
    {'mean': [0.3333, None]}
    """
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, Mapping):
        return {key: rounded(part) for key, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list) else value


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


def budgets(cell: Cell, rates: Sequence[str]) -> list[str]:
    """A cell's methods at every budget, the best mean first, and the key sentence's kept share."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for method in dict.fromkeys(name.partition("@")[0] for name in cell.lines):
        lines = [cell.lines[at] for rate in rates if (at := f"{method}@{rate}") in cell.lines]
        if len(lines) == len(rates):
            found[method] = lines

    def mean(method: str) -> float:
        return statistics.mean(float(line["accuracy"]["mean"]) for line in found[method])

    rows = []
    for method in sorted(found, key=mean, reverse=True):
        shown = [percent(line["accuracy"]) for line in found[method]]
        shares = [line.get("key_kept") for line in found[method]]
        kept = " / ".join("" if share is None else f"{100 * share:.0f}" for share in shares)
        kept = kept if kept.strip(" /") else ""
        rows.append((f"`{method}`", *shown, f"{100 * mean(method):.1f}", kept))
    heads = (f"{cell.heading}: right, %", *rates, "mean", "of key sentence kept, %")
    return markdown_table(heads, rows)


def references(cells: Sequence[Cell]) -> list[str]:
    """Every token, the first window, and the controls."""
    rows = [
        (title, *(percent(c.lines[s]["accuracy"]) if s in c.lines else "" for c in cells))
        for s, title in WHOLE.items()
    ]
    # Which letter is right most often differs from cell to cell, and says nothing of any method.
    names = dict.fromkeys(name for cell in cells for name in cell.controls)
    controls = [name for name in names if not name.startswith("always ")]
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


def choosing(cell: Cell, rates: Sequence[str]) -> list[str]:
    """What it takes to choose the tokens, by method and rate."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for setting, cost in cell.costs.items():
        method, _, rate = setting.partition("@")
        if rate in rates and cost["selection_ms"] is not None:
            found[method][rate] = cost["selection_ms"]
    rows = [
        (f"`{method}`", *(f"{by_rate[r]:,.1f}" if r in by_rate else "" for r in rates))
        for method, by_rate in found.items()
    ]
    return markdown_table((f"{cell.heading}: ms to choose", *rates), rows)


def reading(cell: Cell) -> list[str]:
    """What it takes to read the prompt; settings that keep as many tokens share a row."""
    alike: dict[tuple[float | None, ...], list[str]] = defaultdict(list)
    for setting, cost in cell.costs.items():
        alike[cost["prefill_ms"], cost["tflops"], cost["memory_gb"]].append(setting)
    rows = []
    for (milliseconds, operations, memory), settings in alike.items():
        titles = [WHOLE.get(setting, f"`{setting}`") for setting in settings]
        if len(settings) > NAMED:
            titles = [f"rate {settings[0].partition('@')[2]}, other methods"]
        rows.append((", ".join(titles), f"{milliseconds:,.0f}", number(operations), number(memory)))
    heads = (f"{cell.heading}: to read the prompt", "prefill, ms", "TFLOPs", "memory, GB")
    return markdown_table(heads, rows)


def number(value: float | None) -> str:
    """With two digits behind the point; empty where it was not measured.

    >>> number(1.234), number(None)
    ('1.23', '')
    """
    return "" if value is None else f"{value:,.2f}"


def page(cells: Sequence[Cell]) -> str:
    """Every table."""
    settings = list(dict.fromkeys(name for cell in cells for name in cell.lines))
    rates = sorted({s.partition("@")[2] for s in settings if s not in WHOLE})
    lines = ["# Methods side by side, every table", "", ABOUT, ""]
    lines += ["## Without a choice, and the controls", "", *references(cells), ""]
    for rate in rates:
        at = [s for s in settings if s not in WHOLE and s.partition("@")[2] == rate]
        lines += [f"## Pruning rate {rate}", "", *accuracy(cells, at), ""]
        for other in COMPARED:
            lines += [*differences(cells, at, other), ""]
    lines += ["## All budgets", ""]
    for cell in cells:
        lines += [*budgets(cell, rates), ""]
    lines += ["## Costs", ""]
    for cell in cells:
        if cell.costs:
            lines += [*choosing(cell, rates), "", *reading(cell), ""]
    return "\n".join(lines)


def draw(cell: Cell, folder: Path) -> None:
    """A cell's methods over the audio tokens that they keep; transcripts keep none.

    Raises:
        DataError: the picture cannot be written.
    """
    lines = {
        name: Line(name, Estimate(**line["accuracy"]), line["kept"])
        for name, line in cell.lines.items()
        if name == EVERY_TOKEN or name.partition("@")[0] in METHODS
    }
    curves: dict[str, list[str]] = defaultdict(list)
    for name in lines.keys() - WHOLE.keys():
        curves[name.partition("@")[0]].append(name)
    controls = [Line(n, Estimate(**c["accuracy"])) for n, c in cell.controls.items()]
    groups = next(iter(lines.values())).accuracy.clusters
    ordered = {method: curves[method] for method in METHODS if method in curves}
    subset = Subset(cell.name, "", groups, tuple(lines.values()), tuple(controls), 0)
    folder.mkdir(parents=True, exist_ok=True)
    draw_accuracy(folder / f"{cell.name}.png", ordered, subset)


def main(
    results: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="Folders of cells.")],
    out: Annotated[Path | None, typer.Option(help="File to write, beside printing it.")] = None,
    keep: Annotated[Path | None, typer.Option(help="Folder to keep the cells in.")] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for a picture of each cell.")
    ] = None,
) -> None:
    """Print the tables of docs/results/methods.md."""
    with one_sentence(console, OSError):
        cells = cells_of(results)
        made = page(cells)
        if pictures:
            for cell in cells:
                draw(cell, pictures)
        if keep:
            for cell in cells:
                cell.keep(keep)
        if out:
            write_whole(out, made)
    print(made)


if __name__ == "__main__":
    typer.run(main)
