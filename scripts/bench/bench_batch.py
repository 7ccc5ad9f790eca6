"""Eight answers decoded together beside the same ones decoded one after the other, in turns.

    .venv/bin/python scripts/bench/bench_batch.py BUNDLE --threads 2 --rounds 5

Prompts are random token ids of different lengths. A round does both, in turning order; the first
does not count. Wall and processor time of reading the prompts and of decoding are told apart.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprune_ort import SpeechLLM
from speechprune_ort.machine import machine_words
from speechprune_ort.markdown import markdown_table
from speechprune_ort.runtime.answering.decoder import Decoder
from speechprune_ort.runtime.answering.prompt import embed_ids

Cost = tuple[float, float]  # seconds on the wall, of the processor


def costs(work: Callable[[], Any]) -> tuple[Any, Cost]:
    wall, processor = time.perf_counter(), time.process_time()
    made = work()
    return made, (time.perf_counter() - wall, time.process_time() - processor)


def random_prompts(model: SpeechLLM, lengths: Iterable[int]) -> list[NDArray[Any]]:
    """Embeddings (tokens, hidden) of random token ids, the same ones each time."""
    random = np.random.default_rng(0)
    vocab = min(model.manifest.dimensions.vocab, 1000)
    return [
        embed_ids(model.engine, tuple(random.integers(0, vocab, length).tolist()))
        for length in lengths
    ]


def said(
    model: SpeechLLM, prompts: list[NDArray[Any]], steps: int
) -> tuple[list[list[int]], Cost, Cost]:
    """Ids of each answer, decoded together, and what reading and decoding cost."""
    room = max(len(prompt) for prompt in prompts) + steps
    decoder = Decoder.open(model.engine, room, len(prompts))

    def read() -> list[list[int]]:
        return [
            [int(decoder.prefill(prompt, np.arange(len(prompt)), row).argmax())]
            for row, prompt in enumerate(prompts)
        ]

    ids, reading = costs(read)

    def decode() -> None:
        for _ in range(steps - 1):
            tokens = {row: (ids[row][-1], decoder.lengths[row]) for row in range(len(prompts))}
            for row, logits in decoder.steps(tokens).items():
                ids[row].append(int(logits.argmax()))

    _, decoding = costs(decode)
    return ids, reading, decoding


def one_by_one(
    model: SpeechLLM, prompts: list[NDArray[Any]], steps: int
) -> tuple[list[list[int]], Cost, Cost]:
    ids: list[list[int]] = []
    sums = np.zeros((2, 2))
    for prompt in prompts:
        found, *spent = said(model, [prompt], steps)
        ids += found
        sums += np.array(spent)
    reading, decoding = ((float(wall), float(processor)) for wall, processor in sums)
    return ids, reading, decoding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--answers", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=64)
    given = parser.parse_args()
    model = SpeechLLM(given.bundle, "cpu", given.threads)
    prompts = random_prompts(model, (140 + 12 * n for n in range(given.answers)))
    ways = {"one after the other": one_by_one, "together": said}
    kept: dict[str, list[tuple[Cost, Cost]]] = {name: [] for name in ways}
    for turn in range(given.rounds + 1):
        ids = {}
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            ids[name], *spent = ways[name](model, prompts, given.tokens)
            if turn:
                kept[name].append((spent[0], spent[1]))
    same = sum(a == b for a, b in zip(*ids.values(), strict=True))
    print(f"{model.manifest.precision}, {given.threads} threads, {given.answers} answers of")
    print(f"{given.tokens} tokens, {given.rounds} rounds; the same ids in {same}; load average")
    print(f"{os.getloadavg()[0]:.1f} on {machine_words()}")
    lines = []
    for name, rounds in kept.items():
        cells = [[r[part][clock] for r in rounds] for part in (0, 1) for clock in (0, 1)]
        whole = [[r[0][clock] + r[1][clock] for r in rounds] for clock in (0, 1)]
        lines.append((name, *(f"{median(cell):.2f}" for cell in [*cells, *whole])))
    parts = [(part, "processor") for part in ("reading", "decoding", "whole")]
    print("\n".join(markdown_table(("seconds, median", *chain(*parts)), lines)))
    for clock, word in enumerate(("wall", "processor")):
        ratios = [
            b[1][clock] / a[1][clock]
            for a, b in zip(kept["one after the other"], kept["together"], strict=True)
        ]
        print(f"decoding together takes {median(ratios):.3f} of it ({word}; {min(ratios):.3f} to")
        print(f"{max(ratios):.3f} over the rounds)")


if __name__ == "__main__":
    main()
