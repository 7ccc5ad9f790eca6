#!/usr/bin/env python3
"""How often the first stretch that an answer rests on is the sentence that holds the answer.

    python -m research.evidence BUNDLE DATA [--out RESULTS.json]

Of each question whose key sentence is known the model's choice is taken, the one that it finds
likeliest, and evidence is asked for it. A stretch hits where it shares half a second with the key
sentence. Beside it: chance, a stretch drawn from those that were kept, and the stretch that pruning
itself scored highest. Intervals are over groups of questions. Needs ``pip install -e '.[cpu]'``.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from speechprune_ort.evaluation.samples import Sample, read_samples, sample_by_kind
from speechprune_ort.files import write_json
from speechprune_ort.model import SpeechLLM
from speechprune_ort.results import Pruning, Span
from speechprune_ort.runtime.answering.evidence import stretches
from speechprune_ort.statistics import proportion

SHARED_S = 0.5


def main(
    bundle: Annotated[Path, typer.Argument(help="Bundle to ask.")],
    data: Annotated[Path, typer.Argument(help="Questions with key sentences, as eval reads them.")],
    limit: Annotated[int, typer.Option(help="Most questions to ask.")] = 60,
    pruning_rate: Annotated[float, typer.Option(help="As of ask.")] = 0.2,
    out: Annotated[Path | None, typer.Option(help="File for every row.")] = None,
) -> None:
    """Measure how often evidence points at the sentence that holds the answer."""
    model = SpeechLLM(bundle, "cpu")
    samples = [s for s in read_samples(data) if s.key is not None]
    rows = []
    for sample in sample_by_kind(samples, limit, seed=0):
        if sample.key is None:
            continue
        rows.append(look(model, sample, sample.key, pruning_rate))
        print(json.dumps(rows[-1]), file=sys.stderr)
    if out is not None:
        write_json(out, rows)
    kept = [row for row in rows if row["kept"]]
    for name, chosen in (
        ("all questions", rows),
        ("key sentence kept", kept),
        ("and the choice is right", [row for row in kept if row["right"]]),
    ):
        print(f"{name}: n = {len(chosen)}")
        for what in ("evidence", "pruning", "chance"):
            found = proportion([float(row[what]) for row in chosen], [r["group"] for r in chosen])
            low, high = 100 * found.low, 100 * found.high
            print(f"  {what:8} {100 * found.mean:5.1f} [{low:.0f}, {high:.0f}]")


def look(model: SpeechLLM, sample: Sample, key: tuple[float, float], rate: float) -> dict[str, Any]:
    """Whether the first stretch hits, of one question."""
    recording = model.listen(sample.audio)
    scores = recording.score(sample.question, sample.choices).means
    choice = int(np.argmax(scores))
    said = recording.ask(sample.question, pruning_rate=rate, max_new_tokens=1)
    ids = tuple(model.engine.text.encode(sample.choices[choice], "A choice").ids)
    answer = replace(said, text=sample.choices[choice], token_ids=ids)
    every = spans(model, answer.pruning)
    hits = np.array([hit(span, key) for span in every])
    found = recording.with_evidence(answer, count=1).evidence
    return {
        "name": sample.name,
        "group": sample.group or sample.name,
        "right": choice == sample.answer,
        "kept": bool(hits.any()),
        "stretches": len(every),
        "evidence": bool(found and hit(found[0].span, key)),
        "pruning": bool(hits[best_by_pruning(model, answer.pruning)]),
        "chance": float(hits.mean()),
    }


def spans(model: SpeechLLM, pruning: Pruning) -> list[Span]:
    """The stretches that the kept tokens make."""
    rate = model.manifest.tokens_per_second
    parts = [pruning.indices[places] for places in stretches(pruning.indices, rate)]
    return [Span(part[0] / rate, (part[-1] + 1) / rate) for part in parts]


def best_by_pruning(model: SpeechLLM, pruning: Pruning) -> int:
    """The stretch with the highest mean of the scores that the method went by last."""
    scores = np.full(pruning.total, -np.inf)
    for last in pruning.scores[-1:]:
        scores[slice(None) if last.tokens is None else last.tokens] = last.values
    rate = model.manifest.tokens_per_second
    parts = stretches(pruning.indices, rate)
    return int(np.argmax([scores[pruning.indices[places]].mean() for places in parts]))


def hit(span: Span, key: tuple[float, float]) -> bool:
    """Whether a stretch shares enough time with the key sentence."""
    return bool(min(span.end, key[1]) - max(span.start, key[0]) >= SHARED_S)


if __name__ == "__main__":
    typer.run(main)
