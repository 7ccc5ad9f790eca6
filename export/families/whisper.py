"""The body of a Whisper encoder, which every family here has in some form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["additive_mask", "encoder_frames", "encoder_layers", "heard_windows"]


def additive_mask(hidden: Tensor, barred: Tensor) -> Tensor:
    """A mask to be added to attention: finite, as a softmax over minus infinities alone is NaN.

    Args:
        hidden: whose dtype it takes.
        barred: bool, any shape, where attention must not look.
    """
    return barred.to(hidden.dtype) * torch.finfo(hidden.dtype).min


def encoder_frames(tower: Any, input_features: Tensor) -> Tensor:
    """Both convolutions and the positions.

    Args:
        tower: encoder of any Whisper-like class.
        input_features: (windows, mel_bins, frames).

    Returns:
        (windows, frames // 2, width).
    """
    dtype = tower.conv1.weight.dtype
    hidden = nn.functional.gelu(tower.conv1(input_features.to(dtype)))
    hidden = nn.functional.gelu(tower.conv2(hidden)).transpose(1, 2)
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    embedded: Tensor = hidden + tower.embed_positions(positions)
    return embedded


def encoder_layers(tower: Any, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """All layers, without the norm at the end.

    Args:
        tower: encoder of any Whisper-like class.
        hidden: from ``encoder_frames``.
        mask: (windows, 1, 1, frames // 2) of ``additive_mask``, or None to look everywhere.
    """
    for layer in tower.layers:
        hidden = layer(hidden, mask)
    return hidden


def heard_windows(embeds: Tensor, feature_lengths: Tensor) -> Tensor:
    """Zeros for windows of no frames, where nothing else depends on how full a window is.

    Args:
        embeds: (windows, tokens, hidden).
        feature_lengths: (windows,), in frames.
    """
    return embeds * (feature_lengths > 0).to(embeds.dtype)[:, None, None]
