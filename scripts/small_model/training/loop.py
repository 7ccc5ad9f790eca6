"""What stages of training share: texts with their letters, batches, damage, and the loop."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from small_model.training.encoder import WIDTH
from small_model.training.features import FRAME_RATE
from small_model.training.speech import Heard
from small_model.training.spelling import Cutter, letter_ids, words_of
from small_model.training.text import chance

BATCH_FRAMES = 2500  # most of a minute of audio a step
WARM_UP_STEPS = 30
FALLING = 0.6  # of a schedule's time, in which the rate falls
LARGEST_NORM = 2.0  # of a step's gradient
AVERAGED_STEPS = 60  # of a line of the curve

Weights = list[torch.nn.Parameter]
# Of features (batch, frames, width), their mask and what they are: loss and figures of the curve.
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
    batch = torch.nn.utils.rnn.pad_sequence(list(features), batch_first=True)
    lengths = torch.tensor([len(values) for values in features])
    beyond = torch.arange(batch.shape[1]) >= lengths[:, None]
    return batch, -1e4 * beyond[:, None, None].float()


def blank_out(batch: torch.Tensor, rng: random.Random) -> None:
    """Masks in time (up to 0.3 s, one for each two seconds) and over a tenth of the channels."""
    for row in batch:
        for _ in range(max(1, len(row) // 100)):
            start, width = rng.randrange(len(row)), rng.randint(0, 15)
            row[start : start + width] = 0
        row[:, torch.rand(WIDTH) < rng.uniform(0, 0.1)] = 0


@dataclass(frozen=True)
class Schedule:
    """How long to train, and who is told."""

    minutes: float  # of this process's CPU time; checks are not counted
    report: Callable[[Mapping[str, Any]], None]  # called with a line of the curve
    check: Callable[[], Mapping[str, Any]]  # evaluates what is trained
    checks: int = 5
    rate: float = 1.0  # share of the learning rates; what is trained already goes on at less

    def factor(self, step: int, share: float) -> float:
        """Of the learning rates: warm-up, a constant rate, then linearly down to nearly nothing.

        >>> schedule = Schedule(1.0, print, dict, rate=0.5)
        >>> steps = ((29, 0.1), (900, 0.7), (990, 1.0))
        >>> [round(schedule.factor(step, share), 3) for step, share in steps]
        [0.5, 0.26, 0.01]
        """
        falling = min(1.0, max(0.0, 1 - share) / FALLING + 0.02)
        return self.rate * min(1.0, (step + 1) / WARM_UP_STEPS) * falling

    def steps(
        self, optimizer: torch.optim.Optimizer, told: Callable[[], Mapping[str, Any]]
    ) -> Iterator[float]:
        """Share of the time that has passed at each step; at the last one it is 1 or more.

        Args:
            optimizer: Gets the learning rates of each step, from those that it has at first.
            told: Figures of the curve after a step.
        """
        rates = [group["lr"] for group in optimizer.param_groups]
        began, checking, share = time.process_time(), 0.0, 0.0
        step = checked = 0
        while share < 1:
            spent = (time.process_time() - began - checking) / 60
            share = spent / self.minutes
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * self.factor(step, share)
            yield share
            step += 1
            if share >= (checked + 1) / self.checks:
                checked, before = checked + 1, time.process_time()
                line = {"minutes": round(spent, 1), "step": step}
                self.report({**line, **told(), **self.check()})
                checking += time.process_time() - before


def passes(data: Sequence[Utterance], rng: random.Random) -> Iterator[list[Utterance]]:
    """Endless batches, each pass over all data in an order of its own."""
    while True:
        for indices in batches([len(one.heard.features) for one in data], rng):
            yield [data[index] for index in indices]


def run(
    schedule: Schedule,
    groups: Sequence[tuple[Weights, float]],
    data: Sequence[Utterance],
    loss_of: LossOf,
) -> None:
    """Train groups of weights in place, each at its share of a learning rate of its own."""
    optimizer = torch.optim.AdamW(
        [{"params": weights, "lr": rate} for weights, rate in groups],
        betas=(0.9, 0.98),
        weight_decay=0.01,
    )
    weights = [weight for group, _ in groups for weight in group]
    rng, frames = chance(1), 0
    history: list[dict[str, float]] = []

    def told() -> dict[str, float]:
        hours = round(frames / FRAME_RATE / 3600, 1)
        return {"hours": hours, **means(history[-AVERAGED_STEPS:])}

    for share, chosen in zip(schedule.steps(optimizer, told), passes(data, rng), strict=False):
        if share >= 1:  # the command checks what is trained at the end
            break
        batch, mask = stacked([one.heard.tensor for one in chosen])
        blank_out(batch, rng)
        loss, figures = loss_of(batch, mask, chosen)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, LARGEST_NORM)
        optimizer.step()
        history.append(figures)
        frames += sum(len(one.heard.features) for one in chosen)


def means(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean of each figure, rounded.

    >>> means([{"loss": 1.0}, {"loss": 2.0}])
    {'loss': 1.5}
    """
    return {
        name: round(float(np.mean([figures[name] for figures in history])), 3)
        for name in history[-1]
    }
