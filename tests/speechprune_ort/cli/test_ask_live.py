"""``ask - --live``: questions about sound that is still coming."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import select
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from speechprune_ort import SpeechLLM

RATE = 16_000


@pytest.fixture(scope="module")
def sound(tone: NDArray[np.float32]) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, tone[: 33 * RATE], RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


def ask(bundle: Path, sound: bytes, *options: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "speechprune_ort", "ask", str(bundle), "-", "--device", "cpu"]
    return subprocess.run(
        [*command, "--max-new-tokens", "4", *options], input=sound, capture_output=True,
        check=False, timeout=240, start_new_session=True,
    )  # fmt: skip


def test_questions_are_answered_now_and_then_and_at_the_end(
    bundle: Path, sound: bytes, tone: NDArray[np.float32]
) -> None:
    ran = ask(bundle, sound, "Who?", "Why?", "--live", "--every", "12.5", "--json")
    assert ran.returncode == 0, ran.stderr
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [(row["seconds"], row["question"]) for row in found] == [
        (seconds, text) for seconds in (12.5, 25.0, 33.0) for text in ("Who?", "Why?")
    ]
    model = SpeechLLM(bundle, "cpu")
    for row in found[::2]:
        samples = tone[: round(row["seconds"] * RATE)]
        alone = model.ask(samples, "Who?", sampling_rate=RATE, max_new_tokens=4)
        assert row["token_ids"] == list(alone.token_ids)


def test_questions_are_typed_while_it_comes(bundle: Path, sound: bytes) -> None:
    """The sound comes through a pipe, the questions from the terminal that the process has."""
    out, into = os.pipe()
    command = [sys.executable, "-m", "speechprune_ort", "ask", str(bundle), "-", "--live",
               "--device", "cpu", "--max-new-tokens", "4"]  # fmt: skip
    child, terminal = pty.fork()
    if child == 0:
        os.dup2(out, 0)
        os.close(into)
        os.execv(sys.executable, command)  # noqa: S606 - our own command
    os.close(out)
    shown = b""

    def answered(question: bytes) -> bool:
        """Type it until it is answered: what is typed before the first sound finds none."""
        nonlocal shown
        shown = b""
        for _ in range(120):
            os.write(terminal, question)
            begun = time.monotonic()
            while b"tokens/s" not in shown and time.monotonic() - begun < 2:
                if select.select([terminal], [], [], 0.2)[0]:
                    shown += os.read(terminal, 4096)
            if b"tokens/s" in shown:
                return question.strip() in shown
        return False

    with os.fdopen(into, "wb", buffering=0) as pipe:
        pipe.write(sound[: len(sound) // 2])
        assert answered(b"Who?\n"), "while the sound is still coming"
        pipe.write(sound[len(sound) // 2 :])
    assert answered(b"Why?\n")
    os.write(terminal, b"\4")
    with contextlib.suppress(OSError):  # the terminal of a process that has ended
        while os.read(terminal, 4096):
            pass
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(terminal)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("Who?", "--every", "3"), "--every needs --live"),
        (("--live", "--every", "3"), "--every needs a question"),
        (("Who?", "--live", "--every", "0"), "--every must be from 0.1 to 1000000000 seconds"),
        (("Who?", "--live", "--explain", "a.html"), "--live cannot be combined"),
        (("Who?", "--live"), "Standard input is not a WAV"),
        (("--live",), "no terminal|not a WAV"),
    ],
)
def test_mistakes_are_one_sentence(bundle: Path, options: tuple[str, ...], words: str) -> None:
    ran = ask(bundle, b"OggS" + bytes(100), *options)
    assert (ran.returncode, ran.stdout) == (2, b"")
    lines = ran.stderr.decode().splitlines()
    assert any(word in lines[-1] for word in words.split("|")), lines
    assert sum(line.startswith("error: ") for line in lines) == 1


def test_a_mistake_ends_it_while_the_sound_is_still_coming(bundle: Path) -> None:
    command = [sys.executable, "-m", "speechprune_ort", "ask", str(bundle), "-", "--live"]
    with subprocess.Popen(
        [*command, "--device", "cpu"], stdin=subprocess.PIPE, stderr=subprocess.PIPE,
        start_new_session=True,
    ) as running:  # fmt: skip
        assert running.stderr is not None
        told = running.stderr.read().decode()
        assert running.wait(240) == 2, told
    assert "There is no terminal" in told.splitlines()[-1]
