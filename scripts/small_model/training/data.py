"""The stage data: all features to train and to evaluate on, made anew by one command."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from research.transcripts import whisper_base

from small_model.assemble import library
from small_model.parts import fetch_joe
from small_model.training import actors
from small_model.training.encoder import whisper_encoder
from small_model.training.features import WINDOW_S, Lower
from small_model.training.rooms import faster, spoil
from small_model.training.speech import (
    Heard,
    Said,
    make_shard,
    read_shard,
    synthetic,
    training_texts,
)
from small_model.training.spelling import spoken
from small_model.training.text import (
    TEST_IDS,
    Lexicon,
    Split,
    chance,
    read_lexicon,
    read_spiral,
    split_dialogues,
)
from small_model.training.voices import NEVER_HEARD, RATE, Samples, Speaker, leveled, plain
from speechprune_ort.files import write_json
from speechprune_ort.models.packages import Report
from speechprune_ort.runtime.hearing.audio import load_audio

SYNTHETIC_TEXTS, ACTOR_PACKS = 60, 150  # a shard
ACTORS = (("queen", "sky"), ("drascula", "telephone"))  # each group is shuffled by itself
TEST_SENTENCES, TEST_VOICES = 60, ("flite:slt", NEVER_HEARD, "hibari:heart")
HELD_OUT_PACK = 25  # one pack in so many is for testing
LONGEST = WINDOW_S * RATE
WORDS = Path("/usr/share/dict/american-english")


@dataclass(frozen=True)
class Job:
    """Where everything lies."""

    cache: Path  # downloads
    work: Path  # stored features and checkpoints
    language_model: Path  # folder that transformers loads
    spiral: Path  # folder of SPIRAL's files
    report: Report  # called with lines of progress

    @property
    def features(self) -> Path:
        """Folder of shards."""
        return self.work / "features"

    def lower(self) -> Lower:
        """The half of Whisper's encoder that makes shards, on one thread."""
        torch.set_num_threads(1)
        self.features.mkdir(parents=True, exist_ok=True)
        return Lower(whisper_encoder(self.cache, self.report))


def read_texts(spiral: Path, tokenizer: Any) -> tuple[Split, Lexicon]:
    """SPIRAL's dialogues by use, and words for random sentences."""
    split = split_dialogues(read_spiral(spiral), TEST_IDS.read_text().split())
    return split, read_lexicon(WORDS, (*split.align, *split.adapt), tokenizer)


def make_synthetic(job: Job, shards: Sequence[int]) -> None:
    """Spoken and spoilt texts of free voices, a seed for each shard, and sentences for testing.

    Shards that are there are kept.
    """
    lower = job.lower()
    tokenizer = library.AutoTokenizer.from_pretrained(job.language_model)
    split, lexicon = read_texts(job.spiral, tokenizer)
    speaker = Speaker(fetch_joe(job.cache, job.report), chance(0))
    for number in shards:
        path = job.features / f"synthetic-{number:03d}"
        if not path.with_suffix(".npy").exists():
            speaker.rng = chance(f"1-{number}")
            texts = training_texts((*split.align, *split.adapt), lexicon, speaker.rng)
            hours = make_shard(path, synthetic(texts, speaker, SYNTHETIC_TEXTS), lower)
            job.report(f"{path.name}: {60 * hours:.0f} minutes")
    speaker.rng = chance(7)
    sentences = [s for d in split.test for s in d.sentences if 5 <= len(s.split()) <= 25]
    speaker.rng.shuffle(sentences)
    tested = [spoken(plain(sentence)) for sentence in sentences[:TEST_SENTENCES]]
    for voice in TEST_VOICES:
        said = [(speaker.say(text, voice, vary=False), text, voice) for text in tested]
        make_shard(job.features / f"test-{voice.split(':')[1]}", said, lower)


def make_actors(job: Job) -> None:
    """Actors' packs, each as it is, spoilt, and spoilt in another's voice; ``test-actors``."""
    lower = job.lower()
    whisper = whisper_base(job.cache, job.report)
    number = 0
    for names in ACTORS:
        rng = chance(1)
        found = [(name, actors.fetch(name, job.cache / "games")) for name in names]
        lines = ((name, line) for name, place in found for line in actors.lines_of(name, place))
        packs = actors.packed(lines, rng)
        order = list(range(len(packs)))
        rng.shuffle(order)
        for start in range(0, len(order), ACTOR_PACKS):
            part = [packs[index] for index in order[start : start + ACTOR_PACKS]]
            path, began = job.features / f"actors-{number:02d}", time.monotonic()
            if not path.with_suffix(".npy").exists():
                told = texts_of(whisper, part, path.with_suffix(".texts.json"))
                tests = range(0, len(part), HELD_OUT_PACK) if number == 0 else range(0)
                trained, tested = actor_copies(part, told, tests, chance(f"actors-{number}"))
                if tested:
                    make_shard(job.features / "test-actors", tested, lower)
                hours = make_shard(path, trained, lower)
                job.report(f"{path.name}: {60 * hours:.0f} min in {time.monotonic() - began:.0f} s")
            number += 1


def texts_of(
    whisper: Path, part: Sequence[tuple[str, actors.Packed]], path: Path
) -> list[tuple[str, float, float]]:
    """What :func:`actors.transcribe` says of packs; it is kept in ``path``."""
    if not path.exists():
        heard = list(actors.transcribe(whisper, [samples for _, samples in part]))
        write_json(path, heard)
    return [tuple(one) for one in json.loads(path.read_text(encoding="utf-8"))]


def actor_copies(
    part: Sequence[tuple[str, actors.Packed]],
    told: Sequence[tuple[str, float, float]],
    tests: Collection[int],
    rng: random.Random,
) -> tuple[list[Said], list[Said]]:
    """Three copies of each pack whose text can be trusted, and those that are for testing."""
    trained: list[Said] = []
    tested: list[Said] = []
    other: Samples | None = None
    for place, ((game, raw), (text, score, silence)) in enumerate(zip(part, told, strict=True)):
        if not actors.trusted(text, score, silence, len(raw) / RATE):
            continue
        samples = raw.astype(np.float32) / np.float32(32768)
        if place in tests:
            tested.append((leveled(samples), text, game))
            continue
        trained.append((leveled(samples, 10 ** rng.uniform(-1.6, -0.9)), text, game))
        pitch = rng.choice([rng.uniform(0.8, 0.9), rng.uniform(1.12, 1.25)])
        for copy in (samples, faster(samples, pitch)):
            if len(spoilt := spoil(copy, rng, other)) <= LONGEST:  # else its text would be too long
                trained.append((spoilt, text, game))
        other = samples
    return trained, tested


def make_people(job: Job, manifest: Path) -> None:
    """``test-people``: recordings with transcripts of at most 30 s; they are never trained on.

    The manifest has JSON lines of ``file``, ``seconds``, ``transcript`` and ``kind``.
    """
    lower = job.lower()
    clips: list[Said] = []
    for line in manifest.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        if entry["seconds"] <= WINDOW_S and entry["transcript"]:
            samples = leveled(load_audio(manifest.parent / entry["file"]))
            clips.append((samples, entry["transcript"], entry["kind"]))
    make_shard(job.features / "test-people", clips, lower)


def training_shards(job: Job) -> list[Path]:
    """All that may be trained on and is complete."""
    found = sorted(job.features.glob("synthetic-*.npy")) + sorted(job.features.glob("actors-*.npy"))
    return [path.with_suffix("") for path in found]


def test_sets(job: Job) -> dict[str, list[Heard]]:
    """Speech for evaluation by its name."""
    return {
        path.stem.removeprefix("test-"): list(read_shard(path.with_suffix("")))
        for path in sorted(job.features.glob("test-*.npy"))
    }
