"""How far an export has come through its steps; its length is known once the checkpoint is loaded.

Steps differ: an encoder is traced in the same half minute whatever its size, and a decoder takes
time in proportion to its size. Progress is therefore counted in the seconds that each step is
estimated to take, and within a step in bytes of weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from speechprune_ort.export.compared_sound import WINDOW_SECONDS, seconds_compared

__all__ = ["LOAD", "SEAL", "Advance", "Course", "Report", "Sizes", "part", "seconds_of"]

Report = Callable[[str, float], None]
"""Called with the words for a step and the share, 0 to 1, that is done of the whole export."""

Advance = Callable[[float], None]
"""Called with the share, 0 to 1, that is done of a step."""

LOAD, SEAL = "load checkpoint", "hash files"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Weights of a checkpoint, by the steps that they keep busy.

    Attributes:
        encoder: weights of the audio encoder.
        table: weights of the token embedding.
        decoder: weights of the language model's layers and its output head.
        window_seconds: seconds of a window of the audio encoder.
    """

    encoder: int
    table: int
    decoder: int
    window_seconds: float = WINDOW_SECONDS

    @property
    def all(self) -> int:
        """All of them."""
        return self.encoder + self.table + self.decoder

    @property
    def heard(self) -> float:
        """Weights of the audio encoder times the seconds of sound that it is compared on."""
        return self.encoder * seconds_compared(self.window_seconds)


@dataclass(frozen=True, slots=True)
class Cost:
    """How long a step takes on two cores.

    Attributes:
        fixed: seconds, whatever the size.
        billion: seconds for each billion of its weights.
        of: which weights these are; of ``heard``, times seconds of sound.
    """

    fixed: float
    billion: float = 0.0
    of: Literal["encoder", "table", "decoder", "all", "heard"] = "all"


COSTS: Mapping[str, Cost] = {
    LOAD: Cost(10.0),
    "export audio_encoder": Cost(30.0, 30.0, "encoder"),
    "verify audio_encoder": Cost(5.0, 1.2, "heard"),
    "export first_layer_qk": Cost(1.0),
    "export first_layer_qk_float": Cost(1.0),
    "export similarity": Cost(1.0),
    "export received_attention": Cost(1.0),
    "export assemble": Cost(1.0),
    "export rotary": Cost(1.0),
    "export decoder": Cost(5.0, 18.0, "decoder"),
    "verify decoder": Cost(5.0, 30.0, "decoder"),
    "export embed_tokens": Cost(1.0, 8.0, "table"),
    SEAL: Cost(0.0, 2.0, "all"),
}
"""Every step that an export of a whole decoder reports, in order.

For the 8.4 billion weights of Qwen2-Audio-7B's dimensions it is 9 minutes, and an export took 9.6
(docs/results/full-size.md).
"""


CUT_COSTS: Mapping[str, Cost] = {
    "export decoder_lower": Cost(1.0),
    "verify decoder_lower": Cost(5.0, 3.0, "decoder"),
    "export decoder_upper": Cost(1.0),
    "verify decoder_upper": Cost(5.0, 30.0, "decoder"),
}
"""Steps before the last one where the decoder is cut, too: torch computes it once more."""


def seconds_of(sizes: Sizes, cut: bool = False) -> dict[str, float]:
    """Seconds that each step of an export should take, on two cores and without a download.

    Args:
        sizes: weights of the checkpoint.
        cut: whether the decoder is cut.

    >>> seconds = seconds_of(Sizes(encoder=0, table=0, decoder=0))
    >>> list(seconds)[0], list(seconds)[-1]
    ('load checkpoint', 'hash files')
    """
    return {
        step: cost.fixed + cost.billion * getattr(sizes, cost.of) / 1e9
        for step, cost in ({**COSTS, **CUT_COSTS} if cut else COSTS).items()
    }


class Course:
    """The progress of one export through its steps.

    Args:
        report: told of every step as it begins, and of its progress.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._seconds: Mapping[str, float] = {}
        self._step, self._before = "", 0.0

    def expect(self, sizes: Sizes, cut: bool = False) -> None:
        """Estimate the length of the export; until then the share that is done is 0."""
        self._seconds = seconds_of(sizes, cut)

    def begin(self, step: str) -> None:
        """Begin a step of ``COSTS`` or ``CUT_COSTS``; the one before it is done."""
        self._before += self._seconds.get(self._step, 0.0)
        self._step = step
        self.advance(0.0)

    def advance(self, share: float) -> None:
        """Say how much of this step is done, 0 to 1."""
        whole = sum(self._seconds.values())
        done = self._before + share * self._seconds.get(self._step, 0.0)
        self._report(self._step, min(1.0, done / whole) if whole else 0.0)


def part(advance: Advance, start: float, end: float) -> Advance:
    """An ``Advance`` for a part of a step, from one share of it to another.

    >>> part(print, 0.5, 1.0)(0.5)
    0.75
    """
    return lambda share: advance(start + (end - start) * share)
