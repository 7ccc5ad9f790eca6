"""``speechprune-ort families``: which checkpoints export knows, and how each was checked."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

__all__ = ["families"]


def families(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the model families that export knows, and what their answers are compared with."""
    from speechprune_ort.export.checkpoint_config import TEXT_MODELS
    from speechprune_ort.export.families import FAMILIES

    if as_json:
        listed = [
            {
                "architecture": architecture,
                "family": family.module,
                "tokens_per_second": family.tokens,
                "checked": family.checked,
            }
            for architecture, family in FAMILIES.items()
        ]
        text_models = {name: list(rotary) for name, rotary in TEXT_MODELS.items()}
        content = {"families": listed, "text_models": text_models}
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
        return
    table = Table("architecture in config.json", "audio tokens/s", "answers compared with")
    table.columns[0].no_wrap = True
    for architecture, family in FAMILIES.items():
        table.add_row(architecture, family.tokens, family.checked)
    console = Console(markup=False)
    console.print(table)
    known = "; ".join(f"{name} ({', '.join(rotary)})" for name, rotary in TEXT_MODELS.items())
    console.print(f"Text models, with their rotary embeddings: {known}.")
    console.print("Every graph is compared with torch while it is exported, whatever the family.")
