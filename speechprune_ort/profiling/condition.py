"""What is measured, and how: a recording at a setting, and the options of all of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.numbers import take_plain, whole
from speechprune_ort.profiling.distribution import Distribution

__all__ = ["Condition", "ProfileOptions"]


@dataclass(frozen=True, slots=True)
class ProfileOptions:
    """How to measure.

    Attributes:
        question: the question that is asked.
        new_tokens: length of every answer, whatever the model would say.
        repeats: measurements of each figure.
        warmup: rounds before them that do not count.
        loads: times that the bundle is opened.
        audio: as ``audio_options`` of ``SpeechLLM.listen``.

    Raises:
        OptionError: a number is out of range.
    """

    question: str
    new_tokens: int = 32
    repeats: int = 5
    warmup: int = 1
    loads: int = 3
    audio: AudioOptions = field(default_factory=AudioOptions)

    def __post_init__(self) -> None:
        take_plain(self)
        for name in ("new_tokens", "repeats", "loads"):
            whole(name, getattr(self, name), 1)
        whole("warmup", self.warmup, 0)


@dataclass(slots=True)
class Condition:
    """A recording at a setting.

    Attributes:
        sound: name of the recording.
        setting: ``none``, or the pruning rate.
        seconds: length of the recording.
        tokens: audio tokens of it.
        kept: audio tokens that reach the language model.
        prompt_tokens: positions of the prompt.
        figures: figures by name: ``audio_ms`` to ``decode_ms``; ``ttft_ms`` and ``ttft_embeds_ms``,
            time to the first token from the recording and from its embeddings; ``tpot_ms``, per
            token of the answer after the first; ``tokens_per_s``; ``end_to_end_ms``; ``rtf``, that
            over the recording's length; memory and energy where they can be read.
        operations: floating point operations by stage, two per multiplication and addition.
        skipped: why it was not measured; None where it was.
    """

    sound: str
    setting: str
    seconds: float
    tokens: int
    kept: int = 0
    prompt_tokens: int = 0
    figures: dict[str, Distribution] = field(default_factory=dict)
    operations: dict[str, int] = field(default_factory=dict)
    skipped: str | None = None

    @property
    def name(self) -> str:
        """Its name in tables and comparisons."""
        return f"{self.sound} @ {self.setting}"

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "sound": self.sound,
            "setting": self.setting,
            "seconds": round(self.seconds, 3),
            "tokens": self.tokens,
            "kept": self.kept,
            "prompt_tokens": self.prompt_tokens,
            "skipped": self.skipped,
            "operations": self.operations,
            "figures": {name: found.to_dict() for name, found in self.figures.items()},
        }
