#!/usr/bin/env python3
"""Join recordings into one long one, with a transcript that says where each lies.

    python scripts/research/join_recordings.py OUT RECORDING... [--minutes 60] [--pause 1.0]

A RECORDING is a sound file, or a folder of them. They follow one another in the order given, with
pauses between; with ``--minutes`` they are repeated, or cut, to that length. OUT is the sound file
to write (.flac, .wav, .ogg), 16 kHz mono; beside it OUT with the ending .json is written, for
``speechprune-ort ask --explain PAGE --transcript``: the turns of every recording that has such a
file itself (the bundled meeting does), and the names of the others.

Needs ``pip install -e '.[cpu]'``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from typing import Annotated

import numpy as np
import soundfile
import typer
from rich.console import Console

from speechprune_ort.errors import OptionError, SpeechPruneError
from speechprune_ort.explain import Line, read_transcript
from speechprune_ort.files import whole_file, write_json
from speechprune_ort.runtime.hearing.audio import SAMPLING_RATE, stream_audio

USER_ERROR = 2
ENDINGS = (".wav", ".flac", ".ogg", ".mp3")

console = Console(stderr=True, highlight=False, soft_wrap=True)


def found_in(places: Sequence[Path]) -> list[Path]:
    """Sound files, with those of folders in the order of their names.

    Raises:
        OptionError: a place is neither, or a folder holds none.
    """
    found: list[Path] = []
    for place in places:
        inside = sorted(p for p in place.rglob("*") if p.suffix in ENDINGS)
        if not place.is_file() and not inside:
            raise OptionError(f"{place} is no sound file and no folder that holds one.")
        found += inside or [place]
    return found


def lines_of(path: Path, start: float, end: float) -> Iterator[Line]:
    """What is known of a recording that lies from ``start`` to ``end``, in seconds."""
    beside = path.with_suffix(".json")
    if not beside.is_file():
        yield Line(start, end, path.stem)
        return
    for line in read_transcript(beside):
        if start + line.start < end:
            yield Line(start + line.start, min(start + line.end, end), line.text)


def join(
    paths: Sequence[Path], out: Path, minutes: float | None = None, pause: float = 0.0
) -> list[Line]:
    """Write one recording of many, piece by piece: hours take no more memory than minutes.

    Args:
        paths: sound files, in order.
        out: the file to write; its ending says the format.
        minutes: length; recordings are repeated to it, the last is cut. None: each once.
        pause: seconds of silence after each.

    Returns:
        What lies where.

    Raises:
        AudioError: a recording cannot be read.
        OptionError: a transcript beside one cannot.
    """
    left = math.inf if minutes is None else round(minutes * 60 * SAMPLING_RATE)
    silence = np.zeros(round(pause * SAMPLING_RATE), np.float32)
    lines: list[Line] = []
    written = 0
    with whole_file(out) as partial, soundfile.SoundFile(partial, "w", SAMPLING_RATE, 1) as file:
        for path in paths if minutes is None else cycle(paths):
            started = written
            for block in stream_audio(path):
                file.write(block[: int(min(left - written, len(block)))])
                written = int(min(left, written + len(block)))
            lines += lines_of(path, started / SAMPLING_RATE, written / SAMPLING_RATE)
            if written >= left:
                break
            file.write(silence[: int(min(left - written, len(silence)))])
            written = int(min(left, written + len(silence)))
    return lines


def main(
    out: Annotated[Path, typer.Argument(help="Sound file to write.")],
    recordings: Annotated[list[Path], typer.Argument(help="Sound files and folders of them.")],
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Length to reach.")] = None,
    pause: Annotated[float, typer.Option(min=0.0, help="Seconds of silence after each.")] = 1.0,
) -> None:
    """Write both files."""
    try:
        if out.exists():
            raise OptionError(f"{out} is there already: give another name, or remove it.")
        if out.suffix not in ENDINGS:
            raise OptionError(f"{out} must end in one of {', '.join(ENDINGS)}.")
        lines = join(found_in(recordings), out, minutes, pause)
    except SpeechPruneError as error:
        console.print(f"Error: {error}")
        raise typer.Exit(USER_ERROR) from None
    except soundfile.LibsndfileError as error:
        console.print(f"Error: {out} cannot be written ({error}).")
        raise typer.Exit(USER_ERROR) from None
    turns = [{"start": round(a.start, 3), "end": round(a.end, 3), "text": a.text} for a in lines]
    write_json(out.with_suffix(".json"), {"audio": out.name, "turns": turns})
    console.print(f"{out}: {soundfile.info(out).duration / 60:.1f} minutes")


if __name__ == "__main__":
    typer.run(main)
