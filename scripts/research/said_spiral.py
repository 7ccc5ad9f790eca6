#!/usr/bin/env python3
"""Ask which of four sentences was said: of SPIRAL, questions that share no word with its speech.

    python -m research.said_spiral SET OUT [--seed 7]

SET is a folder that ``pool_spiral.py`` has made of recordings as they are. OUT gets a ``set.jsonl``
of the same recordings: the right choice is a sentence of the transcript, the others are sentences
of other recordings, of about as many words; all are lower case, without punctuation.

Needs ``pip install -e '.[cpu]'``.
"""

from __future__ import annotations

import os
import random
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from research.natural import SAID
from rich.console import Console
from user_errors import one_sentence

from speechprune_ort.errors import DataError
from speechprune_ort.evaluation.samples import read_samples
from speechprune_ort.files import write_jsonl

SHORTEST, LONGEST = 6, 25  # words of a sentence that is asked for
NEAREST = 40  # sentences by length, from which the wrong ones are drawn

console = Console(stderr=True, highlight=False, soft_wrap=True)


def sentences(text: str) -> list[str]:
    """Sentences of a length that can be asked for, lower case, letters and apostrophes.

    >>> sentences("Well. The roof of the old barn isn't dry, is it?")
    ["the roof of the old barn isn't dry is it"]
    """
    parts = re.split(r"(?<=[.?!])\s+", text)
    plain = [re.sub(r"[^a-z' ]", "", re.sub(r"\s+", " ", p.lower())).strip() for p in parts]
    return [sentence for sentence in plain if SHORTEST <= len(sentence.split()) <= LONGEST]


def main(
    folder: Annotated[Path, typer.Argument(metavar="SET", help="Folder with a set.jsonl.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    seed: Annotated[int, typer.Option(help="Of sentences and their order.")] = 7,
) -> None:
    """Make the set."""
    with one_sentence(console, OSError):
        rng = random.Random(seed)  # noqa: S311 - no secrets
        samples = read_samples(folder / "set.jsonl")
        said = [sentences(sample.transcript or "") for sample in samples]
        entries: list[dict[str, Any]] = []
        for number, sample in enumerate(samples):
            others = [s for other, ss in enumerate(said) if other != number for s in ss]
            if not said[number] or len(others) < NEAREST:
                raise DataError(f"{folder}: {sample.name} or the others have too few sentences.")
            right = rng.choice(said[number])
            length = len(right.split())
            others.sort(key=lambda sentence: abs(len(sentence.split()) - length))
            choices = [right, *rng.sample(others[:NEAREST], 3)]
            rng.shuffle(choices)
            entries.append(
                {
                    "id": sample.name,
                    "group": sample.group,
                    "audio": os.path.relpath(sample.audio, out),
                    "question": SAID,
                    "choices": choices,
                    "answer": choices.index(right),
                    "kind": sample.kind,
                    "transcript": sample.transcript,
                }
            )
        out.mkdir(parents=True, exist_ok=True)
        write_jsonl(out / "set.jsonl", entries)
    print(f"{len(entries)} recordings in {out}")


if __name__ == "__main__":
    typer.run(main)
