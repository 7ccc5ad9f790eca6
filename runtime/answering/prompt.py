"""The prompt around the audio: template ids from the manifest, the user's text tokenized here.

Its token ids become embeddings by the bundle's own table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.contract.manifest import TOKENIZER_FILE
from speechprune_ort.contract.manifest_entries import PromptPiece
from speechprune_ort.contract.specs import EMBED_TOKENS
from speechprune_ort.errors import BundleError, PromptError
from speechprune_ort.runtime.ort.engine import Engine
from speechprune_ort.runtime.ort.tokenizer import TextTokenizer
from speechprune_ort.runtime.ort.tokenizer_file import tokenizer_errors
from speechprune_ort.text import check_text

__all__ = ["Prompt", "build_prompt", "embed_ids"]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of a prompt.

    Attributes:
        question: the user's text.
        before: ids ahead of the audio.
        after: ids after it.
        places: of the user's own text in ``ids``: what phase 1 compares with.
    """

    question: str
    before: tuple[int, ...]
    after: tuple[int, ...]
    places: tuple[int, ...]

    @classmethod
    def of(cls, engine: Engine, question: str) -> Prompt:
        """The template of a bundle around a question.

        Raises:
            PromptError: the question is no text, is empty, gives no token or too many.
            BundleError: the tokenizer does not work.
        """
        manifest = engine.manifest
        with tokenizer_errors(engine.folder / TOKENIZER_FILE):
            return build_prompt(engine.text, manifest.prompt, question, manifest.dimensions.context)

    @classmethod
    def further(cls, engine: Engine, question: str) -> Prompt:
        """What a bundle's template puts between an answer and the next; all of it is ``before``.

        Raises:
            PromptError: the template has no further turn, or as of ``of``.
            BundleError: the tokenizer does not work.
        """
        manifest = engine.manifest
        if not manifest.further_turn:
            raise PromptError(
                "The chat template of this bundle has no further turn: begin a new chat, or export "
                "a checkpoint whose template has one."
            )
        with tokenizer_errors(engine.folder / TOKENIZER_FILE):
            return build_prompt(
                engine.text, manifest.further_turn, question, manifest.dimensions.context
            )

    @property
    def ids(self) -> tuple[int, ...]:
        """All of them, without the audio's."""
        return self.before + self.after

    @property
    def query(self) -> tuple[int, ...]:
        """Ids of the user's own text."""
        ids = self.ids
        return tuple(ids[place] for place in self.places)


def embed_ids(engine: Engine, ids: tuple[int, ...]) -> NDArray[Any]:
    """Token ids to embeddings (tokens, hidden), in one run.

    Raises:
        BundleError: the embedding table has no row for an id.
    """
    session, rows = engine.session(EMBED_TOKENS), engine.manifest.dimensions.vocab
    beyond = next((token for token in ids if not 0 <= token < rows), None)
    if beyond is not None:
        raise BundleError(
            f"The tokenizer of {engine.folder} gives token {beyond} "
            f"({engine.tokenizer.id_to_token(beyond)!r}) and the embedding table has {rows} "
            "rows: export the bundle again."
        )
    embeds: NDArray[Any] = session.run(["embeds"], {"token_ids": np.array(ids, np.int64)})[0]
    return embeds


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
    within: list[tuple[list[int], int]] = []  # side and place of the user's own tokens
    side = before
    for piece in pieces:
        if piece.kind == "audio":
            side = after
        elif piece.kind == "ids":
            side.extend(piece.ids)
        else:
            text = piece.before + question + piece.after
            encoding = tokenizer.encode(text)
            start, end = len(piece.before), len(piece.before) + len(question)
            within += [
                (side, place)
                for place, (first, last) in enumerate(encoding.offsets, len(side))
                if first < end and last > start
            ]
            side.extend(encoding.ids)
    if not within:
        raise PromptError("The question has no token that the model knows: rephrase it.")
    # Said here, before the embeddings of megabytes of text are wanted.
    if context is not None and len(before) + len(after) > context:
        raise PromptError(
            f"The question has {len(within)} tokens and the model {context} positions: ask a "
            "shorter question."
        )
    places = tuple(place + (len(before) if of is after else 0) for of, place in within)
    return Prompt(question, tuple(before), tuple(after), places)
