"""The prompt around the audio: template ids from the manifest, the user's text tokenized here.

Its token ids become embeddings by the bundle's own table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.contract.manifest import TOKENIZER_FILE, Manifest
from speechprune_ort.contract.manifest_entries import PromptForm, PromptPiece
from speechprune_ort.contract.specs import EMBED_TOKENS
from speechprune_ort.errors import BundleError, PromptError
from speechprune_ort.runtime.ort.engine import Engine
from speechprune_ort.runtime.ort.tokenizer import TextTokenizer
from speechprune_ort.runtime.ort.tokenizer_file import tokenizer_errors
from speechprune_ort.text import check_question, check_text, counted
from speechprune_ort.wording import Wording

__all__ = ["AS_IS", "Prompt", "build_prompt", "embed_ids", "form_of"]

AS_IS = Wording()
"""The template as it is, around a question."""

CHARACTERS = 16
"""Most characters of a text for each position of the model; no language has as many for a token."""

NAMED = {"query": "The question", "system": "The system prompt", "language": "The language"}


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids of a prompt.

    Attributes:
        question: the user's text.
        parts: ids before, between and after the recordings: one part more than recordings.
        places: places in ``ids`` of the user's own text, which phase 1 compares with.
    """

    question: str
    parts: tuple[tuple[int, ...], ...]
    places: tuple[int, ...]

    @classmethod
    def of(
        cls, engine: Engine, question: str, wording: Wording = AS_IS, recordings: int = 1
    ) -> Prompt:
        """The template of a bundle around a question.

        Args:
            engine: the bundle.
            question: the user's text.
            wording: what else the prompt says.
            recordings: number of recordings in it.

        Raises:
            PromptError: the question is not a text, is empty, gives no token or too many; or the
                template has no such form.
            BundleError: the tokenizer does not work.
        """
        manifest = engine.manifest
        pieces, texts = form_of(manifest, wording, recordings)
        texts["query"] = question
        with tokenizer_errors(engine.folder / TOKENIZER_FILE):
            return build_prompt(engine.text, pieces, texts, manifest.dimensions.context)

    @classmethod
    def further(cls, engine: Engine, question: str) -> Prompt:
        """What a bundle's template puts between an answer and the next; it has no recording.

        Raises:
            PromptError: the template has no further turn, or as ``of`` raises it.
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
                engine.text,
                manifest.further_turn,
                {"query": question},
                manifest.dimensions.context,
            )

    @property
    def ids(self) -> tuple[int, ...]:
        """All token ids, without the audio's."""
        return tuple(chain.from_iterable(self.parts))

    @property
    def query(self) -> tuple[int, ...]:
        """Ids of the user's own text."""
        ids = self.ids
        return tuple(ids[place] for place in self.places)


def form_of(
    manifest: Manifest, wording: Wording, recordings: int = 1
) -> tuple[tuple[PromptPiece, ...], dict[str, str]]:
    """The template in the form that is asked for, and the texts in it besides the question.

    Args:
        manifest: manifest of the bundle.
        wording: what the prompt says besides the question.
        recordings: number of recordings in it.

    Raises:
        PromptError: the template has no such form, or the model knows no such language; the message
            says what it lacks.
    """
    kinds = [piece.kind for piece in manifest.prompt]
    own = PromptForm(1, kinds.index("query") < kinds.index("audio"), manifest.prompt)
    first = own.text_first if wording.text_first is None else wording.text_first
    forms = (own, *manifest.forms)
    system, language = wording.system is not None, wording.language is not None
    wanted = (recordings, first, system, language)
    for form in forms:
        if (form.recordings, form.text_first, form.system, form.language) == wanted:
            texts = {} if wording.system is None else {"system": wording.system}
            if wording.language is not None:
                texts["language"] = _language(manifest, wording.language)
            return form.pieces, texts
    if not manifest.forms:
        raise PromptError(
            f"The bundle of {manifest.source} holds one form of its prompt, a question and a "
            "recording: leave the rest out, or export it again if its chat template has more."
        )
    most = max(form.recordings for form in forms)
    order = "before" if first else "after"
    lacking = {
        "no place for a system prompt: put it into the question": system
        and not any(form.system for form in forms),
        "no place for a language: leave it out": language
        and not any(form.language for form in forms),
        f"no form with the question {order} the audio: leave out text_first": not any(
            form.text_first == first for form in forms
        ),
        f"{most} recordings at most, not {recordings}: ask about fewer at once"
        if most > 1
        else "one recording: ask about each by itself": recordings > most,
    }
    what = next((what for what, lacks in lacking.items() if lacks), None)
    raise PromptError(
        f"The chat template of {manifest.source} ({manifest.family}) has "
        f"{what or 'no such combination of recordings, order and texts: leave one of them out'}."
    )


def _language(manifest: Manifest, asked: str) -> str:
    """A language as the model knows it.

    Args:
        manifest: manifest of the bundle.
        asked: its code or name, in any case.

    Raises:
        PromptError: the model knows no such language.
    """
    names = {name.lower(): name for name in manifest.languages.values()}
    names |= {code.lower(): name for code, name in manifest.languages.items()}
    found = names.get(asked.strip().lower())
    if found is None and names:
        raise PromptError(
            f"There is no language {asked[:40]!r} for this bundle: give one of "
            f"{', '.join(sorted(set(manifest.languages.values())))}."
        )
    return asked if found is None else found


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
    texts: Mapping[str, str],
    context: int | None = None,
) -> Prompt:
    """Fill texts into the template.

    Control tokens written out in them (``<|im_end|>``) stay plain text.

    Args:
        tokenizer: the bundle's tokenizer.
        pieces: the template.
        texts: the user's, by the kinds of the pieces: ``query`` and what else there is.
        context: positions that the model has; None skips the check.

    Raises:
        PromptError: the question is not a text, is empty, gives no token, or more than the model
            has positions.
    """
    question = check_question(texts["query"])
    for kind, text in texts.items():
        # Checked before tokenizing, which takes seconds for megabytes while nothing else runs.
        if context is not None and len(check_text(text, NAMED[kind])) > CHARACTERS * context:
            raise PromptError(
                f"{NAMED[kind]} has {counted(len(text), 'character')} and the model "
                f"{counted(context, 'position')}: give a shorter one."
            )
    parts: list[list[int]] = [[]]
    places: list[int] = []  # of the user's own tokens
    length = 0
    for piece in pieces:
        if piece.kind == "audio":
            parts.append([])
            continue
        if piece.kind == "ids":
            ids: Sequence[int] = piece.ids
        else:
            said = texts[piece.kind]
            encoding = tokenizer.encode(piece.before + said + piece.after, NAMED[piece.kind])
            ids = encoding.ids
            if piece.kind == "query":
                start, end = len(piece.before), len(piece.before) + len(said)
                places += [
                    place
                    for place, (first, last) in enumerate(encoding.offsets, length)
                    if first < end and last > start
                ]
        parts[-1].extend(ids)
        length += len(ids)
    if not places:
        raise PromptError("The question has no token that the model knows: rephrase it.")
    # Refused here, before megabytes of text are embedded.
    if context is not None and length > context:
        asked = (
            counted(len(places), "token") if length < 2 * len(places) else f"a prompt of {length}"
        )
        raise PromptError(
            f"The question has {asked} and the model {counted(context, 'position')}: ask a shorter "
            "question."
        )
    return Prompt(question, tuple(map(tuple, parts)), tuple(places))
