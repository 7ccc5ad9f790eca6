"""Qwen3-ASR: convolution second by second, attention over eight seconds, Qwen3 text.

Any ``Qwen3ASRForConditionalGeneration`` checkpoint. No part of the encoder looks over eight
seconds' edges, so that a recording of any length is heard as transformers hears it, its features
included, which are made of the recording as a whole.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen3ASRForConditionalGeneration
from transformers.models.qwen3_asr.processing_qwen3_asr import LANGUAGE_CODE_TO_NAME

from speechprune_ort.contract.manifest import LogMelSpec
from speechprune_ort.errors import ExportError, UnsupportedModelError
from speechprune_ort.export.families.base import AttentiveEncoder, Checkpoint
from speechprune_ort.export.families.loading import (
    audio_spec_of,
    checkpoint_of,
    load_model,
    processor_of,
    require_log_mel,
)
from speechprune_ort.export.families.prompts import (
    LANGUAGE_MARK,
    QUERY_MARK,
    Asked,
    first_turn,
    rendered,
    template_prompts,
)
from speechprune_ort.export.families.whisper import (
    ChunkLayer,
    additive_mask,
    attended_layers,
    filled,
    last_place,
)
from speechprune_ort.export.source import Source

__all__ = ["load", "require_known"]

HALF_CHUNK = 50
"""The one ``n_window`` that transformers computes numbers of tokens for."""
FRAMES_OF_TOKEN = 8
"""Behind three convolutions of stride 2; the last token of a second has the four that remain."""
LEFT_STEPS = ((FRAMES_OF_TOKEN - 1, FRAMES_OF_TOKEN, 0),)
TOKENS = 13
"""Of a chunk, which is a second."""
TEXT_BEGINS = "<asr_text>"
"""Stands between the language and the words of an answer."""


class Tower(nn.Module):
    """The layers of the audio tower, for windows that stand side by side."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ChunkLayer(layer) for layer in tower.layers)


class AudioEncoder(AttentiveEncoder):
    """Convolutions, layers and projector as one module.

    Args:
        tower: of the checkpoint.
        projector: to the language model's width.
        chunks: that attend to each other.
    """

    def __init__(self, tower: Any, projector: nn.Module, chunks: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList([tower.conv2d1, tower.conv2d2, tower.conv2d3])
        self.conv_out, self.norm, self.projector = tower.conv_out, tower.ln_post, projector
        self.tower, self.chunks = Tower(tower), chunks
        table = tower.positional_embedding.positional_embedding[:TOKENS].detach().float()
        self.positions = nn.Parameter(table, requires_grad=False)

    def forward(
        self, input_features: Tensor, feature_lengths: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(windows, mel_bins, frames), (windows,) -> (windows, tokens, hidden).

        Where it ``attends`` also (windows, tokens), the attention that each token receives within
        its eight seconds.
        ``frames`` is a multiple of 100, and there are 13 tokens of each hundred.
        """
        windows, mel_bins, frames = input_features.shape
        chunk = 2 * HALF_CHUNK
        count = (frames + chunk - 1) // chunk
        features = filled(input_features.to(self.conv_out.weight.dtype), 2, count * chunk)
        at = torch.arange(count * chunk, device=feature_lengths.device)
        sound = at[None, :] < feature_lengths[:, None]
        hidden = (
            (features * sound[:, None, :]).reshape(windows, mel_bins, count, chunk).transpose(1, 2)
        )
        hidden = hidden.reshape(-1, 1, mel_bins, chunk)
        for convolution in self.convolutions:
            hidden = nn.functional.gelu(convolution(hidden))
        hidden = self.conv_out(hidden.permute(0, 3, 1, 2).flatten(2))
        hidden = hidden + self.positions.to(hidden.dtype)
        starts = torch.arange(count, device=feature_lengths.device) * chunk
        left = (feature_lengths[:, None] - starts[None, :]).clamp(0, chunk)
        tokens = (left + FRAMES_OF_TOKEN - 1) // FRAMES_OF_TOKEN
        at = torch.arange(TOKENS, device=tokens.device)
        padding = (at[None, None, :] >= tokens[:, :, None]).reshape(windows, -1)
        mixed, attention = self._layers(hidden.reshape(windows, count * TOKENS, -1), padding)
        return self.given(self.projector(self.norm(mixed)), attention)

    def _layers(self, hidden: Tensor, padding: Tensor) -> tuple[Tensor, Callable[[], Tensor]]:
        """All layers over (windows, tokens, width), eight seconds at a time."""
        windows, tokens, width = hidden.shape
        span = self.chunks * TOKENS
        spans = (tokens + span - 1) // span
        room = span * spans
        at = torch.arange(room, device=hidden.device)
        barred = filled(padding, 1, room) | (at > last_place(hidden, 1))[None, :]
        hidden = filled(hidden, 1, room).reshape(windows * spans, span, width)
        mask = additive_mask(hidden, barred.reshape(windows * spans, 1, 1, span))
        mixed, attention = attended_layers(self.tower, hidden, 1, mask)
        mixed = mixed.reshape(windows, room, width)[:, :tokens]
        return mixed, lambda: attention().reshape(windows, room)[:, :tokens]


def require_known(location: str, config: Any) -> None:
    """Refuse settings of the encoder that this file does not compute.

    Args:
        location: of the checkpoint, for the message.
        config: its config, of transformers.

    Raises:
        UnsupportedModelError: a setting is not known.
    """
    encoder, chunk = config.audio_config, 2 * HALF_CHUNK
    if encoder.n_window != HALF_CHUNK:
        raise UnsupportedModelError(
            f"The audio encoder of {location!r} has n_window {encoder.n_window}: export knows "
            f"{HALF_CHUNK}."
        )
    span = encoder.n_window_infer
    if span < chunk or span % chunk:
        raise UnsupportedModelError(
            f"The audio encoder of {location!r} has n_window_infer {span}: export knows multiples "
            f"of {chunk}."
        )


def load(source: Source) -> Checkpoint:
    """Load a Qwen3-ASR checkpoint.

    Args:
        source: the checkpoint.

    Raises:
        ExportError: weights are missing, or the tokenizer or its template cannot be used.
        UnsupportedModelError: a setting of the text model, the encoder or the features is not
            known; the message names it.
    """
    location = source.location
    processor = processor_of(source)
    model = load_model(Qwen3ASRForConditionalGeneration, source, text_part="text_config")
    encoder, extractor = model.config.audio_config, processor.feature_extractor
    chunk, span = 2 * HALF_CHUNK, encoder.n_window_infer
    require_log_mel(location, extractor)
    require_known(location, model.config)
    if extractor.n_window != HALF_CHUNK:
        raise UnsupportedModelError(
            f"The features of {location!r} have n_window {extractor.n_window}: export knows "
            f"{HALF_CHUNK}."
        )
    # Any number of spans is heard alike: as many as fit what the extractor calls its window.
    seconds = extractor.chunk_length * extractor.sampling_rate // extractor.hop_length
    frames = span * max(1, seconds // span)
    audio = audio_spec_of(
        extractor,
        encoder.num_mel_bins,
        frames,
        TOKENS,
        LEFT_STEPS,
        chunk=(chunk, TOKENS),
        log_mel=LogMelSpec(
            over="recording", ending="mirror", least_samples=max(0, extractor.min_length)
        ),
    )
    return checkpoint_of(
        "qwen3_asr",
        model,
        AudioEncoder(model.model.audio_tower, model.model.multi_modal_projector, span // chunk),
        tokenizer=processor.tokenizer,
        audio=audio,
        mel_bins=encoder.num_mel_bins,
        # Its processor takes one recording for each text.
        prompts=template_prompts(
            processor,
            processor.audio_token,
            render=_render,
            recordings=1,
            languages=LANGUAGE_CODE_TO_NAME,
        ),
        short_windows=True,
        encoder_attention=True,
    )


def _render(processor: Any, asked: Asked) -> str:
    """The first turn: the published template has room for text in the system's message alone.

    A language stands at the beginning of the answer, as ``apply_transcription_request`` puts it.

    Raises:
        ExportError: the system's message is taken, or the language's control token is missing.
    """
    language = f"language {LANGUAGE_MARK}{TEXT_BEGINS}" if asked.language else ""
    if asked.language and TEXT_BEGINS not in processor.tokenizer.get_vocab():
        raise ExportError(f"The tokenizer has no {TEXT_BEGINS}: give the published one.")
    turn = first_turn(processor, asked)
    if QUERY_MARK in turn:
        return turn + language
    if asked.system:
        raise ExportError("The system's message holds the user's text.")
    context = {"role": "system", "content": [{"type": "text", "text": QUERY_MARK}]}
    heard = {"role": "user", "content": [{"type": "audio", "audio_url": "recording"}]}
    return rendered(processor, [context, heard]) + language
