"""Qwen2.5-Omni's thinker: convolution and attention in chunks of two seconds, Qwen2 text.

Any ``Qwen2_5OmniThinkerForConditionalGeneration`` checkpoint; of a whole Omni checkpoint, what
speaks is not exported. Positions of the text model have three parts, which only pictures set apart:
with audio and text all three are equal, which is plain rotary embedding, so that the text model is
taken as Qwen2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoFeatureExtractor,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    Qwen2Config,
)

from speechprune_ort.errors import UnsupportedModelError
from speechprune_ort.export.checkpoint_config import check_text
from speechprune_ort.export.families.base import AttentiveEncoder, Checkpoint
from speechprune_ort.export.families.loading import (
    audio_spec_of,
    audio_token_of,
    checkpoint_of,
    load_model,
    require_log_mel,
    tokenizer_of,
)
from speechprune_ort.export.families.prompts import template_prompts
from speechprune_ort.export.families.whisper import (
    POOLED,
    POOLED_STEPS,
    ChunkLayer,
    additive_mask,
    attended_layers,
    encoder_frames,
)
from speechprune_ort.export.source import Source

__all__ = ["load", "plain_text", "require_known"]

SPEAKS = r"^(talker|token2wav)\."
"""Weights of a whole Omni checkpoint that its thinker does not have."""


class Tower(nn.Module):
    """The parts of the audio tower under the names that ``whisper`` knows."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.conv1, self.conv2 = tower.conv1, tower.conv2
        table = tower.positional_embedding.positional_embedding.detach().float()
        self.embed_positions = nn.Embedding(table.shape[0], table.shape[1], _weight=table)
        self.layers = nn.ModuleList(ChunkLayer(layer) for layer in tower.layers)


class AudioEncoder(AttentiveEncoder):
    """Tower, pooling of pairs and projection as one module, all chunks of a window side by side.

    Args:
        tower: of the checkpoint.
        chunk: log-mel frames of a chunk.
    """

    def __init__(self, tower: Any, chunk: int) -> None:
        super().__init__()
        self.tower, self.chunk = Tower(tower), chunk
        self.norm, self.projection = tower.ln_post, tower.proj

    def forward(
        self, input_features: Tensor, feature_lengths: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(windows, mel_bins, frames), (windows,) -> (windows, frames // 4, hidden).

        Where it ``attends`` also (windows, frames // 4), the attention that each token receives.
        """
        windows, mel_bins, frames = input_features.shape
        chunk = self.chunk
        count = (frames + chunk - 1) // chunk
        filled = nn.functional.pad(input_features, (0, chunk))[:, :, : count * chunk]
        chunks = filled.reshape(windows, mel_bins, count, chunk).transpose(1, 2).flatten(0, 1)
        starts = torch.arange(count, device=feature_lengths.device) * chunk
        lengths = (feature_lengths[:, None] - starts[None, :]).clamp(0, chunk).flatten()
        hidden = encoder_frames(self.tower, chunks, lengths)
        at = torch.arange(hidden.shape[1], device=lengths.device)
        padding = at[None, :] >= ((lengths + 1) // 2)[:, None]
        mask = additive_mask(hidden, padding[:, None, None, :])
        hidden, attention = attended_layers(self.tower, hidden, POOLED, mask)
        pooled = hidden.reshape(hidden.shape[0], -1, POOLED, hidden.shape[2]).mean(2)
        embeds = self.projection(self.norm(pooled))
        tokens = frames // 4
        embeds = embeds.reshape(windows, -1, embeds.shape[2])[:, :tokens]
        return self.given(embeds, lambda: attention().reshape(windows, -1)[:, :tokens])


def require_known(location: str, config: Any) -> None:
    """Refuse settings of the encoder that this file does not compute.

    Args:
        location: of the checkpoint, for the message.
        config: the thinker's config, of transformers.

    Raises:
        UnsupportedModelError: chunks do not end with a token.
    """
    half = config.audio_config.n_window
    if half % 2:
        raise UnsupportedModelError(
            f"The audio encoder of {location!r} has n_window {half}: export knows even ones."
        )


def load(source: Source) -> Checkpoint:
    """Load the thinker of a Qwen2.5-Omni checkpoint.

    Args:
        source: the checkpoint.

    Raises:
        ExportError: weights are missing, or the tokenizer or its template cannot be used.
        UnsupportedModelError: a setting of the text model, the encoder or the features is not
            known; the message names it.
    """
    location = source.location
    # Not the processor: that wants what reads pictures and films, too.
    tokenizer = tokenizer_of(source)
    extractor = AutoFeatureExtractor.from_pretrained(source.processor, **source.options)
    config = Qwen2_5OmniThinkerConfig.from_pretrained(location, **source.options)
    check_text(location, plain_text(config.text_config).to_dict())
    require_known(location, config)
    model = load_model(
        Qwen2_5OmniThinkerForConditionalGeneration,
        source,
        text_part=None,
        config=config,
        beside=SPEAKS,
    )
    encoder = config.audio_config
    chunk = 2 * encoder.n_window
    frames = extractor.chunk_length * extractor.sampling_rate // extractor.hop_length
    require_log_mel(location, extractor, frames)
    if frames % chunk:
        raise UnsupportedModelError(
            f"The audio encoder of {location!r} has n_window {encoder.n_window}: export knows "
            f"those whose chunks divide a window of {frames} frames."
        )
    frame_tokens = extractor.sampling_rate // extractor.hop_length // 4
    audio = audio_spec_of(extractor, encoder.num_mel_bins, frames, frame_tokens, POOLED_STEPS)
    audio_token = audio_token_of(location, tokenizer, config.audio_token_id)
    return checkpoint_of(
        "qwen2_5_omni",
        model,
        AudioEncoder(model.model.audio_tower, chunk),
        tokenizer=tokenizer,
        audio=audio,
        mel_bins=encoder.num_mel_bins,
        prompts=template_prompts(tokenizer, audio_token),
        short_windows=True,
        encoder_attention=True,
        # The model's own config: an adapter with tokens of its own has changed its vocabulary.
        taken_as=plain_text(model.config.text_config),
    )


def plain_text(text: Any) -> Qwen2Config:
    """The thinker's text config as Qwen2's, without the parts of its positions."""
    settings = text.to_dict()
    rotary = {k: v for k, v in (settings.get("rope_parameters") or {}).items() if "mrope" not in k}
    if rotary.get("rope_type", "default") == "mrope":
        rotary["rope_type"] = "default"
    for name in ("model_type", "architectures", "dtype"):
        settings.pop(name, None)
    return Qwen2Config(**{**settings, "rope_parameters": rotary})
