"""Qwen2-Audio: Whisper-style encoder, average pooling, linear projector, Qwen2 or Llama text.

Any ``Qwen2AudioForConditionalGeneration`` checkpoint: any dimensions, 80 or 128 mel bins,
grouped-query attention or not, tied embeddings or not.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2AudioForConditionalGeneration,
)

from speechprune_ort.errors import ExportError, UnsupportedModelError
from speechprune_ort.export.families.base import QUERY_MARK, Checkpoint, split_prompt
from speechprune_ort.manifest import AudioSpec
from speechprune_ort.specs import Dimensions

__all__ = ["load"]

TEXT_MODELS = ("qwen2", "llama")
# Convolution of stride 2 with padding 1 and width 3, then average pooling of 2:
# Qwen2AudioEncoder._get_feat_extract_output_lengths.
LENGTH_STEPS = ((-1, 2, 1), (-2, 2, 1))


class AudioEncoder(nn.Module):
    """Encoder, pooling and projector as one module, its padding mask built inside.

    What ``Qwen2AudioEncoder.forward`` computes, without its demand for whole windows: the positions
    are learned one by one and padding is masked, so that a short window needs no padding.
    """

    def __init__(self, model: Qwen2AudioForConditionalGeneration) -> None:
        super().__init__()
        self.tower = model.model.audio_tower
        self.projector = model.model.multi_modal_projector

    def forward(self, input_features: Tensor, feature_lengths: Tensor) -> Tensor:
        """(windows, mel_bins, frames), (windows,) -> (windows, frames // 4, hidden)."""
        tower = self.tower
        dtype = tower.conv1.weight.dtype
        hidden = nn.functional.gelu(tower.conv1(input_features.to(dtype)))
        hidden = nn.functional.gelu(tower.conv2(hidden)).transpose(1, 2)
        positions = torch.arange(hidden.shape[1], device=feature_lengths.device)
        hidden = hidden + tower.embed_positions(positions)
        lengths = (feature_lengths - 1) // 2 + 1
        padding = positions[None, :] >= lengths[:, None]
        # Additive and finite: a softmax over minus infinities alone would be NaN.
        mask = padding[:, None, None, :].to(dtype) * torch.finfo(dtype).min
        for layer in tower.layers:
            hidden = layer(hidden, mask)
        pooled = tower.avg_pooler(hidden.transpose(1, 2)).transpose(1, 2)
        embeds: Tensor = self.projector(tower.layer_norm(pooled))
        return embeds


def load(location: str, revision: str | None, trust_remote_code: bool) -> Checkpoint:
    """Load a Qwen2-Audio checkpoint in float32.

    Args:
        location: hub id or local folder.
        revision: branch, tag or commit on the hub.
        trust_remote_code: passed on to transformers.

    Raises:
        ExportError: weights are missing, or the tokenizer or its template cannot be used.
        UnsupportedModelError: the text model is neither qwen2 nor llama.
    """
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        processor = AutoProcessor.from_pretrained(location, **options)
        model, info = Qwen2AudioForConditionalGeneration.from_pretrained(
            location,
            **options,
            dtype=torch.float32,
            output_loading_info=True,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(
            f"The checkpoint {location!r} cannot be loaded ({reason}): "
            "check that weights, config, tokenizer and preprocessor_config.json are all there."
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        raise ExportError(
            f"The checkpoint {location!r} lacks {len(missing)} weights (first: {missing[0]}): "
            "give a complete checkpoint."
        )
    model.eval().requires_grad_(False)
    config = model.config
    text = config.text_config
    if text.model_type not in TEXT_MODELS:
        raise UnsupportedModelError(
            f"The text model of {location!r} is {text.model_type!r}: "
            f"Qwen2-Audio export knows {' and '.join(TEXT_MODELS)}."
        )
    tokenizer: PreTrainedTokenizerFast = processor.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise ExportError(
            f"The tokenizer of {location!r} has no tokenizer.json: save its fast version there."
        )
    extractor = processor.feature_extractor
    encoder = config.audio_config
    frames = 2 * encoder.max_source_positions
    audio = AudioSpec(
        sampling_rate=extractor.sampling_rate,
        n_fft=extractor.n_fft,
        hop_length=extractor.hop_length,
        window_seconds=frames * extractor.hop_length / extractor.sampling_rate,
        frame_tokens=extractor.sampling_rate // extractor.hop_length // 4,
        length_steps=LENGTH_STEPS,
    )
    return Checkpoint(
        family="qwen2_audio",
        audio_encoder=AudioEncoder(model).eval(),
        language_model=_language_model(model),
        tokenizer=tokenizer,
        audio=audio,
        dimensions=Dimensions(
            mel_bins=encoder.num_mel_bins,
            frames=frames,
            window_tokens=audio.tokens(frames),
            hidden=text.hidden_size,
            layers=text.num_hidden_layers,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None)
            or text.hidden_size // text.num_attention_heads,
            vocab=text.vocab_size,
            context=text.max_position_embeddings,
        ),
        prompt=split_prompt(_render(processor), processor.audio_token, tokenizer),
        stop_token_ids=_stop_tokens(model, tokenizer),
        revision=getattr(config, "_commit_hash", None),
        notes=tuple(getattr(config, "bundle_notes", ())),
        frame_temperature=float(getattr(config, "bundle_frame_temperature", 1.0)),
        short_windows=True,
    )


def _language_model(model: Qwen2AudioForConditionalGeneration) -> PreTrainedModel:
    """The text half as a causal language model of its own, sharing the weights."""
    with torch.device("meta"):
        language_model: PreTrainedModel = AutoModelForCausalLM.from_config(
            model.config.text_config, attn_implementation="sdpa"
        )
    language_model.model = model.model.language_model
    language_model.lm_head = model.lm_head
    # Its head is a tensor of its own here, whatever it was tied to when it was trained.
    language_model.config.tie_word_embeddings = False
    return language_model.eval()


def _render(processor: Any) -> str:
    content = [
        {"type": "audio", "audio_url": "recording"},
        {"type": "text", "text": QUERY_MARK},
    ]
    rendered: str = processor.apply_chat_template(
        [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
    )
    return rendered


def _stop_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> tuple[int, ...]:
    generation = getattr(model.generation_config, "eos_token_id", None)
    for found in (generation, model.config.text_config.eos_token_id, tokenizer.eos_token_id):
        if found is not None:
            ids = [found] if isinstance(found, int) else list(found)
            return tuple(int(i) for i in ids)
    raise ExportError(
        "The checkpoint names no end-of-answer token: set eos_token_id in generation_config.json."
    )
