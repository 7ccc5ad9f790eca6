"""What stages of training share: texts with their letters, batches, damage, and the loop."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from small_model.training.encoder import WIDTH
from small_model.training.speech import Heard
from small_model.training.spelling import Cutter, letter_ids, words_of

BATCH_FRAMES = 2500  # most of a minute of audio a step
WARM_UP_STEPS = 30
FALLING = 0.6  # of a schedule's time, in which the rate falls
LARGEST_NORM = 2.0  # of a step's gradient
AVERAGED_STEPS = 60  # of a line of the curve

Weights = list[torch.nn.Parameter]
LossOf = Callable[
    [torch.Tensor, torch.Tensor, "Sequence[Utterance]"], tuple[torch.Tensor, dict[str, float]]
]


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


def stacked(features: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of several lengths as one batch, (batch, frames, width), and its mask."""
    longest = max(map(len, features))
    batch = torch.zeros(len(features), longest, WIDTH)
    mask = torch.zeros(len(features), 1, 1, longest)
    for row, values in enumerate(features):
        batch[row, : len(values)] = values
        mask[row, ..., len(values) :] = -1e4
    return batch, mask


def blank_out(batch: torch.Tensor, rng: random.Random) -> None:
    """Masks in time (up to 0.3 s, one for each two seconds) and over a tenth of the channels."""
    for row in batch:
        for _ in range(max(1, len(row) // 100)):
            start, width = rng.randrange(len(row)), rng.randint(0, 15)
            row[start : start + width] = 0
        row[:, torch.rand(WIDTH) < rng.uniform(0, 0.1)] = 0


@dataclass(frozen=True)
class Schedule:
    """How long to train, and who is told.

    Attributes:
        minutes: CPU minutes of this process; checks are not counted.
        report: Called with a line of the curve.
        check: Evaluates what is trained.
        checks: How often.
        rate: Share of the learning rates; a model that is trained already goes on at less.
    """

    minutes: float
    report: Callable[[Mapping[str, Any]], None]
    check: Callable[[], Mapping[str, Any]]
    checks: int = 5
    rate: float = 1.0

    def factor(self, step: int, share: float) -> float:
        """Of the learning rates: warm-up, a constant rate, then linearly down to nearly nothing.

        >>> schedule = Schedule(1.0, print, dict, rate=0.5)
        >>> steps = ((29, 0.1), (900, 0.7), (990, 1.0))
        >>> [round(schedule.factor(step, share), 3) for step, share in steps]
        [0.5, 0.26, 0.01]
        """
        falling = min(1.0, max(0.0, 1 - share) / FALLING + 0.02)
        return self.rate * min(1.0, (step + 1) / WARM_UP_STEPS) * falling


def run(
    schedule: Schedule,
    groups: Sequence[tuple[Weights, float]],
    data: Sequence[Utterance],
    loss_of: LossOf,
) -> None:
    """Train weights in place, at the rates of the schedule.

    Args:
        schedule: How long.
        groups: Weights, and the learning rate of each group.
        data: What to train on, in passes of random order.
        loss_of: Of features (batch, frames, width), their mask and what they are; beside it the
            figures of the curve.
    """
    optimizer = torch.optim.AdamW(
        [{"params": weights} for weights, _ in groups], betas=(0.9, 0.98), weight_decay=0.01
    )
    weights = [weight for group, _ in groups for weight in group]
    rng, began = random.Random(1), time.process_time()  # noqa: S311 - no secrets
    step, frames, checked, checking, share = 0, 0, 0, 0.0, 0.0
    history: list[dict[str, float]] = []
    while share < 1:
        for indices in batches([len(one.heard.features) for one in data], rng):
            spent = (time.process_time() - began - checking) / 60
            if (share := spent / schedule.minutes) >= 1:
                break
            factor = schedule.factor(step, share)
            for group, (_, rate) in zip(optimizer.param_groups, groups, strict=True):
                group["lr"] = rate * factor
            chosen = [data[index] for index in indices]
            batch, mask = stacked([one.heard.tensor for one in chosen])
            blank_out(batch, rng)
            loss, figures = loss_of(batch, mask, chosen)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(weights, LARGEST_NORM)
            optimizer.step()
            history.append(figures)
            step, frames = step + 1, frames + sum(len(one.heard.features) for one in chosen)
            if share >= (checked + 1) / schedule.checks:
                checked, before = checked + 1, time.process_time()
                hours = round(frames / 50 / 3600, 1)
                line = {"minutes": round(spent, 1), "step": step, "hours": hours}
                schedule.report({**line, **means(history[-AVERAGED_STEPS:]), **schedule.check()})
                checking += time.process_time() - before


def means(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each figure, rounded.

    >>> means([{"loss": 1.0}, {"loss": 2.0}])
    {'loss': 1.5}
    """
    return {
        name: round(float(np.mean([figures[name] for figures in history])), 3)
        for name in history[-1]
    }
