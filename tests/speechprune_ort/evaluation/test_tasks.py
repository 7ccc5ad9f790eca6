"""Other people's benchmarks: keys by other names, arrays, tasks, and what ``validate`` says."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from command import run
from signals import speech_like
from typer.testing import CliRunner

from speechprune_ort import AudioOptions, DataError, OptionError
from speechprune_ort.cli.app import app
from speechprune_ort.evaluation.layout import Layout, parse_map
from speechprune_ort.evaluation.samples import read_samples, read_set
from speechprune_ort.evaluation.tasks import TASKS, read_given, read_task
from speechprune_ort.evaluation.validate import recordings_digest, validate
from speechprune_ort.files import sha256_of

RATE = 16_000


def wav(path: Path, seconds: float = 0.3, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, speech_like(seconds, seed=seed), RATE)


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def marathon(folder: Path) -> list[Any]:
    wav(folder / "race_audio" / "high" / "1.wav")
    wav(folder / "race_audio" / "middle" / "2.wav", seed=1)
    return [
        {
            "audio_path": "race_audio/high/1.wav",
            "question": "Why did she leave?",
            "options": ["It rained", "She was late", "C. she had to", "Nobody knows"],
            "answer": "C",
        },
        {
            "audio_path": "race_audio/middle/2.wav",
            "question": "Who won?",
            "options": ["Ann", "Bob", "Cid", "Dora"],
            "answer": "A",
        },
    ]


def mmau(folder: Path) -> list[Any]:
    wav(folder / "test-mini-audios" / "3fe6.wav")
    return [
        {
            "id": "3fe6",
            "audio_id": "./test-mini-audios/3fe6.wav",
            "question": "Who speaks?",
            "choices": ["Man", "Woman", "Child", "Robot"],
            "answer": "Man",
            "dataset": "AudioSet",
            "task": "sound",
            "split": "test-mini",
            "category": "Reasoning",
            "sub-category": "Acoustic Source Inference",
            "difficulty": "medium",
        }
    ]


def mmar(folder: Path) -> list[Any]:
    wav(folder / "audio" / "BV1_00.wav")
    return [
        {
            "id": "BV1_00",
            "audio_path": "./audio/BV1_00.wav",
            "question": "What is cut?",
            "choices": ["Wood", "Paper"],
            "answer": "Paper",
            "modality": "mix-sound-speech",
            "category": "Semantic Layer",
            "sub-category": "Content Analysis",
            "language": "en",
            "source": "bilibili",
            "url": "",
            "timestamp": "00:00,00:10",
        }
    ]


def air(folder: Path) -> list[Any]:
    wav(folder / "Sound_AQA_clothoaqa" / "a.wav")
    wav(folder / "Audio_Grounding_AudioGrounding" / "b.flac", seed=1)
    return [
        {
            "uniq_id": 7,
            "path": "a.wav",
            "question": "Is it raining?",
            "choice_a": "yes",
            "choice_b": "no",
            "answer_gt": "no",
            "task_name": "Sound_AQA",
            "dataset_name": "clothoaqa",
        },
        {
            "uniq_id": 7,
            "path": "b.wav",
            "question": "When does a dog bark?",
            "choice_a": "[0.1, 2.0]",
            "choice_b": "[3.0, 4.0]",
            "choice_c": "[5.0, 6.0]",
            "choice_d": None,
            "answer_gt": "[5.0, 6.0]",
            "task_name": "Audio_Grounding",
            "dataset_name": "AudioGrounding",
        },
    ]


FOLDERS = {
    "audiomarathon-race": marathon,
    "mmau-test-mini": mmau,
    "mmar": mmar,
    "air-bench-foundation": air,
}
EXPECTED = {
    "audiomarathon-race": [("1", "high", "she had to", 4), ("2", "middle", "Ann", 4)],
    "mmau-test-mini": [("3fe6", "sound", "Man", 4)],
    "mmar": [("BV1_00", "mix-sound-speech", "Paper", 2)],
    "air-bench-foundation": [
        ("Sound_AQA-clothoaqa-7", "Sound_AQA", "no", 2),
        ("Audio_Grounding-AudioGrounding-7", "Audio_Grounding", "[5.0, 6.0]", 3),
    ],
}


def test_every_task_has_a_folder_here() -> None:
    assert set(FOLDERS) == set(TASKS)


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_read_as_it_is_published(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / TASKS[name].files[0], FOLDERS[name](tmp_path))
    found = read_task(name, tmp_path)
    assert not found.refused
    shown = [(s.name, s.kind, s.choices[s.answer], len(s.choices)) for s in found.samples]
    assert shown == EXPECTED[name]
    assert all(sample.audio.is_file() for sample in found.samples)
    findings = validate(found)
    assert findings.whole
    assert findings.samples == findings.recordings == len(shown)
    assert findings.files == {path: hashlib.sha256(path.read_bytes()).hexdigest()}


def test_a_pipe_is_no_recording_of_a_set(tmp_path: Path) -> None:
    write(tmp_path / TASKS["mmar"].files[0], mmar(tmp_path))
    found = read_task("mmar", tmp_path)
    path = found.samples[0].audio
    path.unlink()
    os.mkfifo(path)
    assert "is a pipe or a device" in validate(found).unusable[str(path)]


def test_a_task_whose_questions_are_lines(tmp_path: Path) -> None:
    lines = "".join(json.dumps(entry) + "\n" for entry in mmar(tmp_path))
    (tmp_path / "MMAR-meta.jsonl").write_text(lines)
    assert [sample.name for sample in read_task("mmar", tmp_path).samples] == ["BV1_00"]


def test_keys_by_other_names_of_lines_and_of_an_array(tmp_path: Path) -> None:
    entries = [
        {"audio_path": "a.wav", "q": "Who?", "options": ["Ann", "Bob"], "answer": "B"},
        {"audio_path": "b.wav", "q": "Who?", "options": ["Ann", "Bob"], "answer": "Bob", "n": 5},
    ]
    layout = parse_map("audio=audio_path, question=q,choices=options,id=n")
    array = write(tmp_path / "set.json", entries)
    lines = tmp_path / "set.jsonl"
    lines.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    for path in (array, lines):
        found = read_samples(path, layout)
        assert [(s.name, s.question, s.answer) for s in found] == [
            ("1", "Who?", 1),
            ("5", "Who?", 1),
        ]
        assert [s.audio for s in found] == [tmp_path / "a.wav", tmp_path / "b.wav"]
    other = tmp_path / "lines.json"  # some publish lines under that name
    other.write_text(lines.read_text())
    assert read_samples(other, layout) == read_samples(array, layout)


def test_an_entry_that_is_no_sample_is_named_by_its_place(tmp_path: Path) -> None:
    good = {"audio": "a.wav", "question": "Who?", "choices": ["Ann", "Bob"], "answer": 0}
    path = write(tmp_path / "set.json", [good, 5, {**good, "answer": "Cid"}, {**good, "id": "1"}])
    found = read_set(path)
    assert len(found.samples) == 1
    assert list(found.refused) == ["entry 2", "entry 3", "entry 4"]
    assert "is 5, not an object" in found.refused["entry 2"]
    assert "'Cid' is not one of the choices" in found.refused["entry 3"]
    assert "the id '1' of entry 1" in found.refused["entry 4"]
    with pytest.raises(DataError, match="it has no 'sound'"):
        read_samples(path, Layout({"audio": "sound"}))
    (tmp_path / "cut.json").write_text("[{")
    with pytest.raises(DataError, match="is not JSON"):
        read_set(tmp_path / "cut.json")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("audio", "takes KEY=SOURCE"),
        ("audio=", "takes KEY=SOURCE"),
        ("sound=path", "knows the keys audio, question"),
        ("audio=a,audio=b", "names audio twice"),
    ],
)
def test_a_map_that_is_none_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse_map(text)


def test_what_does_not_go_together_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="leave out --map"):
        read_given(tmp_path, "mmar", "audio=path")
    with pytest.raises(OptionError, match=r"--task takes audiomarathon-race, .*not 'mmlu'"):
        read_given(tmp_path, "mmlu")
    with pytest.raises(DataError, match=r"holds no MMAR-meta\.json"):
        read_given(tmp_path, "mmar")
    (tmp_path / "data.jsonl").touch()
    with pytest.raises(OptionError, match="--map is for a file"):
        read_given(tmp_path, None, "audio=path")


def test_one_digest_of_recordings_wherever_they_lie(tmp_path: Path) -> None:
    for name, text in (("a", "1"), ("b", "2"), ("c/a", "2"), ("c/b", "1")):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    first = recordings_digest([tmp_path / "a", tmp_path / "b", tmp_path / "a"])
    assert first == recordings_digest([tmp_path / "c" / "a", tmp_path / "c" / "b"])
    assert first != recordings_digest([tmp_path / "a"])
    sums = sorted(sha256_of(tmp_path / name) for name in "ab")
    assert first == hashlib.sha256("\n".join([*sums, ""]).encode()).hexdigest()


def piped(path: Path, content: bytes) -> threading.Thread:
    """Write into a new pipe, once it is read."""
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(content,), daemon=True)
    writer.start()
    return writer


def test_of_a_piped_set_what_was_read_is_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [{"audio": "a.wav", "question": "Who?", "choices": ["A", "B"], "answer": 0}] * 2
    content = "".join(json.dumps(entry) + "\n" for entry in entries).encode()
    writer = piped(tmp_path / "set", content)
    here = tmp_path / "here"
    wav(here / "a.wav")
    monkeypatch.chdir(here)
    found = read_set(tmp_path / "set")
    writer.join()
    assert found.files == {tmp_path / "set": hashlib.sha256(content).hexdigest()}
    assert [sample.audio for sample in found.samples] == [Path("a.wav")] * 2
    assert validate(found).whole  # found in the working folder


def test_what_eval_would_refuse_is_found_by_validate(tmp_path: Path) -> None:
    wav(tmp_path / "good.wav")
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    broken = np.zeros(60 * RATE, np.float32)
    broken[:RATE], broken[-1] = 0.1, np.nan  # beyond the first block
    soundfile.write(tmp_path / "broken.wav", broken, RATE, subtype="FLOAT")
    os.mkfifo(tmp_path / "pipe.wav")
    names = ("good", "silent", "broken", "pipe", "missing")
    entry = {"question": "Who?", "choices": ["A", "B"], "answer": 0}
    lines = [json.dumps({"audio": f"{name}.wav", **entry}) for name in names]
    data = tmp_path / "set.jsonl"
    data.write_text("\n".join(lines))
    found = validate(read_set(data))
    assert (found.samples, found.recordings) == (1, 1)
    words = ("is silent", "NaN", "is a pipe or a device", "No recording at")
    assert all(word in said for word, said in zip(words, found.unusable.values(), strict=True))
    allowed = validate(read_set(data), audio_options=AudioOptions(allow_silence=True))
    assert allowed.samples == 2


def test_what_is_printed_about_a_set_cannot_control_a_terminal(tmp_path: Path) -> None:
    entry = {"kind": "a\nb\x1b[31m", "question": "Who?", "choices": ["A", "B"], "answer": 0}
    wav(tmp_path / "a.wav")
    data = tmp_path / "s\x1b[31m\n.jsonl"
    data.write_text("".join(json.dumps({"audio": f"{name}.wav", **entry}) + "\n" for name in "ab"))
    shown = CliRunner().invoke(app, ["validate", str(data)])
    assert shown.exit_code == 1
    assert all(line.isprintable() for line in shown.output.splitlines())
    assert "  a\\nb\\x1b[31m: 1\n" in shown.stdout
    assert "1 sample about 1 recording\n" in shown.stdout
    assert shown.stderr.splitlines()[-1].startswith("error: 0 entries and 1 recording cannot be")


def test_the_command_line_lists_and_validates(tmp_path: Path) -> None:
    listed = json.loads(run("tasks", "--json").stdout)
    assert [task["name"] for task in listed] == list(TASKS)
    write(tmp_path / "MMAR-meta.json", mmar(tmp_path))
    done = run("validate", tmp_path, "--task", "mmar", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["samples"], found["answers"], found["kinds"]) == (
        1,
        [0, 1],
        {"mix-sound-speech": 1},
    )
    (tmp_path / "audio" / "BV1_00.wav").unlink()
    done = run("validate", tmp_path, "--task", "mmar")
    assert done.returncode == 1
    assert "BV1_00.wav" in done.stderr
    assert "0 samples about 0 recordings" in done.stdout
    done = run("validate", tmp_path / "MMAR-meta.json", "--map", "sound=audio_path")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_eval_says_what_it_read(bundle: Path, tmp_path: Path) -> None:
    data = tmp_path / "mmar"
    path = write(data / "MMAR-meta.json", mmar(data))
    done = run(
        "eval", bundle, "--data", data, "--task", "mmar", "--out", tmp_path / "out", "--methods",
        "none", "--pruning-rates", "0.4", "--no-costs", "--no-plots", "--allow-silence",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    about = json.loads((tmp_path / "out" / "results.json").read_text())["about"]
    assert about["sha256 of MMAR-meta.json"] == sha256_of(path)
    assert about["sha256 over the recordings"] == recordings_digest([data / "audio" / "BV1_00.wav"])
    assert about["data"].startswith("mmar, 1 sample, 0 not used")
