"""The loop of stage 3: LoRA on exact pieces, then on what the encoder makes of speech."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from small_model.training.alignment import letter_times, piece_places, word_ends
from small_model.training.facts import FactMaker
from small_model.training.loop import Schedule, blank_out, utterances
from small_model.training.questions import TRANSCRIPT_REQUESTS, Asker, Turn
from small_model.training.reader import End, Exact, Reader, Spoken
from small_model.training.speech import Heard, read_shard
from small_model.training.spelling import (
    Cutter,
    forms_of,
    spoken,
    word_error_rate,
    word_errors,
    words_of,
)
from small_model.training.stacking import Stacker
from small_model.training.text import Dialogue, Lexicon, random_sentence
from small_model.training.voices import plain
from small_model.training.writer import Writer

RATE = 5e-4
STEP_TOKENS = 700  # at least so many audio tokens a step, as one pack
REMEMBERED = 0.97  # of the running means in the curve
JOINED_TOKENS = (1, 1, 1, 1, 1, 300, 700, 1400)  # recordings are joined until they have so many
PICKED = 200  # recordings, until shards are looked for anew
PADDED_SHARE = 0.25  # of the recordings of a layout without a mask
EXACT_SHARE = 0.15  # of the recordings beside speech, for what speech does not say


@dataclass(frozen=True)
class Texts:
    """Writes what recordings of the exact mode say."""

    dialogues: Sequence[Dialogue]
    lexicon: Lexicon
    facts: FactMaker
    rng: random.Random

    def sentences(self) -> list[str]:
        """Up to seven sentences as they are spoken: facts, talk, unrelated words."""
        rng = self.rng
        dialogue = rng.choice(self.dialogues)
        at = rng.choice(dialogue.key)
        talk = list(dialogue.sentences[max(0, at - rng.randint(0, 1)) : at + rng.randint(0, 2)])
        made = [self.facts.fact().sentence for _ in range(rng.randint(1, 3))]
        if rng.random() < 0.15:
            made.append(random_sentence(self.lexicon, rng))
        for sentence in made:
            talk.insert(rng.randint(0, len(talk)), sentence)
        return [spoken(plain(sentence)) for sentence in talk]


def asked_exactly(
    texts: Texts, unseen: FactMaker, exact_of: Exact, count: int
) -> list[tuple[torch.Tensor, str, str]]:
    """Audio tokens of a made-up fact of an unseen form amid others, its question and answer."""
    found = []
    for _ in range(count):
        fact, sentences = unseen.fact(), texts.sentences()
        sentences.insert(texts.rng.randint(0, len(sentences)), spoken(fact.sentence))
        found.append((exact_of(sentences)[0], fact.question, fact.answer))
    return found


def exact(texts: Texts, asker: Asker, exact_of: Exact) -> Iterator[Spoken]:
    """Endless recordings that nobody has spoken."""
    while True:
        sentences = texts.sentences()
        turns = asker.turns(" ".join(sentences))
        audio, ends = exact_of(sentences)
        yield Spoken(audio, turns, ends)


def shuffled(shards: Callable[[], Sequence[Path]], rng: random.Random) -> Iterator[Heard]:
    """Endless training speech, pass by pass; shards that come into being meanwhile are taken up."""
    read: set[Path] = set()
    everything: list[Heard] = []
    left: list[Heard] = []
    while True:
        for path in sorted(set(shards()) - read):
            read.add(path)
            new = list(read_shard(path))
            everything, left = everything + new, left + new
        left = left or list(everything)
        rng.shuffle(left)
        for _ in range(min(PICKED, len(left))):
            yield left.pop()


def real(stream: Iterator[Heard], asker: Asker, ear: Ear, rng: random.Random) -> Iterator[Spoken]:
    """Endless recordings of training speech, some of them joined to longer ones."""
    while True:
        most = rng.choice(JOINED_TOKENS)
        parts = [next(stream)]
        while sum(len(part.features) for part in parts) // ear.model.frames < most:
            parts.append(next(stream))
        turns = asker.turns(" ".join(part.text for part in parts), len(parts) == 1)
        if turns:
            audio, ends = ear.written(parts, rng)
            yield Spoken(audio, turns, ends)


def mixed(
    speech: Iterator[Spoken], texts: Iterator[Spoken], rng: random.Random
) -> Iterator[Spoken]:
    """Endless recordings, one in so many of them spoken by nobody."""
    while True:
        yield next(texts if rng.random() < EXACT_SHARE else speech)


@dataclass(frozen=True)
class Ear:
    """The trained encoder, whose letters say when words end."""

    model: Writer | Stacker
    cutter: Cutter

    @torch.no_grad()
    def written(
        self, parts: Sequence[Heard], rng: random.Random | None = None
    ) -> tuple[torch.Tensor, list[End]]:
        """Audio tokens (tokens, hidden) of stored speech, and where words end.

        With ``rng`` parts of it are masked. In Voxtral's layout the silence up to the end of the
        last window follows, with ``rng`` at times.
        """
        tokens: list[torch.Tensor] = []
        ends: list[End] = []
        for part in parts:
            batch = part.tensor[None]
            if rng is not None:
                blank_out(batch, rng)
            below = self.model.below(batch)
            start = sum(map(len, tokens))
            tokens.append(self.model.top(below)[0])
            last, halves = len(tokens[-1]) - 1, self.model.frames // 2
            said = self.ends(below, part)
            ends += [(start + min(last, at // halves), form) for at, form in said]
        silence = self.model.silence
        if silence is not None and (rng is None or rng.random() < PADDED_SHARE):
            tokens.append(silence[len(tokens[-1]) :])
        return torch.cat(tokens), ends

    def ends(self, below: torch.Tensor, heard: Heard) -> list[End]:
        """Where words end, 25 places a second, in what the layers below make of speech.

        None if it has no time for its letters.
        """
        forms = forms_of(heard.text)
        cuts = [self.cutter.cut(form.lower()) for form in forms]
        if not (found := utterances([heard], self.cutter)):
            return []
        times = letter_times(self.model.speller.scores(below)[0].numpy(), found[0].letters)
        places = piece_places([p for cut in cuts for p in cut], times.tolist(), below.shape[1] // 2)
        words = [index for index, cut in enumerate(cuts) for _ in cut]
        return [(at, forms[word]) for at, word in word_ends(places, words)]


def train(reader: Reader, recordings: Iterator[Spoken], schedule: Schedule) -> None:
    """Train the factors in place on recordings, each of which is made when it is asked for."""
    optimizer = torch.optim.AdamW(reader.masters, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    figures = dict.fromkeys(("answer", "transcript", "heard"), math.nan)
    tokens = 0

    def told() -> dict[str, float]:
        return {"tokens": tokens, **{name: round(value, 3) for name, value in figures.items()}}

    for _ in schedule.steps(optimizer, told):
        pack: list[Spoken] = []
        while sum(len(one.audio) for one in pack) < STEP_TOKENS:
            pack.append(next(recordings))
        loss = reader.loss(pack)
        (loss.total / len(pack)).backward()  # type: ignore[no-untyped-call]
        remember(figures, "heard", loss.heard)
        for one, values in zip(pack, loss.turns, strict=True):
            for turn, value in zip(one.turns, values, strict=True):
                asked = turn.question in TRANSCRIPT_REQUESTS
                remember(figures, "transcript" if asked else "answer", value)
        reader.to_masters()
        torch.nn.utils.clip_grad_norm_(reader.masters, 1.0)
        optimizer.step()
        reader.from_masters()
        tokens += loss.positions


def remember(figures: dict[str, float], name: str, value: float) -> None:
    """Take a value into a running mean; what is not a number is passed over."""
    old = figures[name]
    mixture = REMEMBERED * old + (1 - REMEMBERED) * value
    figures[name] = value if math.isnan(old) else old if math.isnan(value) else mixture


@torch.no_grad()
def surprise(reader: Reader, recordings: Sequence[tuple[torch.Tensor, str]]) -> float:
    """Mean cross-entropy a token of the transcripts of recordings, audio tokens and text."""
    turns = [(audio, Turn(TRANSCRIPT_REQUESTS[0], text, 1.0)) for audio, text in recordings]
    losses = [reader.loss([Spoken(audio, [turn])]).turns[0][0] for audio, turn in turns]
    return round(sum(losses) / len(losses), 3)


@torch.inference_mode()
def repeated(
    reader: Reader, recordings: Sequence[tuple[torch.Tensor, str]]
) -> dict[str, float | int]:
    """Word error rate of recordings, audio tokens and text, that the model shall repeat, if any."""
    counts = []
    for audio, text in recordings:
        heard = reader.answer(audio, TRANSCRIPT_REQUESTS[0], limit=80)
        counts.append(word_errors(" ".join(words_of(text)), " ".join(words_of(heard))))
    if not any(words for _, words in counts):
        return {}
    return {"repeated": round(word_error_rate(counts), 3), "clips": len(recordings)}


@torch.inference_mode()
def answered(
    reader: Reader, recordings: Sequence[tuple[torch.Tensor, str, str]]
) -> Mapping[str, Any]:
    """Share of the questions (audio tokens, question, answer) whose answer has the right words."""
    rows = [(answer, reader.answer(audio, question)) for audio, question, answer in recordings]
    right = [" ".join(words_of(a)) in " ".join(words_of(said)) for a, said in rows]
    return {"right": sum(right), "of": len(rows), "examples": rows[:6]}
