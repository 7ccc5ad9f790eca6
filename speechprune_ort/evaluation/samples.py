"""Recordings with a question and choices, from SPIRAL's own files, a plain JSONL or JSON."""

from __future__ import annotations

import hashlib
import os
import random
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from speechprune_ort.errors import AudioError, DataError, OptionError
from speechprune_ort.evaluation.layout import OWN, Layout
from speechprune_ort.text import check_path, check_text, folder_of, read_json, read_objects

__all__ = [
    "Sample",
    "SampleSet",
    "chance",
    "read_samples",
    "read_set",
    "read_whole_set",
    "readable",
    "sample_by_kind",
    "shuffled",
]

SPIRAL_FILES = ("data.jsonl", "data_h.jsonl")
LONGEST = 1e7  # seconds: no recording is longer
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
        group: name that samples share which are not independent evidence, such as one dialogue in
            several voices: intervals are over groups. Empty if the sample is a group of its own.
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
    def letters(self) -> str:
        """One capital letter for each choice."""
        return ascii_uppercase[: len(self.choices)]


def chance(*parts: object) -> random.Random:
    """A random generator seeded by these parts, the same on every machine."""
    return random.Random("/".join(map(str, parts)))  # noqa: S311 - no secrets are made of it


@dataclass(frozen=True, slots=True)
class SampleSet:
    """What a file or folder holds.

    Attributes:
        samples: in order.
        refused: lines that are not samples, such as ``line 3``, each with the reason.
        files: sha256 of what was read of each file.
    """

    samples: list[Sample]
    refused: Mapping[str, str]
    files: Mapping[Path, str] = field(default_factory=dict)


def read_samples(data: Path, layout: Layout = OWN) -> list[Sample]:
    """Read a set of recordings with choices, every line of which must be one.

    Args:
        data: as in ``read_set``.
        layout: as in ``read_set``.

    Raises:
        DataError: nothing is there, or a line is not a sample; the message names the line.
    """
    return read_whole_set(data, layout).samples


def read_whole_set(data: Path, layout: Layout = OWN) -> SampleSet:
    """What ``read_samples`` reads, as it reads it, with the sums of the files."""
    found = read_set(data, layout)
    for reason in found.refused.values():
        raise DataError(reason)
    return found


def read_set(data: Path, layout: Layout = OWN) -> SampleSet:
    """Read a set of recordings with choices; lines that are not samples come with their errors.

    Args:
        data: SPIRAL's folder (``data.jsonl``, ``data_h.jsonl``, ``wavs/``), or a file with one
            object per line (JSONL), or an array of objects (JSON): ``audio`` (path, relative to the
            file, or to the working folder where that is a pipe), ``question``, ``choices`` (list of
            texts, letters optional), ``answer`` (a choice's text, letter or index), and where known
            ``id``, ``kind``, ``transcript``, ``key`` ([start, end] in seconds), ``group``.
        layout: layout of a file whose keys have other names.

    Raises:
        DataError: nothing is there, it cannot be read, or none of its lines is a sample; the
            message names the first line.
        OptionError: SPIRAL's folder has a layout of its own.
    """
    check_path(data, "The path of the samples")
    refused: dict[str, str] = {}
    sums: dict[Path, str] = {}
    if data.exists() and not data.is_dir():
        folder = folder_of(data)

        def parse(entry: Mapping[str, Any], _: Path, number: int) -> Sample:
            return _plain(layout(entry), folder, number)

        return _filled(data, _read_lines(data, parse, refused, sums), refused, sums)
    if layout != OWN:
        raise OptionError(
            f"--map is for a file, and {data} is not one: give the JSON or JSONL file."
        )
    found = [data / name for name in SPIRAL_FILES if (data / name).is_file()]
    if not found:
        raise DataError(
            f"{data} holds neither data.jsonl nor data_h.jsonl: give SPIRAL's folder or a JSONL "
            "file."
        )
    times = _key_times(data / "key_times.json")
    samples: dict[str, Sample] = {}
    for path in found:
        hard = path.name == SPIRAL_FILES[1]
        for sample in _read_lines(path, _spiral, refused, sums, f"{path.name} "):
            known = samples.get(sample.name, sample)
            samples[sample.name] = replace(
                known, hard=hard or known.hard, key=times.get(sample.name)
            )
    return _filled(data, list(samples.values()), refused, sums)


def readable(audio: Path) -> Path:
    """The path of a sample's recording, which is read more than once.

    Raises:
        AudioError: it is a pipe or a device, which would be read once, or never end.
    """
    if os.path.exists(audio) and not (os.path.isfile(audio) or os.path.isdir(audio)):  # noqa: PTH110, PTH112, PTH113
        raise AudioError(
            f"{audio} is a pipe or a device, and a set's recordings are read more than once: give "
            "a file."
        )
    return audio


def _filled(
    data: Path, samples: list[Sample], refused: Mapping[str, str], sums: Mapping[Path, str]
) -> SampleSet:
    if not samples:
        raise DataError(
            next(
                iter(refused.values()),
                f"{data} holds no sample: see the format in docs/guide/evaluate.md.",
            )
        )
    return SampleSet(samples, refused, sums)


def _read_lines(
    path: Path, parse: Any, refused: dict[str, str], sums: dict[Path, str], prefix: str = ""
) -> list[Sample]:
    lines: dict[str, int] = {}
    samples, digest = [], hashlib.sha256()  # of what is read: a pipe cannot be read again
    for line in read_objects(path, digest.update):
        reason = line.error
        if not reason:
            try:
                sample: Sample = parse(line.entry, path, line.number)
                first = lines.setdefault(sample.name, line.number)
                if first != line.number:
                    raise DataError(
                        f"it has the id {sample.name!a} of {line.word} {first}: ids must be unique"
                    )
                samples.append(sample)
                continue
            except KeyError as error:
                reason = f"it has no {error}"
            except (DataError, TypeError, ValueError, IndexError, AttributeError) as error:
                reason = str(error).rstrip(".")
            reason = (
                f"{line.word.capitalize()} {line.number} of {path} is not a sample ({reason}): see "
                "the format in docs/guide/evaluate.md."
            )
        refused[f"{prefix}{line.word} {line.number}"] = reason
    sums[path] = digest.hexdigest()
    return samples


def _spiral(entry: Mapping[str, Any], path: Path, _: int) -> Sample:
    test, meta, combined = (
        entry["test_question"],
        entry["metadata"],
        entry["audio_data"]["combined"],
    )
    name = _name(meta, None)
    own = path.parent / "wavs" / f"{name}.wav"
    # The published paths start above the folder that holds them.
    folder, file = _text(combined, "audio_folder"), combined["audio_files"][0]
    published = path.parent.parent / folder / check_path(file, "'audio_files'")
    for place in (own, published):
        check_path(place, "The path of the recording")
    choices, answer = _choices(test["choices"], test["correct_answer"])
    sentences = [check_text(text, "A sentence", DataError) for text in combined["sentences"]]
    return Sample(
        name,
        published if published.exists() and not own.exists() else own,
        _question(test),
        choices,
        answer,
        kind=_text(meta, "transcript_type"),
        transcript=" ".join(sentences),
    )


def _plain(entry: Mapping[str, Any], folder: Path, number: int) -> Sample:
    choices, answer = _choices(entry["choices"], entry["answer"])
    audio = check_path(entry["audio"], "'audio'")
    key = entry.get("key")
    return Sample(
        _name(entry, number),
        check_path(folder / audio, "'audio'"),
        _question(entry),
        choices,
        answer,
        kind=_text(entry, "kind", ""),
        transcript=None if entry.get("transcript") is None else _text(entry, "transcript"),
        key=None if key is None else _span(key, "'key'"),
        group=_label(entry, "group", ""),
    )


def _text(entry: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = entry.get(name, default) if default is not None else entry[name]
    return check_text(value, f"'{name}'", DataError)


def _question(entry: Mapping[str, Any]) -> str:
    question = _text(entry, "question").strip()
    if not question:
        raise DataError("the question is empty")
    return question


def _label(entry: Mapping[str, Any], name: str, default: object) -> str:
    """A text, or a whole number as one."""
    value = entry.get(name)
    value = default if value is None else value
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    return check_text(value, f"'{name}'", DataError)


def _name(entry: Mapping[str, Any], number: int | None) -> str:
    return _label(entry if number else {"id": entry["id"]}, "id", number)


def _span(value: object, what: str) -> tuple[float, float]:
    """Start and end in seconds."""
    ends = [end for end in (value if isinstance(value, list) else ()) if _is_number(end)]
    if not isinstance(value, list) or not len(value) == len(ends) == 2:
        raise DataError(f"{what} must be [start, end] in seconds")
    if not 0 <= ends[0] <= ends[1] <= LONGEST:
        raise DataError(f"{what} must be [start, end] in seconds, start first")
    return float(ends[0]), float(ends[1])


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _choices(texts: object, answer: object) -> tuple[tuple[str, ...], int]:
    """Texts without letters, and which is right; ``answer`` is a text, a letter or an index.

    >>> _choices(["A. Yes", "B. No"], "B. No")
    (('Yes', 'No'), 1)
    >>> _choices(["Yes", "No"], "A")
    (('Yes', 'No'), 0)
    """
    if not isinstance(texts, list):
        raise DataError("'choices' must be a list of texts")
    given = [check_text(text, "A choice", DataError).strip() for text in texts]
    plain = tuple(_without_letter(*item) for item in enumerate(given))
    if len(plain) < 2 or not all(plain):
        raise DataError("there must be at least two choices, none of them empty")
    if len(plain) > len(ascii_uppercase):
        raise DataError(f"there must be at most {len(ascii_uppercase)} choices")
    if isinstance(answer, int) and not isinstance(answer, bool):
        if not 0 <= answer < len(plain):
            raise DataError(
                f"there is no choice {answer if abs(answer) < 100 else 'of that number'}"
            )
        return plain, answer
    wanted = check_text(answer, "'answer'", DataError).strip()
    for candidates in (given, plain, list(ascii_uppercase[: len(plain)])):
        if wanted in candidates:
            return plain, candidates.index(wanted)
    found = LETTER.match(wanted)
    if found and ord(found[1]) - ord("A") < len(plain):
        return plain, ord(found[1]) - ord("A")
    raise DataError(f"the answer {wanted!a:.60} is not one of the choices")


def _without_letter(index: int, text: str) -> str:
    """A choice without the letter of its place; any other letter is part of the text.

    >>> _without_letter(1, "(B) Red"), _without_letter(0, "B. B. King")
    ('Red', 'B. B. King')
    """
    found = LETTER.match(text)
    own = found is not None and ord(found[1]) - ord("A") == index
    return LETTER.sub("", text) if own else text


def _key_times(path: Path) -> dict[str, tuple[float, float]]:
    """What ``scripts/research/synthesize_spiral`` writes beside recordings; empty if missing."""
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path} must be an object of [start, end] by id: write it again.")
    try:
        return {
            name: _span(value, f"the key sentence of {name!a}") for name, value in content.items()
        }
    except DataError as error:
        raise DataError(f"{path} cannot be used: {error}.") from None


def sample_by_kind(samples: Iterable[Sample], count: int, seed: int) -> list[Sample]:
    """A random subset in which every kind has its share, in the order of the set.

    Args:
        samples: the samples to draw from.
        count: size of the subset; all samples where there are fewer.
        seed: seed of the draw.
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
