"""Pool SPIRAL in several voices into one set, each dialogue a group, or hidden among others.

    scripts/research/pool_spiral OUT FOLDER... [--minutes 20] [--babble 10] [--limit 40]
                                               [--pauses 3] [--seed 0]

A FOLDER is SPIRAL in one voice, as ``synthesize_spiral.py`` makes it. OUT gets ``set.jsonl`` for
``speechprune-ort eval --data OUT/set.jsonl``: every dialogue once, voices taking turns, then in its
next voice; with the dialogue as its group, so that intervals count it once. With ``--minutes`` each
recording is placed at a random point among others of its folder, drawn for its id, until they last
that long, and with ``--babble`` other voices (three, or ``--speakers``) are heard behind it all,
so many dB below; these are written as FLAC, and the key sentence's time is moved along. With
``--pauses`` every second recording, of those that are asked about and of those around them, has so
many seconds more in each of its pauses: dense and sparse stretches are joined.

``scripts/research/pool_spiral`` makes the environment.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer
from numpy.typing import NDArray
from research.pauses import lengthened
from rich.console import Console
from rich.progress import track

from speechprune_ort.errors import DataError, SpeechPruneError
from speechprune_ort.evaluation.perturbation import BABBLE_VOICES, spoken_over
from speechprune_ort.evaluation.samples import Sample, chance, read_samples
from speechprune_ort.files import whole_file, write_jsonl
from speechprune_ort.runtime.hearing.audio import SAMPLING_RATE, load_audio

USER_ERROR = 2
PAUSE_S = 1.0

console = Console(stderr=True, highlight=False, soft_wrap=True)


def in_turns(
    names: Sequence[str], voices: Mapping[str, Mapping[str, Sample]]
) -> list[tuple[str, Sample]]:
    """Voice and sample: all dialogues before any is heard again, the voices in turn.

    >>> spoken = {n: Sample(n, Path(n), "Who?", ("Ann", "Bob"), 0) for n in "xyz"}
    >>> [v + s.name for v, s in in_turns("xyz", {"a": spoken, "b": spoken})]
    ['ax', 'by', 'az', 'bx', 'ay', 'bz']
    """
    order = list(voices)
    return [
        (voice, voices[voice][name])
        for turn in range(len(order))
        for number, name in enumerate(names)
        if name in voices[voice := order[(number + turn) % len(order)]]
    ]


def hidden(
    own: NDArray[np.float32],
    name: str,
    others: Sequence[Sample],
    seconds: float,
    seed: int,
    pauses: float = 0,
) -> tuple[NDArray[np.float32], float]:
    """A recording among others, and the second at which it begins.

    Args:
        own: the recording, to be heard whole.
        name: its id.
        others: of its folder; drawn in an order of its own for each id.
        seconds: length of the result; the recording's own, where that is longer.
        seed: of the draw.
        pauses: seconds by which the pauses of every second one of the others are lengthened.

    Raises:
        DataError: the others do not last that long.
    """
    random = chance(seed, name)
    pause = np.zeros(int(PAUSE_S * SAMPLING_RATE), np.float32)
    room = round(seconds * SAMPLING_RATE) - len(own)
    before = random.randrange(max(1, room))
    drawn = enumerate(random.sample(others, len(others)))

    def stretch(length: int) -> NDArray[np.float32]:
        parts: list[NDArray[np.float32]] = []
        while sum(map(len, parts)) < length:
            number, other = next(drawn, (0, None))
            if other is None:
                raise DataError(f"{len(others)} recordings are too few for {seconds:g} s.")
            heard = load_audio(other.audio, None)
            if pauses and number % 2:
                heard, _ = lengthened(heard, pauses, SAMPLING_RATE)
            parts += [heard, pause]
        return np.concatenate([*parts, pause])[:length]

    first, last = stretch(before), stretch(max(0, room - before))
    first[-len(pause) :] = 0  # no word runs into the recording
    last[: len(pause)] = 0
    return np.concatenate([first, own, last]), before / SAMPLING_RATE


def behind(
    samples: NDArray[np.float32],
    sample: Sample,
    others: Sequence[Sample],
    ratio: float,
    count: int,
    seed: int,
) -> NDArray[np.float32]:
    """A recording with others behind it, within full scale.

    Args:
        samples: the recording.
        sample: what it is of, for the draw.
        others: which may be heard.
        ratio: signal-to-noise ratio in dB.
        count: how many of the others are heard.
        seed: of the draw.

    Raises:
        DataError: there are fewer others.
    """
    if len(others) < count:
        raise DataError(f"{len(others)} recordings are too few for {count} voices behind.")
    random = chance(seed, "behind", sample.name)
    voices = (load_audio(other.audio, None) for other in random.sample(others, count))
    generator = np.random.default_rng(random.getrandbits(32))
    noisy = spoken_over(samples, voices, ratio, generator)
    within: NDArray[np.float32] = noisy / max(np.float32(1), np.abs(noisy).max())
    return within


def entry(sample: Sample, voice: str, audio: str, start: float) -> dict[str, Any]:
    """A line of the set."""
    key = None if sample.key is None else [round(start + t, 3) for t in sample.key]
    return {
        "id": f"{voice}/{sample.name}",
        "group": sample.name,
        "audio": audio,
        "question": sample.question,
        "choices": list(sample.choices),
        "answer": sample.answer,
        "kind": sample.kind,
        # Of the recording alone: what else is heard in a long one is no answer.
        "transcript": sample.transcript,
        **({} if key is None else {"key": key}),
    }


def write(path: Path, samples: NDArray[np.float32]) -> None:
    """Write FLAC, whole or not at all."""
    with whole_file(path) as partial:
        soundfile.write(partial, samples, SAMPLING_RATE, format="FLAC", subtype="PCM_16")


def main(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="A voice each.")],
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Hide each among others; as they are by default.")
    ] = None,
    babble: Annotated[
        float | None, typer.Option(help="Signal-to-noise ratio of other voices, in dB.")
    ] = None,
    speakers: Annotated[
        int, typer.Option(min=1, help="How many of them; 1 is two people at once.")
    ] = BABBLE_VOICES,
    pauses: Annotated[
        float, typer.Option(min=0, help="Seconds that every second recording's pauses gain.")
    ] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first recordings.")] = None,
    seed: Annotated[int, typer.Option(help="Of places and neighbours.")] = 0,
) -> None:
    """Pool voices into one set."""
    try:
        voices = {folder.name: read_samples(folder) for folder in folders}
        if len(voices) < len(folders):
            raise DataError("Two folders have one name: a voice's name is its folder's.")
        named = {voice: {s.name: s for s in samples} for voice, samples in voices.items()}
        names = dict.fromkeys(name for samples in named.values() for name in samples)
        pairs = in_turns(list(names), named)
        out.mkdir(parents=True, exist_ok=True)
        entries = []
        chosen, joined = pairs[:limit], minutes is not None or babble is not None or pauses > 0
        tracked = track(chosen, "Joining", console=console, disable=not joined)
        for number, (voice, sample) in enumerate(tracked):
            audio, start = os.path.relpath(sample.audio, out), 0.0
            if joined:
                others = [s for s in voices[voice] if s.name != sample.name]
                own = load_audio(sample.audio, None)
                if pauses and number % 2:
                    own, key = lengthened(own, pauses, SAMPLING_RATE, sample.key)
                    sample = replace(sample, key=key)
                length = 60 * (minutes or 0)
                samples, start = hidden(own, sample.name, others, length, seed, pauses)
                if babble is not None:
                    rest = [s for v, part in voices.items() if v != voice for s in part]
                    heard = [s for s in rest if s.name != sample.name] or others
                    samples = behind(samples, sample, heard, babble, speakers, seed)
                audio = f"{voice}-{sample.name}.flac"
                write(out / audio, samples)
            entries.append(entry(sample, voice, audio, start))
        write_jsonl(out / "set.jsonl", entries)
    except (SpeechPruneError, OSError) as error:
        console.print(f"Error: {error}", markup=False)
        raise typer.Exit(USER_ERROR) from error
    print(f"{len(entries)} recordings of {len({e['group'] for e in entries})} dialogues in {out}")


if __name__ == "__main__":
    typer.run(main)
