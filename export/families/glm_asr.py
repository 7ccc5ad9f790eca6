"""GLM-ASR: Whisper-like encoder with rotary positions, four frames to a token, Llama text.

Any ``GlmAsrForConditionalGeneration`` checkpoint. The encoder hears a window to its end, the
silence after a recording included; tokens after the sound are then left out. Transformers cuts a
recording at 655 s; here every window is heard.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GlmAsrForConditionalGeneration
from transformers.models.glmasr.modeling_glmasr import apply_rotary_pos_emb

from speechprune_ort.errors import UnsupportedModelError
from speechprune_ort.export.families.base import AttentiveEncoder, Checkpoint
from speechprune_ort.export.families.loading import (
    audio_spec_of,
    checkpoint_of,
    load_model,
    processor_of,
    require_log_mel,
)
from speechprune_ort.export.families.prompts import template_prompts
from speechprune_ort.export.families.whisper import heard_windows, received_attention
from speechprune_ort.export.source import Source

__all__ = ["load", "require_known"]

JOINED = 4
"""Frames after the convolutions that make a token: what transformers computes lengths for."""
STEPS = ((-1, 2, 1), (0, JOINED, 0))
"""Stride 2 with padding 1 and width 3, then whole fours."""
FRAME_TOKENS = 25
"""Of two seconds: 12.5 a second are no whole number."""


class AudioEncoder(AttentiveEncoder):
    """Convolutions, layers with rotary positions, and projector as one module.

    Args:
        tower: of the checkpoint.
        projector: to the language model's width.
        frames: after the convolutions, of a window.
    """

    def __init__(self, tower: Any, projector: nn.Module, frames: int) -> None:
        super().__init__()
        self.tower, self.projector = tower, projector
        rows = tower.rotary_emb(torch.zeros(1), torch.arange(frames)[None])
        self.cos, self.sin = (nn.Parameter(row, requires_grad=False) for row in rows)

    def forward(
        self, input_features: Tensor, feature_lengths: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(windows, mel_bins, frames), (windows,) -> (windows, frames // 8, hidden).

        Where it ``attends`` also (windows, frames // 8), the attention that each token receives.
        """
        tower: Any = self.tower
        hidden = nn.functional.gelu(tower.conv1(input_features.to(tower.conv1.weight.dtype)))
        hidden = nn.functional.gelu(tower.conv2(hidden)).transpose(1, 2)
        turned = self.cos.to(hidden.dtype), self.sin.to(hidden.dtype)
        *layers, last = tower.layers
        for layer in layers:
            hidden = layer(hidden, position_embeddings=turned)
        attention = partial(_attention_of, last, hidden, turned)
        hidden = tower.norm(last(hidden, position_embeddings=turned))
        windows, frames, width = hidden.shape
        joined = hidden.reshape(windows, frames // JOINED, JOINED * width)
        return self.given(heard_windows(self.projector(joined), feature_lengths), attention)


def _attention_of(layer: Any, hidden: Tensor, turned: tuple[Tensor, Tensor]) -> Tensor:
    """The attention that each token receives in a layer, from what goes into it."""
    attention, source = layer.self_attn, layer.input_layernorm(hidden)
    query, key = (
        projection(source).unflatten(2, (-1, attention.head_dim)).transpose(1, 2)
        for projection in (attention.q_proj, attention.k_proj)
    )
    query, key = apply_rotary_pos_emb(query, key, *turned)
    key = key.repeat_interleave(attention.num_key_value_groups, dim=1)
    return received_attention(query.float(), key.float() * attention.scaling, JOINED)


def load(source: Source) -> Checkpoint:
    """Load a GLM-ASR checkpoint.

    Args:
        source: the checkpoint.

    Raises:
        ExportError: weights are missing, or the tokenizer or its template cannot be used.
        UnsupportedModelError: a setting of the text model, the encoder or the features is not
            known; the message names it.
    """
    location = source.location
    processor = processor_of(source)
    model = load_model(GlmAsrForConditionalGeneration, source, text_part="text_config")
    encoder, extractor = model.config.audio_config, processor.feature_extractor
    frames = 2 * encoder.max_position_embeddings
    require_log_mel(location, extractor, frames)
    require_known(location, model.config)
    audio = audio_spec_of(extractor, encoder.num_mel_bins, frames, FRAME_TOKENS, STEPS)
    return checkpoint_of(
        "glm_asr",
        model,
        AudioEncoder(
            model.model.audio_tower,
            model.model.multi_modal_projector,
            encoder.max_position_embeddings,
        ),
        tokenizer=processor.tokenizer,
        audio=audio,
        mel_bins=encoder.num_mel_bins,
        # Its processor takes one recording for each text.
        prompts=template_prompts(processor, processor.audio_token, recordings=1),
        encoder_attention=True,
    )


def require_known(location: str, config: Any) -> None:
    """Refuse settings of the encoder that transformers and this file would take otherwise.

    Args:
        location: of the checkpoint, for the message.
        config: its config, of transformers.

    Raises:
        UnsupportedModelError: a setting is not known.
    """
    encoder = config.audio_config
    rope = encoder.rope_parameters["rope_type"]
    joined = encoder.intermediate_size / encoder.hidden_size
    for name, found, known in (
        ("rope_type", rope, "default"),
        ("intermediate_size / hidden_size", joined, JOINED),
        ("max_position_embeddings % 4", encoder.max_position_embeddings % JOINED, 0),
    ):
        if found != known:
            raise UnsupportedModelError(
                f"The audio encoder of {location!r} has {name} {found!r}: export knows {known!r}."
            )
