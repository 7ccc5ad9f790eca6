"""Qwen2-Audio: Whisper-style encoder, average pooling, linear projector, Qwen2 or Llama text.

Any ``Qwen2AudioForConditionalGeneration`` checkpoint: any dimensions, 80 or 128 mel bins,
grouped-query attention or not, tied embeddings or not.
"""

from __future__ import annotations

from functools import partial

from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

from speechprune_ort.export.families.base import Checkpoint
from speechprune_ort.export.families.loading import (
    audio_spec_of,
    dimensions_of,
    load_model,
    notes_of,
    require_fast,
    require_log_mel,
    stop_tokens,
)
from speechprune_ort.export.families.prompts import first_turn, further_turn, prompts_of
from speechprune_ort.export.families.text_models import language_model_of
from speechprune_ort.export.families.whisper import POOLED_STEPS, PooledEncoder
from speechprune_ort.export.source import Source

__all__ = ["load"]


def load(source: Source) -> Checkpoint:
    """Load a Qwen2-Audio checkpoint in float32.

    Args:
        source: the checkpoint.

    Raises:
        ExportError: weights are missing, or the tokenizer or its template cannot be used.
        UnsupportedModelError: the text model, or a setting of it, is not known.
    """
    location = source.location
    processor = AutoProcessor.from_pretrained(source.processor, **source.options)
    model = load_model(Qwen2AudioForConditionalGeneration, source, text_part="text_config")
    config = model.config
    text = config.text_config
    tokenizer = require_fast(location, processor.tokenizer)
    extractor = processor.feature_extractor
    encoder = config.audio_config
    frames = 2 * encoder.max_source_positions
    require_log_mel(location, extractor, frames)
    frame_tokens = extractor.sampling_rate // extractor.hop_length // 4
    audio = audio_spec_of(extractor, encoder.num_mel_bins, frames, frame_tokens, POOLED_STEPS)
    return Checkpoint(
        family="qwen2_audio",
        audio_encoder=PooledEncoder(
            model.model.audio_tower, model.model.multi_modal_projector
        ).eval(),
        language_model=language_model_of(model.model.language_model, model.lm_head, text),
        tokenizer=tokenizer,
        audio=audio,
        dimensions=dimensions_of(text, audio, encoder.num_mel_bins, frames),
        stop_token_ids=stop_tokens(model.generation_config, text, tokenizer),
        revision=getattr(config, "_commit_hash", None),
        short_windows=True,
        encoder_attention=True,
        **prompts_of(
            partial(first_turn, processor),
            processor.audio_token,
            tokenizer,
            further_turn(processor),
        ),
        **notes_of(config.to_dict()),
    )
