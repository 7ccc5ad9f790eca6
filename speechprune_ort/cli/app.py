"""The subcommands, one module each, heavy imports inside the handlers."""

from __future__ import annotations

import typer

from speechprune_ort import __version__
from speechprune_ort.cli.ask import ask
from speechprune_ort.cli.batch import batch
from speechprune_ort.cli.calibrate import calibrate
from speechprune_ort.cli.doctor import doctor
from speechprune_ort.cli.eval import evaluate
from speechprune_ort.cli.export import export
from speechprune_ort.cli.families import families
from speechprune_ort.cli.get import get
from speechprune_ort.cli.profile import profile
from speechprune_ort.cli.serve import serve
from speechprune_ort.cli.tasks import tasks, validate

__all__ = ["app"]

app = typer.Typer(
    name="speechprune-ort",
    help="Query-aware audio token pruning for Speech LLMs on ONNX Runtime.",
    no_args_is_help=True,
    # A user's error is one sentence; anything else is our defect and shows its traceback.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(export)
app.command()(families)
app.command()(get)
app.command()(ask)
app.command()(batch)
app.command()(serve)
app.command(name="eval")(evaluate)
app.command()(calibrate)
app.command()(tasks)
app.command()(validate)
app.command()(profile)
app.command()(doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Query-aware audio token pruning for Speech LLMs on ONNX Runtime."""
