"""OpenAI's chat completions: what a request asks of this model, and the answer in their form.

A parameter that would change the answer and that the model does not support is refused; none is
ignored silently. Parameters that never change an answer are accepted and have no effect.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import msgspec

from speechprune_ort.errors import OptionError
from speechprune_ort.explain.page import view_of
from speechprune_ort.methods import METHODS
from speechprune_ort.numbers import whole
from speechprune_ort.options import GenerationOptions, PruningOptions
from speechprune_ort.results import Answer
from speechprune_ort.server.options import ServeOptions
from speechprune_ort.server.request_error import RequestError
from speechprune_ort.text import check_text, counted, shown
from speechprune_ort.wording import Wording

__all__ = ["Asked", "Reply", "read_chat"]

Form = TypeVar("Form")
ONE_TURN = (
    "This model answers one question about what it hears: give a single user message with text "
    "and at least one recording (input_audio, or file with the file_id of an upload), and before "
    "it at most one system message."
)
SYSTEM = ("system", "developer")
"""Roles of a system prompt; the second is OpenAI's newer name."""
OWN = ("explain", "language", "text_first")
"""Fields of ``speechprune`` besides those of ``PruningOptions``."""
NO_EFFECT = {
    "logprobs": (None, False),
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "modalities": (None, ["text"]),
    "response_format": (None, {"type": "text"}),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "top_logprobs": (None, 0),
}
"""Values of parameters that ask for nothing; any other is refused."""
MOST_ANSWERS = 8
"""Most answers to one question: they are decoded together, and others wait meanwhile."""
MOST_STOPS = 16
"""Most stop strings: each is looked for after every token."""
SAMPLING = ("temperature", "top_p", "repetition_penalty", "no_repeat_ngram_size", "seed")
"""Fields of a request that are those of ``GenerationOptions``."""


class _Struct(msgspec.Struct, forbid_unknown_fields=True):
    pass


class InputAudio(_Struct):
    """A recording in base64; its bytes tell its format, whatever ``format`` says."""

    data: str
    format: str = ""


class FileId(_Struct):
    """An uploaded recording."""

    file_id: str


class TextPart(_Struct, tag_field="type", tag="text"):
    """A part of a message."""

    text: str


class AudioPart(_Struct, tag_field="type", tag="input_audio"):
    """A part of a message."""

    input_audio: InputAudio


class FilePart(_Struct, tag_field="type", tag="file"):
    """A part of a message."""

    file: FileId


class Message(_Struct):
    """A turn."""

    role: str
    content: str | list[TextPart | AudioPart | FilePart]
    name: str | None = None


class StreamOptions(_Struct):
    """Options of a streamed answer."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ChatRequest(_Struct):
    """The body of a request.

    ``speechprune`` is ours: fields of ``PruningOptions`` and ``OWN``. OpenAI's has no
    ``repetition_penalty`` and ``no_repeat_ngram_size``.
    """

    model: str
    messages: list[Message]
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    speechprune: dict[str, Any] = {}
    n: int | None = None
    logprobs: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    logit_bias: Any = None
    modalities: Any = None
    response_format: Any = None
    tools: Any = None
    tool_choice: Any = None
    top_logprobs: Any = None
    # None of these changes an answer.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    parallel_tool_calls: Any = None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that can be answered.

    Attributes:
        question: what is asked.
        sounds: the recordings in their order: bytes of one, or the id of an upload.
        wording: what else the prompt says.
        pruning: what is kept of the audio.
        generation: how the first answer's tokens are chosen.
        n: number of answers; each further one has the next seed.
        stream: whether the answer is sent piece by piece.
        usage: whether a streamed answer ends with its token counts.
        explain: whether the answer comes with what a page draws of it.
    """

    question: str
    sounds: tuple[bytes | str, ...]
    wording: Wording
    pruning: PruningOptions
    generation: GenerationOptions
    n: int
    stream: bool
    usage: bool
    explain: bool


def read_chat(body: bytes, options: ServeOptions) -> Asked:
    """What a request asks for.

    Raises:
        RequestError: it is not of the form, or asks for what the model cannot do.
        OptionError: an option has an impossible value.
    """
    request = _parsed(body, ChatRequest)
    if request.model != options.name:
        raise RequestError(
            404,
            f"There is no model {request.model[:60]!a} here: ask for {options.name!a}.",
            "model_not_found",
        )
    for name, harmless in NO_EFFECT.items():
        if getattr(request, name) not in harmless:
            raise RequestError(400, f"{name} is not supported by this model: leave it out.")
    system, question, sounds = _parts(request.messages)
    given = dict(request.speechprune)
    explain, text_first = given.pop("explain", False), given.pop("text_first", None)
    for name, flag in (("explain", explain), ("text_first", text_first)):
        if not isinstance(flag, bool) and (name, flag) != ("text_first", None):
            raise RequestError(400, f"speechprune.{name} takes true or false, not {shown(flag)}.")
    language = given.pop("language", None)
    for name, text in (("The system message", system), ("speechprune.language", language)):
        if text is not None and not check_text(text, name, OptionError).strip():
            raise RequestError(400, f"{name} is empty: give a text, or leave it out.")
    wording = Wording(system, text_first, language)
    answers = 1 if request.n is None else request.n
    if not 1 <= answers <= MOST_ANSWERS:
        raise RequestError(
            400, f"This model gives 1 to {MOST_ANSWERS} answers to a question, not {answers}: "
            "set n to one of these numbers."
        )  # fmt: skip
    return Asked(
        question=question,
        sounds=sounds,
        wording=wording,
        pruning=_pruning(given, options.pruning),
        generation=_generation(request, options.max_new_tokens),
        n=answers,
        stream=bool(request.stream),
        usage=request.stream_options is not None and request.stream_options.include_usage,
        explain=explain,
    )


def _parsed(body: bytes, form: type[Form]) -> Form:
    try:
        return msgspec.json.decode(body, type=form)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(
            400, f"The request does not have the form of chat completions ({error}): correct it."
        ) from None


def _parts(messages: list[Message]) -> tuple[str | None, str, tuple[bytes | str, ...]]:
    """System prompt, question and recordings of a request."""
    *ahead, last = messages or [Message("", "")]
    if last.role != "user" or len(ahead) > 1 or any(one.role not in SYSTEM for one in ahead):
        raise RequestError(400, ONE_TURN)
    system = None
    for message in ahead:
        said, heard = _contents(message)
        if heard:
            raise RequestError(400, ONE_TURN)
        system = said
    question, sounds = _contents(last)
    if question is None or not sounds:
        raise RequestError(400, ONE_TURN)
    return system, question, sounds


def _contents(message: Message) -> tuple[str | None, tuple[bytes | str, ...]]:
    """The text of a message, None where it has none, and its recordings."""
    content = message.content
    parts = [TextPart(content)] if isinstance(content, str) else content
    texts = [part.text for part in parts if isinstance(part, TextPart)]
    sounds = tuple(_sound(part) for part in parts if not isinstance(part, TextPart))
    return "\n".join(texts) if texts else None, sounds


def _sound(part: AudioPart | FilePart) -> bytes | str:
    if isinstance(part, FilePart):
        return part.file.file_id
    try:
        audio = base64.b64decode(part.input_audio.data, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(
            400, "input_audio.data is not base64: encode the file's bytes."
        ) from None
    if not audio:
        raise RequestError(400, "input_audio.data is empty: encode the file's bytes.")
    return audio


def _pruning(given: Mapping[str, Any], default: PruningOptions) -> PruningOptions:
    known = {field.name for field in fields(PruningOptions)} - {"own"}
    known |= {name for method in METHODS.values() for name in method.options.names()}
    unknown = sorted(given.keys() - known)
    if unknown:
        raise RequestError(
            400,
            f"speechprune has no option {unknown[0]!a}: it takes "
            f"{', '.join(sorted(known.union(OWN)))}.",
        )
    try:
        return replace(default.for_method(given.get("method", default.method)), **given)
    except (TypeError, ValueError) as error:
        if isinstance(error, OptionError):
            raise OptionError(f"speechprune: {error}") from None
        raise RequestError(
            400, f"speechprune has an impossible value ({error}): correct it."
        ) from None


def _generation(request: ChatRequest, most: int) -> GenerationOptions:
    asked = [n for n in (request.max_completion_tokens, request.max_tokens) if n is not None]
    if len(asked) == 2 and asked[0] != asked[1]:
        raise RequestError(400, "max_tokens and max_completion_tokens differ: give one of them.")
    default = GenerationOptions()
    name = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
    tokens = asked[0] if asked else min(default.max_new_tokens, most)
    if tokens > most:
        raise RequestError(
            400,
            f"The limit of this server is {counted(most, 'token')} an answer, not "
            f"{shown(tokens)}: ask for fewer.",
        )
    whole(name, tokens, 1)
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    if "" in stop:
        raise RequestError(400, "stop has an empty text: leave it out.")
    if len(stop) > MOST_STOPS:
        raise RequestError(400, f"stop has {len(stop)} texts: give at most {MOST_STOPS}.")
    given = {name: value for name in SAMPLING if (value := getattr(request, name)) is not None}
    return GenerationOptions(max_new_tokens=tokens, stop=tuple(stop), **given)


class Reply:
    """The answers to one request, in OpenAI's form.

    Args:
        model: its name.
        explain: whether to add what a page draws of the answer.
    """

    def __init__(self, model: str, explain: bool = False) -> None:
        self._explain = explain
        self._head = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """All answers in one object."""
        choices = [
            {
                "index": number,
                "message": {"role": "assistant", "content": answer.text, "refusal": None},
                "finish_reason": _reason(answer),
                "logprobs": None,
            }
            for number, answer in enumerate(answers)
        ]
        return {
            **self._head,
            "object": "chat.completion",
            "choices": choices,
            "usage": _usage(answers),
            "speechprune": self._kept(answers),
        }

    def piece(self, number: int, text: str, first: bool) -> dict[str, Any]:
        """A piece of a streamed answer."""
        delta = {"role": "assistant", "content": text} if first else {"content": text}
        return self._chunk([{"index": number, "delta": delta, "finish_reason": None}])

    def last(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """The end of streamed answers."""
        choices = [
            {"index": number, "delta": {}, "finish_reason": _reason(answer)}
            for number, answer in enumerate(answers)
        ]
        return {**self._chunk(choices), "speechprune": self._kept(answers)}

    def usage(self, answers: Sequence[Answer]) -> dict[str, Any]:
        """What follows the end if a client wants to know its token counts."""
        return {**self._chunk([]), "usage": _usage(answers)}

    def _kept(self, answers: Sequence[Answer]) -> dict[str, Any]:
        told = kept(answers)
        return {**told, "view": view_of(answers[0])} if self._explain else told

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk", "choices": choices}


def kept(answers: Sequence[Answer]) -> dict[str, Any]:
    """What answers to one question are based on, as plain data."""
    answer = answers[0]
    pruning = answer.pruning
    return {
        "seconds": round(answer.seconds, 3),
        "seconds_heard": round(answer.seconds_heard, 3),
        "method": pruning.options.method,
        "tokens": pruning.total,
        "kept": pruning.kept,
        "spans": [[span.start, span.end] for span in pruning.spans],
        "notes": list(answer.notes),
        "seeds": [one.generation.seed for one in answers],
        "timings": {name: round(s, 6) for name, s in answer.timings.seconds.items()},
    }


def _reason(answer: Answer) -> str:
    return "length" if answer.finish_reason == "length" else "stop"


def _usage(answers: Sequence[Answer]) -> dict[str, Any]:
    prompt, said = answers[0].prompt_tokens, sum(len(answer.token_ids) for answer in answers)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": said,
        "total_tokens": prompt + said,
        "prompt_tokens_details": {
            "audio_tokens": answers[0].pruning.kept,
            "cached_tokens": 0,
        },
    }
