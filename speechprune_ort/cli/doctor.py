"""``speechprune-ort doctor``: what is installed, what works, what to install."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from speechprune_ort.installation import examine

__all__ = ["doctor"]


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Print wheel, providers, versions and devices, and what to install; exit 1 if broken."""
    findings = examine()
    if as_json:
        rows = [asdict(finding) for finding in findings]
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        table = Table()
        for title in ("", "found", "what to do"):
            table.add_column(title, overflow="fold")  # a line to be copied is never cut
        for finding in findings:
            table.add_row(finding.what, finding.found, finding.cure or "")
        # Markup would take the extras in square brackets for styles.
        console = Console(markup=False)
        console.print(table)
        if not any(finding.broken for finding in findings):
            console.print("All well: questions can be answered. What is not installed is optional.")
    if any(finding.broken for finding in findings):
        raise typer.Exit(1)
