"""What a server is told when it is started: names, limits, and who may ask."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.errors import OptionError
from speechprune_ort.numbers import LARGEST_MB, LONGEST, check_positive, take_plain, whole
from speechprune_ort.options import PruningOptions
from speechprune_ort.text import shown

__all__ = ["ServeOptions"]

MOST_HOURS = 100_000  # eleven years: no server runs longer
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[!-.0-9:;=\[\]_a-z~-]+")
"""An origin as browsers send it: in small letters, without path or user."""


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """How a bundle is served.

    Attributes:
        name: name of the model, as clients ask for it.
        pruning: what is kept of the audio, unless a request says so itself.
        audio: how every recording is read, the longest that is accepted included.
        max_new_tokens: longest answer that a request may ask for, in tokens.
        max_body_mb: largest request, in 1e6 bytes; base64 makes a recording a third larger.
        timeout: seconds from a request's arrival to its answer's end, waiting included.
        queue: largest number of requests that wait; the next one is told to come back later.
        max_recordings: largest number of uploaded recordings that are kept.
        keep_hours: hours after which an uploaded recording is forgotten.
        memory_budget_mb: memory for each recording's embeddings, as in ``SpeechLLM.listen``.
        api_key: key that clients must give; None asks for none.
        origins: origins of other sites whose pages may send requests; none by default.
        stop_seconds: seconds that requests have to finish once the server is told to stop.

    Raises:
        OptionError: a value is out of range.
    """

    name: str
    pruning: PruningOptions = field(default_factory=PruningOptions)
    audio: AudioOptions = field(default_factory=AudioOptions)
    max_new_tokens: int = 512
    max_body_mb: float = 200.0
    timeout: float = 600.0
    queue: int = 16
    max_recordings: int = 32
    keep_hours: float = 24.0
    memory_budget_mb: float = 192.0
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    stop_seconds: float = 30.0

    def __post_init__(self) -> None:
        take_plain(self)
        if not self.name or not self.name.isprintable():
            raise OptionError(f"The model's name must be printable text, not {self.name!a}.")
        for name in ("max_new_tokens", "max_recordings"):
            whole(name, getattr(self, name), 1)
        whole("queue", self.queue, 0)
        for name, most in (
            ("max_body_mb", LARGEST_MB),
            ("memory_budget_mb", LARGEST_MB),
            ("timeout", LONGEST),
            ("stop_seconds", LONGEST),
            ("keep_hours", MOST_HOURS),
        ):
            check_positive(name, getattr(self, name), most)
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise OptionError("The API key must be printable ASCII: make another.")
        if self.api_key is not None and not self.api_key.strip():
            raise OptionError("The API key is empty: give one, or leave it out.")
        for origin in self.origins:
            if origin != "*" and not ORIGIN.fullmatch(origin):
                raise OptionError(
                    f"{shown(origin)} is not an origin: give one such as https://example.org, in "
                    "small letters and without a path."
                )
