#!/usr/bin/env python3
"""Speak SPIRAL's text with free offline voices, into the benchmark's own layout.

    scripts/research/synthesize_spiral SPIRAL OUT [--voices flite:slt,flite:rms] [--processes 2]

SPIRAL is a folder with ``data.jsonl`` and ``data_h.jsonl``. OUT gets those lines of them that are
spoken, ``wavs/ID.wav`` (mono, 16 kHz, 16 bits) and ``key_times.json``: where the key sentence lies,
in seconds. Each speaker of a recording has a voice of his own, as far as they reach; pauses are
longer between turns than between sentences. What is there is not spoken again: an interrupted run
goes on. With ``--key-only`` a recording is its key sentence alone.

Needs flite and espeak-ng (Debian: ``apt-get install flite espeak-ng``), and in this environment
numpy, soundfile, soxr, onnxruntime, typer and rich. These voices are no match for recorded people:
say so beside every figure that is made from them.
"""

from __future__ import annotations

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer
from rich.console import Console
from rich.progress import track
from small_model.parts import fetch_joe
from small_model.training.text import chance, key_indices
from small_model.training.voices import RATE, Samples, Speaker, plain
from user_errors import one_sentence

from speechprune_ort.errors import PartError
from speechprune_ort.files import whole_file, write_json, write_jsonl, write_whole
from speechprune_ort.models.store import cache_folder

FILES = ("data.jsonl", "data_h.jsonl")
VOICES = "flite:slt,flite:rms,flite:awb,flite:kal16,piper:joe"
SENTENCE_PAUSE_S, TURN_PAUSE_S, EDGE_S = 0.25, 0.6, 0.3

console = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Job:
    """What a process needs.

    Attributes:
        out: Folder to fill.
        voices: To choose from.
        piper: The Piper voice's ``.onnx`` file, or None.
        key_only: Speak nothing but the key sentence.
    """

    out: Path
    voices: tuple[str, ...]
    piper: Path | None
    key_only: bool


def turns(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Speaker and text of each sentence, in order."""
    for turn in entry["transcript"]:
        for text in turn["text"]:
            if spoken := plain(text):
                yield turn["speaker"], spoken


def cast(entry: dict[str, Any], voices: Sequence[str]) -> dict[str, str]:
    """A voice for each speaker, drawn for the recording's id, different as far as they reach."""
    speakers = list(dict.fromkeys(turn["speaker"] for turn in entry["transcript"]))
    drawn = chance(entry["metadata"]["id"]).sample(voices, len(voices))
    return {speaker: drawn[index % len(drawn)] for index, speaker in enumerate(speakers)}


def speak(
    entry: dict[str, Any], speaker: Speaker, job: Job
) -> tuple[Samples, tuple[float, float] | None]:
    """A recording and where its key sentence lies, in seconds; None where it is not found."""
    said = list(turns(entry))
    key = key_indices([text for _, text in said], plain(entry["original_key_sentence"]))
    voices = cast(entry, job.voices)
    pieces = [np.zeros(int(EDGE_S * RATE), np.float32)]
    length, times, previous = len(pieces[0]), [], None
    for index, (name, text) in enumerate(said):
        if job.key_only and index not in key:
            continue
        if previous is not None:
            pause = SENTENCE_PAUSE_S if name == previous else TURN_PAUSE_S
            pieces.append(np.zeros(int(pause * RATE), np.float32))
            length += len(pieces[-1])
        samples = speaker.say(text, voices[name], vary=False)
        if index in key:
            times += [length / RATE, (length + len(samples)) / RATE]
        pieces.append(samples)
        length, previous = length + len(samples), name
    pieces.append(pieces[0])
    span = (round(times[0], 3), round(times[-1], 3)) if times else None
    return np.concatenate(pieces), span


def make(job: Job, entries: list[dict[str, Any]], queue: Any) -> None:
    """Speak recordings, one process's share; reports each, and what went wrong."""
    try:
        speaker = Speaker(job.piper, chance(0))
        for entry in entries:
            name = entry["metadata"]["id"]
            wav, times = job.out / "wavs" / f"{name}.wav", job.out / "times" / f"{name}.json"
            samples, span = speak(entry, speaker, job)
            write_whole(times, json.dumps(span))
            with whole_file(wav) as partial:  # last: what has a recording is complete
                soundfile.write(partial, samples, RATE, format="WAV", subtype="PCM_16")
            queue.put(None)
    except BaseException as error:
        queue.put(f"{type(error).__name__}: {error}")
        raise


def read(spiral: Path, ids: Path | None, limit: int | None) -> dict[str, list[dict[str, Any]]]:
    """The entries of each file, those asked for.

    Raises:
        PartError: a file or an id is missing.
    """
    wanted = ids.read_text(encoding="utf-8").split() if ids else None
    found: dict[str, list[dict[str, Any]]] = {}
    for name in FILES:
        try:
            lines = (spiral / name).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise PartError(f"{spiral / name} cannot be read: give SPIRAL's folder.") from error
        found[name] = [json.loads(line) for line in lines]
    order = list(dict.fromkeys(e["metadata"]["id"] for part in found.values() for e in part))
    absent = set(wanted or ()) - set(order)
    if absent:
        raise PartError(f"{spiral} has no dialogue {min(absent)}: see {ids}.")
    kept = set([name for name in order if wanted is None or name in wanted][:limit])
    return {
        name: [entry for entry in part if entry["metadata"]["id"] in kept]
        for name, part in found.items()
    }


def run(job: Job, entries: list[dict[str, Any]], processes: int) -> None:
    """Speak what is missing in several processes.

    Raises:
        PartError: one of them failed.
    """
    missing = [e for e in entries if not (job.out / "wavs" / f"{e['metadata']['id']}.wav").exists()]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    shares = [missing[i::processes] for i in range(processes) if missing[i::processes]]
    workers = [context.Process(target=make, args=(job, share, queue)) for share in shares]
    for worker in workers:
        worker.start()
    for _ in track(range(len(missing)), "Speaking", console=console, disable=not missing):
        if error := queue.get():
            for worker in workers:
                worker.terminate()
            raise PartError(error)
    for worker in workers:
        worker.join()


def main(
    spiral: Annotated[Path, typer.Argument(metavar="SPIRAL", help="Folder of SPIRAL's text.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    voices: Annotated[str, typer.Option(help="Comma-separated engine:voice.")] = VOICES,
    ids: Annotated[Path | None, typer.Option(help="File of ids; all by default.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first dialogues.")] = None,
    key_only: Annotated[bool, typer.Option("--key-only", help="The key sentence alone.")] = False,
    processes: Annotated[int, typer.Option(min=1, help="Processes of one thread.")] = 2,
    cache: Annotated[Path | None, typer.Option(help="Folder for downloads.")] = None,
) -> None:
    """Speak SPIRAL's text into OUT."""
    with one_sentence(console, OSError):
        parts = read(spiral, ids, limit)
        piper = None
        if "piper:" in voices:
            piper = fetch_joe(cache_folder(cache), console.print)
        job = Job(out, tuple(voices.split(",")), piper, key_only)
        entries = {e["metadata"]["id"]: e for part in parts.values() for e in part}
        for folder in ("wavs", "times"):
            (out / folder).mkdir(parents=True, exist_ok=True)
        run(job, list(entries.values()), processes)
        times = {}
        for name in entries:
            path = out / "times" / f"{name}.json"
            if path.exists() and (span := json.loads(path.read_text(encoding="utf-8"))):
                times[name] = span
        write_json(out / "key_times.json", times)
        for name, part in parts.items():
            write_jsonl(out / name, part)
    print(f"{len(entries)} recordings in {out}")


if __name__ == "__main__":
    typer.run(main)
