"""``speechprune-ort ask BUNDLE - --live``: questions about sound that is still arriving."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.cli.quiet import tell_note, tell_warning
from speechprune_ort.errors import AudioError, OptionError
from speechprune_ort.live import LiveRecording
from speechprune_ort.recording import Recording
from speechprune_ort.runtime.hearing.wav_stream import wav_blocks

__all__ = ["ask_live"]

Block = tuple[int, NDArray[np.float32]]
TERMINAL = Path("/dev/tty")  # standard input is the sound


def ask_live(
    live: LiveRecording,
    file: BinaryIO,
    questions: Sequence[str],
    every: float | None,
    answer: Callable[[Recording, str], None],
) -> None:
    """Read a WAV as it arrives, and answer questions about what was said so far.

    Args:
        live: the recording that the sound is added to.
        file: the WAV; a thread of its own reads it, so that its writer never waits.
        questions: asked at the end; if there are none, they are typed at the terminal, one per
            line, at any time.
        every: seconds of sound after which each question is asked, again and again.
        answer: prints the answer to a question about what was heard.

    Raises:
        AudioError: it is not a WAV, exceeds a limit, or is silent to its end.
        OptionError: there is neither a question nor a terminal.
    """
    events: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    notes: list[str] = []
    _start(events, "sound", _cut(wav_blocks(file, "Standard input", notes), every))
    if not questions:
        _start(events, "typed", _typed())
    running = {"sound"} if questions else {"sound", "typed"}
    while running:
        kind, found = events.get()
        if kind == "failed":
            raise found
        if kind == "end":
            running.discard(found)
            if found == "sound":
                for note in notes:
                    tell_warning(note)
                for question in questions:
                    answer(live.finish(), question)
                live.finish()
        elif kind == "typed":
            _answer_now(live, found, answer)
        else:
            block, rate, due = found
            live.add(block, rate)
            for question in questions if due else ():
                _answer_now(live, question, answer)


def _answer_now(
    live: LiveRecording, question: str, answer: Callable[[Recording, str], None]
) -> None:
    try:
        recording = live.so_far()
    except AudioError as error:  # nobody has said anything yet
        tell_note(str(error))
        return
    answer(recording, question)


def _start(events: SimpleQueue[tuple[str, Any]], kind: str, source: Iterable[object]) -> None:
    """Start a thread that puts what a source yields among the events."""

    def work() -> None:
        try:
            for found in source:
                events.put((kind, found))
            events.put(("end", kind))
        except Exception as error:
            events.put(("failed", error))

    threading.Thread(target=work, daemon=True, name=f"speechprune-ort-{kind}").start()


def _cut(
    blocks: Iterable[Block], every: float | None
) -> Iterator[tuple[NDArray[np.float32], int, bool]]:
    """Blocks with their rates, cut where questions are due, and whether one is due after each."""
    came, asked = 0, 0
    for rate, block in blocks:
        rest = block
        while len(rest):
            left = len(rest) if every is None else max(1, round((asked + 1) * every * rate) - came)
            part, rest = rest[:left], rest[left:]
            came += len(part)
            due = every is not None and len(part) == left
            asked += due
            yield part, rate, due


def _typed() -> Iterator[str]:
    try:
        with TERMINAL.open(encoding="utf-8", errors="replace") as terminal:
            for line in terminal:
                if line.strip():
                    yield line.strip()
    except OSError:
        raise OptionError(
            "There is no terminal to type questions on: give them after the recording."
        ) from None
