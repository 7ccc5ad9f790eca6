"""Checks what scripts/demo printed, from standard input: are its answers right?

    scripts/demo | .venv/bin/python scripts/demo_answers.py

The questions are found in scripts/demo, and what counts as right in questions.json beside the
recording. Wordings differ from machine to machine, since 8-bit kernels round differently.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parent
QUESTIONS = SCRIPTS / "research" / "recording" / "questions.json"
SPOKEN = ("country",)
"""Of the person's sentence, which is repeated last; most of it is misheard."""


def accepted(demo: str) -> list[tuple[str, ...]]:
    """For each answer of the demo, in order, the texts of which it must hold one.

    Args:
        demo: content of scripts/demo.
    """
    known = json.loads(QUESTIONS.read_text(encoding="utf-8"))["questions"]
    asked = [one for one in known if f'"{one["question"]}"' in demo]
    asked.sort(key=lambda one: demo.index(one["question"]))
    return [*(tuple(one["accepted"]) for one in asked), SPOKEN]


def wrong(printed: str, demo: str) -> list[str]:
    """One sentence for each answer that is not right.

    Args:
        printed: standard output of scripts/demo; its answers are the last lines.
        demo: content of scripts/demo.
    """
    expected = accepted(demo)
    answers = printed.splitlines()[-len(expected) :]
    if len(answers) < len(expected):
        return [f"{len(expected)} answers are expected, and {len(answers)} lines were printed."]
    return [
        f"{answer!r} does not hold {' or '.join(map(repr, texts))}."
        for answer, texts in zip(answers, expected, strict=True)
        if not any(text in answer.lower() for text in texts)
    ]


if __name__ == "__main__":
    found = wrong(sys.stdin.read(), (SCRIPTS / "demo").read_text(encoding="utf-8"))
    for sentence in found:
        sys.stderr.write(f"error: {sentence}\n")
    sys.exit(1 if found else 0)
