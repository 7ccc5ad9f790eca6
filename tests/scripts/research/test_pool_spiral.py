"""``research/pool_spiral.py``: voices pooled into one set, and recordings hidden in long ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from paths import SCRIPTS
from signals import speech_like

from speechprune_ort.evaluation.samples import read_samples

RATE = 16_000
SECONDS = 3.0


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "research.pool_spiral", *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
    )  # fmt: skip


def entry(name: str) -> dict[str, Any]:
    return {
        "transcript": [{"speaker": "spk_1", "text": ["The bus is red."]}],
        "test_question": {
            "question": "What colour is the bus?", "choices": ["A. Blue", "B. Red"],
            "correct_answer": "B. Red",
        },
        "metadata": {"id": name, "transcript_type": "lecture"},
        "audio_data": {
            "combined": {"audio_files": [f"{name}.wav"], "audio_folder": "spiral/wavs",
                         "sentences": ["The bus is red."]},
        },
    }  # fmt: skip


@pytest.fixture
def voices(tmp_path: Path) -> list[Path]:
    folders = [tmp_path / "ann", tmp_path / "bob"]
    for number, folder in enumerate(folders):
        (folder / "wavs").mkdir(parents=True)
        names = [f"d{i}" for i in range(4)]
        for i, name in enumerate(names):
            sound = speech_like(SECONDS, seed=10 * number + i)
            soundfile.write(folder / "wavs" / f"{name}.wav", sound, RATE)
        lines = "".join(json.dumps(entry(name)) + "\n" for name in names)
        (folder / "data.jsonl").write_text(lines)
        (folder / "key_times.json").write_text(json.dumps({name: [1.0, 2.0] for name in names}))
    return folders


def test_voices_take_turns_and_dialogues_are_groups(voices: list[Path], tmp_path: Path) -> None:
    result = run(tmp_path / "out", *voices)
    assert result.returncode == 0, result.stderr
    samples = read_samples(tmp_path / "out" / "set.jsonl")
    assert [s.name for s in samples[:4]] == ["ann/d0", "bob/d1", "ann/d2", "bob/d3"]
    assert sorted(s.name for s in samples[4:]) == ["ann/d1", "ann/d3", "bob/d0", "bob/d2"]
    assert all(s.group == s.name[-2:] and s.audio.is_file() for s in samples)
    assert samples[0].key == (1.0, 2.0)
    assert samples[0].choices[samples[0].answer] == "Red"


def test_a_recording_is_whole_among_others(voices: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = run(out, *voices, "--minutes", 0.15, "--limit", 4)
    assert first.returncode == 0, first.stderr
    starts = set()
    for sample in read_samples(out / "set.jsonl"):
        samples, _ = soundfile.read(sample.audio, dtype="float32")
        assert len(samples) == 9 * RATE
        assert sample.key is not None
        said = round((sample.key[0] - 1.0) * RATE)  # to the millisecond
        voice, name = sample.name.split("/")
        own, _ = soundfile.read(tmp_path / voice / "wavs" / f"{name}.wav", dtype="float32")
        near = range(max(0, said - 8), said + 9)
        begin = next(n for n in near if np.allclose(samples[n:][: len(own)], own, atol=1e-4))
        # Others are heard around it.
        assert np.abs(np.delete(samples, slice(begin, begin + len(own)))).max() > 0.01
        starts.add(begin)
    assert len(starts) == 4
    # The draw is of id and seed: again the same, with another seed not.
    places = (out / "set.jsonl").read_text()
    run(out, *voices, "--minutes", 0.15, "--limit", 4)
    assert (out / "set.jsonl").read_text() == places
    run(out, *voices, "--minutes", 0.15, "--limit", 4, "--seed", 1)
    assert (out / "set.jsonl").read_text() != places


def test_other_voices_speak_behind_as_loud_as_asked(voices: list[Path], tmp_path: Path) -> None:
    for folder, options in (("clean", ()), ("noisy", ("--babble", 10))):
        result = run(tmp_path / folder, *voices, "--minutes", 0.15, "--limit", 2, *options)
        assert result.returncode == 0, result.stderr
    pairs = zip(
        read_samples(tmp_path / "clean" / "set.jsonl"),
        read_samples(tmp_path / "noisy" / "set.jsonl"),
        strict=True,
    )
    for clean, noisy in pairs:
        assert (clean.name, clean.key) == (noisy.name, noisy.key)
        own, _ = soundfile.read(clean.audio, dtype="float64")
        both, _ = soundfile.read(noisy.audio, dtype="float64")
        behind = both - own
        assert 10 * np.log10(np.mean(own**2) / np.mean(behind**2)) == pytest.approx(10, abs=0.1)
    # Where nothing is joined, it is written anew all the same.
    alone = run(tmp_path / "alone", *voices, "--limit", 1, "--babble", 10)
    assert alone.returncode == 0, alone.stderr
    assert len(list((tmp_path / "alone").glob("*.flac"))) == 1


def test_pauses_of_every_second_recording_are_longer(voices: list[Path], tmp_path: Path) -> None:
    gap = np.zeros(RATE // 2, np.float32)
    said = np.full(RATE, 0.1, np.float32)
    for path in tmp_path.glob("*/wavs/*.wav"):  # the key is behind the pause
        soundfile.write(path, np.concatenate([said, gap, said]), RATE)
    result = run(tmp_path / "out", *voices, "--pauses", 2, "--limit", 4)
    assert result.returncode == 0, result.stderr
    found = read_samples(tmp_path / "out" / "set.jsonl")
    assert [soundfile.info(s.audio).duration for s in found] == [2.5, 4.5, 2.5, 4.5]
    assert [s.key for s in found] == [(1.0, 2.0), (1.0, 4.0)] * 2
    joined = run(tmp_path / "long", *voices, "--pauses", 2, "--limit", 1, "--minutes", 0.15)
    assert joined.returncode == 0, joined.stderr
    samples, _ = soundfile.read(read_samples(tmp_path / "long" / "set.jsonl")[0].audio)
    assert len(samples) == 9 * RATE


def test_what_cannot_be_pooled_is_one_sentence(voices: list[Path], tmp_path: Path) -> None:
    too_long = run(tmp_path / "out", *voices, "--minutes", 5)
    assert (too_long.returncode, too_long.stderr.count("\n") < 4) == (2, True)
    assert "3 recordings are too few for 300 s" in too_long.stderr
    assert not (tmp_path / "out" / "set.jsonl").exists()
    twice = run(tmp_path / "out", voices[0], voices[0])
    assert "Two folders have one name" in twice.stderr
    nowhere = run(tmp_path / "out", tmp_path / "nowhere")
    assert (nowhere.returncode, "nowhere" in nowhere.stderr) == (2, True)
