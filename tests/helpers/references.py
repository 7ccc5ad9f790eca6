"""How transformers itself answers: what an exported family is held against."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Samples = NDArray[np.float32]
RATE = 16_000


class Reference(Protocol):
    """A checkpoint, opened by the class that it belongs to."""

    model: Any
    """Takes ``inputs_embeds``, ``position_ids`` and ``past_key_values``."""
    audio_token: int
    """Id that stands for the audio in a prompt; -1 where no class takes audio and text."""

    def inputs(self, samples: Samples, question: str) -> dict[str, torch.Tensor]:
        """What ``generate`` takes, with ``input_ids``."""

    def audio(self, samples: Samples) -> torch.Tensor:
        """(tokens, hidden) audio embeddings as they enter the language model."""


def greedy_ids(reference: Reference, samples: Samples, question: str, count: int) -> list[int]:
    """Ids by ``generate``, everything as the class itself does it."""
    given = reference.inputs(samples, question)
    if reference.audio_token < 0:  # no class that takes both: its language model alone
        heard = len(reference.audio(samples))
        return pruned_ids(reference, samples, question, range(heard), False, count)
    out = reference.model.generate(**given, max_new_tokens=count, do_sample=False)
    ids: list[int] = out[0, given["input_ids"].shape[1] :].tolist()
    return ids


def pruned_ids(
    reference: Reference,
    samples: Samples,
    question: str,
    kept: Sequence[int],
    original: bool,
    count: int,
    then: Sequence[int] = (),
) -> list[int]:
    """Greedy ids where the class's own language model hears the kept tokens alone.

    Args:
        reference: the opened checkpoint.
        samples: (samples,) float32 at 16 kHz.
        question: of the user.
        kept: positions of the kept audio tokens.
        original: whether tokens have the positions of the whole prompt, or are numbered anew.
        count: ids at most.
        then: ids between the prompt and the answer: what else was said of a conversation.
    """
    ids = reference.inputs(samples, question)["input_ids"][0]
    heard = reference.audio(samples)
    is_audio = ids == reference.audio_token
    assert int(is_audio.sum()) == len(heard)
    table = reference.model.get_input_embeddings()
    embeds = table(torch.where(is_audio, 0, ids)).clone()
    embeds[is_audio] = heard
    stays = ~is_audio
    stays[is_audio.nonzero()[:, 0][torch.as_tensor(list(kept))]] = True
    at = stays.nonzero()[:, 0] if original else torch.arange(int(stays.sum()))
    embeds = torch.cat([embeds[stays], table(torch.tensor(then, dtype=torch.long))])
    at = torch.cat([at, at[-1] + 1 + torch.arange(len(then))])
    step, cache, said = embeds[None], None, []
    position = at[None]
    for _ in range(count):
        with torch.no_grad():
            out = reference.model(
                inputs_embeds=step,
                position_ids=position,
                past_key_values=cache,
                attention_mask=torch.ones(1, len(at) + len(said), dtype=torch.long),
                use_cache=True,
            )
        cache = out.past_key_values
        said.append(int(out.logits[0, -1].argmax()))
        step = table(torch.tensor([[said[-1]]]))
        position = position[..., -1:] + 1
    return said


def until_stop(ids: Sequence[int], stops: Sequence[int]) -> list[int]:
    """Ids up to the first one that ends an answer."""
    ends = [number for number, i in enumerate(ids) if i in stops]
    return list(ids[: min(ends, default=len(ids))])


def by_windows(samples: Samples, seconds: float) -> list[Samples]:
    """The recording cut as the runtime cuts it."""
    window = round(seconds * RATE)
    return [samples[at : at + window] for at in range(0, len(samples), window)]


@dataclass(frozen=True)
class Family:
    """A family with a class in transformers, and one state of its tiny checkpoint.

    Attributes:
        name: for the test's report.
        family: that the manifest names.
        write: writes the checkpoint.
        open: opens it by its own class.
        tokens: audio tokens of so many samples.
        seconds: of a window.
        span_tokens: tokens that share one stretch of time.
        frame_tokens: tokens of a frame of phase 1.
    """

    name: str
    family: str
    write: Callable[[Path], Path]
    open: Callable[[Path], Reference]
    tokens: Callable[[int], int]
    seconds: float = 30.0
    span_tokens: int = 1
    frame_tokens: int = 25


def spread(model: Any) -> None:
    """Make weights that start at zero or too small differ, so that no slip hides in them.

    Args:
        model: a random checkpoint.
    """
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "q_norm" in name:  # even attention makes a model repeat one token
                parameter.copy_(6 * (1 + 0.3 * torch.randn_like(parameter)))
            elif name.endswith("bias"):
                parameter.normal_(std=0.2)
            elif "norm" in name and parameter.ndim == 1:
                parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
