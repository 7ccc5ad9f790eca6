"""Voxtral: Whisper encoder, four frames joined, two-layer projector, Llama-style text.

Any ``VoxtralForConditionalGeneration`` checkpoint. What differs from Qwen2-Audio: 375 audio tokens
a window, no padding mask (a window that is not full is heard with its silence, all 375 tokens of
it, as transformers does), log-mel features of the recording as a whole, and the prompt of Mistral's
tokenizers.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor
from transformers import AutoFeatureExtractor, VoxtralForConditionalGeneration

from speechprune_ort.contract.manifest import LogMelSpec, whole_windows
from speechprune_ort.errors import ExportError
from speechprune_ort.export.families.base import AttentiveEncoder, Checkpoint
from speechprune_ort.export.families.loading import (
    audio_spec_of,
    audio_token_of,
    checkpoint_of,
    load_model,
    tokenizer_of,
)
from speechprune_ort.export.families.prompts import QUERY_MARK, Asked, prompts_of
from speechprune_ort.export.families.tekken import tekken_of
from speechprune_ort.export.families.whisper import attended_layers, encoder_frames, heard_windows
from speechprune_ort.export.source import Source

__all__ = ["load"]

INSTRUCT, HEARD, ENDS = "[INST]", "[BEGIN_AUDIO]", "[/INST]"
FRAME_SECONDS = 2
"""Of a frame: 12.5 tokens a second are no whole number, 25 in two seconds are."""


class AudioEncoder(AttentiveEncoder):
    """Encoder and projector as one module."""

    def __init__(self, model: VoxtralForConditionalGeneration) -> None:
        super().__init__()
        self.tower = model.model.audio_tower
        self.projector = model.model.multi_modal_projector
        self.width = self.projector.linear_1.in_features

    def forward(
        self, input_features: Tensor, feature_lengths: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(windows, mel_bins, frames), (windows,) -> (windows, frames // 8, hidden).

        Where it ``attends`` also (windows, frames // 8), the attention that each token receives.
        """
        hidden = encoder_frames(self.tower, input_features)
        joined_frames = self.width // hidden.shape[2]
        hidden, attention = attended_layers(self.tower, hidden, joined_frames)
        hidden = self.tower.layer_norm(hidden)
        windows, frames, width = hidden.shape
        joined = hidden.reshape(windows, frames * width // self.width, self.width)
        return self.given(heard_windows(self.projector(joined), feature_lengths), attention)


def load(source: Source) -> Checkpoint:
    """Load a Voxtral checkpoint in float32.

    Args:
        source: the checkpoint, its tokenizer as ``tokenizer.json`` or ``tekken.json``.

    Raises:
        ExportError: weights are missing, or the tokenizer cannot be used.
        UnsupportedModelError: the text model, or a setting of it, is not known.
    """
    extractor = AutoFeatureExtractor.from_pretrained(source.processor, **source.options)
    tokenizer = tekken_of(source) or tokenizer_of(source)
    model = load_model(VoxtralForConditionalGeneration, source, text_part="text_config")
    config, encoder = model.config, model.config.audio_config
    frames = 2 * encoder.max_source_positions
    window_seconds = frames * extractor.hop_length / extractor.sampling_rate
    joined = encoder.intermediate_size // encoder.hidden_size
    tokens = encoder.max_source_positions // joined
    frame_tokens = round(FRAME_SECONDS * tokens / window_seconds)
    audio = audio_spec_of(
        extractor,
        encoder.num_mel_bins,
        frames,
        frame_tokens,
        whole_windows(frames, tokens),
        log_mel=LogMelSpec(over="recording"),
    )
    audio_token = audio_token_of(source.location, tokenizer, config.audio_token_id)
    return checkpoint_of(
        "voxtral",
        model,
        AudioEncoder(model),
        tokenizer=tokenizer,
        audio=audio,
        mel_bins=encoder.num_mel_bins,
        prompts=prompts_of(
            partial(_render, tokenizer, audio_token),
            audio_token,
            tokenizer,
            f"{tokenizer.eos_token}{INSTRUCT}{QUERY_MARK}{ENDS}",
        ),
        encoder_attention=True,
    )


def _render(tokenizer: Any, audio_token: str, asked: Asked) -> str:
    """The first turn: recordings and text, as Mistral's own encoder lays them out.

    Raises:
        ExportError: the tokenizer is none of Mistral's, or what is asked for is not taken: a
            request with audio has no system prompt there.
    """
    missing = [part for part in (INSTRUCT, HEARD, ENDS) if part not in tokenizer.get_vocab()]
    if missing or tokenizer.bos_token is None:
        raise ExportError(
            f"The tokenizer has no {', '.join(missing) or 'begin token'}: give one of Mistral's, "
            "version 7 or later, as tokenizer.json or tekken.json."
        )
    if asked.system:
        raise ExportError("A prompt with audio has no system prompt.")
    heard = f"{HEARD}{audio_token}" * asked.recordings
    said = f"{QUERY_MARK}{heard}" if asked.text_first else f"{heard}{QUERY_MARK}"
    return f"{tokenizer.bos_token}{INSTRUCT}{said}{ENDS}"
