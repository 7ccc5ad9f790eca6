"""Free voices reading training text, spoilt, as features of the encoder's frozen lower layers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from small_model.training.facts import FactMaker
from small_model.training.features import FRAME_RATE, WINDOW_S, Half, Lower
from small_model.training.rooms import spoil
from small_model.training.spelling import spoken
from small_model.training.text import Dialogue, Lexicon, random_sentence
from small_model.training.voices import RATE, Samples, Speaker, plain
from speechprune_ort.files import whole_file, write_whole

LONGEST_S = 29.0

Said = tuple[Samples, str, str]  # and its text and voice


@dataclass(frozen=True)
class Heard:
    """Stored speech."""

    features: Half  # (frames, width) at 50 a second, of the encoder's lower layers
    text: str  # what is said, numbers in words

    @property
    def tensor(self) -> torch.Tensor:
        """The features as float32."""
        return torch.from_numpy(self.features.astype(np.float32))


def training_texts(
    dialogues: Sequence[Dialogue], lexicon: Lexicon, rng: random.Random
) -> Iterator[str]:
    """Endless text: SPIRAL's sentences, a made-up fact for each of them, and some random words."""
    sentences = [s for d in dialogues for s in d.sentences if len(s.split()) > 2]
    rng.shuffle(sentences)
    facts = FactMaker(lexicon.single + lexicon.double, rng)
    while True:
        for sentence in sentences:
            while (draw := rng.random()) > 0.42:
                yield random_sentence(lexicon, rng) if draw < 0.6 else facts.fact().sentence
            yield sentence


def speech_of(texts: Iterator[str], speaker: Speaker) -> Said:
    """Sentences of one or two voices up to a random length."""
    rng = speaker.rng
    goal = rng.uniform(3, LONGEST_S - 6) if rng.random() < 0.7 else rng.uniform(1, 6)
    voices = [speaker.choose() for _ in range(1 if rng.random() < 0.6 else 2)]
    samples, said = [np.zeros(0, np.float32)], []
    while sum(map(len, samples)) < goal * RATE:
        text = spoken(plain(next(texts)))
        sentence = speaker.say(text, rng.choice(voices))
        if sum(map(len, samples)) + len(sentence) > LONGEST_S * RATE:
            break
        samples += [sentence, np.zeros(int(rng.uniform(0.05, 0.4) * RATE), np.float32)]
        said.append(text)
    return np.concatenate(samples), " ".join(said), "+".join(voices)


def make_shard(path: Path, speech: Iterable[Said], lower: Lower) -> float:
    """Write ``PATH.npy`` and ``PATH.json`` of spoken texts; hours in it."""
    features, entries = [], []
    for samples, text, voice in speech:
        if text:
            hidden = lower(samples)
            features.append(hidden[: len(hidden) // 2 * 2])
            entries.append({"frames": len(features[-1]), "text": text, "voice": voice})
    write_whole(path.with_suffix(".json"), json.dumps(entries))
    with whole_file(path.with_suffix(".npy")) as partial:  # last: a shard that has it is complete
        np.save(partial, np.concatenate(features))
    return sum(map(len, features)) / FRAME_RATE / 3600


def read_shard(path: Path) -> Iterator[Heard]:
    """What :func:`make_shard` wrote; features are mapped, so that processes share them."""
    features, at = np.load(path.with_suffix(".npy"), mmap_mode="r"), 0
    for entry in json.loads(path.with_suffix(".json").read_text(encoding="utf-8")):
        yield Heard(features[at : at + entry["frames"]], entry["text"])
        at += entry["frames"]


def synthetic(texts: Iterator[str], speaker: Speaker, count: int) -> Iterator[Said]:
    """``count`` spoken and spoilt texts."""
    last: Samples | None = None
    for _ in range(count):
        samples, text, voices = speech_of(texts, speaker)
        if text:
            spoilt = spoil(samples, speaker.rng, last)
            last = samples
            yield spoilt[: WINDOW_S * RATE], text, voices
