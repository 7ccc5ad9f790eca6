"""``ask`` about several recordings: a table or lines, and a bad file among them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from speechprune_ort import OptionError, SpeechLLM
from speechprune_ort.answer_record import line_schema
from speechprune_ort.cli.app import app


@pytest.fixture
def folder(tmp_path: Path, tone: NDArray[np.float32]) -> Path:
    """Two recordings, of 2 and 3 s, and between them a file that is none."""
    for number, name in enumerate(("a", "c")):
        soundfile.write(tmp_path / f"{name}.wav", tone[: (2 + number) * 16_000], 16_000)
    (tmp_path / "b.wav").write_text("these are notes, not sound\n" * 20)
    return tmp_path


def ask(bundle: Path, *words: object) -> Result:
    options = ("--device", "cpu", "--max-new-tokens", "4")
    return CliRunner().invoke(app, ["ask", str(bundle), *map(str, words), *options])


def test_each_recording_is_answered_and_a_bad_file_is_named(bundle: Path, folder: Path) -> None:
    files = sorted(folder.glob("*.wav"))
    result = ask(bundle, *files, "-q", "Who?", "-q", "Why?", "--json")
    assert result.exit_code == 1
    lines: list[dict[str, Any]] = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(Path(line["audio"]).name, "error" in line) for line in lines] == [
        ("a.wav", False), ("a.wav", False), ("b.wav", True), ("b.wav", True),
        ("c.wav", False), ("c.wav", False),
    ]  # fmt: skip
    assert [line.get("question") for line in lines[:2]] == ["Who?", "Why?"]
    assert result.stderr.count("error: ") == 1, "a bad file is named once"
    assert result.stderr.count("b.wav") == 1, "and its name stands there once"
    answer = SpeechLLM(bundle, "cpu").ask(files[2], "Why?", max_new_tokens=4)
    assert lines[5]["text"] == answer.text
    spans = answer.to_dict()["pruning"]["merged_spans"]
    assert lines[5]["merged_spans"] == spans != []
    for line in lines:
        jsonschema.validate(line, line_schema())


def test_the_table_has_every_answer(bundle: Path, folder: Path) -> None:
    result = ask(bundle, folder / "a.wav", folder / "c.wav", "-q", "Who?", "-q", "Why?")
    assert result.exit_code == 0, result.output
    for words in ("recording", "Who?", "Why?", "40 of 50", "60 of 75"):
        assert words in result.stdout
    result = ask(bundle, folder / "a.wav", folder / "b.wav", "-q", "Who?")
    assert result.exit_code == 1
    assert "(no answer, see above)" in result.stdout


def test_one_recording_with_q_is_as_with_a_question_behind_it(bundle: Path, folder: Path) -> None:
    path = folder / "a.wav"
    assert ask(bundle, path, "-q", "Who?").stdout == ask(bundle, path, "Who?").stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a.wav",), "needs a question"),
        (("a.wav", "c.wav", "Who?"), "c.wav is a file where a question is expected"),
        (("a.wav", "-", "-q", "Who?"), "ask about it by itself"),
        ((".", "Who?"), "is a folder: give the recordings in it, such as *.wav, and each question"),
        ((".", "-q", "Who?"), "is a folder: give the recordings in it"),
        (("a.wav", "c.wav", "-q", "Who?", "--explain", "x.html"), "--explain takes one"),
        (("a.wav", "c.wav", "-q", "Who?", "--pruning-rate", "1"), "pruning_rate"),
    ],
)
def test_a_slip_is_one_sentence(
    bundle: Path, folder: Path, words: tuple[str, ...], message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(folder)
    result = ask(bundle, *words)
    assert isinstance(result.exception, OptionError)
    assert message in str(result.exception)
    assert not result.stdout
