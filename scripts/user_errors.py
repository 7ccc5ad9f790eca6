"""How a script tells what its user can mend: one sentence, and exit code 2."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console

from speechprune_ort.errors import SpeechPruneError

__all__ = ["USER_ERROR", "one_sentence"]

USER_ERROR = 2


@contextmanager
def one_sentence(console: Console, *kinds: type[Exception]) -> Iterator[None]:
    """A block whose errors are told without a traceback.

    Args:
        console: where they are told.
        kinds: errors besides those of the package.

    Raises:
        Exit: the block raised one.
    """
    told: tuple[type[Exception], ...] = (SpeechPruneError, *kinds)
    try:
        yield
    except told as error:
        console.print(f"Error: {error}", markup=False)
        raise typer.Exit(USER_ERROR) from error
