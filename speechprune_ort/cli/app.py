"""The subcommands, one module each, heavy imports inside the handlers."""

from __future__ import annotations

from collections.abc import Callable

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
from speechprune_ort.cli.help import Command, Commands
from speechprune_ort.cli.profile import profile
from speechprune_ort.cli.quiet import quietable
from speechprune_ort.cli.serve import serve
from speechprune_ort.cli.tasks import tasks, validate

__all__ = ["app"]

app = typer.Typer(
    name="speechprune-ort",
    cls=Commands,
    help="Query-aware audio token pruning for Speech LLMs on ONNX Runtime.",
    no_args_is_help=True,
    # A user's error is one sentence; anything else is our defect and shows its traceback.
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ASK, MODELS, MEASURE = "Ask about recordings", "Models", "Measure"
MACHINE = "This machine"


def _add(group: str, handler: Callable[..., object], name: str, *examples: str) -> None:
    """Add a subcommand to a group, with examples of its arguments."""
    lines = "\n".join(f"    speechprune-ort {name} {example}".rstrip() for example in examples)
    app.command(name=name, cls=Command, epilog=lines, rich_help_panel=group)(handler)


_add(
    ASK, quietable(ask), "ask",
    'default meeting.wav "Who owns the budget?"',
    'bundle/ meeting.m4a "Who was late?" "What was decided?" --pruning-rate 0.4',
    'bundle/ talks/*.mp3 -q "What is it about?" --json > answers.jsonl',
    'bundle/ - "What was said?" --quiet < call.wav',
    'bundle/ meeting.wav "Who owns the budget?" --evidence --explain page.html',
    'bundle/ - "What was decided?" --live --every 60 < microphone.wav',
)  # fmt: skip
_add(
    ASK, quietable(batch), "batch",
    "bundle/ questions.jsonl answers.jsonl",
    "bundle/ questions.jsonl answers.jsonl --pruning-rate auto --deadline 60",
)  # fmt: skip
_add(
    ASK, serve, "serve",
    "default",
    "bundle/ --name meetings --port 8080 --max-batch 4",
    "bundle/ --host 0.0.0.0 --api-key-file key.txt",
)  # fmt: skip
_add(
    MODELS, quietable(get), "get",
    "default",
    "someone/meetings@v2 --to meetings/",
)  # fmt: skip
_add(
    MODELS, quietable(export), "export",
    "Qwen/Qwen2-Audio-7B-Instruct bundle/ --precision int4",
    "my-lora/ bundle/ --base Qwen/Qwen2-Audio-7B-Instruct",
    "my-checkpoint/ bundle/ --precision fp16 --target cuda --overwrite",
)  # fmt: skip
_add(MODELS, families, "families", "")
_add(
    MEASURE, quietable(evaluate), "eval",
    "bundle/ --data questions.jsonl --out results/",
    "bundle/ --data mmau-test-mini/ --task mmau-test-mini --out results/ --methods passages,random",
)  # fmt: skip
_add(
    MEASURE, quietable(calibrate), "calibrate",
    "bundle/ training.jsonl --method passages --out passages.json --pruning-rate 0.6",
)  # fmt: skip
_add(MEASURE, tasks, "tasks", "")
_add(MEASURE, validate, "validate", "questions.jsonl", "mmar/ --task mmar")
_add(
    MEASURE, quietable(profile), "profile",
    "bundle/ --audio meeting.wav",
    "bundle/ --durations 30,90,600 --pruning-rates none,0.4 --format json > profile.json",
    "--compare before.json after.json --fail-over 1.1",
)  # fmt: skip
_add(MACHINE, doctor, "doctor", "", "--json")


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
