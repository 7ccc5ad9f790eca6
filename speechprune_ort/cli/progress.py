"""How far a long command is, on a terminal."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["Bar"]


class Bar:
    """A bar on stderr from the first step on: what is refused before that is one sentence alone.

    Args:
        console: where; nothing is drawn where it is no terminal.
        name: of what is counted.
    """

    def __init__(self, console: Console, name: str) -> None:
        self._display = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._display.add_task(name, total=None)

    def __enter__(self) -> Self:
        """The bar, not drawn yet."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave it as it stands."""
        if self._display.live.is_started:
            self._display.stop()

    def __call__(self, done: int, total: int) -> None:
        """Draw how many of all are done."""
        self._display.update(self._task, completed=done, total=total)
        if not self._display.live.is_started:
            self._display.start()
