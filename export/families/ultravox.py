"""Ultravox: Whisper encoder, stacked frames, gated projector, Llama-style text.

The checkpoint's own class is code that comes with it and is not run: the classes here are ours, for
its layout, read by the names of its config and weights. Whisper's encoder and the language model
come from the checkpoint where it holds them, else from the checkpoints that its config names. What
could not be checked against the published weights is listed in docs/reference/families.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModelForCausalLM,
    PreTrainedConfig,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)
from transformers.activations import ACT2FN
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from speechprune_ort.errors import ExportError, UnsupportedModelError
from speechprune_ort.export.checkpoint_config import check_text
from speechprune_ort.export.families.base import AttentiveEncoder, Checkpoint
from speechprune_ort.export.families.loading import (
    audio_spec_of,
    checkpoint_of,
    fill,
    load_model,
    model_of_weights,
    part_of,
    tokenizer_of,
    weights_of,
)
from speechprune_ort.export.families.prompts import template_prompts
from speechprune_ort.export.families.whisper import (
    additive_mask,
    attended_layers,
    encoder_frames,
)
from speechprune_ort.export.source import Source

__all__ = ["load", "sketch"]

AUDIO_MARK = "<|audio|>"
ENCODED_FRAMES = 50
"""Of the encoder, in a second."""
DEFAULTS = {"stack_factor": 8, "hidden_size": 4096, "projector_act": "swiglu"}
"""Of Ultravox's config, where the file leaves them out."""


class Projector(nn.Module):
    """Stacked frames to the language model's width.

    Args:
        stacked: width of the frames that are stacked.
        width: of the first map.
        hidden: of the language model.
        act: ``swiglu``, or an activation of transformers by name.
        norm_inside: whether the second norm stands behind the activation (version 0.5 and later)
            or behind the second map.
    """

    def __init__(self, stacked: int, width: int, hidden: int, act: str, norm_inside: bool) -> None:
        super().__init__()
        self.gated = act == "swiglu"
        inner = width // 2 if self.gated else width
        self.ln_pre = LlamaRMSNorm(stacked, eps=1e-6)
        self.linear_1 = nn.Linear(stacked, width, bias=False)
        self.act = nn.SiLU() if self.gated else ACT2FN[act]
        self.linear_2 = nn.Linear(inner, hidden, bias=False)
        self.ln_mid = LlamaRMSNorm(inner, eps=1e-6) if norm_inside else nn.Identity()
        self.ln_post = nn.Identity() if norm_inside else LlamaRMSNorm(hidden, eps=1e-6)

    def forward(self, stacked: Tensor) -> Tensor:
        """(windows, tokens, stacked) -> (windows, tokens, hidden)."""
        hidden = self.linear_1(self.ln_pre(stacked))
        if self.gated:
            value, gate = hidden.chunk(2, dim=-1)
            hidden = self.act(gate) * value
        else:
            hidden = self.act(hidden)
        projected: Tensor = self.ln_post(self.linear_2(self.ln_mid(hidden)))
        return projected


class AudioEncoder(AttentiveEncoder):
    """Encoder, stacking and projector as one module; padding is neither heard nor stacked.

    Args:
        tower: Whisper's encoder.
        projector: behind it.
        stack: encoder frames that make a token; the last token of a window may have fewer.
    """

    def __init__(self, tower: nn.Module, projector: Projector, stack: int) -> None:
        super().__init__()
        self.tower, self.projector, self.stack = tower, projector, stack

    def forward(
        self, input_features: Tensor, feature_lengths: Tensor
    ) -> Tensor | tuple[Tensor, Tensor]:
        """(windows, mel_bins, frames), (windows,) -> (windows, tokens, hidden).

        Where it ``attends`` also (windows, tokens), the attention that each token receives.
        """
        tower: Any = self.tower
        hidden = encoder_frames(tower, input_features, feature_lengths)
        windows, frames, width = hidden.shape
        lengths = (feature_lengths - 1) // 2 + 1
        padding = torch.arange(frames, device=lengths.device) >= lengths[:, None]
        mask = additive_mask(hidden, padding[:, None, None, :])
        hidden, attention = attended_layers(tower, hidden, 1, mask)
        hidden = tower.layer_norm(hidden) * (~padding)[:, :, None].to(hidden.dtype)
        tokens = -(-frames // self.stack)
        fill = tokens * self.stack - frames
        stacked = nn.functional.pad(hidden, (0, 0, 0, fill))
        stacked = stacked.reshape(windows, tokens, self.stack * width)

        def pooled() -> Tensor:
            """The mean over those frames of a token that are heard."""
            received, heard = (
                nn.functional.pad(values, (0, fill)).reshape(windows, tokens, self.stack).sum(2)
                for values in (attention(), (~padding).float())
            )
            return received / heard.clamp(min=1)

        return self.given(self.projector(stacked), pooled)


def load(source: Source) -> Checkpoint:
    """Load an Ultravox checkpoint and what it refers to.

    Args:
        source: the checkpoint, with config, tokenizer and weights. What it refers to is taken as
            it is, without its revision.

    Raises:
        ExportError: a part is missing or does not fit the others.
        UnsupportedModelError: a setting is not known; the message names it.
    """
    location = source.location
    config, _ = PreTrainedConfig.get_config_dict(location, revision=source.revision)
    config = {**DEFAULTS, **config}
    _require_known(location, config)
    tokenizer = tokenizer_of(source)
    weights = weights_of(source)
    if any("lora_" in name for name in weights):
        raise UnsupportedModelError(
            f"The checkpoint {location!r} holds LoRA weights beside its own: merge them first "
            "(merge_and_unload of its own class)."
        )
    tower = _tower(source, config, part_of(weights, "audio_tower."))
    model = _language_model(source, config, part_of(weights, "language_model."))
    encoder, stack = tower.config, int(config["stack_factor"])
    projector = _projector(config, encoder, model.config)
    misfit = f"The projector of {location!r} does not fit its config"
    fill(projector, part_of(weights, "multi_modal_projector."), misfit)
    frames = 2 * encoder.max_source_positions
    extractor = WhisperFeatureExtractor(feature_size=encoder.num_mel_bins)
    # Tokens of the least number of seconds that has a whole number of them.
    frame_tokens = ENCODED_FRAMES // math.gcd(ENCODED_FRAMES, stack)
    audio = audio_spec_of(
        extractor, encoder.num_mel_bins, frames, frame_tokens, ((2 * stack - 1, 2 * stack, 0),)
    )
    return checkpoint_of(
        "ultravox",
        model,
        AudioEncoder(tower, projector, stack),
        tokenizer=tokenizer,
        audio=audio,
        mel_bins=encoder.num_mel_bins,
        # As Ultravox's own pipeline lays it out: the text, a space, the audio.
        prompts=template_prompts(tokenizer, AUDIO_MARK, join=" ", text_first=True),
        encoder_attention=True,
    )


def sketch(location: str, config: Mapping[str, Any]) -> tuple[nn.Module, PreTrainedConfig]:
    """What an Ultravox checkpoint is made of, before a weight is read.

    Args:
        location: of the checkpoint.
        config: its ``config.json``.

    Returns:
        The modules of its audio encoder, made on whatever device is the default, and the config of
        its language model.

    Raises:
        ExportError: a part is named nowhere.
        UnsupportedModelError: a setting is not known.
    """
    config = {**DEFAULTS, **config}
    _require_known(location, config)
    encoder = WhisperConfig(**_settings(location, config, "audio"))
    text = _text_config(location, _settings(location, config, "text"))
    return nn.ModuleList([WhisperEncoder(encoder), _projector(config, encoder, text)]), text


def _projector(config: Mapping[str, Any], encoder: Any, text: Any) -> Projector:
    return Projector(
        encoder.d_model * int(config["stack_factor"]),
        int(config["hidden_size"]),
        text.hidden_size,
        config["projector_act"],
        bool(config.get("projector_ln_mid", False)),
    )


def _require_known(location: str, config: Mapping[str, Any]) -> None:
    """Refuse settings of Ultravox's config that would be computed otherwise."""
    wanted = {
        "audio_config.model_type": (
            (config.get("audio_config") or {}).get("model_type", "whisper"),
            ("whisper",),
        ),
        "audio_latency_block_size": (config.get("audio_latency_block_size"), (None,)),
        "num_projector_layers": (config.get("num_projector_layers", 0), (0,)),
        "projector_act": (config["projector_act"], ("swiglu", *ACT2FN)),
    }
    for name, (found, known) in wanted.items():
        if found not in known:
            raise UnsupportedModelError(
                f"The Ultravox checkpoint {location!r} has {name} {found!r}: export knows it with "
                f"{known[0]!r}."
            )


def _reference(location: str, config: Mapping[str, Any], key: str, what: str) -> str:
    """Hub id or folder of a part that the checkpoint does not hold; a folder also beside it."""
    named = config.get(key)
    if not named:
        raise ExportError(
            f"The checkpoint {location!r} holds no {what} and names no {key}: give a complete one."
        )
    beside = Path(location) / str(named)
    return str(beside) if beside.is_dir() else str(named)


def _tower(source: Source, config: Mapping[str, Any], weights: dict[str, Tensor]) -> Any:
    location = source.location
    if not weights:
        named = _reference(location, config, "audio_model_id", "audio_tower")
        return load_model(WhisperModel, source.of(named), text_part=None).encoder
    settings = WhisperConfig(**_settings(location, config, "audio"))
    return model_of_weights(WhisperEncoder, location, settings, weights)


def _settings(location: str, config: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Config of a part, ``audio`` or ``text``: its own, or that of the checkpoint that it names."""
    own = config.get(f"{what}_config")
    if own:
        return dict(own)
    named = _reference(location, config, f"{what}_model_id", f"{what}_config")
    found: dict[str, Any] = PreTrainedConfig.get_config_dict(named)[0]
    return found


def _language_model(source: Source, config: Mapping[str, Any], weights: dict[str, Tensor]) -> Any:
    location = source.location
    if not weights:
        named = _reference(location, config, "text_model_id", "language_model")
        return load_model(AutoModelForCausalLM, source.of(named), text_part="")
    text = _text_config(location, _settings(location, config, "text"))
    return model_of_weights(MODEL_FOR_CAUSAL_LM_MAPPING[type(text)], location, text, weights)


def _text_config(location: str, settings: dict[str, Any]) -> PreTrainedConfig:
    kind = settings.get("model_type", "llama")
    if kind not in CONFIG_MAPPING:
        raise UnsupportedModelError(
            f"The text model of {location!r} is {kind!r}, which export does not know."
        )
    text: PreTrainedConfig = CONFIG_MAPPING[kind](**settings)
    check_text(location, text.to_dict())
    return text
