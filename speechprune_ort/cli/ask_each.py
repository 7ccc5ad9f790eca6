"""``speechprune-ort ask`` about several recordings: a table, or a line of JSON for each answer."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from speechprune_ort.progress import Bar
from speechprune_ort.text import printable, printable_lines

if TYPE_CHECKING:
    from speechprune_ort.batch import BatchTask, Question

__all__ = ["ask_each", "requests"]

WIDTH = 150  # columns of a table that is not shown on a terminal


def requests(recordings: Sequence[Path], questions: Sequence[str]) -> tuple[Question, ...]:
    """Every question about every recording, grouped by recording."""
    from speechprune_ort.batch import Question

    pairs = [(audio, text) for audio in recordings for text in questions]
    return tuple(
        Question(str(number), number, audio, text.strip())
        for number, (audio, text) in enumerate(pairs, 1)
    )


def ask_each(task: BatchTask, as_json: bool) -> int:
    """Answer all questions of a task, and print them to stdout.

    A recording that cannot be used is named on stderr, and the others go on.

    Args:
        task: holds a question for every answer.
        as_json: print a line of JSON for each answer as soon as it is ready, instead of a table.

    Returns:
        The number of questions without an answer.

    Raises:
        SpeechPruneError: the bundle cannot be opened.
    """
    console = Console(stderr=True, markup=False, soft_wrap=True, highlight=False)
    found, failed = [], 0
    with Bar(console, "questions") as bar:
        for done, (question, line) in enumerate(_answers(task), 1):
            if as_json:
                row = {"audio": str(question.audio), **line}
                sys.stdout.write(json.dumps(row) + "\n")
                sys.stdout.flush()
            found.append((question, line))
            if "error" in line:
                failed += 1
            bar(done, len(task.questions))
    for sentence in _remarks(found):
        console.print(printable(sentence))
    if not as_json:
        terminal = sys.stdout.isatty()
        Console(markup=False, highlight=False, width=None if terminal else WIDTH).print(
            _table(found)
        )
    return failed


def _answers(task: BatchTask) -> Iterator[tuple[Question, dict[str, Any]]]:
    answers = task.answers()
    for group in task.groups():
        yield from zip(group, answers(group), strict=True)


def _remarks(found: Sequence[tuple[Question, dict[str, Any]]]) -> list[str]:
    """What was wrong with the recordings, each sentence once."""
    sentences = []
    for question, line in found:
        if "error" in line:
            # Most errors begin with the name of the recording.
            named = line["error"].startswith(f"{question.audio} ")
            sentences.append(f"error: {'' if named else f'{question.audio}: '}{line['error']}")
        sentences += [f"warning: {question.audio}: {note}" for note in line.get("notes", ())]
    return list(dict.fromkeys(sentences))


def _table(found: Sequence[tuple[Question, dict[str, Any]]]) -> Table:
    """A row for each answer; the recording stands in the first of its rows."""
    table = Table("recording", "question", "answer", "kept")
    before = None
    for question, line in found:
        first = question.audio != before
        if first and before is not None:
            table.add_section()
        before = question.audio
        answer = line.get("text", "(no answer, see above)")
        kept = f"{line['kept']} of {line['tokens']}" if "text" in line else ""
        audio = printable(str(question.audio)) if first else ""
        table.add_row(audio, printable_lines(question.text), printable_lines(answer), kept)
    return table
