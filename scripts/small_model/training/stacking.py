"""Voxtral's projector on the trained encoder: four frames of it become one audio token.

The encoder stays as it is. A token lasts as long as two of the default layout's and lies in the
middle of them, as far as half the rank can say it. Going on from there by gradients, towards both
pieces and both words of a token, made it worse: after 2.5 minutes it read 68 % of people's words
wrong instead of 53.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from small_model.training.encoder import WIDTH, pooled
from small_model.training.features import WINDOW_S, Lower
from small_model.training.speech import Heard
from small_model.training.voices import RATE
from small_model.training.writer import Writer, least_squares
from small_model.voxtral import PROJECTOR, STACKED

BEEP = 1600  # samples


class Stacker(torch.nn.Module):
    """Stored features to audio tokens of Voxtral's layout, in the language model's space.

    The layers and LayerNorm of the default layout's writer are used, and not trained.
    """

    frames = STACKED
    silence: torch.Tensor | None = None  # a window in which nothing is said, (375, hidden)

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self.writer = writer.requires_grad_(False)
        self.below, self.speller = writer.below, writer.speller
        hidden = writer.linear.out_features
        layers = {
            "linear_1": torch.nn.Linear(STACKED * WIDTH, hidden, bias=False),
            "act": torch.nn.GELU(),
            "linear_2": torch.nn.Linear(hidden, hidden, bias=False),
        }
        self.project = torch.nn.Sequential(OrderedDict(layers))  # by Voxtral's names

    def top(self, below: torch.Tensor) -> torch.Tensor:
        """States of the layers below, (batch, frames, width), to audio tokens."""
        tokens: torch.Tensor = self.project(self.joined(self.writer.above(below)))
        return tokens

    def joined(self, above: torch.Tensor) -> torch.Tensor:
        """States of all layers, (batch, frames, width), to (batch, frames // 4, 4 * width).

        Frames that fill no token are left out.
        """
        normed: torch.Tensor = self.writer.norm(above)
        whole = normed.shape[1] // STACKED * STACKED
        return normed[:, :whole].reshape(len(normed), -1, STACKED * WIDTH)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(batch, frames, width) to (batch, frames // 4, hidden), float32."""
        return self.top(self.below(features))

    def hear_silence(self, lower: Lower) -> None:
        """Keep what silence says: Voxtral hears a recording's last window to its end."""
        samples = np.zeros(WINDOW_S * RATE, np.float32)
        # As loud as speech: the loudest sound sets the floor of log-mel features.
        samples[:BEEP] = 0.1 * np.sin(np.arange(BEEP) / 5)
        with torch.no_grad():
            self.silence = self(torch.from_numpy(lower(samples)).float()[None])[0]

    @torch.no_grad()
    def start(self, data: Sequence[Heard]) -> None:
        """Begin with what the default layout's projection says, two of its tokens in one."""
        inputs, targets = [], []
        for one in data:
            above = self.writer.above(self.writer.below(one.tensor[None]))
            inputs.append(self.joined(above)[0])
            targets.append(pooled(self.writer.linear(self.writer.norm(pooled(above))))[0])
        self.fit(torch.cat(inputs), torch.cat(targets))

    @torch.no_grad()
    def fit(self, inputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Take the best linear map of a token's mean frame, from (n, 4 * width) to (n, hidden).

        ``gelu(x) - gelu(-x)`` is x: two hidden units carry one dimension, so the map has a rank of
        half the hidden units. What is constant in a LayerNorm's output stands for the bias that the
        layers do not have.
        """
        frames = inputs.reshape(len(inputs), STACKED, -1).mean(1)
        weight = least_squares(frames, targets)
        first_layer, last_layer = self.project.parameters()
        # The directions in which what is said varies most; the last ones are the largest.
        half, said = len(last_layer) // 2, frames @ weight
        main = torch.linalg.eigh(said.T @ said)[1][:, -half:]
        first = (weight @ main).T
        scale = (frames @ first.T).square().mean(0).sqrt().clamp(min=1e-6)[:, None]
        first, last = (first / scale / STACKED).repeat(1, STACKED), main * scale.T
        first_layer.zero_()
        last_layer.zero_()
        first_layer[: 2 * half] = torch.cat([first, -first])
        last_layer[:, : 2 * half] = torch.cat([last, -last], 1)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The projector under the names of Voxtral's checkpoint, float32."""
        return {PROJECTOR + name: values for name, values in self.project.state_dict().items()}

    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take what :meth:`tensors` gave."""
        self.project.load_state_dict({n.removeprefix(PROJECTOR): v for n, v in tensors.items()})
