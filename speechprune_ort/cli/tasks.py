"""``speechprune-ort tasks`` and ``validate``: published benchmarks, and what a set holds."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from speechprune_ort.cli.grouped import grouped
from speechprune_ort.cli.options import HEARD, Heard
from speechprune_ort.cli.quiet import tell_error
from speechprune_ort.progress import Bar
from speechprune_ort.text import counted, printable

__all__ = ["Map", "Task", "tasks", "validate"]

BROKEN = 1

Task = Annotated[
    str | None,
    typer.Option(help="Published benchmark whose folder DATA is; `tasks` lists them."),
]
Map = Annotated[
    str | None,
    typer.Option(
        "--map",
        help="Names of the keys in DATA, such as audio=audio_path,choices=options; + joins several "
        "keys to a list, and {KEY} stands for a value.",
    ),
]


def tasks(
    as_json: Annotated[bool, typer.Option("--json", help="Print the list as JSON.")] = False,
) -> None:
    """List the published benchmarks that eval and validate read as they are."""
    from speechprune_ort.evaluation.tasks import TASKS

    if as_json:
        listed = [
            {"name": name, "about": task.about, "files": task.files, "source": task.source}
            for name, task in TASKS.items()
        ]
        sys.stdout.write(json.dumps(listed, indent=1) + "\n")
        return
    table = Table("task", "what it asks", "file in its folder", "from")
    table.columns[0].no_wrap = True
    for name, task in TASKS.items():
        table.add_row(name, task.about, " or ".join(task.files), task.source)
    Console(markup=False).print(table)


@grouped
def validate(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="A JSONL or JSON file, SPIRAL's folder, or the folder of a task."
        ),
    ],
    task: Task = None,
    fields: Map = None,
    audio_options: Heard = HEARD,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check whether a set can be evaluated: its entries, its recordings and their sha256."""
    from speechprune_ort.evaluation.tasks import read_given
    from speechprune_ort.evaluation.validate import validate as look

    console = Console(stderr=True, markup=False, soft_wrap=True)
    given = read_given(data, task, fields)
    with Bar(console, "recordings") as bar:
        found = look(given, bar, audio_options)
    if as_json:
        sys.stdout.write(json.dumps(found.to_dict(), indent=1) + "\n")
    else:
        output = Console(markup=False, soft_wrap=True, highlight=False)
        about = counted(found.recordings, "recording")
        output.print(f"{counted(found.samples, 'sample')} about {about}")
        for kind, count in found.kinds.items():
            output.print(printable(f"  {kind or '(no kind)'}: {count}"))
        shares = ", ".join(
            f"{chr(ord('A') + index)} {count}" for index, count in enumerate(found.answers)
        )
        output.print(f"right choices as published: {shares}")
        for path, digest in found.files.items():
            output.print(printable(f"sha256 of {path.name}: {digest}"))
        output.print(f"sha256 over the recordings: {found.recordings_sha256}")
    for reason in (*found.refused.values(), *found.unusable.values()):
        tell_error(reason)
    if not found.whole:
        entries = counted(len(found.refused), "entry", "entries")
        recordings = counted(len(found.unusable), "recording")
        tell_error(f"{entries} and {recordings} cannot be used: eval would leave them out.")
        raise typer.Exit(BROKEN)
