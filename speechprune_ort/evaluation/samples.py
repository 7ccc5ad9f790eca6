"""Recordings with a question and choices, from SPIRAL's own files or a plain JSONL."""

from __future__ import annotations

import json
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from speechprune_ort.errors import DataError

__all__ = ["Sample", "chance", "read_samples", "sample_by_kind", "shuffled"]

SPIRAL_FILES = ("data.jsonl", "data_h.jsonl")
LETTER = re.compile(r"^\(?([A-Z])[.):]\s*")


@dataclass(frozen=True, slots=True)
class Sample:
    """A recording, a question about it, and choices of which one is right.

    Attributes:
        name: id, unique in its set.
        audio: path of the recording.
        question: the question.
        choices: texts without letters.
        answer: index of the right choice.
        kind: type of recording, such as ``lecture``; what sampling is stratified by.
        transcript: what is said, or None where that is not known.
        key: (start, end) in seconds of the sentence that holds the answer, or None.
        hard: whether the set marks it as hard (SPIRAL-H).
        group: of samples that are no independent evidence, such as one dialogue in several
            voices: intervals are over groups. Empty: it is one of its own.
    """

    name: str
    audio: Path
    question: str
    choices: tuple[str, ...]
    answer: int
    kind: str = ""
    transcript: str | None = None
    key: tuple[float, float] | None = None
    hard: bool = False
    group: str = ""

    @property
    def cluster(self) -> str:
        """Its group, or its name where it has none."""
        return self.group or self.name

    @property
    def letters(self) -> str:
        """One capital letter a choice."""
        return ascii_uppercase[: len(self.choices)]


def chance(*parts: object) -> random.Random:
    """A source of chance for these parts, the same on every machine."""
    return random.Random("/".join(map(str, parts)))  # noqa: S311 - no secrets are made of it


def read_samples(data: Path) -> list[Sample]:
    """Read a set of recordings with choices.

    Args:
        data: SPIRAL's folder (``data.jsonl``, ``data_h.jsonl``, ``wavs/``), or a JSONL file with
            one object a line: ``audio`` (path, relative to the file), ``question``, ``choices``
            (list of texts, letters optional), ``answer`` (a choice's text, letter or index), and
            where known ``id``, ``kind``, ``transcript``, ``key`` ([start, end] in seconds),
            ``group``.

    Raises:
        DataError: nothing is there, or a line is not of this form; the message names the line.
    """
    if data.is_file():
        return _unique(data, _filled(data, _read_lines(data, _plain)))
    found = [data / name for name in SPIRAL_FILES if (data / name).is_file()]
    if not found:
        raise DataError(
            f"{data} holds neither data.jsonl nor data_h.jsonl: give SPIRAL's folder or a JSONL."
        )
    times = _key_times(data / "key_times.json")
    samples: dict[str, Sample] = {}
    for path in found:
        hard = path.name == SPIRAL_FILES[1]
        for sample in _read_lines(path, _spiral):
            known = samples.get(sample.name, sample)
            samples[sample.name] = replace(
                known, hard=hard or known.hard, key=times.get(sample.name)
            )
    return _filled(data, list(samples.values()))


def _filled(data: Path, samples: list[Sample]) -> list[Sample]:
    if not samples:
        raise DataError(f"{data} holds no sample.")
    return samples


def _unique(path: Path, samples: list[Sample]) -> list[Sample]:
    names = [sample.name for sample in samples]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise DataError(f"{path} has the id {min(twice)!r} more than once: ids must be unique.")
    return samples


def _read_lines(path: Path, parse: Any) -> list[Sample]:
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            samples.append(parse(json.loads(line), path, number))
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise DataError(
                f"Line {number} of {path} is not a sample ({type(error).__name__}: {error}): see "
                "the format in docs/eval.md."
            ) from None
    return samples


def _spiral(entry: Mapping[str, Any], path: Path, _: int) -> Sample:
    test, meta, combined = (
        entry["test_question"],
        entry["metadata"],
        entry["audio_data"]["combined"],
    )
    name = str(meta["id"])
    own = path.parent / "wavs" / f"{name}.wav"
    # The published paths start above the folder that holds them.
    published = path.parent.parent / combined["audio_folder"] / combined["audio_files"][0]
    choices, answer = _choices(test["choices"], test["correct_answer"])
    return Sample(
        name,
        published if published.exists() and not own.exists() else own,
        test["question"].strip(),
        choices,
        answer,
        kind=meta["transcript_type"],
        transcript=" ".join(combined["sentences"]),
    )


def _plain(entry: Mapping[str, Any], path: Path, number: int) -> Sample:
    choices, answer = _choices(entry["choices"], entry["answer"])
    key = entry.get("key")
    question = entry["question"].strip()
    if not question:
        raise ValueError("the question is empty")
    return Sample(
        str(entry.get("id", number)),
        path.parent / entry["audio"],
        question,
        choices,
        answer,
        kind=str(entry.get("kind", "")),
        transcript=entry.get("transcript"),
        key=(float(key[0]), float(key[1])) if key is not None else None,
        group=str(entry.get("group", "")),
    )


def _choices(texts: Sequence[str], answer: str | int) -> tuple[tuple[str, ...], int]:
    """Texts without letters, and which is right; ``answer`` is a text, a letter or an index.

    >>> _choices(["A. Yes", "B. No"], "B. No")
    (('Yes', 'No'), 1)
    >>> _choices(["Yes", "No"], "A")
    (('Yes', 'No'), 0)
    """
    given = [text.strip() for text in texts]
    plain = tuple(LETTER.sub("", text) for text in given)
    if len(plain) < 2 or not all(plain):
        raise ValueError("there must be at least two choices, none of them empty")
    if isinstance(answer, int):
        if not 0 <= answer < len(plain):
            raise ValueError(f"there is no choice {answer}")
        return plain, answer
    wanted = answer.strip()
    for candidates in (given, plain, list(ascii_uppercase[: len(plain)])):
        if wanted in candidates:
            return plain, candidates.index(wanted)
    found = LETTER.match(wanted)
    if found and ord(found[1]) - ord("A") < len(plain):
        return plain, ord(found[1]) - ord("A")
    raise ValueError(f"the answer {answer!r} is none of the choices")


def _key_times(path: Path) -> dict[str, tuple[float, float]]:
    """What ``scripts/synthesize_spiral.py`` writes beside the recordings; empty without it."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return {name: (float(start), float(end)) for name, (start, end) in content.items()}


def sample_by_kind(samples: Iterable[Sample], count: int, seed: int) -> list[Sample]:
    """A random subset in which every kind has its share, in the order of the set.

    Args:
        samples: to draw from.
        count: size of the subset; all samples where there are fewer.
        seed: of the draw.
    """
    every = list(samples)
    if count >= len(every):
        return every
    kinds: dict[str, list[str]] = defaultdict(list)
    for sample in every:
        kinds[sample.kind].append(sample.name)
    shares = {kind: count * len(names) / len(every) for kind, names in kinds.items()}
    sizes = {kind: int(share) for kind, share in shares.items()}
    largest = sorted(shares, key=lambda kind: (sizes[kind] - shares[kind], kind))
    for kind in largest[: count - sum(sizes.values())]:
        sizes[kind] += 1
    kept: set[str] = set()
    for kind, names in kinds.items():
        kept.update(chance(seed, kind).sample(names, sizes[kind]))
    return [sample for sample in every if sample.name in kept]


def shuffled(sample: Sample, seed: int) -> Sample:
    """The sample with its choices in an order drawn for its name and the seed."""
    order = list(range(len(sample.choices)))
    chance(seed, sample.name).shuffle(order)
    choices = tuple(sample.choices[index] for index in order)
    return replace(sample, choices=choices, answer=order.index(sample.answer))
