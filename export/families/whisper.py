"""The body of a Whisper encoder, which every family here has in some form."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from speechprune_ort.export.families.base import AttentiveEncoder

__all__ = [
    "POOLED",
    "POOLED_STEPS",
    "ChunkLayer",
    "PooledEncoder",
    "additive_mask",
    "attended_layers",
    "encoder_frames",
    "encoder_layers",
    "filled",
    "heard_windows",
    "last_place",
    "received_attention",
]


POOLED = 2
"""Frames behind the convolutions that ``PooledEncoder`` makes a token of."""

POOLED_STEPS = ((-1, 2, 1), (-2, 2, 1))
"""``length_steps`` of ``PooledEncoder``: stride 2 with padding 1 and width 3, then pairs."""


def additive_mask(hidden: Tensor, barred: Tensor) -> Tensor:
    """A mask to be added to attention: finite, as a softmax over minus infinities alone is NaN.

    Args:
        hidden: whose dtype it takes.
        barred: bool, any shape, where attention must not look.
    """
    return barred.to(hidden.dtype) * torch.finfo(hidden.dtype).min


def encoder_frames(tower: Any, input_features: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Both convolutions and the positions.

    Args:
        tower: encoder of any Whisper-like class.
        input_features: (windows, mel_bins, frames).
        lengths: (windows,) frames of sound, where the encoder was made for recordings without
            padding: behind their end both convolutions see zeros. None to hear the padding.

    Returns:
        (windows, frames // 2, width).
    """
    dtype = tower.conv1.weight.dtype
    features = input_features.to(dtype)
    if lengths is None:
        hidden = nn.functional.gelu(tower.conv1(features))
    else:
        at = torch.arange(features.shape[2], device=lengths.device)
        sound = (at < lengths[:, None]).to(dtype)[:, None, :]
        hidden = nn.functional.gelu(tower.conv1(features * sound)) * sound
    hidden = nn.functional.gelu(tower.conv2(hidden)).transpose(1, 2)
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    embedded: Tensor = hidden + tower.embed_positions(positions)
    return embedded


def encoder_layers(layers: Iterable[Any], hidden: Tensor, mask: Tensor | None = None) -> Tensor:
    """Layers one after the other, without the norm at the end.

    Args:
        layers: of the encoder of any Whisper-like class.
        hidden: from ``encoder_frames``.
        mask: (windows, 1, 1, frames // 2) of ``additive_mask``, or None to look everywhere.
    """
    for layer in layers:
        hidden = layer(hidden, mask)
    return hidden


def attended_layers(
    tower: Any, hidden: Tensor, frames_of_token: int, mask: Tensor | None = None
) -> tuple[Tensor, Callable[[], Tensor]]:
    """All layers, and what the last one attends to.

    Args:
        tower: encoder of any Whisper-like class.
        hidden: from ``encoder_frames``.
        frames_of_token: frames that one audio token is made from.
        mask: as in ``encoder_layers``.

    Returns:
        (windows, frames // 2, width), and what computes (windows, tokens) float32: the attention
        that a token's frames receive in the last layer, mean over heads and over the frames that
        attend, 1 where it is even.
    """
    *layers, last = tower.layers
    hidden = encoder_layers(layers, hidden, mask)
    return last(hidden, mask), partial(_attention_of, last, hidden, frames_of_token, mask)


def _attention_of(layer: Any, hidden: Tensor, frames_of_token: int, mask: Tensor | None) -> Tensor:
    """The attention that each token receives in a layer, from what goes into it."""
    attention = layer.self_attn
    source = layer.self_attn_layer_norm(hidden)
    windows, frames, width = source.shape
    shape = (windows, frames, attention.num_heads, width // attention.num_heads)
    query, key = (
        projection(source).reshape(shape).transpose(1, 2).float()
        for projection in (attention.q_proj, attention.k_proj)
    )
    return received_attention(query, key * attention.scaling, frames_of_token, mask)


def received_attention(
    query: Tensor, key: Tensor, frames_of_token: int, mask: Tensor | None = None
) -> Tensor:
    """The attention that each token receives in a layer.

    Args:
        query: (windows, heads, frames, width) float32, with positions where the layer turns it.
        key: of the same shape, scaled.
        frames_of_token: frames that one audio token is made from.
        mask: as in ``encoder_layers``.

    Returns:
        (windows, tokens) float32: of a token's frames, mean over heads and over the frames that
        attend, 1 where it is even.
    """
    windows, _, frames, _ = query.shape
    scores = query @ key.transpose(2, 3)
    heard = torch.ones(windows, frames, 1)
    if mask is not None:
        scores = scores + mask.float()
        heard = (mask[:, 0, 0, :, None] == 0).float()
    shares = scores.softmax(3).mean(1)
    received = (shares * heard).sum(1)
    tokens = frames // frames_of_token
    pooled = received[:, : tokens * frames_of_token].reshape(windows, tokens, frames_of_token)
    return pooled.mean(2)


def filled(values: Tensor, axis: int, size: int) -> Tensor:
    """An axis as long as ``size``, its last element repeated.

    Which one that is is looked up: the tracer would have to prove that padding of a varying length
    makes a whole number of pieces, and cannot.
    """
    at = torch.arange(size, device=values.device)
    return values.index_select(axis, torch.minimum(at, last_place(values, axis)))


def last_place(values: Tensor, axis: int) -> Tensor:
    """Index of the last element of an axis, (1,) int64.

    A tensor, as a plain number is made on the CPU and would have to be copied to a GPU.
    """
    return torch.arange(values.shape[axis], device=values.device)[-1:]


def heard_windows(embeds: Tensor, feature_lengths: Tensor) -> Tensor:
    """Zeros for windows of no frames, where nothing else depends on how full a window is.

    Args:
        embeds: (windows, tokens, hidden).
        feature_lengths: (windows,), in frames.
    """
    return embeds * (feature_lengths > 0).to(embeds.dtype)[:, None, None]


class ChunkLayer(nn.Module):
    """An encoder layer over chunks that stand side by side, instead of one behind the other.

    Args:
        layer: of the audio tower; its attention takes chunks by their lengths.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.self_attn, self.self_attn_layer_norm = layer.self_attn, layer.self_attn_layer_norm
        self.final_layer_norm, self.act = layer.final_layer_norm, layer.activation_fn
        self.fc1, self.fc2 = layer.fc1, layer.fc2

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(chunks, frames, width), (chunks, 1, 1, frames) -> (chunks, frames, width)."""
        attention: Any = self.self_attn
        source = self.self_attn_layer_norm(hidden)
        query, key, value = (
            projection(source).unflatten(2, (attention.num_heads, -1)).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        mixed = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=attention.scaling
        )
        hidden = hidden + attention.out_proj(mixed.transpose(1, 2).flatten(2))
        inner = self.act(self.fc1(self.final_layer_norm(hidden)))
        result: Tensor = hidden + self.fc2(inner)
        return result


class PooledEncoder(AttentiveEncoder):
    """Encoder, average pooling of pairs and projector, its padding mask built inside.

    What the encoders of Qwen2-Audio and Audio Flamingo 3 compute, without their demand for whole
    windows: the positions are learned one by one and padding is masked, so that a short window
    needs no padding.

    Args:
        tower: Whisper-like encoder with ``avg_pooler`` and the norm behind it.
        projector: from its width to the language model's.
    """

    def __init__(self, tower: nn.Module, projector: nn.Module) -> None:
        super().__init__()
        self.tower, self.projector = tower, projector

    def forward(
        self, input_features: Tensor, feature_lengths: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(windows, mel_bins, frames), (windows,) -> (windows, frames // 4, hidden).

        Where it ``attends`` also (windows, frames // 4), the attention that each token receives.
        """
        tower: Any = self.tower
        hidden = encoder_frames(tower, input_features)
        positions = torch.arange(hidden.shape[1], device=feature_lengths.device)
        lengths = (feature_lengths - 1) // 2 + 1
        padding = positions[None, :] >= lengths[:, None]
        mask = additive_mask(hidden, padding[:, None, None, :])
        hidden, attention = attended_layers(tower, hidden, POOLED, mask)
        pooled = tower.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2)
        return self.given(self.projector(tower.layer_norm(pooled)), attention)
