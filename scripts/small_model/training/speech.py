"""Free voices reading training text, spoilt, as features of the encoder's frozen lower layers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
import torch

from small_model.errors import UntimedError
from small_model.training.facts import FactMaker
from small_model.training.features import Half, Lower
from small_model.training.piper import Piper
from small_model.training.rooms import leveled, spoil
from small_model.training.spelling import spoken
from small_model.training.text import Dialogue, Lexicon, random_sentence
from small_model.training.voices import RATE, Espeak, Flite, Samples, plain
from speechprune_ort.files import whole_file, write_whole

# Share of the sentences. flite's awb is never among them: it is the voice that was never heard.
VOICES = {
    "hibari:heart": 0.28,
    "piper:joe": 0.22,
    "flite:slt": 0.16,
    "flite:rms": 0.14,
    "flite:kal16": 0.05,
    "espeak:en-us+m3": 0.04,
    "espeak:en-us+f2": 0.04,
    "espeak:en-us+m7": 0.04,
    "espeak:en-gb-scotland": 0.03,
}
NEVER_HEARD = "flite:awb"
LONGEST_S = 29.0


class Speaker:
    """All engines behind one call.

    Args:
        piper: The Piper voice's ``.onnx`` file.
        rng: Source of chance.
    """

    def __init__(self, piper: Path, rng: random.Random) -> None:
        from hibari import Hibari

        self._flite, self._espeak, self.rng = Flite(), Espeak(), rng
        self._piper, self._hibari = Piper(piper, self._espeak), Hibari()

    def choose(self) -> str:
        """A training voice by its share."""
        return self.rng.choices(list(VOICES), list(VOICES.values()))[0]

    def say(self, text: str, voice: str, vary: bool = True) -> Samples:
        """Speak plain text; with ``vary`` at another pace and pitch each time.

        Returns:
            (n,) float32 at 16 kHz, at one level.
        """
        engine, name = voice.split(":")
        rng = self.rng
        if engine == "flite":
            samples = self._flite.say(text, name).samples
        elif engine == "espeak":
            rate, pitch = (rng.randint(135, 200), rng.randint(25, 75)) if vary else (160, 50)
            samples = self._espeak.say(text, name, rate, pitch).samples
        elif engine == "piper":
            samples = self._piper.say(text, rng.uniform(0.85, 1.2) if vary else 1.0).samples
        else:
            pace = rng.uniform(0.85, 1.25) if vary else 1.0
            wave = self._hibari(text, speed=pace, seed=rng.getrandbits(31))
            samples = soxr.resample(wave, 24_000, RATE, quality="MQ").astype(np.float32)
        return leveled(samples)


@dataclass(frozen=True)
class Heard:
    """Stored speech.

    Attributes:
        features: (frames, width) float16 at 50 a second, of the encoder's lower layers.
        text: What is said, numbers in words.
        voice: Whose.
    """

    features: Half
    text: str
    voice: str

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


def speech_of(
    texts: Iterator[str], speaker: Speaker, longest: float = LONGEST_S
) -> tuple[Samples, str, str]:
    """Sentences of one or two voices up to a random length: samples, text, voices."""
    rng = speaker.rng
    goal = rng.uniform(3, longest - 6) if rng.random() < 0.7 else rng.uniform(1, 6)
    voices = [speaker.choose() for _ in range(1 if rng.random() < 0.6 else 2)]
    samples, said = [np.zeros(0, np.float32)], []
    while sum(map(len, samples)) < goal * RATE:
        text = spoken(plain(next(texts)))
        try:
            sentence = speaker.say(text, rng.choice(voices))
        except UntimedError:
            continue
        if sum(map(len, samples)) + len(sentence) > longest * RATE:
            break
        samples += [sentence, np.zeros(int(rng.uniform(0.05, 0.4) * RATE), np.float32)]
        said.append(text)
    return np.concatenate(samples), " ".join(said), "+".join(voices)


def make_shard(path: Path, speech: Iterable[tuple[Samples, str, str]], lower: Lower) -> float:
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
    return sum(map(len, features)) / 50 / 3600


def read_shard(path: Path) -> Iterator[Heard]:
    """What :func:`make_shard` wrote; features are mapped, so that processes share them."""
    features, at = np.load(path.with_suffix(".npy"), mmap_mode="r"), 0
    for entry in json.loads(path.with_suffix(".json").read_text(encoding="utf-8")):
        yield Heard(features[at : at + entry["frames"]], entry["text"], entry["voice"])
        at += entry["frames"]


def synthetic(
    texts: Iterator[str], speaker: Speaker, count: int
) -> Iterator[tuple[Samples, str, str]]:
    """``count`` spoken and spoilt texts."""
    last: Samples | None = None
    for _ in range(count):
        samples, text, voices = speech_of(texts, speaker)
        if text:
            spoilt = spoil(samples, speaker.rng, last)
            last = samples
            yield spoilt[: int(30 * RATE)], text, voices
