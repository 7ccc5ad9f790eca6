"""The stages synthesize and label: shards of features made by several processes, resumable."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from small_model.training.data import (
    SPIRAL_PER_SHARD,
    Stream,
    align_texts,
    make_align_shard,
    make_clips,
)
from small_model.training.facts import FactMaker
from small_model.training.features import Lower, library, load_model
from small_model.training.speaker import Speaker
from small_model.training.text import Split, chance, read_lexicon, read_spiral, split_dialogues

CLIP_DIALOGUES = 6  # dialogues a shard of clips


@dataclass(frozen=True)
class Job:
    """What a process needs to make shards.

    Attributes:
        base: Checkpoint folder.
        spiral: SPIRAL's folder.
        words: Word list, one a line.
        piper: The Piper voice's ``.onnx`` file, or None.
        out: Folder for shards.
        lower: Encoder layers whose output is stored.
        seed: Of all chance.
        test_ids: Ids of the test dialogues.
    """

    base: Path
    spiral: Path
    words: Path
    piper: Path | None
    out: Path
    lower: int
    seed: int
    test_ids: tuple[str, ...]


def split_of(job: Job) -> Split:
    """The job's dialogues by use."""
    return split_dialogues(read_spiral(job.spiral), job.test_ids or None)


def silence_token(tokenizer: Any) -> int:
    """Silence is labelled as a line end."""
    return int(tokenizer("\n", add_special_tokens=False)["input_ids"][0])


def shard_names(job: Job, align: int) -> list[str]:
    """All shards in the order in which to make them.

    Development, alignment, adaptation, and extra clips around what alignment heard otherwise.
    """
    split = split_of(job)
    adapt, extra = (-(-len(part) // CLIP_DIALOGUES) for part in (split.adapt, split.align))
    return [
        "development-000",
        *(f"align-{index:03d}" for index in range(align)),
        *(f"adapt-{index:03d}" for index in range(adapt)),
        *(f"devclips-{index:03d}" for index in range(2)),
        *(f"extra-{index:03d}" for index in range(extra)),
    ]


def make_shards(job: Job, names: list[str], report: Callable[[str, float, float], None]) -> None:
    """Make the named shards that do not exist yet, in this process with one thread.

    Each shard has its own seed, so that it is the same whoever makes it.

    Args:
        job: What to make them from.
        names: From :func:`shard_names`.
        report: Called with a shard's name, seconds of audio in it, and seconds it took.
    """
    torch.set_num_threads(1)
    tokenizer = library.AutoTokenizer.from_pretrained(job.base)
    split = split_of(job)
    lexicon = read_lexicon(job.words, (*split.align, *split.adapt), tokenizer)
    silence = silence_token(tokenizer)
    lower = Lower(load_model(job.base).model.audio_tower, job.lower)
    speaker = Speaker(job.piper, chance(job.seed))
    sentences = [s for d in split.align for s in d.sentences if len(s.split()) > 2]
    chance(job.seed).shuffle(sentences)
    unheard = [s for d in split.development for s in d.sentences if len(s.split()) > 2]
    for name in names:
        path = job.out / name
        if path.with_suffix(".npy").exists():
            continue
        began, total = time.monotonic(), [0.0]
        rng = chance(f"{job.seed}-{name}")
        speaker.rng = rng
        stream = Stream(speaker, tokenizer)
        kind, number = name.split("-")
        if kind in ("align", "development"):
            own = sentences if kind == "align" else unheard
            texts = align_texts(own, lexicon, rng, int(number) * SPIRAL_PER_SHARD)
            total[0] = make_align_shard(path, texts, stream, lower, silence)
        else:
            groups = {"adapt": split.adapt, "devclips": split.development, "extra": split.align}
            group = groups[kind]
            size = CLIP_DIALOGUES
            part = group[int(number) * size : (int(number) + 1) * size]
            facts = FactMaker(lexicon.single + lexicon.double, rng)

            def count(seconds: float, total: list[float] = total) -> None:
                total[0] += seconds

            make_clips(path, part, facts, stream, lower, silence, kind != "extra", count)
        report(name, total[0], time.monotonic() - began)


def make_all(
    job: Job, names: list[str], processes: int, report: Callable[[str, float, float], None]
) -> None:
    """Make shards in several processes; an interrupted run goes on where it stopped."""
    job.out.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if not (job.out / f"{name}.npy").exists()]
    context = multiprocessing.get_context("spawn")
    queue: Any = context.SimpleQueue()
    workers = [
        context.Process(target=work, args=(job, missing[index::processes], queue))
        for index in range(min(processes, len(missing)))
    ]
    for worker in workers:
        worker.start()
    running = len(workers)
    while running:
        item = queue.get()
        if isinstance(item, str):
            for worker in workers:
                worker.terminate()
            raise RuntimeError(item)
        if item is None:
            running -= 1
        else:
            report(*item)
    for worker in workers:
        worker.join()


def work(job: Job, names: list[str], queue: Any) -> None:
    """One process of :func:`make_all`; puts reports, then None, or a line of error."""
    try:
        make_shards(job, names, lambda *item: queue.put(item))
        queue.put(None)
    except BaseException as error:
        queue.put(f"{type(error).__name__}: {error}")
        raise
