"""A release is checked by its answers to the demo's questions."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from demo_answers import accepted, wrong
from paths import ROOT, SCRIPTS

DEMO = (SCRIPTS / "demo").read_text(encoding="utf-8")


def shown() -> list[str]:
    """The answers that the guide shows: the second line of each question, and the last line."""
    page = (ROOT / "docs" / "guide" / "first-answer.md").read_text(encoding="utf-8")
    first, second = re.findall(r"^```text\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    return [*(part.splitlines()[1] for part in first.split("\n\n")), second.strip()]


def test_the_answers_that_the_guide_shows_pass() -> None:
    assert len(accepted(DEMO)) == len(shown()) == 4
    printed = "\n".join(["The checkpoint is in .demo/small-model", *shown()])
    assert wrong(printed, DEMO) == []
    command = [sys.executable, str(SCRIPTS / "demo_answers.py")]
    assert subprocess.run(command, input=printed, text=True, check=False).returncode == 0


@pytest.mark.parametrize("place", range(4))
def test_another_answer_is_named(place: int) -> None:
    answers = shown()
    answers[place] = "Yellows"
    (sentence,) = wrong("\n".join(answers), DEMO)
    assert sentence.startswith("'Yellows' does not hold ")
    command = [sys.executable, str(SCRIPTS / "demo_answers.py")]
    done = subprocess.run(
        command, input="\n".join(answers), text=True, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, f"error: {sentence}\n")


def test_a_demo_that_ended_early_is_named() -> None:
    assert wrong("\n".join(shown()[:2]), DEMO) == [
        "4 answers are expected, and 2 lines were printed."
    ]
