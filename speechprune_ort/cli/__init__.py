"""``speechprune-ort``: what surrounds every subcommand. Nothing heavy is imported before that."""

from __future__ import annotations

import sys
from collections.abc import Callable

from speechprune_ort.errors import SpeechPruneError

__all__ = ["main"]


def main() -> None:
    """Run the command line; user errors print one sentence to stderr and exit with 2."""
    from speechprune_ort.cli import signals, streams

    signals.install()
    streams.guard()
    code = _finished(_run)
    # What is still in the buffer may fail as well; the first failure tells.
    code = _finished(sys.stdout.flush) or code
    sys.exit(signals.received() or code)


def _run() -> None:
    from speechprune_ort.cli.app import app

    app()


def _finished(work: Callable[[], object]) -> int:
    """Exit code of a piece of work."""
    try:
        work()
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
            return 1
        return int(end.code or 0)
    except SpeechPruneError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0
