"""The prompt around the audio: template ids from the manifest, the user's text tokenized here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from speechprune_ort.errors import PromptError
from speechprune_ort.manifest import PromptPiece
from speechprune_ort.runtime.tokenizer import TextTokenizer
from speechprune_ort.text import check_text

__all__ = ["Prompt", "build_prompt"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of a prompt.

    Attributes:
        before: ids ahead of the audio.
        after: ids after it.
        query: ids of the user's own text among them: what phase 1 compares with.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    query: tuple[int, ...]


def build_prompt(
    tokenizer: TextTokenizer,
    pieces: Sequence[PromptPiece],
    question: str,
    context: int | None = None,
) -> Prompt:
    """Fill a question into the template.

    Control tokens written out in the question (``<|im_end|>``) stay plain text.

    Args:
        tokenizer: of the bundle.
        pieces: the template.
        question: the user's text.
        context: positions that the model has; None does not compare.

    Raises:
        PromptError: the question is no text, is empty, gives no token, or more than the model has
            positions.
    """
    check_text(question)
    if not question.strip():
        raise PromptError("The question is empty: ask something about the recording.")
    before: list[int] = []
    after: list[int] = []
    query: list[int] = []
    side = before
    for piece in pieces:
        if piece.kind == "audio":
            side = after
        elif piece.kind == "ids":
            side.extend(piece.ids)
        else:
            text = piece.before + question + piece.after
            encoding = tokenizer.encode(text)
            side.extend(encoding.ids)
            start, end = len(piece.before), len(piece.before) + len(question)
            query += [
                token
                for token, (first, last) in zip(encoding.ids, encoding.offsets, strict=True)
                if first < end and last > start
            ]
    if not query:
        raise PromptError("The question has no token that the model knows: rephrase it.")
    # Said here, before the embeddings of megabytes of text are wanted.
    if context is not None and len(before) + len(after) > context:
        raise PromptError(
            f"The question has {len(query)} tokens and the model {context} positions: ask a "
            "shorter question."
        )
    return Prompt(tuple(before), tuple(after), tuple(query))
