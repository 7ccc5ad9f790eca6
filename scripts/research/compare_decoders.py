"""Every decoder beside ffmpeg's own samples, over trouble files and made ones.

``made FOLDER`` makes the files (needs ffmpeg with its encoders), ``table FOLDER...`` compares what
libsndfile, PyAV and ``stream_audio`` find in each file with ``ffmpeg -i FILE -f f32le -`` and
prints a Markdown table by group. Processes of their own read the files, as a decoder that crashes
must not end the comparison.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import typer
from numpy.typing import NDArray

from speechprune_ort.files import write_json
from speechprune_ort.markdown import markdown_table
from speechprune_ort.runtime.hearing.decoding import Decoded, decode, decode_by_ffmpeg

app = typer.Typer(add_completion=False)

SPEECH = Path("speechprune_ort/speech.flac")
CLOSE = 1e-4  # of full scale: the rounding of lossy decoders, not another recording
AT_ONCE = 24
SAME_S = 0.05
SECONDS = 6

# Ending: what ffmpeg is told, and the rates that the codec takes.
CODECS: dict[str, tuple[list[str], tuple[int, ...]]] = {
    "wav": (["-c:a", "pcm_s16le"], (8_000, 16_000, 44_100, 96_000)),
    "24.wav": (["-c:a", "pcm_s24le"], (16_000, 48_000)),
    "32.wav": (["-c:a", "pcm_s32le"], (16_000, 48_000)),
    "8.wav": (["-c:a", "pcm_u8"], (8_000, 16_000)),
    "f32.wav": (["-c:a", "pcm_f32le"], (16_000, 48_000)),
    "f64.wav": (["-c:a", "pcm_f64le"], (16_000,)),
    "alaw.wav": (["-c:a", "pcm_alaw"], (8_000,)),
    "mulaw.wav": (["-c:a", "pcm_mulaw"], (8_000,)),
    "ima.wav": (["-c:a", "adpcm_ima_wav"], (16_000, 44_100)),
    "ms.wav": (["-c:a", "adpcm_ms"], (16_000,)),
    "aiff": ([], (16_000, 44_100)),
    "au": ([], (8_000, 44_100)),
    "caf": ([], (16_000, 48_000)),
    "w64": ([], (16_000, 44_100)),
    "flac": ([], (8_000, 16_000, 44_100, 96_000)),
    "24.flac": (["-sample_fmt", "s32"], (16_000, 48_000)),
    "mp3": (["-b:a", "64k"], (8_000, 16_000, 44_100)),
    "vbr.mp3": (["-q:a", "4"], (16_000, 44_100)),
    "nohead.mp3": (["-b:a", "64k", "-write_xing", "0"], (16_000, 44_100)),
    "vbrnohead.mp3": (["-q:a", "5", "-write_xing", "0"], (16_000, 44_100)),
    "ogg": (["-c:a", "libvorbis"], (8_000, 16_000, 44_100)),
    "opus": (["-c:a", "libopus"], (16_000, 48_000)),
    "m4a": (["-c:a", "aac"], (16_000, 44_100)),
    "alac.m4a": (["-c:a", "alac"], (16_000, 44_100)),
    "mp4": (["-c:a", "aac", "-movflags", "+faststart"], (48_000,)),
    "frag.mp4": (["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"], (16_000,)),
    "3gp": (["-c:a", "aac"], (16_000,)),
    "aac": ([], (16_000, 44_100)),
    "webm": (["-c:a", "libopus"], (16_000, 48_000)),
    "vorbis.webm": (["-c:a", "libvorbis"], (44_100,)),
    "mka": (["-c:a", "flac"], (16_000, 44_100)),
    "wma": ([], (16_000, 44_100)),
    "ac3": ([], (32_000, 48_000)),
    "mp2": ([], (16_000, 44_100)),
    "tta": ([], (16_000, 44_100)),
    "wv": ([], (16_000, 44_100)),
    "avi": (["-c:a", "mp3"], (16_000, 44_100)),
    "ts": (["-c:a", "aac"], (48_000,)),
    "flv": (["-c:a", "aac"], (44_100,)),
}
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda b: b[: len(b) // 2],
    "nine tenths": lambda b: b[: len(b) * 9 // 10],
    "zeroed middle": lambda b: b[: len(b) // 2] + bytes(600) + b[len(b) // 2 + 600 :],
    "noise in the middle": lambda b: b[: len(b) // 2] + noise(600) + b[len(b) // 2 + 600 :],
    "joined": lambda b: b + b,
    "ID3 tag at the end": lambda b: b + b"TAG" + bytes(125),
}
DAMAGED = ("wav", "flac", "mp3", "vbr.mp3", "nohead.mp3", "ogg", "opus", "m4a", "aac", "webm",
           "wma", "aiff", "mka", "mp4")  # fmt: skip


def noise(size: int) -> bytes:
    """The same bytes every time."""
    return np.random.default_rng(0).bytes(size)


@app.command()
def made(folder: Path) -> None:
    """Make the files; those that are there stay."""
    for (ending, (told, rates)), channels in itertools.product(CODECS.items(), (1, 2)):
        for rate in rates:
            path = folder / "whole" / f"{rate}-{channels}.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                command = ["ffmpeg", "-v", "error", "-y", "-t", str(SECONDS), "-i", str(SPEECH),
                           "-ar", str(rate), "-ac", str(channels), *told, str(path)]  # fmt: skip
                subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    for name, change in DAMAGES.items():
        for ending in DAMAGED:
            path = folder / name / f"a.{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            rate = CODECS[ending][1][-1]
            path.write_bytes(change((folder / "whole" / f"{rate}-1.{ending}").read_bytes()))


Heard = tuple[int, NDArray[np.float32]]
"""Sampling rate in Hz, and samples (samples,)."""


def joined(blocks: Iterable[tuple[int, NDArray[np.float32]]]) -> Heard:
    """Blocks in one, channels averaged."""
    rates, found = [], []
    for rate, block in blocks:
        rates.append(rate)
        found.append(block.mean(axis=1, dtype=np.float32))
    return rates[0], np.concatenate(found)


def by_libsndfile(path: Path) -> Heard:
    """What libsndfile gives when it is read until nothing comes."""
    with soundfile.SoundFile(path) as file:
        blocks = []
        while len(block := file.read(1 << 16, dtype="float32", always_2d=True)):
            blocks.append((file.samplerate, block))
    return joined(blocks)


def by_pyav(path: Path) -> Heard:
    """What PyAV gives, damaged packets left out."""
    with path.open("rb") as file:
        return joined(decode_by_ffmpeg(file, path.name, Decoded()))


def by_us(path: Path) -> Heard:
    """What is heard: either of them."""
    with path.open("rb") as file:
        return joined(decode(file, path.name, Decoded()))


def by_ffmpeg(path: Path) -> Heard:
    """The reference: samples of the first sound track, channels averaged."""
    shown = subprocess.run(
        ["ffprobe", "-v", "quiet", "-select_streams", "a:0", "-show_entries",
         "stream=channels,sample_rate", "-of", "json", str(path)], capture_output=True, check=False,
    )  # fmt: skip
    streams = json.loads(shown.stdout or "{}").get("streams")
    if not streams:
        return 0, np.zeros(0, np.float32)
    channels, rate = max(1, streams[0].get("channels", 1)), int(streams[0].get("sample_rate", 0))
    out = subprocess.run(
        ["ffmpeg", "-v", "quiet", "-i", str(path), "-map", "a:0", "-f", "f32le", "-"],
        capture_output=True, stdin=subprocess.DEVNULL, check=False,
    ).stdout  # fmt: skip
    whole = len(out) // (4 * channels) * channels
    samples = np.frombuffer(out, "<f4", whole).reshape(-1, channels)
    return rate, samples.mean(axis=1, dtype=np.float32)


DECODERS = {"libsndfile": by_libsndfile, "PyAV": by_pyav, "both, as heard": by_us}


def verdict(found: Heard, wanted: Heard) -> str:
    """Equal, close, of another length, of another rate, or different."""
    (rate, mine), (other_rate, other) = found, wanted
    if not len(other):
        return "heard, ffmpeg nothing"
    if rate != other_rate:
        same = abs(len(mine) / rate - len(other) / other_rate) < SAME_S
        return "other rate" if same else "other rate and length"
    if np.array_equal(mine, other):
        return "equal"
    common = min(len(mine), len(other))
    near = common and np.abs(mine[:common] - other[:common]).max() < CLOSE
    if near and len(mine) == len(other):
        return "close"
    if near:
        return "longer" if len(mine) > len(other) else "shorter"
    return "different"


def compared(path: Path) -> dict[str, Any]:
    """Verdicts on one file."""
    wanted = by_ffmpeg(path)
    found: dict[str, Any] = {"ffmpeg": len(wanted[1])}
    for name, decoder in DECODERS.items():
        try:
            heard = decoder(path)
            found[name] = verdict(heard, wanted)
            found[f"{name} samples"] = len(heard[1])
        except Exception as error:  # a decoder's own, whatever it is
            found[name] = "refused"
            found[f"{name} error"] = f"{type(error).__name__}: {error}"
    return found


@app.command()
def some(paths: list[Path]) -> None:
    """Compare files; the verdicts go to stdout, a line of JSON each."""
    for path in paths:
        print(json.dumps(compared(path)), flush=True)


def all_of(paths: list[Path]) -> Iterator[dict[str, Any]]:
    """Verdicts on files, by processes of a few each; where one crashed, the next goes on."""
    while paths:
        command = [sys.executable, __file__, "some", *map(str, paths[:AT_ONCE])]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        found = [json.loads(line) for line in result.stdout.splitlines() if line[:1] == "{"]
        if result.returncode:
            found.append(dict.fromkeys(DECODERS, "crashed"))
        yield from found
        paths = paths[len(found) :]


def groups(folders: list[Path]) -> Iterator[tuple[str, Path]]:
    """Files by what they are."""
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            ending, where = path.name.split(".", 1)[1], path.parent.name
            if where == "trouble" and path.suffix != ".md":
                yield f"`{path.name}`", path
            elif where == "whole":
                yield f"whole, {ending}", path
            elif where in DAMAGES:
                yield f"{where}, {len(DAMAGED)} endings", path


@app.command()
def table(folders: list[Path], details: Path | None = None) -> None:
    """Compare every file below the folders and print the table; details go to a JSON file."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    files = list(groups(folders))
    paths = [path for _, path in files]
    for (group, path), row in zip(files, all_of(paths), strict=True):
        rows[group].append({"path": f"{path.parent.name}/{path.name}", **row})
    lines = []
    for group, found in rows.items():
        cells = []
        for name in DECODERS:
            said = [row[name] for row in found]
            counts = {word: said.count(word) for word in dict.fromkeys(said)}
            cells.append(", ".join(f"{count} {word}" for word, count in counts.items()))
        lines.append((group, len(found), *cells))
    print("\n".join(markdown_table(("files", "", *DECODERS), lines)))
    print(f"\n{sum(map(len, rows.values()))} files.")
    if details:
        write_json(details, [row for found in rows.values() for row in found])


if __name__ == "__main__":
    app()
