"""What every family does alike: loading weights, and taking the language model out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from speechprune_ort.errors import ExportError, UnsupportedModelError
from speechprune_ort.manifest import AudioSpec
from speechprune_ort.specs import Dimensions

__all__ = [
    "TEXT_MODELS",
    "audio_spec_of",
    "dimensions_of",
    "language_model_of",
    "load_model",
    "notes_of",
    "require_fast",
    "require_known_text",
    "stop_tokens",
    "unreadable",
]

TEXT_MODELS = ("qwen2", "llama")
"""Language models whose first layer's projections are known to export."""


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
    try:
        model, info = cls.from_pretrained(
            location,
            **options,
            dtype="auto",
            output_loading_info=True,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError) as error:
        raise ExportError(unreadable(location, error)) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ExportError(
            f"The checkpoint {location!r} lacks {len(missing)} weights (first: {missing[0]}): "
            "give a complete checkpoint."
        )
    return model.eval().requires_grad_(False)


def unreadable(location: str, error: Exception) -> str:
    """Message for a checkpoint that transformers cannot read."""
    reason = str(error).strip().splitlines()[0]
    return (
        f"The checkpoint {location!r} cannot be loaded ({reason}): "
        "check that weights, config, tokenizer and preprocessor_config.json are all there."
    )


def require_known_text(location: str, text: Any) -> None:
    """Refuse a language model whose first layer is not known.

    Raises:
        UnsupportedModelError: it is none of ``TEXT_MODELS``.
    """
    if text.model_type not in TEXT_MODELS:
        raise UnsupportedModelError(
            f"The text model of {location!r} is {text.model_type!r}: "
            f"export knows {' and '.join(TEXT_MODELS)}."
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


def language_model_of(inner: Any, head: Any, text: Any) -> PreTrainedModel:
    """A text half as a causal language model of its own, sharing the weights.

    Args:
        inner: decoder layers with their embeddings.
        head: to the vocabulary.
        text: config of the text half.
    """
    with torch.device("meta"):
        language_model: PreTrainedModel = AutoModelForCausalLM.from_config(
            text, attn_implementation="sdpa"
        )
    language_model.model = inner
    language_model.lm_head = head
    # Its head is a tensor of its own here, whatever it was tied to when it was trained.
    language_model.config.tie_word_embeddings = False
    return language_model.eval()


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
