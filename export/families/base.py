"""What a family gives to export, whatever its architecture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers import PreTrainedModel

from speechprune_ort.contract.manifest import AudioSpec, PromptPiece
from speechprune_ort.contract.specs import Dimensions
from speechprune_ort.errors import ExportError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = ["Checkpoint", "EmbedsAlone", "split_prompt"]

QUERY_MARK = "SPEECHPRUNEQUERY"
"""Stands for the user's text while a chat template is rendered and split."""


class EmbedsAlone(nn.Module):
    """An audio encoder without its attention: what is not given out is not traced.

    Args:
        encoder: of a checkpoint with ``encoder_attention``.
    """

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, input_features: Tensor, feature_lengths: Tensor) -> Tensor:
        """Its embeddings."""
        embeds: Tensor = self.encoder(input_features, feature_lengths)[0]
        return embeds


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
        stop_token_ids: any of these ends an answer.
        revision: commit that was loaded, or None for a local folder.
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
    revision: str | None
    notes: tuple[str, ...] = ()
    frame_temperature: float = 1.0
    short_windows: bool = False
    encoder_attention: bool = False


def split_prompt(
    rendered: str, audio_token: str, tokenizer: PreTrainedTokenizerFast
) -> tuple[PromptPiece, ...]:
    """Cut a rendered chat template into pieces and tokenize what is fixed in it.

    The user's text must not be able to smuggle in control tokens, so the runtime tokenizes it
    with those disabled, together with the template text that touches it (up to the nearest
    control token), as one tokenizer call over the whole prompt would.

    Args:
        rendered: the template, rendered with ``audio_token`` once where the audio stands and
            ``QUERY_MARK`` once for the user's text.
        audio_token: the placeholder's text.
        tokenizer: of the language model.

    Raises:
        ExportError: a placeholder is missing or there twice, or the pieces do not tokenize to
            what the whole prompt does.

    Returns:
        Pieces in order; joined, they give the ids of the whole prompt.
    """
    for mark, what in ((audio_token, "audio placeholder"), (QUERY_MARK, "user's text")):
        if rendered.count(mark) != 1:
            raise ExportError(
                f"The chat template renders the {what} {rendered.count(mark)} times, not once: "
                "give the checkpoint a template with one audio and one text part."
            )

    def ids(text: str) -> tuple[int, ...]:
        return tuple(tokenizer.encode(text, add_special_tokens=False))

    def fixed(text: str) -> list[PromptPiece]:
        return [PromptPiece("ids", ids=ids(text))] if text else []

    controls = sorted(
        {audio_token, *(str(token) for token in tokenizer.added_tokens_decoder.values())},
        key=len,
        reverse=True,
    )
    before_query, after_query = rendered.split(QUERY_MARK)
    start = max((before_query.rfind(c) + len(c) for c in controls if c in before_query), default=0)
    ends = [after_query.find(c) for c in controls if c in after_query]
    end = min(ends, default=len(after_query))
    query = PromptPiece("query", before=before_query[start:], after=after_query[:end])

    pieces: list[PromptPiece] = []
    for text, last in ((before_query[:start], query), (after_query[end:], None)):
        head, *rest = text.split(audio_token)
        pieces += fixed(head)
        for tail in rest:
            pieces += [PromptPiece("audio"), *fixed(tail)]
        if last is not None:
            pieces.append(last)

    for question in ("Who owns the budget?", " what, then?\nSay: 3 & 4 "):
        joined: list[int] = []
        for piece in pieces:
            if piece.kind == "query":
                joined += ids(piece.before + question + piece.after)
            elif piece.kind == "audio":
                joined += ids(audio_token)
            else:
                joined += piece.ids
        ahead, behind = rendered.replace(QUERY_MARK, question).split(audio_token)
        if tuple(joined) != ids(ahead) + ids(audio_token) + ids(behind):
            raise ExportError(
                "The tokenizer does not split this chat template at its control tokens: "
                "only templates whose parts tokenize on their own can be exported."
            )
    return tuple(pieces)
