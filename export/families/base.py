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

__all__ = ["Checkpoint", "EmbedsAlone", "split_prompt", "split_turn"]

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
        further_turn: what it puts between an answer and the next one, in pieces; empty where it has
            no further turns.
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
    further_turn: tuple[PromptPiece, ...] = ()


QUESTIONS = ("Who owns the budget?", " what, then?\nSay: 3 & 4 ")
"""Texts that pieces are tried with."""


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

    def fixed(text: str) -> list[PromptPiece]:
        return [PromptPiece("ids", ids=_ids(tokenizer, text))] if text else []

    ahead, query, behind = _around_query(rendered, tokenizer, audio_token)
    pieces: list[PromptPiece] = []
    for text, last in ((ahead, query), (behind, None)):
        head, *rest = text.split(audio_token)
        pieces += fixed(head)
        for tail in rest:
            pieces += [PromptPiece("audio"), *fixed(tail)]
        if last is not None:
            pieces.append(last)

    _require_pieces(pieces, rendered, tokenizer, audio_token)
    return tuple(pieces)


def split_turn(rendered: str, tokenizer: PreTrainedTokenizerFast) -> tuple[PromptPiece, ...]:
    """Cut what a template puts between an answer and the next one, as ``split_prompt`` does it.

    Args:
        rendered: from the end of an answer to the beginning of the next, with ``QUERY_MARK`` once.
        tokenizer: of the language model.

    Raises:
        ExportError: the pieces do not tokenize to what the whole does.

    Returns:
        Pieces in order; none where an answer does not end with a control token, so that its last
        token could grow together with what follows.
    """
    controls = _controls(tokenizer)
    if rendered.count(QUERY_MARK) != 1 or not rendered.startswith(tuple(controls)):
        return ()
    ahead, query, behind = _around_query(rendered, tokenizer)
    around = [PromptPiece("ids", ids=_ids(tokenizer, text)) for text in (ahead, behind)]
    pieces = [piece for piece in (around[0], query, around[1]) if piece.kind != "ids" or piece.ids]
    _require_pieces(pieces, rendered, tokenizer)
    return tuple(pieces)


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def _controls(tokenizer: PreTrainedTokenizerFast, *more: str) -> list[str]:
    """Texts of control tokens, the longest first."""
    known = {*more, *(str(token) for token in tokenizer.added_tokens_decoder.values())}
    return sorted(known, key=len, reverse=True)


def _around_query(
    rendered: str, tokenizer: PreTrainedTokenizerFast, *more: str
) -> tuple[str, PromptPiece, str]:
    """The user's text with the template's that touches it, and what is ahead of and behind it."""
    controls = _controls(tokenizer, *more)
    before, after = rendered.split(QUERY_MARK)
    start = max((before.rfind(c) + len(c) for c in controls if c in before), default=0)
    end = min((after.find(c) for c in controls if c in after), default=len(after))
    query = PromptPiece("query", before=before[start:], after=after[:end])
    return before[:start], query, after[end:]


def _require_pieces(
    pieces: list[PromptPiece],
    rendered: str,
    tokenizer: PreTrainedTokenizerFast,
    audio_token: str | None = None,
) -> None:
    """Refuse pieces whose ids, joined, are not those of the whole.

    Raises:
        ExportError: they are not.
    """
    for question in QUESTIONS:
        joined: list[int] = []
        for piece in pieces:
            if piece.kind == "query":
                joined += _ids(tokenizer, piece.before + question + piece.after)
            elif piece.kind == "audio":
                joined += _ids(tokenizer, str(audio_token))
            else:
                joined += piece.ids
        whole = rendered.replace(QUERY_MARK, question)
        parts = [whole] if audio_token is None else whole.split(audio_token)
        expected = _ids(tokenizer, parts[0])
        for part in parts[1:]:
            expected += _ids(tokenizer, str(audio_token)) + _ids(tokenizer, part)
        if tuple(joined) != expected:
            raise ExportError(
                "The tokenizer does not split this chat template at its control tokens: "
                "only templates whose parts tokenize on their own can be exported."
            )
