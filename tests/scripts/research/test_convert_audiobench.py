"""``research/convert_audiobench.py``: AudioBench's Parquet layout into what ``eval`` reads."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import soundfile
from paths import SCRIPTS

from speechprune_ort.evaluation.samples import read_samples

SCRIPT = SCRIPTS / "research" / "convert_audiobench.py"
RATE = 8000


def wav(seconds: float) -> bytes:
    samples = 0.1 * np.sin(np.arange(int(seconds * RATE)) / 7)
    content = io.BytesIO()
    soundfile.write(content, samples, RATE, format="WAV")
    return content.getvalue()


def row(seconds: float, choices: str, answer: str) -> dict[str, Any]:
    return {
        "context": {"bytes": wav(seconds), "path": None},
        "instruction": f"How long are {seconds:g} seconds?",
        "choices": choices,
        "answer": answer,
        "other_attributes": {"id": "x"},
    }


def write(path: Path, *rows: dict[str, Any]) -> Path:
    pyarrow.parquet.write_table(pa.Table.from_pylist(list(rows)), path)
    return path


def convert(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_long_recordings_become_samples_and_short_ones_are_counted(tmp_path: Path) -> None:
    first = write(
        tmp_path / "a.parquet",
        row(61, "(A) A minute.\n(B) More.\n(C) Less.", "(B) More."),
        row(60, "(A) Yes.\n(B) No.", "(A) Yes."),
    )
    second = write(tmp_path / "b.parquet", row(62.5, "A. short, B. long", "B. long"))
    done = convert(tmp_path / "out", first, second)
    assert done.returncode == 0, done.stderr
    assert "1 recordings of 60 s or less were left out" in done.stderr
    assert done.stdout.startswith("2 samples")

    samples = read_samples(tmp_path / "out" / "set.jsonl")
    assert [s.name for s in samples] == ["00000", "00002"]
    assert [s.choices[s.answer] for s in samples] == ["More.", "long"]
    assert [len(s.choices) for s in samples] == [3, 2]
    assert soundfile.info(samples[1].audio).duration == pytest.approx(62.5)
    lines = (tmp_path / "out" / "set.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["audio"] == "audio/00000.wav"

    again = convert(tmp_path / "out", first)
    assert again.returncode == 2
    assert "holds a set already" in again.stderr


def test_what_is_of_another_layout_is_one_sentence(tmp_path: Path) -> None:
    strange = write(tmp_path / "strange.parquet", {"audio": b"", "question": "?"})
    text = tmp_path / "text.parquet"
    text.write_text("no table")
    torn = write(tmp_path / "torn.parquet", row(61, "yes or no", "yes"))
    for path, words in ((strange, "no column"), (text, "no Parquet file"), (torn, "Row 0")):
        done = convert(tmp_path / "out", path)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.startswith("Error:")
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "out" / "set.jsonl").exists()
