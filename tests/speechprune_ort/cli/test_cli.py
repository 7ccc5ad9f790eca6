"""The command line: answers on stdout, everything else on stderr, one sentence per mistake."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from command import run
from numpy.typing import NDArray
from tiny import TINY

from speechprune_ort import __version__, installation
from speechprune_ort.cli.doctor import doctor
from speechprune_ort.contract.manifest import MANIFEST_FILE
from speechprune_ort.results import STAGES


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory, tone: NDArray[np.float32]) -> Path:
    path = tmp_path_factory.mktemp("audio") / "recording.wav"
    soundfile.write(path, tone, 16_000)
    return path


def test_ask_prints_the_answer_and_what_was_kept(bundle: Path, wav: Path) -> None:
    result = run("ask", bundle, wav, "Who?", "--pruning-rate", "0.4", "--max-new-tokens", "5",
                 "--method", "passages")  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert "450 of 1875 tokens" in result.stderr
    assert "device auto took cpu" in result.stderr
    for stage in set(STAGES) - {"lower_layers"}:  # of a cut decoder
        assert stage in result.stderr


def test_ask_json_is_the_whole_of_stdout(bundle: Path, wav: Path) -> None:
    result = run("ask", bundle, wav, "Who?", "--json", "--method", "crop", "--seed", "3",
                 "--device", "cpu", "--max-new-tokens", "5", "--budget", "100")  # fmt: skip
    content = json.loads(result.stdout)
    pruning = content["pruning"]
    assert (pruning["total"], pruning["kept"]) == (1875, 80)
    assert len(pruning["spans"]) == 1
    assert pruning["options"]["seed"] == 3
    assert pruning["rate_of_budget"] == 0.2
    assert pruning["kept_share"] == pytest.approx(80 / 1875, abs=1e-4)
    assert content["seconds"] == 75.0
    assert len(content["token_ids"]) <= 5
    assert result.stderr == ""


def test_ask_gives_several_answers_to_a_question(bundle: Path, wav: Path) -> None:
    given = ["ask", bundle, wav, "Who?", "Why?", "--samples", "2", "--seed", "4",
             "--temperature", "1", "--max-new-tokens", "5", "--device", "cpu"]  # fmt: skip
    found = json.loads(run(*given, "--json").stdout)
    assert [(a["question"], a["generation"]["seed"]) for a in found] == [
        ("Who?", 4), ("Who?", 5), ("Why?", 4), ("Why?", 5),
    ]  # fmt: skip
    shown = run(*given)
    assert shown.stdout.splitlines() == [
        line for answer in found for line in f"{answer['text']}\n".splitlines()
    ]
    assert shown.stderr.count("\nseed 4\n") == shown.stderr.count("\nseed 5\n") == 2


def bad_inputs(bundle: Path, wav: Path, folder: Path) -> dict[str, tuple[list[object], str]]:
    """What users get wrong: arguments, and words that the one sentence must hold."""
    text = folder / "notes.txt"
    text.write_text("these are notes, not sound\n" * 20)
    empty = folder / "empty.wav"
    empty.write_bytes(b"")
    silent = folder / "zero.wav"
    soundfile.write(silent, np.zeros(0, np.float32), 16_000)
    short = folder / "short.wav"
    soundfile.write(short, np.zeros(100, np.float32), 16_000)

    def damaged(name: str, change: Any) -> Path:
        copy = Path(shutil.copytree(bundle, folder / name))
        change(copy)
        return copy

    def flip(copy: Path) -> None:
        path = copy / "embed_tokens.onnx.data"
        content = bytearray(path.read_bytes())
        content[100] ^= 1
        path.write_bytes(bytes(content))

    def schema(copy: Path) -> None:
        content = json.loads((copy / MANIFEST_FILE).read_text())
        content["schema_version"] = 7
        (copy / MANIFEST_FILE).write_text(json.dumps(content))

    ask = ["ask", bundle]
    return {
        "text file": ([*ask, text, "Who?"], "notes.txt"),
        "empty file": ([*ask, empty, "Who?"], "empty.wav"),
        "0-sample wav": ([*ask, silent, "Who?"], "zero.wav"),
        "too short": ([*ask, short, "Who?"], "too short"),
        "folder as audio": ([*ask, folder, "Who?"], str(folder)),
        "missing audio": ([*ask, folder / "none.wav", "Who?"], "none.wav"),
        "missing bundle": (["ask", folder / "none", wav, "Who?"], "No bundle"),
        "changed byte": (["ask", damaged("flip", flip), wav, "Who?"], "embed_tokens.onnx.data"),
        "unknown schema": (["ask", damaged("schema", schema), wav, "Who?"], "schema 7"),
        "empty question": ([*ask, wav, " "], "question is empty"),
        "rate of 1": ([*ask, wav, "Who?", "--pruning-rate", "1"], "pruning_rate"),
        "no such method": ([*ask, wav, "Who?", "--method", "best"], "best"),
        "cuda bundle": ([*ask, wav, "Who?", "--device", "cuda"], "--target cuda"),
        "beyond context": ([*ask, wav, "Who?", "--max-new-tokens", "9000"], "max_new_tokens"),
        "no such rate": ([*ask, wav, "Who?", "--pruning-rate", "much"], "a number or auto"),
        "too long": ([*ask, wav, "Who?", "--long-audio", "error"], "longer than 30 seconds"),
        "provider option": ([*ask, wav, "Who?", "--provider-option", "x"], "KEY=VALUE"),
    }


CASES = (
    "text file", "empty file", "0-sample wav", "too short", "folder as audio", "missing audio",
    "missing bundle", "changed byte", "unknown schema", "empty question", "rate of 1",
    "no such method", "cuda bundle", "beyond context", "no such rate", "too long",
    "provider option",
)  # fmt: skip


@pytest.fixture(scope="module")
def mistakes(
    bundle: Path, wav: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[list[object], str]]:
    found = bad_inputs(bundle, wav, tmp_path_factory.mktemp("bad"))
    assert set(found) == set(CASES)
    return found


@pytest.mark.parametrize("case", CASES)
def test_a_users_mistake_is_one_sentence_and_exit_2(
    case: str, mistakes: dict[str, tuple[list[object], str]]
) -> None:
    arguments, words = mistakes[case]
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    # typer's own usage errors come in a frame that may break words; ours are one line.
    assert words in " ".join(result.stderr.replace("│", " ").split())
    if "Usage" not in result.stderr:
        lines = [line for line in result.stderr.splitlines() if "device auto took" not in line]
        assert len(lines) == 1
        assert lines[0].startswith("error: ")


def test_export_prints_a_summary_and_the_bundles_path(checkpoints: Any, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    result = run("export", checkpoints(TINY[2]), out)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{out}\n"
    for word in ("audio_encoder", "decoder", "cosine", "first token", "parity"):
        assert word in result.stderr
    again = run("export", checkpoints(TINY[2]), out)
    assert (again.returncode, again.stdout) == (2, "")
    assert "--overwrite" in again.stderr


def test_export_without_its_packages_names_the_install_line(tmp_path: Path) -> None:
    block = (
        "import sys, importlib.util as u\n"
        "real = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'torch' else real(name, *a)\n"
        "sys.argv = ['speechprune-ort', 'export', 'x', sys.argv[1]]\n"
        "from speechprune_ort.cli import main\n"
        "main()\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", block, str(tmp_path / "out")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert "pip install 'speechprune-ort[export-cpu]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_version_and_help_need_no_heavy_import() -> None:
    assert run("--version").stdout.strip() == __version__
    assert "export" in run("--help").stdout


def test_doctor_reports_this_environment() -> None:
    result = run("doctor", "--json")
    assert result.returncode == 0, result.stdout
    found = {row["what"]: row for row in json.loads(result.stdout)}
    assert "onnxruntime" in found["wheel"]["found"]
    assert "CPUExecutionProvider" in found["providers"]["found"]
    assert run("doctor").stdout.count("\n") > 8
    assert found["model default"]["found"]
    for extra in ("[media]", "[serve]", "[hub]", "[eval]"):
        assert (found[extra]["found"] == "not installed") == bool(found[extra]["cure"])


def test_doctor_says_that_all_is_well_to_who_has_a_cpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SPEECHPRUNE_ORT_CACHE", str(tmp_path))
    monkeypatch.setattr(
        installation, "installed_version", lambda name: "2.0" if name == "numpy" else None
    )
    doctor(as_json=False)
    assert "All well" in capsys.readouterr().out
    optional = [f for f in installation.examine() if f.cure is not None]
    assert {f.what for f in optional} >= {"cuda", "export", "[media]", "[serve]"}
    assert all(f.cure.startswith("only ") for f in optional), (
        "nobody is told to do what is not needed"
    )


@pytest.mark.parametrize(
    ("wheels", "words"),
    [
        ({}, "speechprune-ort[cpu]"),
        ({"onnxruntime": "1.31.1", "onnxruntime-gpu": "1.31.1"}, "pip uninstall"),
    ],
)
def test_doctor_calls_no_wheel_and_two_wheels_broken(
    wheels: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "installed_wheels", lambda: wheels)
    (finding,) = (f for f in installation.examine() if f.what == "wheel")
    assert finding.broken
    assert words in str(finding.cure)


def test_doctor_prints_install_lines_whole(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(installation, "installed_version", lambda _: None)
    monkeypatch.setenv("COLUMNS", "200")
    doctor(as_json=False)
    assert "speechprune-ort[export-cpu]" in capsys.readouterr().out
