"""Qwen2-Audio: Whisper-style encoder, average pooling, linear projector, Qwen2 or Llama text.

Any ``Qwen2AudioForConditionalGeneration`` checkpoint: any dimensions, 80 or 128 mel bins,
grouped-query attention or not, tied embeddings or not.
"""

from __future__ import annotations

from typing import Any

from transformers import Qwen2AudioForConditionalGeneration

from speechprune_ort.export.families.base import Checkpoint
from speechprune_ort.export.families.loading import (
    audio_spec_of,
    checkpoint_of,
    load_model,
    processor_of,
    require_log_mel,
)
from speechprune_ort.export.families.prompts import RECORDINGS, template_prompts
from speechprune_ort.export.families.whisper import POOLED_STEPS, PooledEncoder
from speechprune_ort.export.source import Source

__all__ = ["load", "load_pooled"]


def load(source: Source) -> Checkpoint:
    """Load a Qwen2-Audio checkpoint.

    Args:
        source: the checkpoint.

    Raises:
        ExportError: weights are missing, or the tokenizer or its template cannot be used.
        UnsupportedModelError: the text model, or a setting of it, is not known.
    """
    return load_pooled("qwen2_audio", Qwen2AudioForConditionalGeneration, source)


def load_pooled(family: str, cls: Any, source: Source, recordings: int = RECORDINGS) -> Checkpoint:
    """Load a checkpoint of any class that is built as Qwen2-Audio's.

    Args:
        family: its name.
        cls: class of transformers with an encoder that ``PooledEncoder`` takes.
        source: the checkpoint.
        recordings: in one prompt at most.

    Raises:
        ExportError: weights are missing, or the tokenizer or its template cannot be used.
        UnsupportedModelError: a setting of the text model or of the features is not known.
    """
    processor = processor_of(source)
    model = load_model(cls, source, text_part="text_config")
    encoder, extractor = model.config.audio_config, processor.feature_extractor
    frames = 2 * encoder.max_source_positions
    require_log_mel(source.location, extractor, frames)
    frame_tokens = extractor.sampling_rate // extractor.hop_length // 4
    audio = audio_spec_of(extractor, encoder.num_mel_bins, frames, frame_tokens, POOLED_STEPS)
    return checkpoint_of(
        family,
        model,
        PooledEncoder(model.model.audio_tower, model.model.multi_modal_projector),
        tokenizer=processor.tokenizer,
        audio=audio,
        mel_bins=encoder.num_mel_bins,
        prompts=template_prompts(processor, processor.audio_token, recordings=recordings),
        short_windows=True,
        encoder_attention=True,
    )
