"""``research/join_recordings.py``: one long recording of many, and what lies where in it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from paths import SCRIPTS
from signals import speech_like

SCRIPT = SCRIPTS / "research" / "join_recordings.py"
RATE = 16_000


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    folder = tmp_path / "recordings"
    folder.mkdir()
    soundfile.write(folder / "a.wav", speech_like(1.5), RATE)
    soundfile.write(folder / "b.flac", speech_like(2.0, seed=1), RATE)
    turns = [{"start": 0.5, "end": 1.0, "text": "Second."}]
    (folder / "b.json").write_text(json.dumps({"turns": turns}))
    return folder


def test_each_follows_the_other_after_its_pause(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.wav"
    result = run(out, recordings, "--pause", 0.25)
    assert result.returncode == 0, result.stderr
    samples, rate = soundfile.read(out, dtype="float32")
    assert (len(samples), rate) == (round(4.0 * RATE), RATE)  # 1.5 + 0.25 + 2.0 + 0.25
    np.testing.assert_allclose(samples[:24_000], speech_like(1.5), atol=1e-4)
    assert not samples[24_000:28_000].any()
    np.testing.assert_allclose(samples[28_000:60_000], speech_like(2.0, seed=1), atol=1e-4)
    turns = json.loads(out.with_suffix(".json").read_text())["turns"]
    assert turns == [
        {"start": 0.0, "end": 1.5, "text": "a"},
        {"start": 2.25, "end": 2.75, "text": "Second."},
    ]


def test_repeated_and_cut_to_a_length(recordings: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.flac"
    assert run(out, recordings / "a.wav", "--minutes", 0.1, "--pause", 1).returncode == 0
    samples, _ = soundfile.read(out, dtype="float32")
    assert len(samples) == 6 * RATE
    np.testing.assert_allclose(samples[80_000:], speech_like(1.5)[:16_000], atol=1e-4)
    turns = json.loads(out.with_suffix(".json").read_text())["turns"]
    assert [(turn["start"], turn["end"]) for turn in turns] == [(0, 1.5), (2.5, 4), (5, 6)]


def test_what_cannot_be_joined_is_named_and_nothing_left(recordings: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "there.wav").touch()
    for arguments, named in (
        ((tmp_path / "out.wav", tmp_path / "empty"), "empty"),
        ((tmp_path / "out.wav", recordings / "b.json"), "b.json"),
        ((tmp_path / "there.wav", recordings), "there.wav"),
        ((tmp_path / "out.txt", recordings), "out.txt"),
    ):
        result = run(*arguments)
        assert result.returncode == 2, result.stderr
        assert named in result.stderr
        assert result.stderr.startswith("Error: ")
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == ["empty", "recordings", "there.wav"]
