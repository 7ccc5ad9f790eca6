"""DiVA: Whisper encoder, a copy of Whisper's decoder as Q-Former, linear map, Llama text.

Source: arXiv:2410.02678 (Distilling an End-to-End Voice Assistant). The checkpoint holds the
learned queries, the Q-Former and the linear map; the encoder and the language model are
checkpoints of their own, which its config names (``reference_encoder``, ``reference_decoder``).
The classes here are ours, for that layout; no code of a checkpoint is run. What could not be
checked against the published weights is listed in docs/reference/families.md.

The Q-Former mixes time: every token has looked at all of its 30 s window. A frame, the unit of
phase 1's budgets, is therefore one of 28 equal blocks of queries, in their order; and kept spans
are whole windows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from speechprune_ort.contract.manifest import whole_windows
from speechprune_ort.errors import ExportError
from speechprune_ort.export.families.base import Checkpoint
from speechprune_ort.export.families.loading import (
    audio_spec_of,
    checkpoint_of,
    fill,
    load_model,
    part_of,
    require_fast,
    unreadable,
    weights_of,
)
from speechprune_ort.export.families.prompts import QUERY_MARK, Asked, rendered, template_prompts
from speechprune_ort.export.families.whisper import (
    additive_mask,
    encoder_frames,
    encoder_layers,
    heard_windows,
)
from speechprune_ort.export.source import Source

__all__ = ["load", "sketch"]

AUDIO_MARK = "SPEECHPRUNEAUDIO"
"""Stands for the audio while the prompt is laid out."""

BLOCKS = 28
"""Blocks of queries in a window: the divisor of 448 and 112 that is nearest to 30 seconds."""

REFERENCES = ("reference_encoder", "reference_decoder")

TEXT_FIRST, AUDIO_FIRST = "text_first", "audio_first"


class AudioEncoder(nn.Module):
    """Encoder, Q-Former and linear map as one module.

    Args:
        whisper: encoder, and the Q-Former's weights in its decoder.
        queries: (queries, width) learned inputs of the Q-Former.
        weight: (in, hidden) of the linear map, as the checkpoint stores it.
        bias: (hidden,) of it.
    """

    def __init__(self, whisper: Any, queries: Tensor, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.tower, self.former = whisper.encoder, whisper.decoder
        self.queries = nn.Parameter(queries, requires_grad=False)
        self.projection = nn.Linear(weight.shape[0], weight.shape[1])
        self.projection.weight = nn.Parameter(weight.T.contiguous(), requires_grad=False)
        self.projection.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, input_features: Tensor, feature_lengths: Tensor) -> Tensor:
        """(windows, mel_bins, frames), (windows,) -> (windows, window_tokens, hidden)."""
        heard = encoder_layers(self.tower.layers, encoder_frames(self.tower, input_features))
        heard = self.tower.layer_norm(heard)
        former, count = self.former, self.queries.shape[0]
        rows = torch.arange(count, device=heard.device)
        hidden = self.queries + former.embed_positions.weight[:count]
        hidden = hidden[None].expand(heard.shape[0], -1, -1)
        causal = additive_mask(hidden, rows[None, :] > rows[:, None])[None, None]
        for layer in former.layers:
            hidden = layer(
                hidden, attention_mask=causal, encoder_hidden_states=heard, use_cache=False
            )
        hidden = former.layer_norm(hidden)
        width = self.projection.in_features
        joined = hidden.reshape(hidden.shape[0], count * hidden.shape[2] // width, width)
        return heard_windows(self.projection(joined), feature_lengths)


def load(source: Source) -> Checkpoint:
    """Load a DiVA checkpoint and the two that it refers to, in float32.

    Args:
        source: the checkpoint, with ``config.json`` and weights. A reference that is a folder may
            be given relative to it; references are taken as they are, without its revision.

    Raises:
        ExportError: a part is missing or does not fit the others.
        UnsupportedModelError: the language model, or a setting of it, is not known.
    """
    location = source.location
    config, _ = PreTrainedConfig.get_config_dict(location, revision=source.revision)
    encoder_at, decoder_at = (_reference(config, key, location) for key in REFERENCES)
    options: dict[str, Any] = {"trust_remote_code": source.trust_remote_code}
    try:
        extractor = WhisperFeatureExtractor.from_pretrained(encoder_at, **options)
        tokenizer = require_fast(decoder_at, AutoTokenizer.from_pretrained(decoder_at, **options))
        stored = weights_of(source)
    except (OSError, ValueError) as error:
        raise ExportError(unreadable(location, error)) from error
    model = load_model(AutoModelForCausalLM, source.of(decoder_at), text_part="")
    whisper = load_model(WhisperModel, source.of(encoder_at), text_part=None)
    weights = {name: value.float() for name, value in stored.items()}
    module = _audio_encoder(location, whisper, weights, model.config.hidden_size)
    frames = 2 * whisper.config.max_source_positions
    width = module.queries.shape[1]
    tokens = len(module.queries) * width // module.projection.in_features
    if tokens % BLOCKS:
        raise ExportError(
            f"{location!r} has {tokens} tokens a window, which {BLOCKS} blocks do not divide: "
            "export does not know such a layout of DiVA."
        )
    steps = whole_windows(frames, tokens)
    mel_bins = whisper.config.num_mel_bins
    audio = audio_spec_of(extractor, mel_bins, frames, tokens // BLOCKS, steps, span_tokens=tokens)
    order = config.get("bundle_prompt_order", TEXT_FIRST)
    return checkpoint_of(
        "diva",
        model,
        module,
        tokenizer=tokenizer,
        audio=audio,
        mel_bins=mel_bins,
        # Its published code hears one recording.
        prompts=template_prompts(
            tokenizer, AUDIO_MARK, join="", render=partial(_render, order=order), recordings=1
        ),
    )


def sketch(location: str, config: Mapping[str, Any]) -> tuple[nn.Module, PreTrainedConfig]:
    """What a DiVA checkpoint is made of, before a weight is read.

    Its queries, and how many of them the linear map takes together, are in its weights alone: a
    map of one is counted, and no query.

    Args:
        location: of the checkpoint.
        config: its ``config.json``.

    Returns:
        The modules of its audio encoder, made on whatever device is the default, and the config of
        its language model.

    Raises:
        ExportError: its config names no reference, or it cannot be read.
    """
    references = [_reference(config, key, location) for key in REFERENCES]
    try:
        encoder, text = (AutoConfig.from_pretrained(named) for named in references)
    except (OSError, ValueError) as error:
        raise ExportError(unreadable(location, error)) from error
    whisper = WhisperModel(encoder)
    projection = nn.Linear(encoder.d_model, text.hidden_size)
    return nn.ModuleList([whisper.encoder, whisper.decoder, projection]), text


def _reference(config: Mapping[str, Any], key: str, location: str) -> str:
    """Hub id or folder that the config names; a folder also relative to the checkpoint."""
    named = config.get(key)
    if not named or not isinstance(named, str):
        raise ExportError(
            f"The config of {location!r} names no {key}: DiVA's encoder and language model are "
            "checkpoints of their own."
        )
    beside = Path(location) / str(named)
    return str(beside) if beside.is_dir() else str(named)


def _audio_encoder(
    location: str, whisper: Any, weights: Mapping[str, Tensor], hidden: int
) -> AudioEncoder:
    try:
        queries, weight = weights["query_tokens"], weights["projection.weight"]
        bias = weights["projection.bias"]
    except KeyError as error:
        raise ExportError(
            f"The checkpoint {location!r} lacks {error}: give a complete one."
        ) from None
    if weight.shape[1] != hidden or weight.shape[0] % queries.shape[1]:
        raise ExportError(
            f"The projection of {location!r} is {tuple(weight.shape)}, which does not lead from "
            f"{queries.shape[1]} wide queries to a language model {hidden} wide."
        )
    misfit = f"The Q-Former of {location!r} does not fit its reference encoder"
    fill(whisper.decoder, part_of(weights, "connector."), misfit)
    return AudioEncoder(whisper, queries, weight, bias)


def _render(tokenizer: Any, asked: Asked, order: str) -> str:
    """The prompt in one of DiVA's two published forms.

    ``text_first``: the user's text as a system message, then the audio. ``audio_first``: the
    user's turn is the audio, an empty line, and the text.

    Raises:
        ExportError: another order, a chat template that cannot be split, or a system prompt, whose
            place the user's text has.
    """
    if order not in (TEXT_FIRST, AUDIO_FIRST):
        raise ExportError(
            f"bundle_prompt_order is {TEXT_FIRST} or {AUDIO_FIRST}, not {order!r}: correct the "
            "checkpoint's config.json."
        )
    if asked.system:
        raise ExportError("The system's message holds the user's text.")
    mark = f"{AUDIO_MARK}{QUERY_MARK}"
    text = rendered(tokenizer, [{"role": "user", "content": mark}])
    prefix, found, suffix = text.partition(mark)
    lines = [line for line in prefix.split("\n") if line.strip()]
    if not found or not lines:
        raise ExportError("The chat template does not show the user's text: give it one that does.")
    ahead = order == TEXT_FIRST if asked.text_first is None else asked.text_first
    if ahead:
        return f"{lines[0]}\n{QUERY_MARK}\n{lines[-1]}\n{AUDIO_MARK}{suffix}"
    return f"{prefix}{AUDIO_MARK}\n\n{QUERY_MARK}{suffix}"
