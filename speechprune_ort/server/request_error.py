"""Errors as OpenAI's clients expect them: a status, and a body with one sentence."""

from __future__ import annotations

import re

from speechprune_ort.errors import (
    AudioError,
    CancelledError,
    DeadlineError,
    OptionError,
    OutOfMemoryError,
    PromptError,
    SpeechPruneError,
)

__all__ = ["RequestError", "request_error_of"]

UNAVAILABLE = 503
CURES = (
    ("max_new_tokens", "max_tokens"),
    ("must be True or False", "must be true or false"),
    ("raise max_seconds (--max-seconds), or cut it", "cut it"),
    ("raise max_channels (--max-channels)", "mix it down to fewer"),
    ("raise max_decoded_mb (--max-decoded-mb)", "cut it"),
    ("use one of them with channel=0 (--channel 0)", "send one of them"),
    ("lower silence_dbfs (--silence-dbfs), or ask all the same", "or record it again"),
    (" with allow_silence=True (--allow-silence)", ""),
)
"""What the model's messages say to do, by options of Python and of the command line, and what a
client can do instead."""


class RequestError(Exception):
    """What a request is refused with.

    Args:
        status: HTTP status.
        message: one sentence that names the thing and the cure.
        code: a word for programs, such as ``model_not_found``.
        retry_after: seconds after which it is worth asking again; None if it never is.
    """

    def __init__(
        self, status: int, message: str, code: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after = status, code, retry_after

    @property
    def body(self) -> dict[str, dict[str, str | None]]:
        """The error in OpenAI's form."""
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        if self.status == 429:
            kind = "rate_limit_error"
        error = {"message": str(self), "type": kind, "param": None, "code": self.code}
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """Whether clients should try again; OpenAI's would do so after any 5xx."""
        if self.retry_after is None:
            return {"x-should-retry": "false"}
        return {"retry-after": str(self.retry_after)}


def _for_clients(message: str) -> str:
    """A message with the names that a request has for things.

    >>> _for_clients("latency_target needs pruning_rate='auto': lower max_new_tokens.")
    'latency_target needs pruning_rate "auto": lower max_tokens.'
    """
    for ours, theirs in CURES:
        message = message.replace(ours, theirs)
    return re.sub(r"\b(\w+)='(\w+)'", r'\1 "\2"', message)


def request_error_of(error: BaseException) -> RequestError:
    """The error that the client is told of."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, DeadlineError):
        return RequestError(504, str(error), "timeout")
    if isinstance(error, CancelledError):
        return RequestError(UNAVAILABLE, "The server is stopping: ask again later.", "stopping", 5)
    if isinstance(error, (AudioError, OptionError, PromptError)):
        return RequestError(400, _for_clients(str(error)))
    if isinstance(error, OutOfMemoryError):
        return RequestError(UNAVAILABLE, str(error), "out_of_memory")
    if isinstance(error, SpeechPruneError):
        return RequestError(500, str(error))
    return RequestError(500, "The server failed at this request; its log says why.")
