"""Ending work from outside: by a token, a deadline, or a signal to the process.

Code that runs a graph does so within ``running``; loops outside of graphs call ``checkpoint``. Both
obey the tokens of the call that they work for, and that of the whole process.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Protocol

from speechprune_ort.errors import CancelledError, DeadlineError, OptionError

__all__ = [
    "UNFINISHED",
    "WHOLE_PROCESS",
    "Cancel",
    "Interrupted",
    "Limits",
    "Terminable",
    "checkpoint",
    "running",
]


class Interrupted(SystemExit):
    """Raised in the main thread by a signal; its code is the exit code."""

    code: int


class Terminable(Protocol):
    """What ends its run when ``terminate`` is set, such as ``onnxruntime.RunOptions``."""

    terminate: Any


class Cancel:
    """Ends an answer from another thread: ``ask(..., cancel=token)``, then ``token.cancel()``.

    One token may be given to any number of calls. Once cancelled it stays so, and ends later
    calls at once.

    >>> token = Cancel()
    >>> token.cancelled
    False
    >>> token.cancel()
    >>> token.cancelled
    True
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: set[Terminable] = set()
        self._error: CancelledError | None = None

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled, or its deadline has passed."""
        return self._error is not None

    def cancel(self) -> None:
        """End what it was given to, within the operator that runs; from any thread."""
        self.end(CancelledError("The work was cancelled."))

    def end(self, error: CancelledError) -> None:
        """Like ``cancel``, with the error to raise; the first one given stands."""
        with self._lock:
            self._error = self._error or error
            for run in self._runs:
                run.terminate = True

    def check(self) -> None:
        """Raise the error that it was ended with, if it was ended."""
        if self._error is not None:
            # Several threads may raise it: each its own, with a traceback of its own.
            raise type(self._error)(*self._error.args)

    def add(self, run: Terminable) -> None:
        """Let a run end with the token."""
        with self._lock:
            self._runs.add(run)
            if self._error is not None:
                run.terminate = True

    def remove(self, run: Terminable) -> None:
        """The run is over."""
        with self._lock:
            self._runs.discard(run)


WHOLE_PROCESS = Cancel()
"""Ends everything; the command line does so when it is interrupted."""

UNFINISHED: set[Path] = set()
"""Folders that are removed where the process has to end without unwinding."""

_tokens: ContextVar[tuple[Cancel, ...]] = ContextVar("tokens", default=())


def checkpoint() -> None:
    """End the work here if its call was ended.

    Raises:
        CancelledError: it was ended; ``DeadlineError`` where that was by a deadline.
    """
    for token in (WHOLE_PROCESS, *_tokens.get()):
        token.check()


@contextmanager
def running(run: Terminable) -> Iterator[None]:
    """While a graph runs: ``run`` is told to terminate when its call is ended.

    Raises:
        CancelledError: it was ended, whatever the graph raised for that.
    """
    tokens = (WHOLE_PROCESS, *_tokens.get())
    for token in tokens:
        token.check()
    for token in tokens:
        token.add(run)
    try:
        yield
    except Exception:
        for token in tokens:
            token.check()
        raise
    finally:
        for token in tokens:
            token.remove(run)


class Limits:
    """What may end one call.

    Args:
        cancel: the caller's token.
        deadline: seconds from now.
        late: beginning of the message if the deadline passes.

    Raises:
        OptionError: ``cancel`` is not a token, or the deadline is not positive, or above
            ``LONGEST``.
    """

    def __init__(
        self,
        cancel: Cancel | None = None,
        deadline: float | None = None,
        late: str = "There was no answer",
    ) -> None:
        if cancel is not None and not isinstance(cancel, Cancel):
            from speechprune_ort.text import shown  # here and below: signals need neither

            raise OptionError(f"cancel takes a speechprune_ort.Cancel, not {shown(cancel)}.")
        self._given_up = Cancel()
        self._own: tuple[Cancel, ...] = (
            (self._given_up,) if cancel is None else (self._given_up, cancel)
        )
        self._timer: threading.Timer | None = None
        if deadline is None:
            return
        from speechprune_ort.numbers import LONGEST, check_positive

        seconds = float(check_positive("deadline", deadline, LONGEST))
        token = Cancel()
        error = DeadlineError(
            f"{late} within the deadline of {seconds:g} seconds: allow more time, prune "
            "more, or lower max_new_tokens."
        )
        self._own += (token,)
        self._timer = threading.Timer(seconds, token.end, [error])
        self._timer.daemon = True
        self._timer.start()

    @contextmanager
    def held(self) -> Iterator[None]:
        """While a part of the call's work is done."""
        before = _tokens.set(_tokens.get() + self._own)
        try:
            for token in self._own:
                token.check()
            yield
        finally:
            _tokens.reset(before)

    def give_up(self) -> None:
        """End this call alone, within the operator that runs; from any thread."""
        self._given_up.cancel()

    def over(self) -> None:
        """The call has ended: its deadline no longer counts."""
        if self._timer is not None:
            self._timer.cancel()
