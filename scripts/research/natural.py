#!/usr/bin/env python3
"""Make sets for ``speechprune-ort eval`` from recordings of people, and hide them in longer ones.

    scripts/research/natural SET_FOLDER [OUT]                    # makes the sets and runs them
    python -m research.natural SET_FOLDER OUT [--minutes 1,5,20] [--limit 60] [--pooled]
                               [--seed 0]

SET_FOLDER holds ``manifest.jsonl``, a clip a line (``file``, ``transcript``, ``speaker``,
``kind``), and, where there are some, ``orders.jsonl`` with spoken orders (``file``, ``speaker``,
and ``slots`` with ``coffeeDrink``, ``size`` and ``roast``). OUT gets a folder with a ``set.jsonl``
for each kind of question and each length:

- ``said``: which of four transcripts was said; the others are of clips of the same kind and of
  about the same length, and all are written alike (lower case, no punctuation);
- ``orders``: which drink, size or roast was ordered, of four. Where a slot has three values in
  all, the fourth choice is that none was named, and it is right as often as one of the others;
- ``facts``: questions on longer clips, from ``natural_facts.jsonl`` or ``--facts``: each names its
  clip and the words of the transcript that answer it, and is left out where there is no such clip.

``-own`` is the clip as it was recorded; ``-1``, ``-5`` and ``-20`` are recordings of so many
minutes with the clip at a random place among others of the manifest. None of those holds an order
or one of the four transcripts, and a clip that is longer is left out: others take its place, as far
as there are some. A sample's group is its speaker, so that intervals are over speakers; where the
folder does not name one ("not named"), each recording is a group.

With ``--pooled`` all three kinds of question are one set of each length, ``people-1`` and so on.

The recordings stay where they are; what is joined is written to OUT. Needs ``pip install -e
'.[cpu]'``.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import soundfile
import typer
from research.pool_spiral import hidden, write
from rich.console import Console
from rich.progress import track
from user_errors import one_sentence

from speechprune_ort.errors import DataError, SpeechPruneError
from speechprune_ort.evaluation.samples import Sample, chance, read_samples
from speechprune_ort.files import whole_folder, write_jsonl
from speechprune_ort.runtime.hearing.audio import load_audio
from speechprune_ort.text import check_path, check_text, check_type, read_jsonl

CHOICES = 4
SHORTEST, LONGEST = 4, 40  # words of a transcript that is asked for
NEAREST = 12  # transcripts by length, from which the wrong ones are drawn
UNNAMED = "not named"
NONE_NAMED = "none was named"
SAID = "Which of these was said?"
SLOTS = {
    "coffeeDrink": ("drink", "Which drink was ordered?"),
    "size": ("size", "Which size was ordered?"),
    "roast": ("roast", "Which roast was ordered?"),
}
FACTS = Path(__file__).with_name("natural_facts.jsonl")

console = Console(stderr=True, highlight=False, soft_wrap=True)
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Clip:
    """A recording of the folder.

    Attributes:
        path: of the sound file.
        speaker: as the folder names them.
        kind: of speech, such as ``noisy``.
        transcript: what is said, or empty.
        slots: of an order, by name.
    """

    path: Path
    speaker: str
    kind: str
    transcript: str = ""
    slots: Mapping[str, str] = field(default_factory=dict)

    @property
    def plain(self) -> str:
        """The transcript as it is shown and compared.

        >>> Clip(Path("a.wav"), "Ann", "read", "No, I don't!").plain
        "no i don't"
        """
        return " ".join(re.findall(r"[\w']+", self.transcript.lower()))


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a clip.

    Attributes:
        name: unique in its set.
        clip: the recording that answers it.
        kind: what tables are split by.
        text: the question.
        choices: the right one first.
        located: whether the whole clip is the answer, so that its time is the key's.
    """

    name: str
    clip: Clip
    kind: str
    text: str
    choices: tuple[str, ...]
    located: bool = True


def read_clips(path: Path) -> list[Clip]:
    """Clips of a manifest.

    Raises:
        DataError: it cannot be read, or a line is no clip.
    """
    clips = []
    for line in read_jsonl(path):
        try:
            if line.error:
                raise DataError(line.error.rstrip("."))
            entry = line.entry
            file = path.parent / check_path(entry["file"], "'file'")
            if not file.is_file():
                raise DataError(f"there is no file {file}")
            slots = check_type(entry.get("slots") or {}, dict, "'slots'")
            clips.append(
                Clip(
                    file,
                    check_text(entry["speaker"], "'speaker'", DataError),
                    check_text(entry["kind"], "'kind'", DataError),
                    check_text(entry.get("transcript") or "", "'transcript'", DataError),
                    {
                        name: check_text(value, f"'{name}'", DataError)
                        for name, value in slots.items()
                    },
                )
            )
        except (KeyError, SpeechPruneError) as error:
            reason = f"it has no {error}" if isinstance(error, KeyError) else str(error).rstrip(".")
            raise DataError(f"Line {line.number} of {path} is not a clip: {reason}.") from None
    return clips


def in_turns(items: Iterable[Item], key: Any) -> list[Item]:
    """One of each key, then the next of each: the first n are of as many keys as can be.

    >>> in_turns(["a1", "a2", "a3", "b1"], lambda item: item[0])
    ['a1', 'b1', 'a2', 'a3']
    """
    seen: Counter[Any] = Counter()
    placed = []
    for number, item in enumerate(items):
        placed.append((seen[key(item)], number, item))
        seen[key(item)] += 1
    return [item for _, _, item in sorted(placed, key=lambda place: place[:2])]


def holds(text: str, part: str) -> bool:
    """Whether ``part`` is among the words of ``text``.

    >>> holds("iced mocha", "mocha"), holds("mochaccino", "mocha")
    (True, False)
    """
    return f" {part} " in f" {text} "


def said(clips: Sequence[Clip], seed: int) -> Iterator[Question]:
    """Which of four transcripts was said."""
    usable = [clip for clip in clips if SHORTEST <= len(clip.plain.split()) <= LONGEST]
    for clip in usable:
        others = {c.plain: c for c in usable if c.plain != clip.plain}
        alike = [text for text, other in others.items() if other.kind == clip.kind]
        texts = alike if len(alike) >= CHOICES - 1 else list(others)
        length = len(clip.plain.split())
        texts.sort(key=lambda text: (abs(len(text.split()) - length), text))
        if len(texts) < CHOICES - 1:
            raise DataError(f"{len(usable)} transcripts are too few for questions of four choices.")
        wrong = chance(seed, "said", clip.path.stem).sample(texts[:NEAREST], CHOICES - 1)
        yield Question(clip.path.stem, clip, clip.kind, SAID, (clip.plain, *wrong))


def ordered(orders: Sequence[Clip], seed: int) -> Iterator[Question]:
    """Which drink, size and roast was ordered."""
    for slot, (kind, text) in SLOTS.items():
        values = sorted({order.slots[slot] for order in orders if slot in order.slots})
        if len(values) < CHOICES - 1:
            continue
        having = [order for order in orders if slot in order.slots]
        if len(values) < CHOICES:
            without = [order for order in orders if slot not in order.slots]
            count = min(len(without), round(len(having) / len(values)))
            having += chance(seed, "none", slot).sample(without, count)
            values.append(NONE_NAMED)
        for order in having:
            right = order.slots.get(slot, NONE_NAMED)
            heard = [right, *(value for name, value in order.slots.items() if name != slot)]
            # "coffee" is not wrong for "iced coffee", nor "medium" with a medium roast.
            wrong = [
                v for v in values if not any(holds(known, v) or holds(v, known) for known in heard)
            ]
            if len(wrong) >= CHOICES - 1:
                drawn = chance(seed, slot, order.path.stem).sample(wrong, CHOICES - 1)
                name = f"{order.path.stem}-{kind}"
                yield Question(name, order, kind, text, (right, *drawn))


def facts(clips: Sequence[Clip], path: Path) -> Iterator[Question]:
    """Questions that were written for clips of the folder.

    Raises:
        DataError: a line is no question, or its clip does not say what answers it.
    """
    named = {clip.path.stem: clip for clip in clips}
    asked: Counter[str] = Counter()
    for line in read_jsonl(path):
        try:
            entry = line.entry
            clip = named.get(entry["clip"])
            if clip is None:
                continue
            asked[entry["clip"]] += 1
            words = re.findall(r"[\w']+", entry["said"].lower())
            if not holds(clip.plain, " ".join(words)):
                raise DataError(f"{clip.path.name} does not say {entry['said']!a}")
            choices = [entry["answer"], *(c for c in entry["choices"] if c != entry["answer"])]
            if len(choices) != len(entry["choices"]):
                raise DataError("its answer is not one of its choices")
            name = f"{entry['clip']}-{asked[entry['clip']]}"
            yield Question(name, clip, clip.kind, entry["question"], tuple(choices), located=False)
        except (KeyError, TypeError, AttributeError, DataError) as error:
            reason = line.error.rstrip(".") or (
                f"it has no {error}" if isinstance(error, KeyError) else str(error)
            )
            raise DataError(f"Line {line.number} of {path} is no question: {reason}.") from None


def neighbours(question: Question, clips: Sequence[Clip]) -> list[Sample]:
    """Clips that may stand beside the key clip: none answers the question."""
    texts = [text for text in question.choices if question.text == SAID]
    return [
        Sample(clip.path.stem, clip.path, "", ("", ""), 0)
        for clip in clips
        if clip != question.clip and not any(holds(clip.plain, text) for text in texts)
    ]


def entry_of(
    question: Question, audio: str, seed: int, start: float | None = None, seconds: float = 0.0
) -> dict[str, Any]:
    """A line of a set; ``start`` is where the clip begins in a longer recording."""
    clip = question.clip
    choices = list(question.choices)
    chance(seed, "choices", question.name).shuffle(choices)
    made: dict[str, Any] = {
        "id": question.name,
        "audio": audio,
        "question": question.text,
        "choices": choices,
        "answer": choices.index(question.choices[0]),
        "kind": question.kind,
        "group": clip.path.stem if UNNAMED in clip.speaker else clip.speaker,
    }
    if clip.transcript:
        made["transcript"] = clip.transcript
    if start is not None and question.located:
        made["key"] = [round(start, 3), round(start + seconds, 3)]
    return made


def fits(clip: Clip, minutes: float) -> bool:
    """Whether a clip is shorter than a recording of so many minutes, and can be hidden in it."""
    seconds: float = soundfile.info(clip.path).duration
    return seconds < 60 * minutes


def make(
    questions: Sequence[Question],
    clips: Sequence[Clip],
    folder: Path,
    minutes: float | None,
    seed: int,
) -> int:
    """Write a set; how many samples it has.

    Raises:
        DataError: the clips do not last that long.
    """
    entries = []
    drawing = track(questions, folder.name, console=console, disable=minutes is None)
    for question in drawing:
        path = question.clip.path
        if minutes is None:
            entries.append(entry_of(question, os.path.relpath(path, folder), seed))
            continue
        folder.mkdir(parents=True, exist_ok=True)
        others = neighbours(question, clips)
        samples, start = hidden(load_audio(path, None), question.name, others, 60 * minutes, seed)
        write(folder / f"{question.name}.flac", samples)
        seconds = soundfile.info(path).duration
        entries.append(entry_of(question, f"{question.name}.flac", seed, start, seconds))
    if entries:
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(folder / "set.jsonl", entries)
        read_samples(folder / "set.jsonl")
    return len(entries)


def main(
    folder: Annotated[Path, typer.Argument(metavar="SET_FOLDER", help="Recordings of people.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    minutes: Annotated[str, typer.Option(help="Lengths of what is joined.")] = "1,5,20",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Most samples of a set, of as many speakers as can be."),
    ] = None,
    facts_file: Annotated[Path, typer.Option("--facts", help="Questions on clips.")] = FACTS,
    pooled: Annotated[bool, typer.Option("--pooled", help="One set for all questions.")] = False,
    seed: Annotated[int, typer.Option(help="Of wrong choices, places and neighbours.")] = 0,
) -> None:
    """Make sets of recordings of people."""
    with one_sentence(console, OSError):
        try:
            lengths = [float(part) for part in minutes.split(",") if part]
        except ValueError:
            raise DataError(
                f"--minutes takes numbers separated by commas, not {minutes!a}."
            ) from None
        if out.exists():
            raise DataError(f"{out} is there already: give another folder, or remove it.")
        clips = read_clips(folder / "manifest.jsonl")
        orders_file = folder / "orders.jsonl"
        orders = read_clips(orders_file) if orders_file.is_file() else []
        asked = {
            "said": list(said(clips, seed)),
            "orders": list(ordered(orders, seed)),
            "facts": list(facts(clips, facts_file)),
        }
        if pooled:
            asked = {"people": [question for questions in asked.values() for question in questions]}
        counts: dict[str, int] = defaultdict(int)
        with whole_folder(out) as partial:
            for name, questions in asked.items():
                turns = in_turns(questions, lambda q: (q.kind, q.clip.speaker))
                turns = in_turns(turns, lambda q: q.kind)
                for length in (None, *lengths):
                    # As many of each length, though the longest clips are not in the shortest.
                    chosen = [q for q in turns if length is None or fits(q.clip, length)][:limit]
                    full = f"{name}-{'own' if length is None else f'{length:g}'}"
                    if count := make(chosen, clips, partial / full, length, seed):
                        counts[full] = count
    for name, count in counts.items():
        print(f"{count:4} samples in {out / name}")


if __name__ == "__main__":
    typer.run(main)
