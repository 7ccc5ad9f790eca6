"""The short form of ``scripts/fuzz``: altered inputs of every kind, and what it would catch."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import SCRIPTS
from reliability.fuzz_targets import resealed

from speechprune_ort import RecordingError
from speechprune_ort.runtime.hearing.embeddings import HostEmbeds
from speechprune_ort.runtime.hearing.recording_file import About, load_embeds, save_embeds
from speechprune_ort.runtime.ort.device import Device

FUZZ = SCRIPTS / "reliability" / "fuzz.py"


def fuzz(*args: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, FUZZ, *map(str, args)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=300)


def test_altered_inputs_of_every_kind_give_answers_or_sentences(
    bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "found"
    done = fuzz("--bundle", bundle, "--inputs", 140, "--seconds", 60, "--out", out, "--json")
    rows = {row["kind"]: row for row in json.loads(done.stdout)}
    assert len(rows) == 7
    assert all(row["inputs"] for row in rows.values())
    assert done.returncode == 0, {kind: row["reasons"] for kind, row in rows.items()}


def test_a_resealed_recording_is_judged_by_what_it_holds(tmp_path: Path) -> None:
    path, rows = tmp_path / "saved", np.ones((20, 8), np.float32)
    save_embeds(path, HostEmbeds(rows), "d" * 64, About(1.0, 1.0))
    content, reasons = path.read_bytes(), []
    for number in range(100):
        chance = random.Random(number)  # noqa: S311 - the same changes every time
        path.write_bytes(resealed(content, chance))
        try:
            load_embeds(path, "d" * 64, 8, rows.dtype, Device("cpu"), 1 << 20)
        except RecordingError as error:
            reasons.append(str(error))
    assert 50 < len(reasons) < 100
    assert not [reason for reason in reasons if "its content is not what was saved" in reason]


BREAKS = """
import os, time
from reliability import fuzz_targets
def broken(self, chance):
    self.input.write_bytes(b"the input")
    {body}
fuzz_targets.Targets.audio = broken
fuzz_targets.main()
"""


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise TypeError('x')", "TypeError"),
        ("raise BaseException('a panic')", "BaseException"),
        ("os.kill(os.getpid(), 11)", "crash: SIGSEGV"),
        ("time.sleep(60)", "hang"),
        ("while True: pass", "hang"),
        ("bytearray(1 << 40)", "MemoryError"),
        ("os._exit(0)", "the process ended with 0"),
    ],
)
def test_what_is_no_answer_is_a_finding_with_its_input(
    body: str, reason: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(FUZZ, tmp_path)
    (tmp_path / "fuzz_targets.py").write_text(BREAKS.format(body=body))
    monkeypatch.setenv("PYTHONPATH", str(SCRIPTS))
    out = tmp_path / "found"
    line = [sys.executable, tmp_path / "fuzz.py", "--bundle", bundle, "--kinds", "audio",
            "--inputs", "1", "--input-seconds", "3", "--out", out, "--json"]  # fmt: skip
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1, done.stderr
    (row,) = json.loads(done.stdout)
    assert reason in next(iter(row["reasons"]))
    assert (out / "audio-0.input").read_bytes() == b"the input"
    assert json.loads((out / "audio-0.json").read_text())["seed"] == 0
