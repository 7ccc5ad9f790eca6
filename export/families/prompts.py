"""Chat templates in pieces: what a prompt consists of, and in which other forms there is one.

A form is one combination of what a template may allow: several recordings, the text ahead of them
or behind them, a system prompt, a language. Each is rendered by the template itself at export, cut,
and refused where its pieces do not tokenize to what the whole does; a bundle holds those that are
left. The runtime renders nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from speechprune_ort.contract.manifest_entries import PromptForm, PromptPiece
from speechprune_ort.errors import ExportError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

__all__ = [
    "ANSWER_MARK",
    "FIRST_MARK",
    "LANGUAGE_MARK",
    "QUERY_MARK",
    "SYSTEM_MARK",
    "Asked",
    "Prompts",
    "first_turn",
    "prompts_of",
    "rendered",
    "split_prompt",
    "split_turn",
    "template_prompts",
]

QUERY_MARK = "SPEECHPRUNEQUERY"
"""Stands for the user's text while a chat template is rendered and split."""
SYSTEM_MARK = "SPEECHPRUNESYSTEM"
LANGUAGE_MARK = "SPEECHPRUNELANGUAGE"
FIRST_MARK, ANSWER_MARK = "SPEECHPRUNEFIRST", "SPEECHPRUNEANSWER"
"""An earlier turn, while what stands between an answer and the next one is looked for."""

KINDS: Mapping[str, Literal["query", "system", "language"]] = {
    QUERY_MARK: "query",
    SYSTEM_MARK: "system",
    LANGUAGE_MARK: "language",
}

RECORDINGS = 8
"""In one prompt at most."""

TRIED = ("Who owns the budget?", " what, then?\nSay: 3 & 4 ")
"""Texts that pieces are tried with."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a form of the prompt has.

    Attributes:
        recordings: in it.
        text_first: whether the user's text stands ahead of them, None for the template's own order.
        system: whether there is a system prompt, ``SYSTEM_MARK``.
        language: whether there is a language, ``LANGUAGE_MARK``.
    """

    recordings: int = 1
    text_first: bool | None = None
    system: bool = False
    language: bool = False


class Prompts(TypedDict):
    """Fields of ``Checkpoint`` that a template gives."""

    prompt: tuple[PromptPiece, ...]
    forms: tuple[PromptForm, ...]
    further_turn: tuple[PromptPiece, ...]
    languages: Mapping[str, str]


def prompts_of(
    render: Callable[[Asked], str],
    audio_token: str,
    tokenizer: PreTrainedTokenizerFast,
    further: str = "",
    *,
    recordings: int = RECORDINGS,
    languages: Mapping[str, str] = MappingProxyType({}),
) -> Prompts:
    """Everything that a chat template can be asked for, in pieces.

    Args:
        render: the template; raises ``ExportError`` for what it does not have.
        audio_token: text of the placeholder, once for each recording.
        tokenizer: of the language model.
        further: what stands between an answer and the next one, with ``QUERY_MARK``; empty where
            the template has no further turns.
        recordings: in one prompt at most.
        languages: that the model knows, by their codes; none where it takes no hint.

    Raises:
        ExportError: the template's own form cannot be rendered or cut.
    """
    prompt = split_prompt(render(Asked()), audio_token, tokenizer)
    forms = []
    for count, first, system, language in product(
        range(1, recordings + 1), (False, True), (False, True), (False, True)[: 1 + bool(languages)]
    ):
        asked = Asked(count, first, system, language)
        try:
            pieces = _cut(render(asked), tokenizer, audio_token, asked)
        except ExportError:
            continue
        if pieces != prompt and text_first(pieces) == first:
            forms.append(PromptForm(count, first, pieces, system=system, language=language))
    return {
        "prompt": prompt,
        "forms": tuple(forms),
        "further_turn": split_turn(further, tokenizer),
        "languages": languages if any(form.language for form in forms) else {},
    }


def template_prompts(
    owner: Any,
    audio_token: str,
    *,
    join: str | None = None,
    text_first: bool = False,
    render: Callable[[Any, Asked], str] | None = None,
    recordings: int = RECORDINGS,
    languages: Mapping[str, str] = MappingProxyType({}),
) -> Prompts:
    """``prompts_of`` a chat template, further turns included.

    Args:
        owner: processor of the checkpoint, or its tokenizer where that has the template.
        audio_token: text of the placeholder.
        join: between text and placeholders, where a message is one text; None where it has parts.
        text_first: whether the template's own order has the text ahead of the recordings.
        render: writes the first turn where it is more than the template of one message of the
            user's; it is given the owner.
        recordings: as of ``prompts_of``.
        languages: as of ``prompts_of``.

    Raises:
        ExportError: the template's own form cannot be rendered or cut.
    """
    audio = None if join is None else audio_token

    def written(asked: Asked) -> str:
        if asked.text_first is None:
            asked = replace(asked, text_first=text_first)
        return first_turn(owner, asked, audio=audio, join=join or "")

    return prompts_of(
        written if render is None else partial(render, owner),
        audio_token,
        getattr(owner, "tokenizer", owner),
        further_turn(owner, audio=audio, join=join or ""),
        recordings=recordings,
        languages=languages,
    )


def text_first(pieces: Sequence[PromptPiece]) -> bool:
    """Whether the user's text stands ahead of every recording."""
    kinds = [piece.kind for piece in pieces]
    return "audio" in kinds and kinds.index("query") < kinds.index("audio")


def rendered(owner: Any, conversation: Sequence[Mapping[str, Any]]) -> str:
    """A conversation in the chat template of a processor or tokenizer.

    Raises:
        ExportError: there is none, or it cannot be rendered.
    """
    try:
        text = owner.apply_chat_template(conversation, tokenize=False, add_generation_prompt=True)
    except Exception as error:  # a template is code: it may raise anything
        reason = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
        raise ExportError(
            f"The chat template cannot be rendered ({reason}): give the checkpoint one "
            "that takes a user's message."
        ) from error
    return str(text)


def first_turn(owner: Any, asked: Asked, *, audio: str | None = None, join: str = "") -> str:
    """The beginning of a conversation, up to the first answer, by a chat template.

    Args:
        owner: processor of the checkpoint, or its tokenizer where that has the template.
        asked: what it has; a language is no part of a conversation.
        audio: placeholder that stands in a message's text; None where a message has parts.
        join: between text and placeholders, where they are one text.

    Raises:
        ExportError: there is no template, or it cannot be rendered.
    """
    return rendered(owner, _begun(asked, QUERY_MARK, audio, join))


def further_turn(owner: Any, *, audio: str | None = None, join: str = "") -> str:
    """What a chat template puts between an answer and the next one, with ``QUERY_MARK``.

    Args:
        owner: as of ``first_turn``.
        audio: as of ``first_turn``.
        join: as of ``first_turn``.

    Returns:
        The text; empty where the template writes an earlier turn otherwise once another follows, or
        takes no answer's text as a message.
    """
    talk = _begun(Asked(), FIRST_MARK, audio, join)
    parts = audio is None
    answer = _message("assistant", ANSWER_MARK, parts)
    try:
        begun = rendered(owner, talk) + ANSWER_MARK
        whole = rendered(owner, [*talk, answer, _message("user", QUERY_MARK, parts)])
    except ExportError:
        return ""
    return whole.removeprefix(begun) if whole.startswith(begun) else ""


def _begun(asked: Asked, query: str, audio: str | None, join: str) -> list[dict[str, Any]]:
    system = [_message("system", SYSTEM_MARK, audio is None)] if asked.system else []
    if audio is not None:
        heard = [audio] * asked.recordings
        texts = [query, *heard] if asked.text_first else [*heard, query]
        return [*system, _message("user", join.join(texts), False)]
    parts = [{"type": "audio", "audio_url": "recording"}] * asked.recordings
    text = {"type": "text", "text": query}
    content = [text, *parts] if asked.text_first else [*parts, text]
    return [*system, {"role": "user", "content": content}]


def _message(role: str, text: str, parts: bool) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}] if parts else text}


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
    return _cut(rendered, tokenizer, audio_token, Asked())


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
    if rendered.count(QUERY_MARK) != 1 or not rendered.startswith(tuple(_controls(tokenizer))):
        return ()
    return _cut(rendered, tokenizer, None, Asked(0))


def _cut(
    rendered: str, tokenizer: PreTrainedTokenizerFast, audio_token: str | None, asked: Asked
) -> tuple[PromptPiece, ...]:
    """Pieces of a text that has what is asked for, each once.

    Raises:
        ExportError: it has not, or its parts do not tokenize on their own.
    """
    wanted = [
        (audio_token, asked.recordings, "audio placeholder"),
        (QUERY_MARK, 1, "user's text"),
        (SYSTEM_MARK, int(asked.system), "system prompt"),
        (LANGUAGE_MARK, int(asked.language), "language"),
    ]
    for mark, times, what in wanted:
        found = rendered.count(mark) if mark else 0
        if found != times:
            raise ExportError(
                f"The chat template renders the {what} {found} times, not "
                f"{'once' if times == 1 else times}: give the checkpoint a template with one audio "
                "and one text part."
            )
    pieces: list[PromptPiece] = []
    fixed = ""
    for part in _parts(rendered, tokenizer, audio_token):
        marks = [mark for mark in KINDS if mark in part]
        if part != audio_token and not marks:
            fixed += part
            continue
        if len(marks) > 1:
            raise ExportError(
                "The chat template has no control token between the user's text and another: give "
                "the checkpoint one that has."
            )
        if fixed:
            pieces.append(PromptPiece("ids", ids=_ids(tokenizer, fixed)))
            fixed = ""
        if not marks:
            pieces.append(PromptPiece("audio"))
            continue
        before, after = part.split(marks[0])
        pieces.append(PromptPiece(KINDS[marks[0]], before=before, after=after))
    if fixed:
        pieces.append(PromptPiece("ids", ids=_ids(tokenizer, fixed)))
    _require_pieces(pieces, rendered, tokenizer, audio_token)
    return tuple(pieces)


def _parts(rendered: str, tokenizer: PreTrainedTokenizerFast, audio_token: str | None) -> list[str]:
    """Control tokens, placeholders of audio, and the texts between them."""
    controls = _controls(tokenizer, *([audio_token] if audio_token else []))
    pattern = "|".join(re.escape(control) for control in controls)
    return [part for part in re.split(f"({pattern})", rendered) if part]


def _ids(tokenizer: PreTrainedTokenizerFast, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def _controls(tokenizer: PreTrainedTokenizerFast, *more: str) -> list[str]:
    """Texts of control tokens, the longest first."""
    known = {*more, *(str(token) for token in tokenizer.added_tokens_decoder.values())}
    return sorted(known, key=len, reverse=True)


def _require_pieces(
    pieces: Sequence[PromptPiece],
    rendered: str,
    tokenizer: PreTrainedTokenizerFast,
    audio_token: str | None,
) -> None:
    """Refuse pieces whose ids, joined, are not those of the whole.

    Raises:
        ExportError: they are not.
    """
    for text in TRIED:
        joined: list[int] = []
        for piece in pieces:
            if piece.kind == "audio":
                joined += _ids(tokenizer, str(audio_token))
            elif piece.kind == "ids":
                joined += piece.ids
            else:
                joined += _ids(tokenizer, piece.before + text + piece.after)
        whole = rendered
        for mark in KINDS:
            whole = whole.replace(mark, text)
        parts = [whole] if audio_token is None else whole.split(audio_token)
        expected = _ids(tokenizer, parts[0])
        for part in parts[1:]:
            expected += _ids(tokenizer, str(audio_token)) + _ids(tokenizer, part)
        if tuple(joined) != expected:
            raise ExportError(
                "The tokenizer does not split this chat template at its control tokens: "
                "only templates whose parts tokenize on their own can be exported."
            )
