"""Where no locale is set, letters beyond ASCII are what they are everywhere else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile
from signals import speech_like

NO_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": ""}
QUESTION = "Qu\u00e9? \u65e5\u672c"
NAME = "\u00e9\u65e5.wav"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("locale") / "\u00e9t\u00e9"
    folder.mkdir()
    soundfile.write(folder / NAME, speech_like(3.0), 16_000)
    lines = [{"audio": NAME, "question": QUESTION}, {"audio": "\u00fc.wav", "question": "Who?"}]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    (folder / "\u00fc.jsonl").write_text(text, encoding="utf-8")
    return folder


def run(folder: Path, *arguments: object, **variables: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error, which must be UTF-8."""
    done = subprocess.run(
        [sys.executable, "-m", "speechprune_ort", *map(str, arguments)], cwd=folder, check=False,
        capture_output=True, env={**os.environ, **variables},
    )  # fmt: skip
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_an_answer_in_the_c_locale_is_that_of_any_other(bundle: Path, folder: Path) -> None:
    asked = ("ask", bundle, NAME, QUESTION, "--json", "--device", "cpu", "--max-new-tokens", "8",
             "--explain", "\u00fc.html")  # fmt: skip
    found = []
    for variables in ({"PYTHONUTF8": "1"}, NO_LOCALE):
        code, output, errors = run(folder, *asked, **variables)
        page = (folder / "\u00fc.html").read_text(encoding="utf-8")
        (folder / "\u00fc.html").unlink()
        assert code == 0, errors
        assert QUESTION in page
        answer = json.loads(output)
        assert answer["question"] == QUESTION
        found.append((answer["text"], answer["token_ids"], answer["notes"], errors))
    assert found[0] == found[1]


def test_a_batch_in_the_c_locale_reads_and_writes_every_letter(bundle: Path, folder: Path) -> None:
    asked = ("batch", bundle, "\u00fc.jsonl", "\u00fc.out.jsonl", "--device", "cpu",
             "--max-new-tokens", "4")  # fmt: skip
    code, _, errors = run(folder, *asked, **NO_LOCALE)
    assert code == 1, errors
    assert "Traceback" not in errors
    text = (folder / "\u00fc.out.jsonl").read_text(encoding="utf-8")
    answers = [json.loads(line) for line in text.splitlines()]
    assert len(answers) == 2
    assert answers[0]["question"] == QUESTION
    assert "\u00fc.wav" in answers[1]["error"]


def test_an_error_in_the_c_locale_names_the_file_as_it_is(folder: Path) -> None:
    code, output, errors = run(folder, "ask", "b\u00fcndel", NAME, QUESTION, **NO_LOCALE)
    assert (code, output) == (2, "")
    assert errors.startswith("error: ")
    assert "b\u00fcndel" in errors
    assert len(errors.splitlines()) == 1


PATHS = """
from speechprune_ort import SpeechLLM, SpeechPruneError

try:
    SpeechLLM("b\\u00fcndel")
except SpeechPruneError as error:
    print(error)
"""


def test_in_python_a_name_that_the_locale_has_not_is_one_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PATHS], capture_output=True, text=True, check=True,
        env={**os.environ, **NO_LOCALE},
    )  # fmt: skip
    assert "has '\\xfc' at position 1, which this locale has in no name (ascii)" in done.stdout
