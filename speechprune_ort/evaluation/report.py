"""What an evaluation leaves behind: a table for the terminal, JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from speechprune_ort.choices import EVERY_TOKEN
from speechprune_ort.evaluation.costs import Cost
from speechprune_ort.evaluation.latex import latex
from speechprune_ort.evaluation.settings import ORIGINAL
from speechprune_ort.evaluation.summary import Line, Subset, Summary
from speechprune_ort.files import write_json, write_whole
from speechprune_ort.markdown import markdown_table
from speechprune_ort.statistics import FEW, LEVEL, POWER, Estimate, detectable
from speechprune_ort.text import counted, printable

__all__ = ["WRITTEN", "Report", "power", "terminal_tables"]

WRITTEN = ("results.json", "results.csv", "results.tex", "report.md")
"""Names of the files of a report."""
COLUMNS = (
    "setting",
    "pruning rate",
    "tokens kept",
    "of recording",
    "accuracy",
    "95 % interval",
    "vs all tokens",
    "vs truncated",
    "key kept",
)
PAIR_COLUMNS = ("setting", "minus", "percentage points")
COST_COLUMNS = (
    "setting",
    "prompt tokens",
    "TFLOPs",
    "selection ms",
    "prefill ms",
    "memory GB",
    "activation GB",
)
ALWAYS = (EVERY_TOKEN, ORIGINAL.name)  # columns of their own

Cells = Sequence[str]


@dataclass(frozen=True, slots=True)
class Report:
    """What an evaluation found.

    Attributes:
        summary: accuracies and differences, each with its interval.
        costs: costs of reading the prompt, by setting; empty where they were not measured.
        about: what was evaluated, and how: command, bundle, machine.
        plots: pictures.
    """

    summary: Summary
    costs: Mapping[str, Cost]
    about: Mapping[str, Any]
    plots: tuple[Path, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "about": dict(self.about),
            **self.summary.to_dict(),
            "costs": {name: cost.to_dict() for name, cost in self.costs.items()},
        }

    def tables(self) -> list[Table]:
        """Tables for the terminal: one for each perturbation and subset, and one of costs."""
        return terminal_tables(self.summary, self.costs)

    def write(self, out: Path) -> None:
        """Write ``results.json``, ``.csv`` and ``.tex``, and ``report.md``, each whole.

        Args:
            out: folder of results.

        Raises:
            DataError: one cannot be written.
        """
        data, rows, tables, page = (out / name for name in WRITTEN)
        write_json(data, self.to_dict())
        write_whole(rows, _csv(self.summary))
        write_whole(tables, latex(self.summary, self.costs, ALWAYS[0]))
        write_whole(page, _markdown(self.summary, self.costs, self.about, self.plots))


def power(samples: int, groups: int, comparisons: int) -> str:
    """What a run can find, in a sentence to say before it starts.

    Args:
        samples: number of samples to judge.
        groups: number of groups that they belong to.
        comparisons: number of comparisons in its largest table.
    """
    sizes = f"{counted(samples, 'sample')} in {counted(groups, 'group')}"
    if comparisons == 0:
        return f"{sizes}; no settings are compared."

    chance = f"a chance of {100 * POWER:.0f} %"
    one, every = (100 * detectable(groups, count) for count in (1, comparisons))
    if not math.isfinite(one):
        return f"{sizes}: too few to find a difference with {chance}, however large it is."
    together = ""
    if comparisons > 1:
        size = f"{every:.0f} points" if math.isfinite(every) else "nothing"
        together = f", {size} with all {comparisons} together"
    return (
        f"{sizes}: where two settings differ on a third of them, there is {chance} to find "
        f"{one:.0f} points in one comparison{together}."
    )


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _interval(estimate: Estimate) -> str:
    return f"{_percent(estimate.low)} to {_percent(estimate.high)}"


def _difference(line: Line, other: str) -> str:
    found = line.versus.get(other)
    if found is None:
        return ""
    sure = "*" if found.p is not None and found.p < 1 - LEVEL else ""
    return f"{100 * found.mean:+.1f}{sure} ({100 * found.low:+.1f} to {100 * found.high:+.1f})"


def _cells(line: Line) -> Cells:
    return (
        line.name,
        "" if line.pruning_rate is None else f"{line.pruning_rate:g}",
        "" if line.kept is None else f"{line.kept:.0f}",
        "" if line.kept_share is None else f"{_percent(line.kept_share)} %",
        _percent(line.accuracy.mean),
        _interval(line.accuracy),
        *(_difference(line, other) for other in ALWAYS),
        "" if line.key_kept is None else f"{_percent(line.key_kept)} %",
    )


def _cost_cells(name: str, cost: Cost) -> Cells:
    def gigabytes(value: float | None) -> str:
        return "" if value is None else f"{value:.3f}"

    return (
        name,
        f"{cost.prompt_tokens}",
        "" if cost.tflops is None else f"{cost.tflops:.3f}",
        "" if cost.selection_ms is None else f"{cost.selection_ms:.1f}",
        f"{cost.prefill_ms:.0f}",
        gigabytes(cost.memory_gb),
        gigabytes(cost.activation_gb),
    )


def _title(perturbation: str, subset: Subset) -> str:
    n = subset.settings[0].accuracy.n
    groups = "" if subset.groups == n else f" in {counted(subset.groups, 'group')}"
    few = ", descriptive only" if subset.groups < FEW else ""
    return printable(f"{perturbation} recordings, {subset.name}, n = {n}{groups}{few}")


def _note(subset: Subset) -> str:
    """What a reader must know about a table."""
    parts = [subset.note] if subset.note else []
    if subset.groups < FEW:
        parts.append(f"Fewer than {FEW} groups: in grey, as a description rather than a finding.")
    if subset.comparisons:
        parts.append(
            f"{counted(subset.comparisons, 'comparison')}; * marks those that hold at 5 % for all "
            "of them together (Holm)."
        )
    return " ".join(parts)


def _pairs(subset: Subset) -> list[Cells]:
    """Methods against others at the same rate."""
    return [
        (line.name, other, _difference(line, other))
        for line in subset.settings
        for other in line.versus
        if other not in ALWAYS
    ]


def terminal_tables(summary: Summary, costs: Mapping[str, Cost]) -> list[Table]:
    """One table for each perturbation and subset, and one of costs."""
    tables = []
    for perturbation, subsets in summary.subsets.items():
        for subset in subsets:
            grey = "dim" if subset.groups < FEW else None
            table = Table(
                title=_title(perturbation, subset), caption=_note(subset) or None, style=grey or ""
            )
            for index, column in enumerate(COLUMNS):
                table.add_column(column, justify="left" if index == 0 else "right")
            for line in subset.settings:
                table.add_row(*_cells(line), style=grey)
            table.add_section()
            for line in subset.controls:
                table.add_row(*_cells(line), style=grey)
            tables.append(table)
        if pairs := _pairs(subsets[0]):
            table = Table(title=f"{_title(perturbation, subsets[0])}, paired differences")
            for index, column in enumerate(PAIR_COLUMNS):
                table.add_column(column, justify="right" if index == 2 else "left")
            for cells in pairs:
                table.add_row(*cells)
            tables.append(table)
    if costs:
        table = Table(title="cost of the prompt, measured")
        for index, column in enumerate(COST_COLUMNS):
            table.add_column(column, justify="left" if index == 0 else "right")
        for name, cost in costs.items():
            table.add_row(*_cost_cells(name, cost))
        tables.append(table)
    return tables


def _csv(summary: Summary) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        ["recordings", "subset", "setting", "compared_with", "n", "groups", "mean", "low", "high",
         "p", "kept", "kept_share", "pruning_rate", "key_kept"]
    )  # fmt: skip
    for perturbation, subsets in summary.subsets.items():
        for subset in subsets:
            for line in (*subset.settings, *subset.controls):
                own = [perturbation, subset.name, line.name]
                extras = (line.kept, line.kept_share, line.pruning_rate, line.key_kept)
                writer.writerow([*own, "", *_values(line.accuracy), *map(_rounded, extras)])
                for other, estimate in line.versus.items():
                    writer.writerow([*own, other, *_values(estimate), "", "", "", ""])
    return text.getvalue()


def _values(estimate: Estimate) -> list[Any]:
    ends = (estimate.mean, estimate.low, estimate.high)
    return [estimate.n, estimate.clusters, *(round(v, 4) for v in ends), _rounded(estimate.p)]


def _rounded(value: float | None) -> Any:
    return "" if value is None else round(value, 4)


def _markdown(
    summary: Summary,
    costs: Mapping[str, Cost],
    about: Mapping[str, Any],
    plots: Sequence[Path],
) -> str:
    lines = ["# Accuracy", ""]
    lines += [printable(f"- {key}: {value}") for key, value in about.items()] + [""]
    lines += [
        "A pruning rate is the share of one window's tokens that is removed; the share of a longer",
        "recording that this leaves is given as well. Intervals are 95 %, by bootstrap over",
        "recordings, or over groups of them; where there are fewer than ten, or all agree, they",
        "are Wilson's. Differences are paired, sample by sample, in percentage points; * marks",
        "those that hold at 5 % for all comparisons of a table together (Holm's procedure, signs",
        "of groups flipped); tables of subsets are further looks at the same samples. A table of",
        f"fewer than {FEW} groups is in grey: a description rather than a finding.",
        "",
    ]
    for perturbation, subsets in summary.subsets.items():
        for subset in subsets:
            lines += [f"## {_title(perturbation, subset)}", ""]
            if note := _note(subset):
                lines += [note, ""]
            rows = [_cells(line) for line in subset.settings + subset.controls]
            few = subset.groups < FEW
            lines += [*markdown_table(COLUMNS, _greyed(rows) if few else rows), ""]
            if subset is subsets[0] and (pairs := _pairs(subset)):
                lines += [*markdown_table(PAIR_COLUMNS, pairs), ""]
    if costs:
        lines += ["## Cost of the prompt, measured", ""]
        rows = [_cost_cells(*item) for item in costs.items()]
        lines += [*markdown_table(COST_COLUMNS, rows), ""]
    if summary.failed:
        lines += [f"## {counted(len(summary.failed), 'sample')} could not be used", ""]
        lines += [printable(f"- {name}: {why}") for name, why in summary.failed.items()] + [""]
    for plot in plots:
        lines += [f"![{plot.stem.replace('_', ' ')}]({plot.name})", ""]
    return "\n".join(lines)


def _greyed(rows: Sequence[Cells]) -> list[Cells]:
    """Cells in grey where Markdown shows colours, and small where it does not."""
    return [
        [f'<sub style="color:grey">{cell}</sub>' if cell else "" for cell in row] for row in rows
    ]
