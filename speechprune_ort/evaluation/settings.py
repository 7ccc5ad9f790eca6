"""What is compared: methods at pruning rates, with seeds where chance decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from speechprune_ort.choices import EVERY_TOKEN
from speechprune_ort.errors import OptionError
from speechprune_ort.methods import METHODS, TwoPhases
from speechprune_ort.numbers import whole
from speechprune_ort.options import PruningOptions, check_method
from speechprune_ort.runtime.choosing.methods.baselines import BEGINNING
from speechprune_ort.text import check_list, check_type

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
        """``speechprune@0.2``, with candidates ``speechprune@0.2x3``; for every token ``none``."""
        method, rate, candidates = self.options.method, self.options.rate, self.candidates
        if method == EVERY_TOKEN:
            return method
        return f"{method}@{rate:g}" + ("" if candidates is None else f"x{candidates:g}")

    @property
    def candidates(self) -> float | None:
        """As in ``TwoPhases``; None also for methods that have one phase."""
        own = self.options.own
        return own.candidates if isinstance(own, TwoPhases) else None

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
    own: Mapping[str, Any] | None = None,
) -> list[Setting]:
    """Every method at every rate; ``none`` once, and the Original always.

    Args:
        methods: as in ``PruningOptions``.
        rates: pruning rates.
        seeds: for methods in which chance decides.
        base: everything else; by default that of ``PruningOptions()``. Each method takes those of
            the method's own options that it has.
        candidates: for methods with two phases, as in ``TwoPhases``; empty takes their own numbers.
        own: more options of methods, by name; one that none of the methods has is an error.

    Raises:
        OptionError: there is nothing to compare, a value is out of range, or none of the methods
            has an option or reads ``candidates``.

    >>> [s.name for s in settings_of(["none", "speechprune"], [0.2, 0.4], [0])]
    ['none', 'truncate@0', 'speechprune@0.2', 'speechprune@0.4']
    >>> [s.name for s in settings_of(["speechprune"], [0.2], [0], candidates=[1, 3])]
    ['truncate@0', 'speechprune@0.2x1', 'speechprune@0.2x3']
    """
    methods, rates = check_list(methods, str, "methods"), check_list(rates, object, "rates")
    seeds = [whole("seed", seed, 0) for seed in check_list(seeds, object, "seeds")]
    candidates = check_list(candidates, object, "candidates")
    if not methods or not rates or not seeds:
        raise OptionError("Give at least one method, one pruning rate and one seed.")
    base = PruningOptions() if base is None else check_type(base, PruningOptions, "base")
    own = {} if own is None else check_type(own, Mapping, "own")  # type: ignore[type-abstract]
    for method in methods:
        check_method(method)
    have = {name for method in methods for name in METHODS[method].options.names()}
    if not any(METHODS[method].two_phases for method in methods):
        have.discard("candidates")
    if unread := sorted({*own, *(("candidates",) if candidates else ())} - have):
        name = unread[0]
        users = ", ".join(m.name for m in METHODS.values() if name in m.options.names())
        cure = f", or add a method that does ({users})" if users else ""
        raise OptionError(f"None of the methods reads {name}: leave it out{cure}.")
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
            names = METHODS[method].options.names()
            its_own = {name: value for name, value in own.items() if name in names}
            balances = (candidates if METHODS[method].two_phases else ()) or (None,)
            for balance in balances:
                balanced = {} if balance is None else {"candidates": balance}
                options = replace(chosen, own=replace(chosen.own, **(its_own | balanced)))
                setting = Setting(options, used)
                found[setting.name] = setting
    return list(found.values())
