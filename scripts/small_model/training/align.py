"""The stage align: one audio token of each text token learns to be its embedding, the others blank.

Likelihood of the projected audio under the language model's own token embeddings, the place of
each text token free within the time in which it is spoken, with the embedding's squared error
beside it. Trained are the upper encoder layers, the LayerNorm after pooling and the projector; the
language model is not run.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from small_model.training.data import OUTSIDE
from small_model.training.features import TOKEN_RATE, WINDOW_TOKENS, Upper
from small_model.training.pieces import Pieces
from small_model.training.spikes import one_each, runs, with_blank
from small_model.training.text import chance
from speechprune_ort.files import whole_file

Report = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class AlignOptions:
    """Settings of the stage.

    Attributes:
        hours: Audio to pass through, repetitions counted.
        minutes: Stop and finish the schedule after this time, if earlier.
        batch: Windows of 30 s a step.
        slices: Parts that full windows are cut into: attention gets cheaper.
        whole_from: Progress after which windows are whole, as in use.
        scale: Logits a unit of embedding product. With a large one tokens are told apart long
            before they are near their targets: words that stay near each other, and blanks that
            still look like the word around them.
        encoder_rate: Learning rate of the encoder layers.
        projector_rate: Of the projector.
        decay_from: Progress after which rates fall linearly to zero.
        piece_frames: Audio tokens that a text token must have to be taught as a whole.
        noise: Standard deviation of noise on the features, in units of theirs.
        seed: Of order and choice of tokens.
        save_minutes: Between checkpoints.
    """

    hours: float = 80.0
    minutes: float = 60.0
    batch: int = 2
    slices: int = 5
    whole_from: float = 0.85
    scale: float = 1.5
    encoder_rate: float = 4e-4
    projector_rate: float = 1.2e-3
    decay_from: float = 0.4
    piece_frames: int = 400
    noise: float = 0.15
    seed: int = 1
    save_minutes: float = 2.0

    def __post_init__(self) -> None:
        if self.hours <= 0 or self.minutes <= 0 or self.batch < 1:
            raise ValueError("hours, minutes and batch must be positive.")


class Shards:
    """Stored windows, read from disk as they are used.

    Args:
        folder: Folder of ``KIND-NNN.npy`` and ``KIND-NNN.labels.npy``.
        kind: ``align`` or ``development``.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        files = sorted(folder.glob(f"{kind}-[0-9][0-9][0-9].npy"))
        self._features = [np.load(file, mmap_mode="r") for file in files]
        self._labels = [np.load(file.with_suffix(".labels.npy")) for file in files]
        self.index = [(s, w) for s, part in enumerate(self._labels) for w in range(len(part))]
        self.tokens = [int((self._labels[s][w] != OUTSIDE).sum()) for s, w in self.index]
        self.labels = np.concatenate([part[part != OUTSIDE] for part in self._labels])

    def relabel(self, pieces: Pieces) -> None:
        """Spell rare tokens in frequent ones."""
        self._labels = [np.stack([pieces.relabel(row) for row in part]) for part in self._labels]
        self.labels = np.concatenate([part[part != OUTSIDE] for part in self._labels])

    @property
    def hours(self) -> float:
        """Audio in all windows."""
        return sum(self.tokens) / TOKEN_RATE / 3600

    def batch(self, windows: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (batch, frames, width) float32 and labels (batch, frames / 2) int64."""
        longest = max(self.tokens[window] for window in windows)
        features, labels = [], []
        for window in windows:
            shard, place = self.index[window]
            features.append(torch.from_numpy(np.array(self._features[shard][place, : 2 * longest])))
            labels.append(torch.from_numpy(self._labels[shard][place, :longest]))
        return torch.stack(features).float(), torch.stack(labels).long()


def cut(
    features: torch.Tensor, labels: torch.Tensor, parts: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Full windows as shorter ones: (batch, n, ...) to (batch * parts, n / parts, ...)."""
    count = len(labels) * parts
    return features.reshape(count, -1, features.shape[-1]), labels.reshape(count, -1)


def padding_mask(labels: torch.Tensor) -> torch.Tensor | None:
    """(batch, 1, 1, frames) with -1e4 at padding, or None where there is none."""
    outside = labels == OUTSIDE
    if not bool(outside.any()):
        return None
    return outside.repeat_interleave(2, dim=1)[:, None, None].float() * -1e4


class Head(torch.nn.Module):
    """Scores of the vocabulary in use: ``scale * (h - mean) . (target - mean) + bias``.

    Only training needs it. The blank's bias is the mean of all: it is most frequent, and would need
    no likeness to its target otherwise.

    Args:
        embeddings: All token embeddings, (vocabulary, hidden).
        labels: All labels, (windows, tokens), to know which tokens are in use and how often.
        silence: Label of the blank.
        scale: Logits a unit of embedding product.
    """

    def __init__(
        self, embeddings: torch.Tensor, labels: torch.Tensor, silence: int, scale: float
    ) -> None:
        super().__init__()
        used, counts = torch.unique(labels[labels != OUTSIDE], return_counts=True)
        inverse = torch.full((len(embeddings),), -1)
        inverse[used] = torch.arange(len(used))
        targets = with_blank(embeddings, silence)[used]
        mean = embeddings[used].mean(0)
        self.silence, self.scale = silence, scale
        self.register_buffer("used", used)
        self.register_buffer("inverse", inverse)
        self.register_buffer("targets", targets, persistent=False)
        self.register_buffer("mean", mean)
        self.register_buffer("centred", (targets - mean).to(torch.bfloat16), persistent=False)
        self.variance = float((embeddings[used] - mean).var())
        self.bias = torch.nn.Parameter(0.7 * (counts.float() / counts.sum()).log())

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """(n, hidden) to logits (n, tokens in use)."""
        mean, centred = self.get_buffer("mean"), self.get_buffer("centred")
        with torch.autocast(tokens.device.type, torch.bfloat16):
            logits = (self.scale * (tokens - mean)) @ centred.t()
        blank = int(self.get_buffer("inverse")[self.silence])
        bias = torch.cat([self.bias[:blank], self.bias.mean()[None], self.bias[blank + 1 :]])
        return logits.float() + bias

    def losses(
        self, hidden: torch.Tensor, labels: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, dict[str, float]]:
        """Losses and counts of a batch.

        Args:
            hidden: Projected audio, (batch, tokens, hidden).
            labels: (batch, tokens), ``OUTSIDE`` past a window's end.

        Returns:
            Negative log-likelihood a run; half the squared error a run, of its written token and
            of the blank ones, in units of the embeddings' variance; and the numbers of runs, of
            those in which the best token has the right label ("found"), of tokens that are not
            blank ("written"), and of those with the label of their run ("right").
        """
        inverse = self.get_buffer("inverse")
        run = runs(labels).flatten()
        wanted = torch.where(labels >= 0, inverse[labels], -1).flatten()
        known = wanted >= 0
        tokens, wanted, run = hidden.flatten(0, 1)[known], wanted[known], run[known]
        scores = self(tokens).log_softmax(-1)
        blank_label = int(inverse[self.silence])
        blank, spoken = scores[:, blank_label], wanted != blank_label
        own = scores.gather(1, wanted[:, None])[:, 0]
        likelihood, shares = one_each(own[spoken], blank[spoken], run[spoken])
        targets, count = self.get_buffer("targets"), max(1, len(likelihood))
        loss = -(likelihood.sum() + blank[~spoken].sum()) / count
        share = torch.zeros_like(own)
        share[spoken] = shares
        written = (tokens - targets[wanted]).square().mean(-1)
        silent = (tokens - targets[blank_label]).square().mean(-1)
        error = (share * written + (1 - share) * silent).sum() / count
        best = scores.detach().argmax(-1)
        right = spoken & (best == wanted)
        counts = {
            "runs": float(len(likelihood)),
            "found": float(len(torch.unique(run[right]))),
            "written": float((best != blank_label).sum()),
            "right": float(right.sum()),
        }
        return loss, error / (2 * self.variance), counts


def batches(shards: Shards, size: int, rng: random.Random) -> Iterator[list[int]]:
    """Endless epochs: full windows in batches of ``size``, shorter ones three times as many."""
    full = [i for i, count in enumerate(shards.tokens) if count == WINDOW_TOKENS]
    short = [i for i, count in enumerate(shards.tokens) if count < WINDOW_TOKENS]
    while True:
        rng.shuffle(full)
        rng.shuffle(short)
        # Neighbours in a pool of 48 are of like length: little padding.
        pools = [
            sorted(short[i : i + 48], key=shards.tokens.__getitem__)
            for i in range(0, len(short), 48)
        ]
        groups = [full[i : i + size] for i in range(0, len(full), size)]
        groups += [pool[i : i + 3 * size] for pool in pools for i in range(0, len(pool), 3 * size)]
        rng.shuffle(groups)
        yield from groups


def rate_factor(progress: float, step: int, decay_from: float) -> float:
    """Warm-up of 20 steps, constant, then linear decay to 2 %.

    >>> rate_factor(0.7, 1000, 0.4)
    0.5
    """
    decay = min(1.0, (1.0 - progress) / (1.0 - decay_from))
    return min(1.0, (step + 1) / 20) * max(0.02, round(decay, 6))


@torch.no_grad()
def held_out(upper: Upper, head: Head, shards: Shards, windows: int) -> dict[str, float]:
    """Both losses, recall of runs, and precision of the tokens that are not blank.

    Args:
        upper: Switched to its exact arithmetic for this.
        head: Scores the tokens.
        shards: What is held out.
        windows: How many to look at.
    """
    device = head.bias.device
    sums = {"loss": 0.0, "error": 0.0, "runs": 0.0, "found": 0.0, "written": 0.0, "right": 0.0}
    upper.eval()
    for window in range(min(windows, len(shards.index))):
        features, labels = shards.batch([window])
        loss, error, counts = head.losses(upper(features.to(device)), labels.to(device))
        sums["loss"] += float(loss) * counts["runs"]
        sums["error"] += float(error) * counts["runs"]
        for name, count in counts.items():
            sums[name] += count
    upper.train()
    total = max(1.0, sums["runs"])
    return {
        "loss": round(sums["loss"] / total, 4),
        "error": round(sums["error"] / total, 4),
        "recall": round(sums["found"] / total, 4),
        "precision": round(sums["right"] / max(1.0, sums["written"]), 4),
        "written_a_run": round(sums["written"] / total, 4),
    }


def align(
    upper: Upper,
    embeddings: torch.Tensor,
    features: Path,
    out: Path,
    tokenizer: Any,
    silence: int,
    options: AlignOptions,
    report: Report,
    start: Path | None = None,
) -> Path:
    """Train ``upper`` and write ``out/align.pt``; an interrupted run goes on from it.

    Args:
        upper: Trained in place, on its own device.
        embeddings: The language model's, (vocabulary, hidden).
        features: Folder of shards.
        out: Folder for the checkpoint, ``align.jsonl``, the curve, and ``pieces.json``.
        tokenizer: Of the language model.
        silence: Label between words: the blank's.
        options: Settings.
        report: Called with each line of the curve.
        start: An earlier ``align.pt`` to take weights from, with a schedule of its own.
    """
    device = upper.layer_norm.weight.device
    torch.manual_seed(options.seed)
    train, development = Shards(features, "align"), Shards(features, "development")
    path = out / "pieces.json"
    if not path.exists():
        Pieces.count(tokenizer, train.labels, options.piece_frames).save(path)
    for shards in (train, development):
        shards.relabel(Pieces.load(tokenizer, path))
    labels = torch.from_numpy(train.labels).long()
    head = Head(embeddings.cpu(), labels, silence, options.scale).to(device)
    upper.requires_grad_(True)
    encoder = [*upper.layers.parameters(), *upper.layer_norm.parameters()]
    groups = [
        {"params": encoder, "lr": options.encoder_rate},
        {"params": list(upper.projector.parameters()), "lr": options.projector_rate},
        {"params": [head.bias], "lr": 5e-3, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98))
    rates = [group["lr"] for group in optimizer.param_groups]
    path, step, heard, before = out / "align.pt", 0, 0.0, 0.0
    if path.exists():
        state = torch.load(path, map_location=device)
        step, heard, before = state["step"], state["heard"], state["elapsed"]
        upper.load_state_dict(state["upper"])
        load_head(head, state["head"])
        if len(state["head"]["used"]) == len(head.get_buffer("used")):
            optimizer.load_state_dict(state["optimizer"])
    elif start is not None:
        state = torch.load(start, map_location=device)
        upper.load_state_dict(state["upper"])
        load_head(head, state["head"])
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    rng = chance(f"{options.seed}-{step}")
    order = batches(train, options.batch, rng)
    began, saved, running = time.monotonic(), before, [math.nan] * 2
    while True:
        elapsed = before + (time.monotonic() - began) / 60
        progress = max(heard / options.hours, elapsed / options.minutes)
        if elapsed - saved >= options.save_minutes or progress >= 1:
            saved = elapsed
            shown = 8 if progress < 1 else len(development.index)
            held = held_out(upper, head, development, shown)
            line = {
                "stage": "align",
                "minutes": round(elapsed, 2),
                "step": step,
                "hours": round(heard, 2),
                "train_loss": round(running[0], 4),
                "train_error": round(running[1], 4),
                **{f"held_{name}": value for name, value in held.items()},
            }
            save(path, upper, head, optimizer, step, heard, elapsed, options)
            with (out / "align.jsonl").open("a", encoding="utf-8") as curve:
                curve.write(json.dumps(line) + "\n")
            report(line)
        if progress >= 1:
            return path
        factor = rate_factor(progress, step, options.decay_from)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        features_, labels = train.batch(next(order))
        mask = padding_mask(labels)
        if mask is None and progress < options.whole_from:
            features_, labels = cut(features_, labels, options.slices)
        noisy = features_ + options.noise * features_.std() * torch.randn_like(features_)
        hidden = upper(noisy.to(device), None if mask is None else mask.to(device))
        loss, error, _ = head.losses(hidden, labels.to(device))
        optimizer.zero_grad()
        (loss + error).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        heard += float((labels != OUTSIDE).sum()) / TOKEN_RATE / 3600
        now = (float(loss.detach()), float(error.detach()))
        running = [
            b if math.isnan(a) else 0.98 * a + 0.02 * b for a, b in zip(running, now, strict=True)
        ]


def load_head(head: Head, state: dict[str, torch.Tensor]) -> None:
    """Take biases over; tokens that were not in use keep their prior."""
    places = head.get_buffer("inverse")[state["used"]]
    known = places >= 0
    head.bias.data[places[known]] = state["bias"][known]


def save(
    path: Path,
    upper: Upper,
    head: Head,
    optimizer: torch.optim.Optimizer,
    step: int,
    heard: float,
    elapsed: float,
    options: AlignOptions,
) -> None:
    """Write a checkpoint that appears at once."""
    with whole_file(path) as partial:
        torch.save(
            {
                "upper": upper.state_dict(),
                "head": head.state_dict(),
                "optimizer": optimizer.state_dict(),
                "step": step,
                "heard": heard,
                "elapsed": elapsed,
                "options": asdict(options),
            },
            partial,
        )
