"""Granite Speech: conformer over pairs of frames, three tokens of each 0.3 s, Granite text.

Any ``GraniteSpeechForConditionalGeneration`` checkpoint. Its LoRA, which is active where there is
audio, is merged: no other questions are asked here. A convolution of the conformer looks over every
edge, so that a recording is heard as transformers hears it up to the length of a window alone.
"""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GraniteSpeechForConditionalGeneration

from speechprune_ort.contract.manifest import LogMelSpec, whole_windows
from speechprune_ort.errors import ExportError, UnsupportedModelError
from speechprune_ort.export.families.base import Checkpoint
from speechprune_ort.export.families.loading import (
    audio_spec_of,
    audio_token_of,
    checkpoint_of,
    load_model,
    stored_file,
    tokenizer_of,
)
from speechprune_ort.export.families.prompts import template_prompts
from speechprune_ort.export.families.whisper import additive_mask, filled, last_place
from speechprune_ort.export.json_object import read_object
from speechprune_ort.export.source import Source

__all__ = ["load", "require_known"]

STACKED = 2
"""Log-mel frames that the encoder takes as one."""
WINDOW_SECONDS = 240
"""Of a window at most: what is longer is cut, and its edges are heard as edges."""
FEATURES = {
    "sampling_rate": 16_000,
    "n_fft": 512,
    "win_length": 400,
    "hop_length": 160,
    "n_mels": 80,
    "projector_window_size": 15,
    "projector_downsample_rate": 5,
}
"""Settings of the feature extractor, and what they are where a checkpoint leaves them out."""


class Conformer(nn.Module):
    """The encoder, for recordings of different lengths side by side.

    Args:
        encoder: of the checkpoint.
    """

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.input_linear, self.layers = encoder.input_linear, encoder.layers
        self.out, self.out_mid = encoder.out, encoder.out_mid
        self.context = encoder.config.context_size
        self.distances = nn.Buffer(encoder.attention_dists, persistent=False)

    def forward(self, frames: Tensor, heard: Tensor) -> Tensor:
        """(windows, frames, 2 * mel_bins), (windows, frames) bool -> (windows, frames, width)."""
        hidden = self.input_linear(frames)
        count = hidden.shape[1]
        room = (count + self.context - 1) // self.context * self.context
        at = torch.arange(room, device=hidden.device)
        last = last_place(hidden, 1)
        filling = torch.minimum(at, last)
        barred = ~heard.index_select(1, filling) | (at > last)[None, :]
        mask = additive_mask(hidden, barred).reshape(-1, 1, 1, self.context)
        sound = heard[:, None, :].to(hidden.dtype)
        for number, layer in enumerate(self.layers, start=1):
            hidden = 0.5 * layer.ff1(hidden) + hidden
            hidden = self._attend(layer.attn, hidden, filling, mask) + hidden
            hidden = self._convolve(layer.conv, hidden, sound) + hidden
            hidden = 0.5 * layer.ff2(hidden) + hidden
            hidden = layer.post_norm(hidden)
            if number == len(self.layers) // 2:
                hidden = hidden + self.out_mid(self.out(hidden).softmax(-1))
        heard_as: Tensor = hidden
        return heard_as

    def _attend(self, attention: Any, hidden: Tensor, filling: Tensor, mask: Tensor) -> Tensor:
        """Attention within blocks, by distance; behind the end nothing is looked at."""
        windows, frames, _ = hidden.shape
        size, heads, width = self.context, attention.num_heads, attention.dim_head
        source = attention.pre_norm(hidden).index_select(1, filling)
        keys, values = attention.to_kv(source).chunk(2, dim=-1)
        query, key, value = (
            part.reshape(-1, size, heads, width).transpose(1, 2)
            for part in (attention.to_q(source), keys, values)
        )
        places = attention.rel_pos_emb(self.distances)
        # By place rather than by block: a product of matrices for each row of distances.
        rows = query.permute(2, 0, 1, 3).flatten(1, 2) @ places.transpose(1, 2)
        bias = rows.reshape(size, -1, heads, size).permute(1, 2, 0, 3) * attention.scale
        mixed = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=bias + mask, scale=attention.scale
        )
        mixed = mixed.transpose(1, 2).reshape(windows, -1, heads * width)
        result: Tensor = attention.to_out(mixed[:, :frames])
        return result

    @staticmethod
    def _convolve(module: Any, hidden: Tensor, sound: Tensor) -> Tensor:
        """The convolution module; behind the end it sees zeros."""
        inner = module.glu(module.up_conv(module.norm(hidden).transpose(1, 2)))
        inner = module.depth_conv(inner * sound)
        result: Tensor = module.down_conv(module.silu(module.batch_norm(inner))).transpose(1, 2)
        return result


class AudioEncoder(nn.Module):
    """Conformer and Q-Former as one module.

    Args:
        encoder: of the checkpoint.
        projector: its Q-Former, which looks at ``window_size`` frames at a time.
    """

    def __init__(self, encoder: Any, projector: Any) -> None:
        super().__init__()
        self.conformer, self.projector = Conformer(encoder), projector
        self.size = projector.window_size

    def forward(self, input_features: Tensor, feature_lengths: Tensor) -> Tensor:
        """(windows, mel_bins, frames), (windows,) -> (windows, tokens, hidden).

        ``frames`` is a multiple of 30, and there are 3 tokens of each 30.
        """
        windows, mel_bins, frames = input_features.shape
        dtype = self.projector.query.dtype
        count = frames // STACKED
        features = input_features[:, :, : count * STACKED].to(dtype).transpose(1, 2)
        pairs = features.reshape(windows, count, STACKED * mel_bins)
        at = torch.arange(count, device=feature_lengths.device)
        heard = at[None, :] < (feature_lengths // STACKED)[:, None]
        hidden = self.conformer(pairs, heard) * heard[:, :, None].to(dtype)
        pieces = (count + self.size - 1) // self.size
        hidden = filled(hidden, 1, pieces * self.size)
        query = self.projector.query
        asked = self.projector.qformer(
            query_embeds=query.expand(windows * pieces, -1, -1),
            encoder_hidden_states=hidden.reshape(windows * pieces, self.size, hidden.shape[2]),
            return_dict=True,
        ).last_hidden_state
        embeds: Tensor = self.projector.linear(asked)
        return embeds.reshape(windows, pieces * query.shape[1], embeds.shape[2])


def require_known(location: str, config: Any) -> None:
    """Refuse settings of the encoder that this file does not compute.

    Args:
        location: of the checkpoint, for the message.
        config: its config, of transformers.

    Raises:
        UnsupportedModelError: a setting is not known.
    """
    size, rate, width = config.window_size, config.downsample_rate, config.encoder_config.input_dim
    if rate < 1 or size % rate or width % STACKED:
        raise UnsupportedModelError(
            f"The audio encoder of {location!r} has window_size {size}, downsample_rate {rate} and "
            f"input_dim {width}: export knows windows that are a multiple of the rate, and even "
            "input_dim."
        )


def load(source: Source) -> Checkpoint:
    """Load a Granite Speech checkpoint.

    Args:
        source: the checkpoint.

    Raises:
        ExportError: weights are missing, or the tokenizer or its template cannot be used.
        UnsupportedModelError: a setting of the text model, the encoder or the features is not
            known; the message names it.
    """
    location = source.location
    tokenizer = tokenizer_of(source)
    model = load_model(GraniteSpeechForConditionalGeneration, source, text_part="text_config")
    config, encoder = model.config, model.config.encoder_config
    size, rate = config.window_size, config.downsample_rate
    extractor = _features(source)
    if (size, rate) != (extractor.projector_window_size, extractor.projector_downsample_rate):
        raise UnsupportedModelError(
            f"{location!r} has window_size {size} and downsample_rate {rate}, and its features are "
            f"for {extractor.projector_window_size} and {extractor.projector_downsample_rate}: "
            "correct preprocessor_config.json or config.json."
        )
    require_known(location, config)
    chunk, tokens = STACKED * size, size // rate
    # A window ends where a block of attention and one of the Q-Former do.
    unit = math.lcm(chunk, STACKED * encoder.context_size)
    frames = unit * max(1, _window(config, extractor) // unit)
    mel_bins = encoder.input_dim // STACKED
    second = extractor.sampling_rate / extractor.hop_length
    audio = audio_spec_of(
        extractor,
        mel_bins,
        frames,
        tokens * max(1, round(second / chunk)),
        whole_windows(chunk, tokens),
        span_tokens=tokens,
        chunk=(chunk, tokens),
        log_mel=LogMelSpec(
            over="recording",
            ending="mirror",
            scale="htk",
            taper=extractor.win_length,
            last_frame=True,
            stack=STACKED,
        ),
    )
    audio_token = audio_token_of(location, tokenizer, config.audio_token_index)
    return checkpoint_of(
        "granite_speech",
        model,
        AudioEncoder(model.model.encoder, model.model.projector),
        tokenizer=tokenizer,
        audio=audio,
        mel_bins=mel_bins,
        prompts=template_prompts(tokenizer, audio_token, join=""),
        short_windows=True,
    )


def _features(source: Source) -> Any:
    """Settings of the feature extractor, which torchaudio alone can open.

    Raises:
        ExportError: there are none, or one is no number.
    """
    for name, part in (
        ("preprocessor_config.json", None),
        ("processor_config.json", "audio_processor"),
    ):
        path = stored_file(source.processor, name, source.revision)
        if path is None:
            continue
        found = read_object(path, source.location)
        if part is not None:
            found = found.get(part) or {}
        nested = found.get("melspec_kwargs") or {}
        values = {key: found.get(key, nested.get(key, known)) for key, known in FEATURES.items()}
        for key, value in values.items():
            if type(value) is not int or value < 1:
                raise ExportError(
                    f"{key} of the features of {source.location!r} is {value!r}, no positive whole "
                    "number: correct preprocessor_config.json."
                )
        if values["win_length"] > values["n_fft"]:
            raise ExportError(
                f"win_length of the features of {source.location!r} is more than n_fft: correct "
                "preprocessor_config.json."
            )
        return SimpleNamespace(**values, feature_size=values["n_mels"])
    raise ExportError(
        f"{source.location!r} has no preprocessor_config.json: give a complete checkpoint."
    )


def _window(config: Any, extractor: Any) -> int:
    """Log-mel frames that a window has at most."""
    seconds = config.to_dict().get("bundle_window_seconds", WINDOW_SECONDS)
    if type(seconds) is not int or not 1 <= seconds <= WINDOW_SECONDS:
        raise ExportError(
            f"bundle_window_seconds is {seconds!r}, not 1 to {WINDOW_SECONDS}: correct config.json."
        )
    frames: int = seconds * extractor.sampling_rate // extractor.hop_length
    return frames
