"""``speechprune-ort export --dry-run``: what an export would write and need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from speechprune_ort.text import printable

if TYPE_CHECKING:
    from speechprune_ort.export.checkpoint_config import Described
    from speechprune_ort.export.estimate import Estimate
    from speechprune_ort.export.families import Family

__all__ = ["print_estimate"]


def print_estimate(
    found: Described, family: Family, precision: str, target: str, cut_after: int | None
) -> None:
    """Print to stdout what each precision would write, and how much memory and time it takes.

    Args:
        found: checkpoint that nothing is wrong with, as far as its config and headers tell.
        family: the family that loads it.
        precision: the one asked for; it is marked.
        target: ``cpu`` or ``cuda``.
        cut_after: number of the decoder's first layers behind which it is cut, or None.

    Raises:
        ExportError: its config is not that of its family, its language model is not known, or
            cannot be cut there.
    """
    from speechprune_ort.export.checkpoint_config import check_cut, told_of_windows
    from speechprune_ort.export.estimate import count, estimate

    counts = count(found, family)
    check_cut(cut_after, counts.windows)
    console = Console(markup=False)
    adapter = "" if found.adapter is None else f", with the LoRA in {found.adapter.folder}"
    console.print(
        printable(
            f"{found.location} is exported as {family.module}{adapter}: {family.tokens} audio "
            "tokens per second. Nothing in its config is refused."
        )
    )
    if told := told_of_windows(counts.windows):
        console.print(told)
    console.print(_table(estimate(counts, target), precision))
    console.print(
        f"{counts.sizes.all / 1e9:.2f} billion weights. Memory and minutes are estimated from "
        "exports on 2 cores, without disk and download. Faults in the weights show only when they "
        "are read."
    )


def _table(estimates: list[Estimate], precision: str) -> Table:
    table = Table(
        "MB of", *(f"{e.precision}{' *' * (e.precision == precision)}" for e in estimates)
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for name in estimates[0].graphs:
        table.add_row(name, *(f"{e.graphs[name] / 1e6:,.1f}" for e in estimates))
    table.add_section()
    table.add_row("bundle", *(f"{e.size / 1e6:,.1f}" for e in estimates))
    table.add_row("memory, GB, about", *(f"{e.memory / 1e9:.1f}" for e in estimates))
    table.add_row("minutes, about", *(f"{e.seconds / 60:.0f}" for e in estimates))
    return table
