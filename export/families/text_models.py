"""The language models behind the families: taken out of them, and made plain.

Which are known, and which of their settings, is in ``checkpoint_config``. Known means exact: the
decoder's graph equals torch, and phase 2 reads the first layer's projections as the model does.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from speechprune_ort.export.checkpoint_config import told_of_windows, windows_of
from speechprune_ort.export.families.base import Checkpoint

__all__ = ["language_model_of", "with_context_told", "with_scale_folded", "with_windows_told"]


def language_model_of(model: Any, taken_as: PreTrainedConfig | None = None) -> PreTrainedModel:
    """The text half of a model as a causal language model of its own, sharing the weights.

    Args:
        model: of transformers, with a head to the vocabulary; a causal language model is its own
            text half.
        taken_as: config of the class that its weights are put into, where theirs is a near relation
            that the decoder graph does not know; None for the text half's own.
    """
    text = taken_as or model.config.get_text_config(decoder=True)
    with torch.device("meta"):
        language_model: PreTrainedModel = AutoModelForCausalLM.from_config(
            text, attn_implementation="sdpa"
        )
    inner: Any = model.get_decoder()
    if taken_as is not None:
        weights, inner = inner.state_dict(), language_model.model
        inner.load_state_dict(weights, assign=True)
        inner.rotary_emb = type(inner.rotary_emb)(text)  # tables that no checkpoint holds
    language_model.model, language_model.lm_head = inner, model.get_output_embeddings()
    # Its head is a tensor of its own here, whatever it was tied to when it was trained.
    language_model.config.tie_word_embeddings = False
    return language_model.eval().requires_grad_(False)


class ScaledEmbeds(nn.Module):
    """An audio encoder whose embeddings are multiplied as the language model would do it.

    Args:
        encoder: of a checkpoint.
        scale: of the language model.
    """

    def __init__(self, encoder: nn.Module, scale: float) -> None:
        super().__init__()
        self.encoder, self.scale = encoder, scale

    def forward(
        self, input_features: Tensor, feature_lengths: Tensor
    ) -> Tensor | tuple[Tensor, ...]:
        """What the encoder gives, its embeddings scaled."""
        found = self.encoder(input_features, feature_lengths)
        if isinstance(found, tuple):
            return (found[0] * self.scale, *found[1:])
        scaled: Tensor = found * self.scale
        return scaled


def with_context_told(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, with a note where its bundle has fewer positions than its config says."""
    text: Any = checkpoint.language_model.config
    context = checkpoint.dimensions.context
    if context == text.max_position_embeddings:
        return checkpoint
    note = (
        f"Prompt and answer have {context} positions of {text.max_position_embeddings}: beyond "
        f"them the model's rotary embedding ({text.rope_parameters['rope_type']}) turns all tokens "
        "otherwise."
    )
    return replace(checkpoint, notes=(*checkpoint.notes, note))


def with_windows_told(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, with a note where layers attend within a sliding window."""
    text: Any = checkpoint.language_model.config
    note = told_of_windows(windows_of(text.name_or_path, text.to_dict()))
    return replace(checkpoint, notes=(*checkpoint.notes, note)) if note else checkpoint


def with_scale_folded(checkpoint: Checkpoint) -> Checkpoint:
    """The checkpoint, what its text model multiplies all embeddings with moved into both sources.

    Granite multiplies whatever comes in, the audio's embeddings too. A decoder that takes
    embeddings alone has no place for that: the table and the audio encoder take it. The head keeps
    the table as it was, tied or not.
    """
    language_model: Any = checkpoint.language_model
    scale = float(getattr(language_model.config, "embedding_multiplier", 1.0))
    if scale == 1.0:
        return checkpoint
    inner = language_model.model
    table = inner.get_input_embeddings().weight.detach()
    scaled = nn.Embedding(table.shape[0], table.shape[1], _weight=table.float() * scale)
    inner.set_input_embeddings(scaled)
    inner.requires_grad_(False)
    inner.embedding_multiplier = 1.0
    language_model.config = copy.deepcopy(language_model.config)
    language_model.config.embedding_multiplier = 1.0
    encoder = ScaledEmbeds(checkpoint.audio_encoder, scale).eval()
    return replace(checkpoint, audio_encoder=encoder)
