"""Letters by CTC: the upper layers of Whisper base's encoder learn to spell what they hear.

Letters are linearly there after minutes, where thousands of pieces are not after hours. The classes
also tell where a word and where a piece begins, so that what follows is a local step.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its customary name
from small_model.training.evaluate import word_errors

from small_model_next.encoder import LOWER_LAYERS, WHISPER_LAYERS, WIDTH, Layers, pooled
from small_model_next.speech import Heard
from small_model_next.spelling import Cutter, letter_classes, letter_ids, read_letters, words_of

BATCH_FRAMES = 2500  # most of a minute of audio a step
WARM_UP_STEPS = 30


@dataclass(frozen=True)
class Utterance:
    """Stored speech, and the classes of its letters in order."""

    heard: Heard
    letters: tuple[int, ...]


def utterances(heard: Sequence[Heard], cutter: Cutter) -> list[Utterance]:
    """Those whose text can be written in their time, with one blank between equal letters."""
    found = []
    for one in heard:
        letters = [i for word in words_of(one.text) for i in letter_ids(cutter.cut(word))]
        room = len(letters) + sum(a == b for a, b in pairwise(letters))
        if 0 < room <= len(one.features) // 2:
            found.append(Utterance(one, tuple(letters)))
    return found


class Speller(torch.nn.Module):
    """Stored features to log-probabilities of letters, at 25 a second.

    Args:
        encoder: Its upper two of Whisper's layers and LayerNorm are taken, not copied.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.upper = Layers(encoder.layers[LOWER_LAYERS:WHISPER_LAYERS])
        self.norm = encoder.layer_norm
        self.head = torch.nn.Linear(WIDTH, len(letter_classes()))

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, frames, width) to (batch, frames // 2, classes), float32."""
        return self.scores(self.upper(features, mask))

    def scores(self, below: torch.Tensor) -> torch.Tensor:
        """States of its layers, (batch, frames, width), to the same."""
        scores: torch.Tensor = self.head(self.norm(pooled(below))).log_softmax(-1)
        return scores


def ctc_loss(scores: torch.Tensor, chosen: Sequence[Utterance]) -> torch.Tensor:
    """CTC's loss of a batch of log-probabilities (batch, tokens, classes)."""
    lengths = torch.tensor([len(one.heard.features) // 2 for one in chosen])
    targets = torch.tensor([letter for one in chosen for letter in one.letters])
    sizes = torch.tensor([len(one.letters) for one in chosen])
    return F.ctc_loss(scores.transpose(0, 1), targets, lengths, sizes, zero_infinity=True)


def batches(lengths: Sequence[int], rng: random.Random) -> list[list[int]]:
    """Indices in batches of about ``BATCH_FRAMES`` of about equal lengths, in random order."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i] * rng.uniform(0.9, 1.1))
    found: list[list[int]] = [[]]
    for index in order:
        if found[-1] and (len(found[-1]) + 1) * lengths[index] > BATCH_FRAMES:
            found.append([])
        found[-1].append(index)
    rng.shuffle(found)
    return found


def stacked(features: Sequence[np.ndarray[Any, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of several lengths as one batch, (batch, frames, width), and its mask."""
    longest = max(map(len, features))
    batch = torch.zeros(len(features), longest, WIDTH)
    mask = torch.zeros(len(features), 1, 1, longest)
    for row, values in enumerate(features):
        batch[row, : len(values)] = torch.from_numpy(values).float()
        mask[row, ..., len(values) :] = -1e4
    return batch, mask


def blank_out(batch: torch.Tensor, rng: random.Random) -> None:
    """Masks in time (up to 0.3 s, one for each two seconds) and over a tenth of the channels."""
    for row in batch:
        for _ in range(max(1, len(row) // 100)):
            start, width = rng.randrange(len(row)), rng.randint(0, 15)
            row[start : start + width] = 0
        row[:, torch.rand(WIDTH) < rng.uniform(0, 0.1)] = 0


def train(
    speller: Speller,
    load: Callable[[], Sequence[Utterance]],
    minutes: float,
    report: Callable[[Mapping[str, Any]], None],
    check: Callable[[], Mapping[str, Any]],
    checks: int = 5,
    rates: tuple[float, float] = (3e-4, 2e-3),
) -> None:
    """Train for some minutes of this process's CPU time.

    Args:
        speller: Changed in place.
        load: Gives what there is to train on, asked anew after each pass.
        minutes: CPU minutes of the whole schedule.
        report: Called with a line of the curve.
        check: Evaluates the speller.
        checks: How often.
        rates: Learning rates of the layers and of the head.
    """
    slow = [*speller.upper.parameters(), *speller.norm.parameters()]
    groups = [{"params": slow}, {"params": list(speller.head.parameters())}]
    optimizer = torch.optim.AdamW(groups, lr=rates[0], betas=(0.9, 0.98), weight_decay=0.01)
    rng, began = random.Random(1), time.process_time()  # noqa: S311 - no secrets
    step, passed, checked, losses = 0, 0.0, 0, [0.0]
    spent = checking = 0.0
    while spent < minutes:
        data = load()
        for indices in batches([len(u.heard.features) for u in data], rng):
            spent = (time.process_time() - began - checking) / 60
            if spent >= minutes:
                break
            share = spent / minutes
            factor = min(1, (step + 1) / WARM_UP_STEPS) * min(1, (1 - share) / 0.7 + 0.02)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            chosen = [data[index] for index in indices]
            batch, mask = stacked([u.heard.features for u in chosen])
            blank_out(batch, rng)
            loss = ctc_loss(speller(batch, mask), chosen)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(speller.parameters(), 1.0)
            optimizer.step()
            losses.append(loss.item())
            step, passed = (
                step + 1,
                passed + sum(len(one.heard.features) for one in chosen) / 50 / 3600,
            )
            if share >= (checked + 1) / checks:
                checked, before = checked + 1, time.process_time()
                line = {"minutes": round(spent, 1), "step": step, "hours": round(passed, 1)}
                loss_now = round(float(np.mean(losses[-30:])), 3)
                report({**line, "texts": len(data), "loss": loss_now, **check()})
                checking += time.process_time() - before


@torch.inference_mode()
def spell(speller: Speller, features: np.ndarray[Any, Any]) -> str:
    """What is heard, read off class by class."""
    scores = speller(torch.from_numpy(features).float()[None])[0]
    return read_letters(scores.argmax(-1).tolist())


def spelling_errors(speller: Speller, heard: Sequence[Heard]) -> float:
    """Word error rate of greedy spelling."""
    wrong = total = 0
    for one in heard:
        errors, words = word_errors(" ".join(words_of(one.text)), spell(speller, one.features))
        wrong, total = wrong + errors, total + words
    return round(wrong / max(1, total), 3)


def save(path: Path, **modules: torch.nn.Module) -> None:
    """Write the weights of modules by name; the file appears at once."""
    partial = path.with_suffix(".partial")
    torch.save({name: module.state_dict() for name, module in modules.items()}, partial)
    partial.replace(path)
