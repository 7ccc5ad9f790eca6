"""How far a long task is, drawn only if standard error is a terminal."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from speechprune_ort.text import printable

__all__ = ["Bar", "Line", "Steps"]

AVERAGED = 3600.0
"""Seconds over which the pace is averaged, as some steps report nothing for minutes."""


class _Display:
    """A line that is redrawn until the block ends."""

    def __init__(self, progress: Progress) -> None:
        self._display = progress

    def __enter__(self) -> Self:
        """The line, not drawn yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Draw no more."""
        if self._display.live.is_started:
            self._display.stop()

    def _start(self) -> None:
        if not self._display.live.is_started:
            self._display.start()


class Bar(_Display):
    """A bar on stderr, from the first step on, so that an earlier error is one sentence alone.

    It is left as it stands when the block ends.

    Args:
        console: where to draw; nothing is drawn if it is not a terminal.
        name: name of what is counted.
    """

    def __init__(self, console: Console, name: str) -> None:
        columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
        super().__init__(
            Progress(*columns, TimeRemainingColumn(), console=console,
                     disable=not console.is_terminal)
        )  # fmt: skip
        self._task = self._display.add_task(name, total=None)

    def __call__(self, done: int, total: int) -> None:
        """Draw how many of all are done."""
        self._display.update(self._task, completed=done, total=total)
        self._start()


def _console() -> Console:
    """Standard error as it is now: while a library is kept quiet, another is in its place."""
    return Console(file=sys.stderr, markup=False)


class Steps(_Display):
    """The step that is being done, and how far all steps together are.

    A line on stderr, with the time left, that disappears when the block ends.
    """

    def __init__(self) -> None:
        console = _console()
        words = TextColumn("{task.description}", markup=False)
        super().__init__(
            Progress(SpinnerColumn(), words, BarColumn(), TaskProgressColumn(),
                     TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn(),
                     console=console, transient=True, speed_estimate_period=AVERAGED,
                     disable=not console.is_terminal)
        )  # fmt: skip
        self._task = self._display.add_task("", total=1.0)

    def __call__(self, words: str, done: float) -> None:
        """Draw what is done now, and the share of all steps that is done, 0 to 1."""
        self._display.update(self._task, description=printable(words), completed=done)
        self._start()


class Line(_Display):
    """What is being done and for how long, on a line of stderr that disappears at the end."""

    def __init__(self) -> None:
        console = _console()
        words = TextColumn("{task.description}", markup=False)
        super().__init__(
            Progress(SpinnerColumn(), words, TimeElapsedColumn(), console=console, transient=True,
                     disable=not console.is_terminal)
        )  # fmt: skip
        self._task = self._display.add_task("", total=None)

    def __call__(self, words: str) -> None:
        """Draw a few words on what is done now."""
        self._display.update(self._task, description=printable(words))
        self._start()
