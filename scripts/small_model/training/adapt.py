"""The stage adapt: the language model learns to read words with blanks between them.

LoRA on every linear layer of the language model: first on exact embeddings, spoilt by noise, then
on what the trained encoder really makes of recordings that it was not trained on. From part of the
recordings most blanks are taken out: what is left is short to train on, and what pruning leaves.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from small_model.training.align import rate_factor
from small_model.training.data import Clip, Labels, clip_texts, read_clips
from small_model.training.facts import FactMaker
from small_model.training.features import Half
from small_model.training.pieces import SPACE, Pieces
from small_model.training.reader import Reader
from small_model.training.spikes import drop_blanks, spike, with_blank
from small_model.training.text import Dialogue, chance
from speechprune_ort.files import whole_file

TRANSCRIBE = "Repeat the speech."
MOST_JOINED = 12  # clips in one recording


@dataclass(frozen=True)
class AdaptOptions:
    """Settings of the stage.

    Attributes:
        mode: ``exact`` embeddings with noise, or ``real`` encoder outputs.
        minutes: Length of this part of the stage.
        rank: Of the LoRA factors; alpha is twice as much.
        rate: Learning rate.
        step_tokens: Input tokens a step, at least.
        whole_share: Share of sequences that are whole dialogues.
        joined_share: Share of sequences that are several clips, one behind the other.
        joined_tokens: Audio tokens of the longest of these.
        dropped_share: Share of sequences without 30 to 80 % of their tokens, blanks first.
        decay_from: Progress after which the rate falls linearly.
        seed: Of all chance.
        save_minutes: Between checkpoints.
    """

    mode: str = "exact"
    minutes: float = 10.0
    rank: int = 16
    rate: float = 5e-4
    step_tokens: int = 500
    whole_share: float = 0.1
    joined_share: float = 0.4
    joined_tokens: int = 2000
    dropped_share: float = 0.7
    decay_from: float = 0.5
    seed: int = 1
    save_minutes: float = 2.0

    def __post_init__(self) -> None:
        if self.mode not in ("exact", "real"):
            raise ValueError("mode must be exact or real.")
        if self.minutes <= 0 or self.rank < 1:
            raise ValueError("minutes and rank must be positive.")


@dataclass
class Sample:
    """A clip ready for the language model.

    Attributes:
        clip: Text and questions.
        windows: Stored features of its windows of 30 s.
        labels: Text token of each audio token, (n,).
        tokens: Encoder outputs (n, hidden) bfloat16, once they are made.
    """

    clip: Clip
    windows: list[Half]
    labels: Labels
    tokens: torch.Tensor | None = None


def load_samples(features: Path, kind: str, pieces: Pieces) -> list[Sample]:
    """Read all clips of a kind, their labels as the audio side was taught them."""
    samples = []
    for file in sorted(features.glob(f"{kind}-[0-9][0-9][0-9].json")):
        for clip, windows, labels in read_clips(file.with_suffix(".npy")):
            if not windows:
                continue
            samples.append(Sample(clip, windows, pieces.relabel(np.concatenate(labels))))
    return samples


def write_samples(
    dialogues: Sequence[Dialogue],
    facts: FactMaker,
    tokenizer: Any,
    pieces: Pieces,
    silence: int,
    rng: random.Random,
) -> list[Sample]:
    """Recordings that were never spoken: their labels alone, for the exact mode.

    Each letter lasts about as long as in speech, drawn anew for each recording and word. Whole
    dialogues are left to the recordings.
    """
    strings = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    letters = [len(string.removeprefix(SPACE)) for string in strings]
    samples = []
    for dialogue in dialogues:
        for kind, sentences, questions in clip_texts(dialogue, facts, rng):
            if kind == "whole":
                continue
            parts, letter = [], rng.uniform(1.3, 2.3)  # audio tokens
            for sentence in sentences:
                ids = tokenizer(" " + sentence, add_special_tokens=False)["input_ids"]
                lengths = [max(1, round(letters[i] * letter * rng.uniform(0.7, 1.3))) for i in ids]
                parts += [np.repeat(ids, lengths), np.full(rng.randint(2, 10), silence)]
            labels = pieces.relabel(np.concatenate(parts).astype(np.int32))
            text = " ".join(sentences)
            clip = Clip(kind, dialogue.name, "none", text, tuple(questions), ())
            samples.append(Sample(clip, [], labels))
    return samples


def exact_tokens(
    labels: Labels, targets: torch.Tensor, silence: int, rng: random.Random
) -> torch.Tensor:
    """What an encoder would ideally say, spoilt in the ways in which it is wrong.

    A quarter of the words' tokens is mixed with another word, neighbours run into each other, and
    all is noisy.

    Args:
        labels: (n,), the run of each text token as long as it is spoken.
        targets: From :func:`~small_model.training.spikes.with_blank`.
        silence: Label of the blank.
        rng: Source of chance.

    Returns:
        (n, hidden) float32.
    """
    wanted = torch.from_numpy(spike(labels, silence, rng)).long()
    tokens = targets[wanted].clone()
    wrong = (wanted != silence) & (torch.rand(len(wanted)) < rng.uniform(0.1, 0.4))
    share = torch.rand(len(wanted)) * 0.9 * wrong
    other = targets[torch.randint(200, min(30000, len(targets)), (len(wanted),))]
    tokens += share[:, None] * (other - tokens)
    blur, shifted = rng.uniform(0, 0.5), torch.roll(tokens, rng.choice([-1, 1]), 0)
    mixed = (torch.rand(len(tokens), 1) < 0.35).float() * blur
    tokens = tokens + mixed * (shifted - tokens)
    spread = float(targets[:1000].std())
    return tokens + torch.randn_like(tokens) * spread * rng.uniform(0, 0.5)


def turns_of(clip: Clip, rng: random.Random) -> list[tuple[str, str, float]]:
    """Questions in random order, then the transcript; sometimes the transcript alone."""
    transcript = (TRANSCRIBE, clip.text, 0.5)
    if clip.kind != "whole" and rng.random() < 0.12:
        return [transcript]
    questions = rng.sample(clip.questions, len(clip.questions))
    asked = list(dict.fromkeys(questions))
    turns = [(question, answer, 1.0 / len(asked)) for question, answer in asked]
    return turns if clip.kind == "whole" and rng.random() < 0.5 else [*turns, transcript]


def join(samples: Sequence[Sample], most: int) -> list[Sample]:
    """As many of the samples, in order, as make one recording of at most ``most`` audio tokens.

    A long recording of many facts teaches far more a token than a dialogue with one question. Two
    clips that answer the same question are not put together.
    """
    found: list[Sample] = []
    asked: set[str] = set()
    length = 0
    for sample in samples:
        questions = {question for question, _ in sample.clip.questions}
        length += len(sample.labels)
        if found and (length > most or questions & asked):
            break
        found.append(sample)
        asked |= questions
    return found


def joined_turns(samples: Sequence[Sample], rng: random.Random) -> list[tuple[str, str, float]]:
    """All questions about several clips in random order."""
    questions = [q for sample in samples for q in dict.fromkeys(sample.clip.questions)]
    return [(q, a, 1.0 / len(questions)) for q, a in rng.sample(questions, len(questions))]


def adapt(
    reader: Reader,
    train: list[Sample],
    development: list[Sample],
    silence: int,
    out: Path,
    options: AdaptOptions,
    report: Callable[[dict[str, Any]], None],
    start: Path | None = None,
) -> Path:
    """Train the LoRA factors and write ``out/adapt-MODE.pt``; an interrupted run goes on.

    Args:
        reader: Trained in place.
        train: From :func:`load_samples`.
        development: Likewise, to watch the loss.
        silence: Label of the blank.
        out: Folder for the checkpoint and ``adapt.jsonl``, the curve.
        options: Settings.
        report: Called with each line of the curve.
        start: Checkpoint of the part before.
    """
    parameters = list(reader.lora.values())
    optimizer = torch.optim.AdamW(parameters, options.rate, betas=(0.9, 0.98), weight_decay=0.0)
    path, step, seen, before = out / f"adapt-{options.mode}.pt", 0, 0, 0.0
    source = path if path.exists() else start
    if source is not None:
        state = torch.load(source, map_location=reader.device)
        for name, values in state["lora"].items():
            reader.lora[name].data.copy_(values)
        if source == path:
            step, seen, before = state["step"], state["tokens"], state["elapsed"]
            optimizer.load_state_dict(state["optimizer"])
    targets = with_blank(reader.embeddings, silence).cpu()
    rng = chance(f"{options.seed}-{options.mode}-{step}")
    torch.manual_seed(options.seed + step)
    pools = {w: [s for s in train if (s.clip.kind == "whole") == w] for w in (True, False)}
    order: dict[bool, list[Sample]] = {True: [], False: []}
    began, saved, running = time.monotonic(), before - options.save_minutes, [math.nan] * 2
    while True:
        elapsed = before + (time.monotonic() - began) / 60
        progress = elapsed / options.minutes
        if elapsed - saved >= options.save_minutes or progress >= 1:
            saved = elapsed
            line = {
                "stage": f"adapt-{options.mode}",
                "minutes": round(elapsed, 2),
                "step": step,
                "tokens": seen,
                "train_answer": round(running[0], 4),
                "train_transcript": round(running[1], 4),
                **watch(reader, development, targets, silence, options),
            }
            save(path, reader, optimizer, step, seen, elapsed, options)
            with (out / "adapt.jsonl").open("a", encoding="utf-8") as curve:
                curve.write(json.dumps(line) + "\n")
            report(line)
        if progress >= 1:
            return path
        factor = rate_factor(progress, step, options.decay_from)
        for group in optimizer.param_groups:
            group["lr"] = options.rate * factor
        optimizer.zero_grad()
        count, samples = 0, 0
        while count < options.step_tokens:
            whole = bool(pools[True]) and rng.random() < options.whole_share
            if len(order[whole]) < MOST_JOINED:
                order[whole] = rng.sample(pools[whole], len(pools[whole])) + order[whole]
            parts = order[whole][-1:]
            if not whole and rng.random() < options.joined_share:
                most = rng.randint(300, options.joined_tokens)
                parts = join(order[whole][: -MOST_JOINED - 1 : -1], most)
            del order[whole][-len(parts) :]
            heard = [audio_of(part, reader, targets, silence, rng, options) for part in parts]
            audio = torch.cat(heard)
            if rng.random() < options.dropped_share:
                audio = drop_blanks(audio, targets[silence], rng.uniform(0.3, 0.8))
            alone = len(parts) == 1
            turns = turns_of(parts[0].clip, rng) if alone else joined_turns(parts, rng)
            total, each, length = reader.loss(audio, turns)
            total.backward()  # type: ignore[no-untyped-call]
            count, samples = count + length, samples + 1
            for (question, _, _), value in zip(turns, each, strict=True):
                place = int(question == TRANSCRIBE)
                old = running[place]
                running[place] = value if math.isnan(old) else 0.97 * old + 0.03 * value
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad /= samples
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step, seen = step + 1, seen + count


def audio_of(
    sample: Sample,
    reader: Reader,
    targets: torch.Tensor,
    silence: int,
    rng: random.Random,
    options: AdaptOptions,
) -> torch.Tensor:
    """The audio tokens of a sample in the mode of the options; encoder outputs are kept."""
    if options.mode == "real":
        if sample.tokens is None:
            sample.tokens = reader.upper.encode(sample.windows).to(torch.bfloat16).cpu().clone()
        return sample.tokens
    return exact_tokens(sample.labels, targets, silence, rng)


@torch.no_grad()
def watch(
    reader: Reader,
    development: list[Sample],
    targets: torch.Tensor,
    silence: int,
    options: AdaptOptions,
) -> dict[str, float]:
    """Held-out cross-entropy of answers and transcripts, short clips only.

    Of all audio tokens, of the third of them that is least blank ("dropped"), and of the answer
    without audio.
    """
    names = ("held_answer", "held_transcript", "dropped_answer", "no_audio_answer")
    sums: dict[str, list[float]] = {name: [] for name in names}
    rng = chance(0)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    for sample in [s for s in development if s.clip.kind in ("key", "facts")][:8]:
        audio = audio_of(sample, reader, targets, silence, rng, options)
        question, answer = sample.clip.questions[0]
        turns = [(question, answer, 1.0), (TRANSCRIBE, sample.clip.text, 1.0)]
        _, each, _ = reader.loss(audio, turns)
        sums["held_answer"].append(each[0])
        sums["held_transcript"].append(each[1])
        dropped = drop_blanks(audio, targets[silence], 0.67)
        sums["dropped_answer"].append(reader.loss(dropped, turns[:1])[1][0])
        sums["no_audio_answer"].append(reader.loss(audio[:0], turns[:1])[1][0])
    torch.set_rng_state(state)
    return {name: round(float(np.mean(v)), 4) for name, v in sums.items() if v}


def mean_of_factors(
    left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Mean of two sets of LoRA factors, of which one was trained from the other.

    Raises:
        ValueError: they are not of the same matrices.
    """
    if left.keys() != right.keys():
        raise ValueError("the factors are of different matrices: take two parts of one training.")
    return {name: (values + right[name]) / 2 for name, values in left.items()}


def save(
    path: Path,
    reader: Reader,
    optimizer: torch.optim.Optimizer,
    step: int,
    tokens: int,
    elapsed: float,
    options: AdaptOptions,
) -> None:
    """Write a checkpoint that appears at once."""
    with whole_file(path) as partial:
        torch.save(
            {
                "lora": {name: values.detach() for name, values in reader.lora.items()},
                "optimizer": optimizer.state_dict(),
                "step": step,
                "tokens": tokens,
                "elapsed": elapsed,
                "options": asdict(options),
            },
            partial,
        )
