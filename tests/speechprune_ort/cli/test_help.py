"""What ``--help`` says, that its examples are commands, and what ``--quiet`` leaves."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import typer
from numpy.typing import NDArray
from typer.testing import CliRunner

from speechprune_ort import OptionError
from speechprune_ort.cli.app import app
from speechprune_ort.models import names

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
QUIET = {"ask", "batch", "calibrate", "eval", "export", "get", "profile"}


def shown(*arguments: str) -> str:
    return CliRunner().invoke(app, [*arguments, "--help"]).output


def test_commands_and_options_stand_in_groups() -> None:
    page = shown()
    assert page.index("Ask about recordings:") < page.index("Models:") < page.index("Measure:")
    assert "..." not in page.split("COMMAND [ARGS]...")[1], "no sentence is cut"
    ask = shown("ask")
    titles = ("Arguments:", "Options:", "What is kept of the audio:", "How recordings are read:",
              "How an answer is generated:", "Where the work is done:", "What is shown:",
              "Examples:")  # fmt: skip
    places = [ask.index(f"\n{title}\n") for title in titles]
    assert places == sorted(places)
    assert ask.index("What is kept") < ask.index("--pruning-rate") < ask.index("How recordings are")
    assert "--method" not in ask[: ask.index("What is kept of the audio:")]


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_commands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "bundle_folder", Path)
    examples = [line.strip() for line in (COMMANDS[name].epilog or "").splitlines()]
    assert examples
    page = shown(name)
    for example in examples:
        assert f"  {example}\n" in page, "it stands on one line, to be copied"
        program, command, *words = shlex.split(example.split(" > ")[0].split(" < ")[0])
        assert (program, command) == ("speechprune-ort", name)
        COMMANDS[name].make_context(name, words)


def test_the_tab_key_completes_options() -> None:
    asked = {
        "_SPEECHPRUNE_ORT_COMPLETE": "complete_bash",
        "COMP_WORDS": "speechprune-ort ask bundle a.wav --ex",
        "COMP_CWORD": "4",
    }
    result = CliRunner().invoke(app, [], prog_name="speechprune-ort", env=asked)
    assert (result.exit_code, result.stdout.split()) == (0, ["--explain"])


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_that_show_progress_can_be_quiet(name: str) -> None:
    assert ("--quiet" in shown(name)) == (name in QUIET)
    assert "--no-quiet" not in shown(name)


@pytest.fixture
def wav(tmp_path: Path, tone: NDArray[np.float32]) -> Path:
    path = tmp_path / "recording.wav"
    soundfile.write(path, tone[: 3 * 16_000], 16_000)
    return path


def test_quiet_leaves_the_answer_alone(bundle: Path, wav: Path) -> None:
    command = ["ask", str(bundle), str(wav), "Who?", "--max-new-tokens", "4"]
    told, quiet = (CliRunner().invoke(app, [*command, *more]) for more in ((), ("--quiet",)))
    assert (told.exit_code, quiet.exit_code) == (0, 0)
    assert "device auto took cpu" in told.stderr
    assert "kept" in told.stderr
    assert (quiet.stdout, quiet.stderr) == (told.stdout, "")


def test_quiet_keeps_errors(bundle: Path, wav: Path, tmp_path: Path) -> None:
    missing = str(tmp_path / "none.wav")
    command = ["ask", str(bundle), str(wav), missing, "-q", "Who?", "--json", "--quiet"]
    result = CliRunner().invoke(app, [*command, "--max-new-tokens", "2"])
    assert result.exit_code == 1
    assert [bool(json.loads(line).get("error")) for line in result.stdout.splitlines()] == [
        False, True,
    ]  # fmt: skip
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {missing}: No recording")


def test_quiet_keeps_what_a_batch_could_not_answer(bundle: Path, tmp_path: Path) -> None:
    asked = tmp_path / "asked.jsonl"
    asked.write_text(json.dumps({"audio": "none.wav", "question": "Who?"}) + "\n")
    result = CliRunner().invoke(
        app, ["batch", str(bundle), str(asked), str(tmp_path / "o"), "--quiet"]
    )
    assert result.exit_code == 1
    assert result.stderr == 'error: 1 line failed: the file has the reasons as "error"\n'


@pytest.mark.parametrize(
    "words",
    [
        ["ask", "a.wav", "Who?", "--text-first", "--audio-first"],
        ["eval", "--data", "d", "--shuffle-choices", "--as-published"],
        ["eval", "--data", "d", "--no-plots", "--plots"],
    ],
)
def test_an_option_and_its_opposite_are_refused(words: list[str]) -> None:
    name, *more = words
    with pytest.raises(OptionError, match="are opposites: give one of them"):
        COMMANDS[name].make_context(name, ["bundle", *more])


def test_workers_without_a_cluster_are_refused(tmp_path: Path) -> None:
    for command in (["batch", str(tmp_path), "in", "out"], ["eval", str(tmp_path), "--data", "d"]):
        refused = CliRunner().invoke(app, [*command, "--workers", "2"])
        assert "--workers needs --engine ray" in str(refused.exception)


def test_quiet_keeps_what_is_wrong_with_the_arguments() -> None:
    command = ["ask", "bundle", "a.wav", "Who?", "--max-new-tokens", "1e3", "--quiet"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert "--max-new-tokens" in result.stderr


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["ask", "", "a.wav", "Who?"], "BUNDLE"),
        (["ask", "bundle", "", "Who?"], "AUDIO"),
        (["ask", "bundle", "a.wav", "Who?", "--explain", ""], "--explain"),
        (["ask", "bundle", "a.wav", "Who?", "--plugin", "a.py", "--plugin="], "--plugin"),
        (["batch", "bundle", "in.jsonl", ""], "OUT"),
        (["profile", "--compare", "a.json", ""], "--compare"),
    ],
)
def test_an_empty_path_is_not_the_working_folder(command: list[str], name: str) -> None:
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, OptionError)
    assert str(result.exception) == f"{name} is empty: give a path."
