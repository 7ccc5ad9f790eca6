"""Letters by CTC: the upper layers of Whisper base's encoder learn to spell what they hear.

Letters are linearly there after minutes, where thousands of pieces are not after hours. The classes
also tell where a word and where a piece begins, so that what follows is a local step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its customary name

from small_model.training.encoder import LOWER_LAYERS, WHISPER_LAYERS, WIDTH, Layers, pooled
from small_model.training.loop import Schedule, Utterance, run
from small_model.training.speech import Heard
from small_model.training.spelling import (
    LETTER_CLASSES,
    read_letters,
    word_error_rate,
    word_errors,
    words_of,
)

LAYER_RATE, HEAD_RATE = 3e-4, 2e-3


class Speller(torch.nn.Module):
    """Stored features to log-probabilities of letters, at 25 a second.

    The upper two of Whisper's layers and the LayerNorm are the encoder's own, not copies.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.upper = Layers(encoder.layers[LOWER_LAYERS:WHISPER_LAYERS])
        self.norm = encoder.layer_norm
        self.head = torch.nn.Linear(WIDTH, len(LETTER_CLASSES))

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


def train(speller: Speller, data: Sequence[Utterance], schedule: Schedule) -> None:
    """Train the speller in place."""

    def loss_of(
        batch: torch.Tensor, mask: torch.Tensor, chosen: Sequence[Utterance]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        loss = ctc_loss(speller(batch, mask), chosen)
        return loss, {"letter_loss": loss.item()}

    layers = [*speller.upper.parameters(), *speller.norm.parameters()]
    head = list(speller.head.parameters())
    run(schedule, [(layers, LAYER_RATE), (head, HEAD_RATE)], data, loss_of)


@torch.inference_mode()
def spelling_errors(speller: Speller, heard: Sequence[Heard]) -> float:
    """Word error rate of what is read off class by class."""
    counts = []
    for one in heard:
        classes = speller(one.tensor[None])[0].argmax(-1).tolist()
        counts.append(word_errors(" ".join(words_of(one.text)), read_letters(classes)))
    return round(word_error_rate(counts), 3)
