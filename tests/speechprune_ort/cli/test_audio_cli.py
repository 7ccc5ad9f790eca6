"""Recordings on the command line and in the results: streams, notes, decoders, limits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from msgspec import structs
from numpy.typing import NDArray
from paths import TROUBLE

from speechprune_ort import AudioError, AudioOptions, SpeechLLM, SpeechPruneError
from speechprune_ort.cli.ask import ask as ask_command
from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.runtime.hearing.features import LogMel

SHORT = ("--max-new-tokens", "3", "--device", "cpu")


def ask(bundle: Path, audio: object, *more: object, **how: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "speechprune_ort", "ask", bundle, audio, "Who?", *SHORT, *more]
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=120, check=False,
        **how,
    )  # fmt: skip


@pytest.fixture(scope="module")
def flac(tmp_path_factory: pytest.TempPathFactory, tone: NDArray[np.float32]) -> Path:
    path = tmp_path_factory.mktemp("audio") / "a.flac"
    soundfile.write(path, tone[:96_000], 16_000)
    return path


def test_every_kind_of_stream_is_answered_as_its_file(bundle: Path, flac: Path) -> None:
    wanted = json.loads(ask(bundle, flac, "--json").stdout)
    pipe = flac.with_name("pipe")
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(flac.read_bytes()))
    writer.start()
    found = [ask(bundle, pipe, "--json")]
    writer.join(10)
    assert not writer.is_alive()
    for name in ("-", "/dev/stdin"):
        cat = subprocess.Popen(["cat", str(flac)], stdout=subprocess.PIPE)
        found.append(ask(bundle, name, "--json", stdin=cat.stdout))
        assert cat.stdout is not None
        cat.stdout.close()
        assert cat.wait() == 0
        with flac.open("rb") as file:
            found.append(ask(bundle, name, "--json", stdin=file))
    for result in found:
        assert result.returncode == 0, result.stderr
        content = json.loads(result.stdout)
        assert (content["token_ids"], content["seconds"]) == (wanted["token_ids"], 6.0)


def test_a_stream_is_explained_from_what_was_kept_of_it(bundle: Path, flac: Path) -> None:
    page = flac.with_name("page.json")
    with flac.open("rb") as file:
        result = ask(bundle, "-", "--explain", page, stdin=file)
    assert result.returncode == 0, result.stderr
    assert any(json.loads(page.read_text())["sounds"][0]["waveform"]["high"])


def test_stdin_without_a_recording_is_one_sentence(bundle: Path) -> None:
    result = ask(bundle, "-", stdin=subprocess.DEVNULL)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        "error: Standard input is an empty file: give a recording."
    )


def test_notes_and_decoder_are_told(bundle: Path, flac: Path) -> None:
    result = ask(bundle, TROUBLE / "cut.mp3", "--json")
    content = json.loads(result.stdout)
    assert content["decoder"] == "libsndfile"
    (note,) = content["notes"]
    assert "states 11.0 s and holds 4.9 s" in note
    assert f"warning: {note}\n" in result.stderr
    assert f"warning: {note}\n" in ask(bundle, TROUBLE / "cut.mp3").stderr
    assert ask(bundle, TROUBLE / "cut.mp3", "--quiet").stderr == f"warning: {note}\n"
    fine = json.loads(ask(bundle, flac, "--json").stdout)
    assert fine["notes"] == []


def test_silence_is_no_answer_unless_asked_for(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "silence.wav"
    soundfile.write(path, np.zeros(80_000, np.float32), 16_000)
    result = ask(bundle, path)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1
    assert "--allow-silence" in result.stderr
    allowed = ask(bundle, path, "--allow-silence")
    assert allowed.returncode == 0
    assert "warning: " in allowed.stderr
    assert "any answer about it is made up" in allowed.stderr


@pytest.mark.parametrize(
    "option",
    [("--max-seconds", "2"), ("--max-decoded-mb", "0.1"), ("--channel", "1"),
     ("--silence-dbfs", "0")],
)  # fmt: skip
def test_limits_are_options(bundle: Path, flac: Path, option: tuple[str, str]) -> None:
    result = ask(bundle, flac, *option)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert option[0].lstrip("-").split("-")[0] in result.stderr


def test_results_in_python_have_notes(bundle: Path, tone: NDArray[np.float32]) -> None:
    model = SpeechLLM(bundle, "cpu")
    clipped = np.clip(tone[:80_000] * 20, -1, 1)
    for answer in (
        model.ask(clipped, "Who?", sampling_rate=16_000, max_new_tokens=2),
        model.stream((16_000, clipped), "Who?", max_new_tokens=2).answer,
        next(iter(model.ask_many([((clipped, 16_000), "Who?")], max_new_tokens=2))),
    ):
        assert answer.decoder == "array"
        assert "clipped" in answer.notes[0]
    limit = AudioOptions(max_seconds=1)
    with pytest.raises(AudioError, match="max_seconds"):
        model.ask(clipped, "Who?", sampling_rate=16_000, audio_options=limit)
    with pytest.raises(AudioError, match="silent"):
        model.listen(0 * clipped, sampling_rate=16_000)


def test_the_bundles_sampling_rate_is_the_one_that_is_heard(bundle: Path, tmp_path: Path) -> None:
    """The same arithmetic at twice the rate: seconds stay seconds."""
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    manifest = Manifest.read(bundle)
    audio = manifest.audio
    doubled = {name: 2 * getattr(audio, name) for name in ("sampling_rate", "n_fft", "hop_length")}
    changed = structs.replace(manifest, audio=structs.replace(audio, **doubled))
    (copy / "manifest.json").write_text(changed.to_json())
    assert Manifest.read(copy).audio.sampling_rate == 32_000
    sound = np.sin(np.arange(5 * 16_000, dtype=np.float32))
    model = SpeechLLM(copy, "cpu")
    at_16 = SpeechLLM(bundle, "cpu").listen(sound, sampling_rate=16_000)
    at_32 = model.listen(sound, sampling_rate=16_000)
    streamed = model.stream(sound, "Who?", sampling_rate=16_000, max_new_tokens=1).answer
    live = model.live(sampling_rate=16_000)
    live.add(sound)
    for found in (at_32, streamed, live, heard := live.finish()):
        assert found.seconds == pytest.approx(5.0, abs=1e-3)
    for tokens in (at_32.tokens, streamed.pruning.total, heard.tokens):
        assert tokens == at_16.tokens
    with pytest.raises(ValueError, match="mel filters"):
        LogMel(sampling_rate=8_000, hop_length=80, n_fft=200)


@pytest.mark.parametrize(
    ("question", "options", "words"),
    [
        (" ", {}, "question is empty"),
        ("Who?", {"samples": 0}, "--samples"),
        ("Who?", {"samples": 2, "method": "fastv"}, "one answer at a time"),
        ("Who?", {"evidence": True, "method": "fastv"}, "no passage is alone"),
        ("Who?", {"method": "fastv"}, "--cut-after"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_anything_is_heard(
    question: str, options: dict[str, Any], words: str, bundle: Path
) -> None:
    with pytest.raises(SpeechPruneError, match=words):
        ask_command(bundle, Path("missing.wav"), [question], device="cpu", **options)
