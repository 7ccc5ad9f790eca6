"""A command in a process whose imports are done, and each change that it makes to the disk.

Imports take most of a short command's time and write nothing, so a command that is killed at a
random moment of its life is hardly ever killed while it writes. Here it is forked from a process
that has imported everything, and tells of every change around its result before making it, so that
whoever kills it knows where it is.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

__all__ = ["CHECKPOINT", "Change", "Warm", "preload"]

CHECKPOINT = "FAULTS_CHECKPOINT"
"""Variable of the environment with the folder of the checkpoint that is exported."""

FOLDERS = {
    "open": (), "os.rename": (2, 3), "os.remove": (1,), "os.rmdir": (1,), "os.mkdir": (2,),
    "os.link": (2, 3), "os.symlink": (2,), "os.truncate": (0,),
}  # fmt: skip
"""Audit events of Python that change names or files, and which arguments are open folders."""
OF_CONTENT = ("open", "fsync", "truncate")
"""Changes that leave every name as it is, but for the file that is made by the first."""
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
BLOCK = 1 << 16


@dataclass(frozen=True)
class Change:
    """A change to the disk that a command is about to make.

    Attributes:
        seconds: when, on the clock of ``time.monotonic``.
        what: open (for writing), fsync, rename, exchange, remove, mkdir, rmdir and so on.
    """

    seconds: float
    what: str


def preload(modules: Sequence[str]) -> None:
    """Have modules imported once, in the process that all others are forked from.

    Args:
        modules: names; what is not there is left out.
    """
    multiprocessing.set_forkserver_preload(["__main__", *modules])


class Warm:
    """A running command.

    Args:
        line: of the command, as for ``Popen``: ``python -m speechprune_ort ARGUMENT ...``, or
            ``python -c PROGRAM ARGUMENT ...``.
        folder: whose changes count.
        dies: number of the change ahead of which it kills itself; None where it does not.
        of_names: whether ``dies`` counts only changes of names, such as rename and remove.
        largest: size in bytes that no file of its may exceed; None for any.
        output: its standard output.

    Attributes:
        changes: those that it has told of so far.
    """

    def __init__(
        self,
        line: Sequence[str],
        folder: Path,
        dies: int | None = None,
        of_names: bool = False,
        largest: int | None = None,
        output: str = os.devnull,
    ) -> None:
        context = multiprocessing.get_context("forkserver")
        (self._told, telling), (self._said, saying) = context.Pipe(False), context.Pipe(False)
        options = (dies, of_names, largest, output)
        self._process = context.Process(
            target=_run, args=(list(line), str(folder), telling, saying, *options)
        )
        self._process.start()
        telling.close()
        saying.close()
        self._open: set[Connection[Any, Any]] = {self._told, self._said}
        self._errors = b""
        self.changes: list[Change] = []

    @property
    def code(self) -> int | None:
        """As ``returncode`` of ``Popen``; None while it runs."""
        return self._process.exitcode

    def change(self, number: int, until: float) -> bool:
        """Wait until it is about to make a change.

        Args:
            number: of the change, counted from 0.
            until: when to give up, on the clock of ``time.monotonic``.

        Returns:
            Whether it came; it does not if the command ends before.

        Raises:
            TimeoutError: neither came.
        """
        while len(self.changes) <= number:
            if self._told not in self._open:
                return False
            self._listen(until)
        return True

    def pause(self, seconds: float) -> None:
        """Let it run for some time, or to its end."""
        until = time.monotonic() + seconds
        with suppress(TimeoutError):
            while self._open:
                self._listen(until)

    def send(self, kind: signal.Signals) -> bool:
        """Send it a signal; False if it has ended by itself."""
        self._process.join(0)
        if self._process.pid is None or self.code is not None:
            return False
        try:
            os.kill(self._process.pid, kind)
        except ProcessLookupError:  # its end is known to the process that it was forked from alone
            return False
        return True

    def end(self, seconds: float) -> str:
        """Wait for its end, and return what it said on standard error.

        Raises:
            TimeoutError: it did not end; it is killed.
        """
        until = time.monotonic() + seconds
        try:
            while self._open:
                self._listen(until)
            self._process.join(max(0.0, until - time.monotonic()))
            if self.code is None:
                raise TimeoutError
        except TimeoutError:
            self._process.kill()
            self._process.join()
            raise
        finally:
            self._told.close()
            self._said.close()
        return self._errors.decode("utf-8", "replace")

    def _listen(self, until: float) -> None:
        """Take what it tells and says next."""
        ready = wait(self._open, max(0.0, until - time.monotonic()))
        if not ready:
            raise TimeoutError
        for pipe in ready:
            if pipe is self._said:
                block = os.read(self._said.fileno(), BLOCK)
                self._errors += block
                if not block:
                    self._open.discard(self._said)
                continue
            try:
                seconds, what = self._told.recv_bytes().decode().split()
                self.changes.append(Change(float(seconds), what))
            except EOFError:
                self._open.discard(self._told)


def _run(
    line: list[str],
    folder: str,
    telling: Connection[Any, Any],
    saying: Connection[Any, Any],
    dies: int | None,
    of_names: bool,
    largest: int | None,
    output: str,
) -> None:
    """Run a command in this forked process."""
    os.dup2(saying.fileno(), 2)
    saying.close()
    with Path(output).open("wb") as stream:
        os.dup2(stream.fileno(), 1)
    if largest is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    made = 0

    def about_to(what: str) -> None:
        nonlocal made
        if not (of_names and what in OF_CONTENT):
            if made == dies:
                os.kill(os.getpid(), signal.SIGKILL)
            made += 1
        telling.send_bytes(f"{time.monotonic()} {what}".encode())

    def heard(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in FOLDERS or (event == "open" and not (arguments[2] or 0) & WRITING):
            return
        if any(folder in place for place in _places(event, arguments)):
            about_to(event.removeprefix("os."))

    def told(call: Callable[..., Any], what: str) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            places = [_place(arguments[0])] if what == "fsync" else map(str, arguments[:2])
            if any(folder in place for place in places):
                about_to(what)
            return call(*arguments)

        return wrapped

    from speechprune_ort import files

    # Python has no audit events for these two.
    os.fsync = told(os.fsync, "fsync")
    files._rename = told(files._rename, "exchange")  # noqa: SLF001
    sys.addaudithook(heard)
    sys.argv = ["speechprune-ort", *line[3:]]
    if line[1] == "-c":
        exec(line[2], {"__name__": "__main__"})  # noqa: S102 - a program of the caller's
    else:
        from speechprune_ort.cli import main

        main()


def _places(event: str, arguments: tuple[Any, ...]) -> list[str]:
    """The paths that an audit event names, those of open folders included."""
    named = [os.fsdecode(a) for a in arguments if isinstance(a, str | bytes | os.PathLike)]
    return named + [_place(arguments[at]) for at in FOLDERS[event] if at < len(arguments)]


def _place(handle: object) -> str:
    """The path of an open file or folder."""
    if isinstance(handle, int) and handle >= 0:
        with suppress(OSError):
            return str(Path(f"/proc/self/fd/{handle}").readlink())
    return ""
