"""What a family gives to export, whatever its architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers import PreTrainedModel

from speechprune_ort.contract.manifest import AudioSpec, PromptForm, PromptPiece
from speechprune_ort.contract.specs import Dimensions

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["AttentiveEncoder", "Checkpoint"]


class AttentiveEncoder(nn.Module):
    """An audio encoder that can also give the attention that each token receives.

    Attributes:
        attends: whether it does. What it does not give is neither computed nor traced.
    """

    attends = True

    def given(
        self, embeds: Tensor, attention: Callable[[], Tensor]
    ) -> Tensor | tuple[Tensor, Tensor]:
        """What ``forward`` gives.

        Args:
            embeds: (windows, tokens, hidden).
            attention: computes (windows, tokens).
        """
        return (embeds, attention()) if self.attends else embeds


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint, taken apart into what becomes graphs.

    Attributes:
        family: name of the family.
        audio_encoder: module from ``input_features`` (windows, mel_bins, frames) float32 and
            ``feature_lengths`` (windows,) int64, in frames, to audio embeddings
            (windows, window_tokens, hidden). Tokens past a window's length are arbitrary. With
            ``encoder_attention`` also to (windows, window_tokens) float32.
        language_model: causal language model of its own (``LlamaForCausalLM``, ...), with
            ``get_input_embeddings()``, output head included; float32, in eval mode.
        tokenizer: of the language model.
        audio: how sound becomes tokens.
        dimensions: sizes of the axes.
        prompt: the chat template in pieces.
        forms: other forms of it, such as with a system prompt; see ``PromptForm``.
        further_turn: what it puts between an answer and the next one, in pieces; empty where it has
            no further turns.
        languages: that a form takes a hint of, by their codes.
        stop_token_ids: any of these ends an answer.
        revision: commit that was loaded, or None for a local folder; ``load_checkpoint`` sets it,
            ``notes`` and ``frame_temperature``, which no family has a part in.
        notes: for the bundle's user, from ``bundle_notes`` of the checkpoint's config.
        frame_temperature: of phase 1, from ``bundle_frame_temperature`` of it.
        short_windows: whether ``audio_encoder`` takes fewer frames than a window has, any multiple
            of those under a token, and gives the tokens of the padded window, if at least 4 frames
            of padding are left.
        encoder_attention: whether ``audio_encoder`` also gives the attention that each token
            receives in its last layer, mean over heads and queries, 1 where it is even.
    """

    family: str
    audio_encoder: nn.Module
    language_model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    audio: AudioSpec
    dimensions: Dimensions
    prompt: tuple[PromptPiece, ...]
    stop_token_ids: tuple[int, ...]
    revision: str | None = None
    notes: tuple[str, ...] = ()
    frame_temperature: float = 1.0
    short_windows: bool = False
    encoder_attention: bool = False
    forms: tuple[PromptForm, ...] = ()
    further_turn: tuple[PromptPiece, ...] = ()
    languages: Mapping[str, str] = field(default_factory=dict)
