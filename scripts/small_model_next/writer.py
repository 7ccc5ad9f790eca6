"""From letters to pieces: what each audio token says to the language model.

Two layers on top of Whisper's six, which begin as identity, and the projection are trained so that
every audio token lies near the embedding of the piece that lasts there. A softmax over negative
squared distances tells pieces apart; the squared distance itself holds the scale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its customary name
from small_model.training.evaluate import word_errors

from small_model_next.alignment import (
    OUTSIDE,
    Floats,
    Labels,
    collapsed,
    letter_times,
    piece_labels,
    steady,
)
from small_model_next.encoder import WHISPER_LAYERS, WIDTH, Layers, pooled
from small_model_next.letters import Speller, ctc_loss
from small_model_next.loop import Schedule, Utterance, run
from small_model_next.speech import Heard
from small_model_next.spelling import SPACE, Cutter, words_of

SHARPNESS = 40.0  # logits a squared distance
RIDGE = 1.0
SMOOTHING = 0.02
BELOW_RATE, ABOVE_RATE, LINEAR_RATE = 2e-4, 5e-4, 1e-3


class Inventory:
    """The pieces that are taught: rows of a table of embeddings, the pause first.

    Args:
        pieces: Texts as byte-level BPE writes them.
        tokenizer: Of the language model.
        embeddings: Of the language model, (vocabulary, hidden).
    """

    def __init__(self, pieces: Sequence[str], tokenizer: Any, embeddings: torch.Tensor) -> None:
        self.texts = ["\u010a", *pieces]  # a line end stands for a pause
        self.rows = {text: row for row, text in enumerate(self.texts)}
        self.tokens: list[int] = tokenizer.convert_tokens_to_ids(self.texts)
        self.table = embeddings[self.tokens].float()

    @classmethod
    def of(cls, words: Sequence[str], cutter: Cutter, tokenizer: Any, table: torch.Tensor) -> Any:
        """All pieces of some words, and all single letters."""
        pieces = {piece for word in words for piece in cutter.cut(word)}
        return cls(sorted(pieces), tokenizer, table)

    def read(self, labels: Sequence[int]) -> str:
        """Words of a sequence of rows, repetitions dropped."""
        texts = (self.texts[row] for row in collapsed(labels))
        return "".join(t if t != "\u010a" else SPACE for t in texts).replace(SPACE, " ").strip()


@dataclass(frozen=True)
class Aligner:
    """Gives each audio token its piece, from the scores of letters.

    Attributes:
        cutter: Cuts words.
        inventory: The pieces; labels are its rows.
    """

    cutter: Cutter
    inventory: Inventory

    def label(self, scores: Floats, one: Utterance) -> Labels:
        """Rows of the inventory, (tokens,), from scores (tokens, classes)."""
        pieces = [piece for word in words_of(one.heard.text) for piece in self.cutter.cut(word)]
        times = letter_times(scores, one.letters).tolist()
        return piece_labels(pieces, times, self.inventory.rows, len(scores), 0)

    def batch(self, scores: Floats, chosen: Sequence[Utterance]) -> torch.Tensor:
        """Labels of a batch, (batch, tokens), ``OUTSIDE`` past the end of each."""
        labels = torch.full(scores.shape[:2], OUTSIDE)
        for row, one in enumerate(chosen):
            count = len(one.heard.features) // 2
            labels[row, :count] = torch.from_numpy(self.label(scores[row, :count], one))
        return labels


class Writer(torch.nn.Module):
    """Stored features to audio tokens in the language model's space.

    Args:
        encoder: All of its layers above the stored ones are taken.
        speller: The trained half below; its LayerNorm is copied as a start.
        hidden: Size of the language model.
    """

    def __init__(self, encoder: Any, speller: Speller, hidden: int) -> None:
        super().__init__()
        self.below = speller.upper
        self.above = Layers(encoder.layers[WHISPER_LAYERS:])
        self.norm = torch.nn.LayerNorm(WIDTH)
        self.norm.load_state_dict(speller.norm.state_dict())
        self.linear = torch.nn.Linear(WIDTH, hidden)

    def states(self, below: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """What the projection is fed with, (batch, frames // 2, width)."""
        normed: torch.Tensor = self.norm(pooled(self.above(below, mask)))
        return normed

    def top(self, below: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """States of the layers below, (batch, frames, width), to audio tokens."""
        tokens: torch.Tensor = self.linear(self.states(below, mask))
        return tokens

    def forward(self, features: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, frames, width) to (batch, frames // 2, hidden), float32."""
        return self.top(self.below(features, mask), mask)

    @torch.inference_mode()
    def start(self, data: Sequence[Utterance], speller: Speller, aligner: Aligner) -> None:
        """The projection that is best by least squares, as a beginning."""
        inputs, targets = [], []
        for one in data:
            below = self.below(torch.from_numpy(one.heard.features).float()[None])
            labels = aligner.label(speller.scores(below)[0].numpy(), one)
            inputs.append(self.states(below)[0])
            targets.append(aligner.inventory.table[labels])
        x, y = torch.cat(inputs), torch.cat(targets)
        mean, centre = x.mean(0), y.mean(0)
        gram = (x - mean).T @ (x - mean) + RIDGE * torch.eye(WIDTH)
        weight = torch.linalg.solve(gram, (x - mean).T @ (y - centre)).T
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(centre - weight @ mean)


def nearness(tokens: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Logits of pieces: minus squared distance, up to a constant a token.

    Args:
        tokens: (n, hidden).
        table: (pieces, hidden).
    """
    products = tokens.to(torch.bfloat16) @ table.to(torch.bfloat16).T
    return SHARPNESS * (2 * products.float() - table.square().sum(1))


def train(
    writer: Writer,
    speller: Speller,
    data: Sequence[Utterance],
    aligner: Aligner,
    schedule: Schedule,
) -> None:
    """Train letters and pieces together, in place.

    Letters go on being learned below; their own scores, as they are at each step, say when the
    pieces above are spoken.

    Args:
        writer: Shares its lower layers with the speller.
        speller: Of the letters.
        data: What to train on.
        aligner: Labels audio tokens.
        schedule: How long.
    """
    table = aligner.inventory.table

    def loss_of(
        batch: torch.Tensor, mask: torch.Tensor, chosen: Sequence[Utterance]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        below = writer.below(batch, mask)
        scores = speller.scores(below)
        spelling = ctc_loss(scores, chosen)
        labels = aligner.batch(scores.detach().numpy(), chosen)
        inside = labels != OUTSIDE
        tokens, wanted = writer.top(below, mask)[inside], labels[inside]
        logits = nearness(tokens, table)
        distance = (tokens - table[wanted]).square().sum(1).mean()
        naming = F.cross_entropy(logits, wanted, label_smoothing=SMOOTHING)
        right = float((logits.argmax(1) == wanted).float().mean())
        figures = {"letter_loss": spelling.item(), "piece_loss": naming.item(), "right": right}
        return spelling + naming + distance, figures

    linear = [*writer.norm.parameters(), *writer.linear.parameters()]
    linear += [*speller.norm.parameters(), *speller.head.parameters()]
    groups = [
        (list(writer.below.parameters()), BELOW_RATE),
        (list(writer.above.parameters()), ABOVE_RATE),
        (linear, LINEAR_RATE),
    ]
    run(schedule, groups, data, loss_of)


@torch.inference_mode()
def scores_of(writer: Writer, heard: Heard, inventory: Inventory) -> Floats:
    """Log-probabilities of pieces, (tokens, pieces)."""
    tokens = writer(torch.from_numpy(heard.features).float()[None])[0]
    scores: Floats = nearness(tokens, inventory.table).log_softmax(1).numpy()
    return scores


def writing_errors(
    writer: Writer, heard: Sequence[Heard], inventory: Inventory, penalties: Sequence[float]
) -> dict[float, float]:
    """Word error rate of the pieces read off, for each penalty on a change of piece."""
    wrong, total = dict.fromkeys(penalties, 0), 0
    for one in heard:
        said, scores = " ".join(words_of(one.text)), scores_of(writer, one, inventory)
        for penalty in penalties:
            errors, words = word_errors(said, inventory.read(steady(scores, penalty).tolist()))
            wrong[penalty] += errors
        total += words
    return {penalty: round(wrong[penalty] / max(1, total), 3) for penalty in penalties}
