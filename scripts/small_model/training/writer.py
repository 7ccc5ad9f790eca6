"""From letters to pieces and words: what each audio token says to the language model.

Two layers on top of Whisper's six, which begin as identity, and the projection are trained so that
every audio token lies between the embeddings of the piece that lasts there and of its word. One
softmax over negative squared distances tells pieces apart and another words; the squared distance
itself holds the scale.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its customary name
from safetensors.torch import load_file, save

from small_model.assemble import ENCODER
from small_model.delta import FOR_TRAINING
from small_model.training.alignment import (
    OUTSIDE,
    Floats,
    Labels,
    letter_times,
    piece_places,
    steady,
)
from small_model.training.encoder import LOWER_LAYERS, WHISPER_LAYERS, WIDTH, Layers, pooled
from small_model.training.letters import Speller, ctc_loss
from small_model.training.loop import Schedule, Utterance, run
from small_model.training.speech import Heard
from small_model.training.spelling import word_error_rate, word_errors, words_of
from small_model.training.targets import SHARE, Targets
from speechprune_ort.files import whole_file

SHARPNESS = 40.0  # logits a squared distance
RIDGE = 1.0
SMOOTHING = 0.02
OTHER_WORDS = 1000  # beside those of a batch, to tell its words from
BELOW_RATE, ABOVE_RATE, LINEAR_RATE = 2e-4, 5e-4, 1e-3


def labels_of(targets: Targets, scores: Floats, one: Utterance) -> tuple[Labels, Labels]:
    """Each audio token's rows of pieces and of words, (tokens,), from scores (tokens, letters)."""
    pieces, words = [], []
    for word in words_of(one.heard.text):
        for piece in targets.cutter.cut(word):
            pieces.append(piece)
            words.append(targets.words.get(word, 0))
    places = piece_places(pieces, letter_times(scores, one.letters).tolist(), len(scores))
    # At the place -1 stand the pause and no word.
    rows = np.array([*(targets.rows[piece] for piece in pieces), 0])
    return rows[places], np.array([*words, 0])[places]


def labels_of_batch(
    targets: Targets, scores: Floats, chosen: Sequence[Utterance]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of a batch, (batch, tokens) each, ``OUTSIDE`` past the end of each recording."""
    labels = torch.full((2, *scores.shape[:2]), OUTSIDE)
    for row, one in enumerate(chosen):
        count = len(one.heard.features) // 2
        found = labels_of(targets, scores[row, :count], one)
        labels[:, row, :count] = torch.from_numpy(np.stack(found))
    return labels[0], labels[1]


class Writer(torch.nn.Module):
    """Stored features to audio tokens in the language model's space.

    All of the encoder's layers above the stored ones are taken, the speller's half among them.
    """

    frames = 2  # of the encoder in an audio token
    silence: torch.Tensor | None = None  # what is behind a recording's end is masked

    def __init__(self, encoder: Any, hidden: int) -> None:
        super().__init__()
        self.speller = Speller(encoder)
        self.below = self.speller.upper
        self.above = Layers(encoder.layers[WHISPER_LAYERS:])
        self.norm = copy.deepcopy(self.speller.norm)
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
    def start(self, data: Sequence[Utterance], targets: Targets) -> None:
        """The projection that is best by least squares, as a beginning."""
        inputs, wanted = [], []
        for one in data:
            below = self.below(one.heard.tensor[None])
            pieces, words = labels_of(targets, self.speller.scores(below)[0].numpy(), one)
            inputs.append(self.states(below)[0])
            wanted.append(targets.between(torch.from_numpy(pieces), torch.from_numpy(words)))
        x, y = torch.cat(inputs), torch.cat(wanted)
        mean, centre = x.mean(0), y.mean(0)
        weight = least_squares(x - mean, y - centre).T
        self.linear.weight.copy_(weight)
        self.linear.bias.copy_(centre - weight @ mean)

    def parts(self) -> dict[str, torch.nn.Module]:
        """The trained modules by the beginning of their tensors' names in Qwen2-Audio's checkpoint.

        The head of letters and its LayerNorm are not there: they are for training to go on.
        """
        above = enumerate([*self.below.layers, *self.above.layers], LOWER_LAYERS)
        return {
            **{f"{ENCODER}layers.{number}.": layer for number, layer in above},
            f"{ENCODER}layer_norm.": self.norm,
            "multi_modal_projector.linear.": self.linear,
            f"{FOR_TRAINING}norm.": self.speller.norm,
            f"{FOR_TRAINING}head.": self.speller.head,
        }

    def save(self, path: Path) -> None:
        """Write all trained tensors in half precision; the file appears at once."""
        tensors = {
            begin + name: values.to(torch.float16).contiguous()
            for begin, module in self.parts().items()
            for name, values in module.state_dict().items()
        }
        with whole_file(path) as partial:
            partial.write_bytes(save(tensors, metadata={"format": "pt"}))

    def load(self, path: Path) -> None:
        """Take what :meth:`save` wrote."""
        tensors = load_file(path)
        for begin, module in self.parts().items():
            module.load_state_dict(
                {n.removeprefix(begin): t for n, t in tensors.items() if n.startswith(begin)}
            )


def least_squares(inputs: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The matrix that inputs (n, in) are to be multiplied by, (in, out)."""
    gram = inputs.T @ inputs + RIDGE * torch.eye(inputs.shape[1])
    matrix: torch.Tensor = torch.linalg.solve(gram, inputs.T @ wanted)
    return matrix


def nearness(tokens: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Logits of pieces, or of words: minus squared distance, up to a constant a token.

    Args:
        tokens: Around the centre, (n, hidden).
        table: Around the centre, (choices, hidden); a token has the share `SHARE` of one.
    """
    table = SHARE * table
    products = tokens.to(torch.bfloat16) @ table.to(torch.bfloat16).T
    return SHARPNESS * (2 * products.float() - table.square().sum(1))


def train(writer: Writer, data: Sequence[Utterance], targets: Targets, schedule: Schedule) -> None:
    """Train letters and pieces together, in place.

    Letters go on being learned below; their own scores, as they are at each step, say when the
    pieces above are spoken.
    """
    speller = writer.speller

    def loss_of(
        batch: torch.Tensor, mask: torch.Tensor, chosen: Sequence[Utterance]
    ) -> tuple[torch.Tensor, dict[str, float]]:
        below = writer.below(batch, mask)
        scores = speller.scores(below)
        spelling = ctc_loss(scores, chosen)
        pieces, words = labels_of_batch(targets, scores.detach().numpy(), chosen)
        inside = pieces != OUTSIDE
        tokens, piece, word = writer.top(below, mask)[inside], pieces[inside], words[inside]
        distance = (tokens - targets.between(piece, word)).square().sum(1).mean()
        around = tokens - targets.centre
        naming, right = named(around, targets.pieces, piece)
        spoken = word > 0
        others = torch.randint(1, len(targets.whole), (OTHER_WORDS,))
        candidates, place = torch.cat([word[spoken], others]).unique(  # type: ignore[no-untyped-call]
            return_inverse=True
        )
        meaning, known = named(
            around[spoken], targets.whole[candidates], place[: int(spoken.sum())]
        )
        figures = {"letter_loss": spelling.item(), "piece_loss": naming.item(), "right": right}
        figures |= {"word_loss": meaning.item(), "known": known}
        return spelling + naming + meaning + distance, figures

    linear = [*writer.norm.parameters(), *writer.linear.parameters()]
    linear += [*speller.norm.parameters(), *speller.head.parameters()]
    groups = [
        (list(writer.below.parameters()), BELOW_RATE),
        (list(writer.above.parameters()), ABOVE_RATE),
        (linear, LINEAR_RATE),
    ]
    run(schedule, groups, data, loss_of)


def named(
    around: torch.Tensor, table: torch.Tensor, wanted: torch.Tensor
) -> tuple[torch.Tensor, float]:
    """Cross-entropy of the right rows among a table's, and the share of tokens nearest to them."""
    logits = nearness(around, table)
    loss = F.cross_entropy(logits, wanted, label_smoothing=SMOOTHING)
    return loss, float((logits.argmax(1) == wanted).float().mean())


@torch.inference_mode()
def writing_errors(
    writer: torch.nn.Module, heard: Sequence[Heard], targets: Targets, penalties: Sequence[float]
) -> dict[float, float]:
    """Word error rate of the pieces read off, for each penalty on a change of piece."""
    counts: dict[float, list[tuple[int, int]]] = {penalty: [] for penalty in penalties}
    for one in heard:
        said = " ".join(words_of(one.text))
        around = writer(one.tensor[None])[0] - targets.centre
        scores = nearness(around, targets.pieces).log_softmax(1).numpy()
        for penalty, found in counts.items():
            read = targets.read(steady(scores, penalty).tolist())
            found.append(word_errors(said, read))
    return {penalty: round(word_error_rate(found), 3) for penalty, found in counts.items()}
