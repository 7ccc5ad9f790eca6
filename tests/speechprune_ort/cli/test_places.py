"""Where a command cannot or must not write, it says so in a sentence, before its work."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
from numpy.typing import NDArray
from tiny import TINY
from typer.testing import CliRunner

from speechprune_ort import SpeechLLM, SpeechPruneError
from speechprune_ort.cli.app import app
from speechprune_ort.runtime.hearing.encoder import WindowEncoder

NOWHERE = Path("/sys/fs/nobody-writes-here")
"""Not even an administrator makes a file or folder in this file system."""

WRITING: dict[str, tuple[str, ...]] = {
    "batch": ("batch", "BUNDLE", "FOLDER/in.jsonl", "OUT"),
    "eval": ("eval", "BUNDLE", "--data", "FOLDER/set.jsonl", "--out", "OUT", "--methods", "none"),
    "calibrate": ("calibrate", "BUNDLE", "FOLDER/set.jsonl", "--method", "speechprune", "--out",
                  "OUT"),
    "profile --html": ("profile", "BUNDLE", "--audio", "FOLDER/a.wav", "--html", "OUT"),
    "profile --plot": ("profile", "BUNDLE", "--audio", "FOLDER/a.wav", "--plot", "OUT.png"),
    "profile --ort-profile": ("profile", "BUNDLE", "--audio", "FOLDER/a.wav", "--ort-profile",
                              "OUT"),
    "ask --explain": ("ask", "BUNDLE", "FOLDER/a.wav", "Who?", "--explain", "OUT.html"),
    "export": ("export", "CHECKPOINT", "OUT"),
    "export --overwrite": ("export", "CHECKPOINT", "OUT", "--overwrite"),
    "get": ("get", "someone/meetings", "--to", "OUT"),
}  # fmt: skip


@pytest.fixture
def tried(bundle: Path, checkpoints: Any, tone: NDArray[Any], tmp_path: Path) -> Any:
    """A function that runs a command of the table with an ``OUT``."""
    soundfile.write(tmp_path / "a.wav", tone[:32_000], 16_000)
    line = {"audio": "a.wav", "question": "Who?"}
    (tmp_path / "in.jsonl").write_text(json.dumps(line) + "\n")
    chosen = {**line, "choices": ["A", "B"], "answer": 0}
    (tmp_path / "set.jsonl").write_text(json.dumps(chosen) + "\n")

    def run(name: str, out: Path) -> BaseException | None:
        places = {"BUNDLE": bundle, "CHECKPOINT": checkpoints(TINY[0]), "FOLDER": tmp_path,
                  "OUT": out}  # fmt: skip
        given = []
        for word in WRITING[name]:
            for place, path in places.items():
                word = word.replace(place, str(path))
            given.append(word)
        return CliRunner().invoke(app, given).exception

    return run


@pytest.mark.skipif(not Path("/sys/fs").is_dir(), reason="only Linux has /sys")
@pytest.mark.parametrize("name", WRITING)
def test_a_place_that_nobody_may_write_is_one_sentence(
    name: str, tried: Callable[[str, Path], BaseException | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    # For who is no administrator the folder says so at once.
    access = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: Path(path) != NOWHERE.parent and access(path, mode)
    )
    monkeypatch.setattr(WindowEncoder, "add", lambda *_: pytest.fail("it listened first"))
    error = tried(name, NOWHERE)
    assert isinstance(error, SpeechPruneError), error
    assert "cannot be written" in str(error)
    assert "\n" not in str(error)


@pytest.mark.skipif(not Path("/sys/fs").is_dir(), reason="only Linux has /sys")
@pytest.mark.parametrize("name", ["calibrate", "profile --html", "ask --explain", "get"])
def test_a_place_that_looks_as_if_it_could_be_written_is_one_sentence_too(
    name: str, tried: Callable[[str, Path], BaseException | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: True)
    error = tried(name, NOWHERE)
    assert isinstance(error, SpeechPruneError), error
    assert "cannot be written" in str(error)


@pytest.fixture
def own_bundle(bundle: Path, tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return Path(shutil.copytree(bundle, tmp_path / "own"))


@pytest.mark.parametrize("name", WRITING)
def test_nothing_is_written_into_a_bundle(
    name: str, tried: Callable[[str, Path], BaseException | None], own_bundle: Path
) -> None:
    before = content_of(own_bundle)
    error = tried(name, own_bundle / "x")
    assert isinstance(error, SpeechPruneError), error
    assert "lies in the bundle" in str(error)
    assert content_of(own_bundle) == before


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("calibrate", "set.jsonl"),
        ("calibrate", "a.wav"),
        ("calibrate", "-"),
        ("batch", "in.jsonl"),
        ("batch", "a.wav"),
        ("batch", "-"),
        ("profile --html", "a.wav"),
        ("profile --html", "link"),
        ("profile --html", "hard link"),
        ("profile --plot", "a.wav"),
        ("ask --explain", "a.wav"),
        ("eval", "a.wav"),
        ("eval", "results"),
        ("eval", "own"),
        ("profile --ort-profile", "own"),
    ],
)
def test_no_result_replaces_what_is_read(
    name: str,
    place: str,
    tried: Callable[[str, Path], BaseException | None],
    own_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(WindowEncoder, "add", lambda *_: pytest.fail("it listened first"))
    monkeypatch.chdir(tmp_path)
    recording = tmp_path / "a.wav"
    (tmp_path / "link").symlink_to(recording)
    (tmp_path / "hard link").hardlink_to(recording)
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "report.md").write_text("my own")
    ending = {"ask --explain": ".html", "profile --plot": ".png"}.get(name, "")
    if ending:  # the command's place has one, so what it reads is given that name as well
        (tmp_path / f"{place}{ending}").hardlink_to(recording)
    before = content_of(tmp_path)
    error = tried(name, Path(place))
    assert isinstance(error, SpeechPruneError), error
    assert "\n" not in str(error)
    assert content_of(tmp_path) == before


def test_two_results_are_two_files(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.png"
    line = ["profile", str(bundle), "--plot", str(out), "--html", str(out)]
    assert "--html would replace" in str(CliRunner().invoke(app, line).exception)
    assert not out.exists()


def test_every_page_is_tried_before_the_work(
    tried: Callable[..., BaseException | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WindowEncoder, "add", lambda *_: pytest.fail("it listened first"))
    monkeypatch.setitem(WRITING, "two", (*WRITING["ask --explain"][:3], "-q", "Who?", "-q", "What?",
                                         "--explain", "OUT.png"))  # fmt: skip
    (tmp_path / "x-2.png").mkdir()
    assert "x-2.png cannot be written" in str(tried("two", tmp_path / "x"))


def content_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_a_recording_is_not_saved_where_nobody_writes(bundle: Path, tone: NDArray[Any]) -> None:
    recording = SpeechLLM(bundle, "cpu").listen(tone[:32_000], sampling_rate=16_000)
    with pytest.raises(SpeechPruneError, match="cannot be written"):
        recording.save(NOWHERE)
