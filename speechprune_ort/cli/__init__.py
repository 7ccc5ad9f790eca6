"""``speechprune-ort``: one module per subcommand, heavy imports inside the handlers."""

from __future__ import annotations

import signal
import sys
from types import FrameType

import typer

from speechprune_ort import __version__
from speechprune_ort.cli.ask import ask
from speechprune_ort.cli.batch import batch
from speechprune_ort.cli.doctor import doctor
from speechprune_ort.cli.eval import evaluate
from speechprune_ort.cli.export import export
from speechprune_ort.cli.families import families
from speechprune_ort.cli.profile import profile
from speechprune_ort.errors import SpeechPruneError

__all__ = ["app", "main"]

app = typer.Typer(
    name="speechprune-ort",
    help="Query-aware audio token pruning for Speech LLMs on ONNX Runtime.",
    no_args_is_help=True,
    add_completion=False,
    # A user's error is one sentence; anything else is our defect and shows its traceback.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(export)
app.command()(families)
app.command()(ask)
app.command()(batch)
app.command(name="eval")(evaluate)
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


def _interrupted(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


def main() -> None:
    """Run the command line; user errors print one sentence to stderr and exit with 2."""
    # However it is interrupted, what a command has half written is removed on the way out.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    try:
        app()
    except SpeechPruneError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except BrokenPipeError:
        # The reader of stdout has gone, as `head` does: nothing is left to say.
        sys.stderr.close()
        sys.exit(141)
