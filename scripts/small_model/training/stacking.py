"""Voxtral's projector on the trained encoder: four frames of it become one audio token.

The encoder stays as it is. A token lasts as long as two of the default layout's and lies in the
middle of them, as far as half the rank can say it. Going on from there by gradients, towards both
pieces and both words of a token, made it worse: after 2.5 minutes it read 68 % of people's words
wrong instead of 53.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its customary name

from small_model.training.encoder import WIDTH, pooled
from small_model.training.features import WINDOW_S, Lower
from small_model.training.speech import Heard
from small_model.training.voices import RATE
from small_model.training.writer import Writer
from small_model.voxtral import PROJECTOR, STACKED

RIDGE = 1.0
BEEP = 1600  # samples


class Stacker(torch.nn.Module):
    """Stored features to audio tokens of Voxtral's layout, in the language model's space.

    Args:
        writer: Of the default layout; its layers and LayerNorm are used, and not trained.

    Attributes:
        silence: Audio tokens of a window in which nothing is said, (375, hidden), or None.
    """

    frames = STACKED
    silence: torch.Tensor | None = None

    def __init__(self, writer: Writer) -> None:
        super().__init__()
        self.writer = writer.requires_grad_(False)
        hidden = writer.linear.out_features
        self.linear_1 = torch.nn.Linear(STACKED * WIDTH, hidden, bias=False)
        self.linear_2 = torch.nn.Linear(hidden, hidden, bias=False)

    @torch.no_grad()
    def below(self, features: torch.Tensor) -> torch.Tensor:
        """What the lower layers make of features, (batch, frames, width) to the same."""
        below: torch.Tensor = self.writer.below(features)
        return below

    def top(self, below: torch.Tensor) -> torch.Tensor:
        """States of the layers below, (batch, frames, width), to audio tokens."""
        return self.project(self.joined(self.writer.above(below)))

    def joined(self, above: torch.Tensor) -> torch.Tensor:
        """States of all layers, (batch, frames, width), to (batch, frames // 4, 4 * width).

        Frames that fill no token are left out.
        """
        normed: torch.Tensor = self.writer.norm(above)
        whole = normed.shape[1] // STACKED * STACKED
        return normed[:, :whole].reshape(len(normed), -1, STACKED * WIDTH)

    def layers(self) -> dict[str, torch.nn.Linear]:
        """The layers of the projector, which are trained, by Voxtral's names."""
        return {"linear_1": self.linear_1, "linear_2": self.linear_2}

    def project(self, states: torch.Tensor) -> torch.Tensor:
        """(..., 4 * width) to (..., hidden)."""
        tokens: torch.Tensor = self.linear_2(F.gelu(self.linear_1(states)))
        return tokens

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
        """Take the linear map of a token's mean frame that is best by least squares.

        ``gelu(x) - gelu(-x)`` is x: two hidden units carry one dimension, so the map has a rank of
        half the hidden units. What is constant in a LayerNorm's output stands for the bias that the
        layers do not have.

        Args:
            inputs: (n, 4 * width).
            targets: (n, hidden).
        """
        frames = inputs.reshape(len(inputs), STACKED, -1).mean(1)
        gram = frames.T @ frames + RIDGE * torch.eye(frames.shape[1])
        weight = torch.linalg.solve(gram, frames.T @ targets)
        # The directions in which what is said varies most; the last ones are the largest.
        half, said = self.linear_2.out_features // 2, frames @ weight
        main = torch.linalg.eigh(said.T @ said)[1][:, -half:]
        first = (weight @ main).T
        scale = (frames @ first.T).square().mean(0).sqrt().clamp(min=1e-6)[:, None]
        first, last = (first / scale / STACKED).repeat(1, STACKED), main * scale.T
        self.linear_1.weight.zero_()
        self.linear_2.weight.zero_()
        self.linear_1.weight[: 2 * half] = torch.cat([first, -first])
        self.linear_2.weight[:, : 2 * half] = torch.cat([last, -last], 1)

    def tensors(self) -> dict[str, torch.Tensor]:
        """The projector under the names of Voxtral's checkpoint, float32."""
        return {f"{PROJECTOR}{name}.weight": m.weight.detach() for name, m in self.layers().items()}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take what :meth:`tensors` gave."""
        for name, layer in self.layers().items():
            layer.weight.copy_(tensors[f"{PROJECTOR}{name}.weight"])
