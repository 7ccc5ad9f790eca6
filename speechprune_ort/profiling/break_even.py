"""What pruning costs against what it saves, by length and rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from speechprune_ort.choices import EVERY_TOKEN
from speechprune_ort.profiling.condition import Condition

__all__ = ["Trade", "break_even", "shortest_that_pays"]

PRUNING = ("phase_1_ms", "phase_2_ms")
SAVED = ("assemble_ms", "lower_layers_ms", "prefill_ms", "decode_ms")


@dataclass(frozen=True, slots=True)
class Trade:
    """A rate at a length.

    Attributes:
        sound: name of the recording.
        seconds: its length.
        setting: the pruning rate.
        cost_ms: both phases, medians.
        saved_ms: assembling, prefill (with the lower layers of a cut decoder) and decode without
            pruning less the same with it.
    """

    sound: str
    seconds: float
    setting: str
    cost_ms: float
    saved_ms: float

    @property
    def net_ms(self) -> float:
        """Milliseconds gained; negative where pruning costs more than it saves."""
        return self.saved_ms - self.cost_ms

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {**asdict(self), "net_ms": self.net_ms}


def break_even(conditions: Sequence[Condition]) -> list[Trade]:
    """Compare every pruned condition with the unpruned one of the same recording.

    Recordings that the model cannot take unpruned are left out: there is nothing to compare with.
    """
    whole = {c.sound: c for c in conditions if c.setting == EVERY_TOKEN and c.figures}

    def total(condition: Condition, names: Sequence[str]) -> float:
        return sum(condition.figures[name].p50 for name in names)

    return [
        Trade(
            condition.sound,
            condition.seconds,
            condition.setting,
            total(condition, PRUNING),
            total(whole[condition.sound], SAVED) - total(condition, SAVED),
        )
        for condition in conditions
        if condition.setting != EVERY_TOKEN and condition.figures and condition.sound in whole
    ]


def shortest_that_pays(trades: Sequence[Trade]) -> dict[str, float | None]:
    """Length in seconds from which pruning gains time, by rate.

    Between two measured lengths it is interpolated linearly; if it already pays at the shortest,
    that one is given, and None if it pays at no measured length.

    >>> trades = [Trade("a", 10, "0.2", 5, 1), Trade("b", 30, "0.2", 5, 9)]
    >>> shortest_that_pays(trades)
    {'0.2': 20.0}
    """
    found: dict[str, float | None] = {}
    for setting in dict.fromkeys(trade.setting for trade in trades):
        of_rate = sorted((t for t in trades if t.setting == setting), key=lambda t: t.seconds)
        found[setting] = None
        before: Trade | None = None
        for trade in of_rate:
            if trade.net_ms > 0:
                found[setting] = trade.seconds
                if before is not None:
                    share = -before.net_ms / (trade.net_ms - before.net_ms)
                    found[setting] = before.seconds + share * (trade.seconds - before.seconds)
                break
            before = trade
    return found
