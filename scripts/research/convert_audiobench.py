#!/usr/bin/env python3
"""Turn AudioBench's four-choice sets into what ``speechprune-ort eval`` reads.

    python scripts/research/convert_audiobench.py OUT test-*.parquet [--min-seconds 60]

DREAM-TTS and CN-College-Listen are published as Parquet files with the columns ``context`` (the
audio: ``bytes`` of a file), ``instruction`` (the question), ``choices`` (one text, a choice a line,
each with its letter) and ``answer`` (one of them). OUT gets ``set.jsonl`` and ``audio/NUMBER.wav``.
Recordings of 60 seconds or less are left out, as arXiv:2412.12009 does.

Needs ``pip install -e '.[eval]'`` (pyarrow).
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import soundfile
import typer
from rich.console import Console

from speechprune_ort.errors import DataError
from speechprune_ort.files import write_jsonl

USER_ERROR = 2
MIN_SECONDS = 60.0
COLUMNS = ("context", "instruction", "choices", "answer")
CHOICE = re.compile(r"\(?([A-Z])[.):]\s*(.+?)\s*(?=(?:[\n,;]\s*)?\(?[A-Z][.):]\s|\Z)", re.DOTALL)

console = Console(stderr=True, highlight=False, soft_wrap=True)


class ConvertError(Exception):
    """Something the user can act on, in one sentence."""


def split_choices(text: str) -> list[str]:
    r"""Choices of one text, letters kept.

    >>> split_choices("(A) A bus.\n(B) A train. (C) By car")
    ['A. A bus.', 'B. A train.', 'C. By car']
    """
    found = [f"{letter}. {choice}" for letter, choice in CHOICE.findall(text.strip())]
    letters = [choice[0] for choice in found]
    if len(found) < 2 or letters != [chr(ord("A") + i) for i in range(len(found))]:
        raise ConvertError(f"{text!r} is no list of choices A, B, ...")
    return found


def rows(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Rows of Parquet files, one after the other.

    Raises:
        ConvertError: pyarrow is missing, or a file is not of this layout.
    """
    try:
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ConvertError("pyarrow is not installed: pip install -e '.[eval]'.") from error
    for path in paths:
        try:
            file = pyarrow.parquet.ParquetFile(path)
        except (OSError, ValueError) as error:
            raise ConvertError(f"{path} is no Parquet file ({error}).") from error
        absent = set(COLUMNS) - set(file.schema_arrow.names)
        if absent:
            raise ConvertError(f"{path} has no column {min(absent)}: it is of another layout.")
        for batch in file.iter_batches(batch_size=16, columns=list(COLUMNS)):
            yield from batch.to_pylist()


def main(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    parquet: Annotated[list[Path], typer.Argument(help="Files of one split, in order.")],
    min_seconds: Annotated[float, typer.Option(help="Only recordings longer.")] = MIN_SECONDS,
) -> None:
    """Convert Parquet files of AudioBench into OUT."""
    kept: list[dict[str, Any]] = []
    short = 0
    try:
        if (out / "set.jsonl").exists():
            raise ConvertError(f"{out} holds a set already: give another folder.")
        (out / "audio").mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(rows(parquet)):
            try:
                samples, rate = soundfile.read(io.BytesIO(row["context"]["bytes"]))
                choices = split_choices(row["choices"])
            except (ConvertError, KeyError, TypeError, soundfile.LibsndfileError) as error:
                raise ConvertError(f"Row {number} cannot be converted: {error}") from error
            if len(samples) / rate <= min_seconds:
                short += 1
                continue
            wav = out / "audio" / f"{number:05d}.wav"
            soundfile.write(wav, samples, rate)
            entry = {
                "id": f"{number:05d}",
                "audio": f"audio/{wav.name}",
                "question": row["instruction"],
                "choices": choices,
                "answer": row["answer"],
            }
            kept.append(entry)
        write_jsonl(out / "set.jsonl", kept)
    except (ConvertError, DataError, OSError) as error:
        console.print(f"Error: {error}", markup=False)
        raise typer.Exit(USER_ERROR) from error
    console.print(f"{short} recordings of {min_seconds:g} s or less were left out")
    print(f"{len(kept)} samples in {out / 'set.jsonl'}")


if __name__ == "__main__":
    typer.run(main)
