"""What every family does alike: loading the parts, and describing them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerFast
from transformers.utils import cached_file

from speechprune_ort.errors import ExportError, UnsupportedModelError
from speechprune_ort.export.families.base import QUERY_MARK
from speechprune_ort.manifest import AudioSpec
from speechprune_ort.specs import Dimensions

__all__ = [
    "audio_spec_of",
    "dimensions_of",
    "load_model",
    "load_parts",
    "model_of_weights",
    "notes_of",
    "render_turn",
    "require_fast",
    "require_log_mel",
    "stop_tokens",
    "unreadable",
    "weights_of",
]


def load_parts(cls: Any, location: str, **options: Any) -> Any:
    """Load a processor, feature extractor or tokenizer.

    Args:
        cls: class of transformers with ``from_pretrained``.
        location: hub id or local folder.
        **options: passed on to it.

    Raises:
        ExportError: it cannot be read.
    """
    try:
        return cls.from_pretrained(location, **options)
    except (OSError, ValueError, ImportError) as error:
        raise ExportError(unreadable(location, error)) from error


def load_model(cls: Any, location: str, **options: Any) -> Any:
    """Load a checkpoint for inference, its weights in the dtype in which they are stored.

    They are mapped from its files: what is never looked at costs no memory.

    Args:
        cls: class of transformers with ``from_pretrained``.
        location: hub id or local folder.
        **options: passed on to it.

    Raises:
        ExportError: the checkpoint cannot be read, or weights are missing.
    """
    return _opened(cls, location, location, options)


def model_of_weights(
    cls: Any, location: str, config: PreTrainedConfig, weights: Mapping[str, Tensor]
) -> Any:
    """A part of a checkpoint as a model of its own, its weights in the dtype that they have.

    Args:
        cls: class of transformers with ``from_pretrained``.
        location: of the checkpoint, for messages.
        config: of the part.
        weights: of the part, under the names that its class gives them.

    Raises:
        ExportError: weights are missing or do not fit the config.
    """
    return _opened(cls, None, location, {"config": config, "state_dict": dict(weights)})


def _opened(cls: Any, source: str | None, location: str, options: Mapping[str, Any]) -> Any:
    try:
        model, info = cls.from_pretrained(
            source,
            **options,
            dtype="auto" if source else next(iter(options["state_dict"].values())).dtype,
            output_loading_info=True,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ExportError(unreadable(location, error)) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ExportError(
            f"The checkpoint {location!r} lacks {len(missing)} weights (first: {missing[0]}): "
            "give a complete checkpoint."
        )
    return model.eval().requires_grad_(False)


def weights_of(location: str, revision: str | None) -> dict[str, Tensor]:
    """All tensors of a checkpoint, of one file or of several with an index.

    Args:
        location: hub id or local folder.
        revision: branch, tag or commit on the hub.

    Raises:
        ExportError: there are none, or they cannot be read.
    """

    def find(name: str, **options: Any) -> str | None:
        found: str | None = cached_file(location, name, revision=revision, **options)
        return found

    try:
        index = find(
            "model.safetensors.index.json",
            _raise_exceptions_for_missing_entries=False,
        )
        names = ["model.safetensors"]
        if index:
            listed = json.loads(Path(index).read_text(encoding="utf-8"))
            names = sorted(set(listed["weight_map"].values()))
        weights: dict[str, Tensor] = {}
        for name in names:
            weights |= load_file(str(find(name)))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ExportError(unreadable(location, error)) from error
    return weights


def unreadable(location: str, error: Exception) -> str:
    """Message for a checkpoint that transformers cannot read."""
    reason = str(error).strip().splitlines()[0]
    return (
        f"The checkpoint {location!r} cannot be loaded ({reason}): "
        "check that weights, config, tokenizer and preprocessor_config.json are all there."
    )


def require_fast(location: str, tokenizer: Any) -> PreTrainedTokenizerFast:
    """Refuse a tokenizer that the runtime could not load.

    Raises:
        ExportError: it has no ``tokenizer.json``.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ExportError(
            f"The tokenizer of {location!r} has no tokenizer.json: save its fast version there."
        )
    fast: PreTrainedTokenizerFast = tokenizer
    return fast


def require_log_mel(location: str, extractor: Any, mel_bins: int, frames: int) -> None:
    """Refuse features that the runtime would not compute as transformers does.

    Args:
        location: of the checkpoint, for the message.
        extractor: its feature extractor, Whisper's.
        mel_bins: log-mel bins that the encoder takes.
        frames: log-mel frames of its window.

    Raises:
        UnsupportedModelError: extractor and encoder do not fit each other, or a setting is none
            that the runtime has; the message names it.
    """
    window = extractor.chunk_length * extractor.sampling_rate // extractor.hop_length
    wanted = {
        "feature_size": (extractor.feature_size, mel_bins),
        "hop_length": (extractor.hop_length, 160),
        "frames in chunk_length": (window, frames),
        "sampling_rate": (extractor.sampling_rate, 16_000),
        "n_fft": (extractor.n_fft, 400),
        "dither": (getattr(extractor, "dither", 0.0), 0.0),
        "do_normalize": (bool(getattr(extractor, "do_normalize", False)), False),
    }
    for name, (found, known) in wanted.items():
        if found != known:
            raise UnsupportedModelError(
                f"The features of {location!r} have {name} {found!r} where export knows {known!r}: "
                "mend preprocessor_config.json if it does not belong to these weights."
            )


def render_turn(processor: Any) -> str:
    """One turn of the user by a chat template: the audio, then ``QUERY_MARK``.

    Args:
        processor: of the checkpoint, or its tokenizer where that has the template.

    Raises:
        ExportError: the processor has no chat template, or it cannot be rendered.
    """
    content = [
        {"type": "audio", "audio_url": "recording"},
        {"type": "text", "text": QUERY_MARK},
    ]
    try:
        rendered: str = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
    except (ValueError, TypeError, TemplateError) as error:
        raise ExportError(
            f"The chat template cannot be rendered ({str(error).strip().splitlines()[0]}): "
            "give the checkpoint one that takes an audio and a text part."
        ) from error
    return rendered


def audio_spec_of(
    extractor: Any,
    frames: int,
    frame_tokens: int,
    length_steps: tuple[tuple[int, int, int], ...],
    span_tokens: int = 1,
) -> AudioSpec:
    """How sound becomes audio tokens; see ``AudioSpec``.

    Args:
        extractor: the checkpoint's feature extractor.
        frames: log-mel frames of a window.
        frame_tokens: audio tokens of a frame of phase 1.
        length_steps: from log-mel frames to tokens.
        span_tokens: tokens that share one stretch of time.
    """
    return AudioSpec(
        sampling_rate=extractor.sampling_rate,
        n_fft=extractor.n_fft,
        hop_length=extractor.hop_length,
        window_seconds=frames * extractor.hop_length / extractor.sampling_rate,
        frame_tokens=frame_tokens,
        length_steps=length_steps,
        span_tokens=span_tokens,
    )


def dimensions_of(text: Any, audio: AudioSpec, mel_bins: int, frames: int) -> Dimensions:
    """Sizes that a checkpoint fixes.

    Args:
        text: config of the text half.
        audio: how frames become tokens.
        mel_bins: log-mel bins.
        frames: log-mel frames of a window.
    """
    return Dimensions(
        mel_bins=mel_bins,
        frames=frames,
        window_tokens=audio.tokens(frames),
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocab=text.vocab_size,
        context=text.max_position_embeddings,
    )


def stop_tokens(generation: Any, text: Any, tokenizer: Any) -> tuple[int, ...]:
    """Ids that end an answer: of the generation config, else of the text half, else of both.

    Args:
        generation: generation config of the checkpoint, or None.
        text: config of the text half.
        tokenizer: of the checkpoint.

    Raises:
        ExportError: none of them names one.
    """
    for owner in (generation, text, tokenizer):
        found = getattr(owner, "eos_token_id", None)
        if found is not None:
            ids = [found] if isinstance(found, int) else list(found)
            return tuple(int(i) for i in ids)
    raise ExportError(
        "The checkpoint names no end-of-answer token: set eos_token_id in generation_config.json."
    )


def notes_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's config says to us alone, as fields of ``Checkpoint``."""
    return {
        "notes": tuple(config.get("bundle_notes", ())),
        "frame_temperature": float(config.get("bundle_frame_temperature", 1.0)),
    }
