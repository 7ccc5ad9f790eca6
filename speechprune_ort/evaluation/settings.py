"""What is compared: methods at pruning rates, with seeds where chance decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from speechprune_ort.choices import EVERY_TOKEN
from speechprune_ort.errors import OptionError
from speechprune_ort.methods import METHODS
from speechprune_ort.options import PruningOptions, unused_options
from speechprune_ort.runtime.choosing.methods.baselines import BEGINNING

__all__ = ["ORIGINAL", "Setting", "settings_of"]


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of a table: a way to prune, and the seeds to average over.

    Attributes:
        options: method, rate and the rest, with the first seed.
        seeds: one for methods without chance.
    """

    options: PruningOptions
    seeds: tuple[int, ...] = (0,)

    @property
    def name(self) -> str:
        """``speechprune@0.2``, with candidates ``speechprune@0.2x3``; of every token ``none``."""
        method, rate, candidates = self.options.method, self.options.rate, self.options.candidates
        if method == EVERY_TOKEN:
            return method
        return f"{method}@{rate:g}" + ("" if candidates is None else f"x{candidates:g}")

    def with_seed(self, seed: int) -> PruningOptions:
        """Its options for one seed."""
        return replace(self.options, seed=seed)


ORIGINAL = Setting(PruningOptions(method=BEGINNING, pruning_rate=0.0))
"""The recording cut to one window of the model: the paper's Original, today's stacks."""


def settings_of(
    methods: Sequence[str],
    rates: Sequence[float],
    seeds: Sequence[int],
    base: PruningOptions | None = None,
    candidates: Sequence[float] = (),
) -> list[Setting]:
    """Every method at every rate; ``none`` once, and the Original always.

    Args:
        methods: as in ``PruningOptions``.
        rates: pruning rates.
        seeds: for methods in which chance decides.
        base: everything else; the paper's by default. A method takes of it what it reads.
        candidates: for methods of two phases, as in ``PruningOptions``; none: their own.

    Raises:
        OptionError: nothing to compare, a value is out of range, or no method reads an option.

    >>> [s.name for s in settings_of(["none", "speechprune"], [0.2, 0.4], [0])]
    ['none', 'truncate@0', 'speechprune@0.2', 'speechprune@0.4']
    >>> [s.name for s in settings_of(["speechprune"], [0.2], [0], candidates=[1, 3])]
    ['truncate@0', 'speechprune@0.2x1', 'speechprune@0.2x3']
    """
    if not methods or not rates or not seeds:
        raise OptionError("Give at least one method, one pruning rate and one seed.")
    base = base or PruningOptions()
    unread = set.intersection(*(set(unused_options(base, method)) for method in methods))
    if unread:
        name = min(unread)
        users = ", ".join(m.name for m in METHODS.values() if name in m.options)
        raise OptionError(
            f"None of the methods reads {name}: leave it out, or add a method that does ({users})."
        )
    found: dict[str, Setting] = {}
    if EVERY_TOKEN in methods:
        found[EVERY_TOKEN] = Setting(base.for_method(EVERY_TOKEN))
    original = base.for_method(BEGINNING, pruning_rate=0.0)
    found[ORIGINAL.name] = Setting(original)
    for rate in rates:
        for method in methods:
            if method == EVERY_TOKEN:
                continue
            used = tuple(seeds) if METHODS[method].random else (0,)
            chosen = base.for_method(method, pruning_rate=rate, seed=used[0])
            balances = (candidates if METHODS[method].two_phases else ()) or (None,)
            for balance in balances:
                setting = Setting(replace(chosen, candidates=balance), used)
                found[setting.name] = setting
    return list(found.values())
