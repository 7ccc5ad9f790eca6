"""``--quiet``: answers on stdout, errors and warnings on stderr, and nothing else."""

from __future__ import annotations

import functools
import inspect
import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from speechprune_ort.cli.help import SHOWING
from speechprune_ort.text import printable

__all__ = ["print_path", "quietable", "tell_error", "tell_note", "tell_warning"]

# What ``--quiet`` passes on: our errors, those of arguments that cannot be read, and our warnings.
PASSED = ("error: ", "Error: ", "warning: ")


def tell_error(sentence: str) -> None:
    """Say on stderr what failed or was lost, on one line, and also with ``--quiet``."""
    sys.stderr.write(f"error: {printable(sentence)}\n")


def tell_warning(sentence: str) -> None:
    """Say on stderr what is wrong with a recording, on one line, and also with ``--quiet``."""
    sys.stderr.write(f"warning: {printable(sentence)}\n")


def tell_note(sentence: str) -> None:
    """Say on stderr, on one line, what a user may want to know."""
    sys.stderr.write(f"note: {printable(sentence)}\n")


def print_path(path: Path) -> None:
    """Print a path as it is, for scripts; on a terminal so that its name cannot control that."""
    text = printable(str(path)) if sys.stdout.isatty() else str(path)
    sys.stdout.write(f"{text}\n")


class _ErrorsAlone(io.TextIOBase):
    """A standard error that passes on errors and warnings alone, and is not a terminal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._line = stream, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            if line.startswith(PASSED):
                self._stream.write(f"{line}\n")
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()


def _hush(context: typer.Context, wanted: bool) -> bool:
    if wanted and not context.resilient_parsing:  # not for shell completion
        sink: Any = _ErrorsAlone(sys.stderr)
        context.with_resource(redirect_stderr(sink))
    return wanted


def quietable(handler: Callable[..., object]) -> Callable[..., object]:
    """A subcommand's handler with one more option, ``--quiet``, that it never sees itself."""
    signature = inspect.signature(handler, eval_str=True)
    option = typer.Option(
        "--quiet",
        callback=_hush,
        is_eager=True,  # so that notes on other options are not shown either
        help="Print only answers, errors and warnings about recordings: no progress, notes or "
        "times.",
        rich_help_panel=SHOWING,
    )
    quiet = inspect.Parameter(
        "quiet",
        inspect.Parameter.KEYWORD_ONLY,
        default=False,
        annotation=Annotated[bool, option],
    )

    @functools.wraps(handler)
    def hushed(*args: Any, quiet: bool, **options: Any) -> object:
        del quiet
        return handler(*args, **options)

    parameters = [*signature.parameters.values(), quiet]
    hushed.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return hushed
