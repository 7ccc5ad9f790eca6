"""What a server is told when it is started: names, limits, and who may ask."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.errors import OptionError
from speechprune_ort.numbers import plain, whole
from speechprune_ort.options import PruningOptions

__all__ = ["ServeOptions"]


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
        waiting: largest number of requests that wait; the next one is told to come back later.
        recordings: largest number of uploaded recordings that are kept.
        keep_seconds: seconds after which an uploaded recording is forgotten.
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
    waiting: int = 16
    recordings: int = 32
    keep_seconds: float = 86_400.0
    memory_budget_mb: float = 192.0
    api_key: str | None = None
    origins: tuple[str, ...] = ()
    stop_seconds: float = 30.0

    def __post_init__(self) -> None:
        if not self.name or not self.name.isprintable():
            raise OptionError(f"The model's name must be printable text, not {self.name!a}.")
        for name in ("max_new_tokens", "recordings"):
            whole(name, getattr(self, name), 1)
        whole("waiting", self.waiting, 0)
        for name in ("max_body_mb", "timeout", "keep_seconds", "memory_budget_mb", "stop_seconds"):
            value = plain(getattr(self, name))
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 < value < math.inf:
                raise OptionError(f"{name} must be positive and finite, not {value!r}.")
        if self.api_key is not None and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise OptionError("The API key must be printable ASCII: make another.")
        if self.api_key is not None and not self.api_key.strip():
            raise OptionError("The API key is empty: give one, or leave it out.")
        for origin in self.origins:
            if origin != "*" and "://" not in origin:
                raise OptionError(
                    f"{origin!a} is not an origin: give one such as https://example.org."
                )
