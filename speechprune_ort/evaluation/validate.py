"""Whether a set can be evaluated: every entry, every recording, and what exactly was read."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.errors import AudioError
from speechprune_ort.evaluation.samples import SampleSet, readable
from speechprune_ort.files import sha256_of
from speechprune_ort.runtime.hearing.audio import AudioStream

__all__ = ["Findings", "recordings_digest", "validate"]


@dataclass(frozen=True, slots=True)
class Findings:
    """What a set holds.

    Attributes:
        samples: number of samples that can be evaluated.
        recordings: number of different files that they are about.
        kinds: number of samples of each kind.
        answers: number of samples whose right choice is the first, second, ... as published.
        choices: number of samples of each number of choices.
        refused: entries that are not samples, each with the reason.
        unusable: recordings that are missing, cannot be read to their end or are silent, each with
            the reason.
        files: sha256 of what was read of each file of questions.
        recordings_sha256: one sha256 over all recordings that are there, see ``recordings_digest``.
    """

    samples: int
    recordings: int
    kinds: Mapping[str, int]
    answers: tuple[int, ...]
    choices: Mapping[int, int]
    refused: Mapping[str, str]
    unusable: Mapping[str, str]
    files: Mapping[Path, str]
    recordings_sha256: str

    @property
    def whole(self) -> bool:
        """Whether nothing is wrong."""
        return not self.refused and not self.unusable

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        sums = {path.name: digest for path, digest in self.files.items()}
        return {**asdict(self), "files": sums}


def validate(
    given: SampleSet,
    progress: Callable[[int, int], None] | None = None,
    audio_options: AudioOptions | None = None,
) -> Findings:
    """Check every sample, and every recording to its end, as an evaluation reads them.

    Args:
        given: the set.
        progress: called with the number of recordings done and of all.
        audio_options: as in ``SpeechLLM.listen``.
    """
    paths = list(dict.fromkeys(sample.audio for sample in given.samples))
    unusable: dict[str, str] = {}
    for done, path in enumerate(paths):
        try:
            stream = AudioStream(readable(path), options=audio_options)
            for _ in stream:
                pass
            stream.refuse_silence()
        except (AudioError, OSError) as error:
            unusable[str(path)] = str(error)
        if progress:
            progress(done + 1, len(paths))
    samples = [s for s in given.samples if str(s.audio) not in unusable]
    answers = Counter(sample.answer for sample in samples)
    return Findings(
        len(samples),
        len(paths) - len(unusable),
        dict(Counter(sample.kind for sample in samples)),
        tuple(answers[index] for index in range(max(answers, default=-1) + 1)),
        dict(sorted(Counter(len(sample.choices) for sample in samples).items())),
        given.refused,
        unusable,
        given.files,
        recordings_digest(path for path in paths if str(path) not in unusable),
    )


def recordings_digest(paths: Iterable[Path]) -> str:
    """One sha256 over those of many files, whatever their order and folder.

    It is that of the sorted lines of their sums: ``sha256sum FILES | cut -c1-64 | sort |
    sha256sum``.

    Args:
        paths: the files; one that is named twice counts once.
    """
    sums = sorted(sha256_of(path) for path in dict.fromkeys(paths))
    return hashlib.sha256("".join(f"{line}\n" for line in sums).encode()).hexdigest()
