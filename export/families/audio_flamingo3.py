"""Audio Flamingo 3: Whisper encoder, average pooling, two-layer projector, Qwen2 text.

Any ``AudioFlamingo3ForConditionalGeneration`` checkpoint. The encoder is Qwen2-Audio's but for the
projector behind it. Transformers cuts a recording at 600 s; here every window is heard. Music
Flamingo, which turns its audio by time, has an architecture of its own and is not known.
"""

from __future__ import annotations

from functools import partial

from transformers import AudioFlamingo3ForConditionalGeneration, AutoProcessor

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
    """Load an Audio Flamingo 3 checkpoint.

    Args:
        source: the checkpoint.

    Raises:
        ExportError: weights are missing, or the tokenizer or its template cannot be used.
        UnsupportedModelError: a setting of the text model or of the features is not known.
    """
    location = source.location
    processor = AutoProcessor.from_pretrained(source.processor, **source.options)
    model = load_model(AudioFlamingo3ForConditionalGeneration, source, text_part="text_config")
    config = model.config
    text, encoder = config.text_config, config.audio_config
    tokenizer = require_fast(location, processor.tokenizer)
    extractor = processor.feature_extractor
    frames = 2 * encoder.max_source_positions
    require_log_mel(location, extractor, frames)
    frame_tokens = extractor.sampling_rate // extractor.hop_length // 4
    audio = audio_spec_of(extractor, encoder.num_mel_bins, frames, frame_tokens, POOLED_STEPS)
    inner = model.model
    return Checkpoint(
        family="audio_flamingo3",
        audio_encoder=PooledEncoder(inner.audio_tower, inner.multi_modal_projector).eval(),
        language_model=language_model_of(inner.language_model, model.lm_head, text),
        tokenizer=tokenizer,
        audio=audio,
        dimensions=dimensions_of(text, audio, encoder.num_mel_bins, frames),
        stop_token_ids=stop_tokens(model.generation_config, text, tokenizer),
        revision=getattr(config, "_commit_hash", None),
        short_windows=True,
        encoder_attention=True,
        # Its processor takes one recording for each text.
        **prompts_of(
            partial(first_turn, processor),
            processor.audio_token,
            tokenizer,
            further_turn(processor),
            recordings=1,
        ),
        **notes_of(config.to_dict()),
    )
