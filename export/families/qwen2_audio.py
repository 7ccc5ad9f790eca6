"""Qwen2-Audio: Whisper-style encoder, average pooling, linear projector, Qwen2 or Llama text.

Any ``Qwen2AudioForConditionalGeneration`` checkpoint: any dimensions, 80 or 128 mel bins,
grouped-query attention or not, tied embeddings or not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

from speechprune_ort.export.families.base import QUERY_MARK, Checkpoint, split_prompt
from speechprune_ort.export.families.loading import (
    audio_spec_of,
    dimensions_of,
    language_model_of,
    load_model,
    notes_of,
    rendered,
    require_fast,
    stop_tokens,
)
from speechprune_ort.export.families.whisper import (
    additive_mask,
    attended_layers,
    encoder_frames,
)

__all__ = ["load"]

# Convolution of stride 2 with padding 1 and width 3, then average pooling of 2:
# Qwen2AudioEncoder._get_feat_extract_output_lengths.
LENGTH_STEPS = ((-1, 2, 1), (-2, 2, 1))
POOLED = 2  # frames behind the convolutions that make a token


class AudioEncoder(nn.Module):
    """Encoder, pooling and projector as one module, its padding mask built inside.

    What ``Qwen2AudioEncoder.forward`` computes, without its demand for whole windows: the positions
    are learned one by one and padding is masked, so that a short window needs no padding.
    """

    def __init__(self, model: Qwen2AudioForConditionalGeneration) -> None:
        super().__init__()
        self.tower = model.model.audio_tower
        self.projector = model.model.multi_modal_projector

    def forward(self, input_features: Tensor, feature_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """(windows, mel_bins, frames), (windows,) -> (windows, frames // 4, hidden).

        And (windows, frames // 4), the attention that each token receives.
        """
        tower = self.tower
        hidden = encoder_frames(tower, input_features)
        positions = torch.arange(hidden.shape[1], device=feature_lengths.device)
        lengths = (feature_lengths - 1) // 2 + 1
        padding = positions[None, :] >= lengths[:, None]
        mask = additive_mask(hidden, padding[:, None, None, :])
        hidden, attention = attended_layers(tower, hidden, POOLED, mask)
        pooled = tower.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2)
        return self.projector(tower.layer_norm(pooled)), attention


def load(location: str, revision: str | None, trust_remote_code: bool) -> Checkpoint:
    """Load a Qwen2-Audio checkpoint in float32.

    Args:
        location: hub id or local folder.
        revision: branch, tag or commit on the hub.
        trust_remote_code: passed on to transformers.

    Raises:
        ExportError: weights are missing, or the tokenizer or its template cannot be used.
        UnsupportedModelError: the text model is neither qwen2 nor llama.
    """
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}
    processor = AutoProcessor.from_pretrained(location, **options)
    tokenizer = require_fast(location, processor.tokenizer)
    prompt = split_prompt(_render(processor), processor.audio_token, tokenizer)
    model = load_model(
        Qwen2AudioForConditionalGeneration, location, text_part="text_config", **options
    )
    config = model.config
    text = config.text_config
    extractor = processor.feature_extractor
    encoder = config.audio_config
    frames = 2 * encoder.max_source_positions
    frame_tokens = extractor.sampling_rate // extractor.hop_length // 4
    audio = audio_spec_of(extractor, encoder.num_mel_bins, frames, frame_tokens, LENGTH_STEPS)
    return Checkpoint(
        family="qwen2_audio",
        audio_encoder=AudioEncoder(model).eval(),
        language_model=language_model_of(model.model.language_model, model.lm_head, text),
        tokenizer=tokenizer,
        audio=audio,
        dimensions=dimensions_of(text, audio, encoder.num_mel_bins, frames),
        prompt=prompt,
        stop_token_ids=stop_tokens(model.generation_config, text, tokenizer),
        revision=getattr(config, "_commit_hash", None),
        short_windows=True,
        encoder_attention=True,
        **notes_of(config.to_dict()),
    )


def _render(processor: Any) -> str:
    content = [
        {"type": "audio", "audio_url": "recording"},
        {"type": "text", "text": QUERY_MARK},
    ]
    return rendered(processor, [{"role": "user", "content": content}])
