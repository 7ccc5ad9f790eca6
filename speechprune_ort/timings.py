"""The stages of an answer, and the seconds that each takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter

from speechprune_ort.ranges import stage_range

__all__ = ["STAGES", "Timings"]

STAGES = (
    "audio",  # decode and resample
    "log_mel",
    "encoder",
    "embed",  # the prompt's own tokens
    "lower_layers",  # of a cut decoder, which read every token
    "phase_1",  # similarity to the question, and what it keeps
    "phase_2",  # first-layer projections, attention received, and what it keeps
    "assemble",
    "prefill",
    "decode",
)
"""Stages of an answer, in order."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds per stage, in the order of ``STAGES``."""

    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(self.seconds.values())

    @property
    def first_token(self) -> float:
        """Seconds from the recording to the first token of the answer."""
        return self.total - self.seconds.get("decode", 0.0)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add the time spent in the block to a stage."""
        started = perf_counter()
        try:
            with stage_range(stage):
                yield
        finally:
            spent = perf_counter() - started
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

    def add(self, other: Timings) -> None:
        """Add the seconds of work that was shared."""
        for stage, spent in other.seconds.items():
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent
