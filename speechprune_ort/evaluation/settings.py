"""What is compared: methods at pruning rates, with seeds where chance decides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from speechprune_ort.errors import OptionError
from speechprune_ort.options import PruningOptions

__all__ = ["CHANCE", "ORIGINAL", "Setting", "settings_of"]

CHANCE = ("random", "crop")
"""Methods whose result depends on the seed."""


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
        """``speechprune@0.2``; ``none`` and ``truncate@0`` have their plain names."""
        method, rate = self.options.method, self.options.rate
        return method if method == "none" else f"{method}@{rate:g}"

    def with_seed(self, seed: int) -> PruningOptions:
        """Its options for one seed."""
        return replace(self.options, seed=seed)


ORIGINAL = Setting(PruningOptions(method="truncate", pruning_rate=0.0))
"""The recording cut to one window of the model: the paper's Original, today's stacks."""


def settings_of(
    methods: Sequence[str],
    rates: Sequence[float],
    seeds: Sequence[int],
    base: PruningOptions | None = None,
) -> list[Setting]:
    """Every method at every rate; ``none`` once, and the Original always.

    Args:
        methods: as in ``PruningOptions``.
        rates: pruning rates.
        seeds: for methods in which chance decides.
        base: everything else; the paper's by default.

    Raises:
        OptionError: nothing to compare, a value is out of range.

    >>> [s.name for s in settings_of(["none", "speechprune"], [0.2, 0.4], [0])]
    ['none', 'truncate@0', 'speechprune@0.2', 'speechprune@0.4']
    """
    if not methods or not rates or not seeds:
        raise OptionError("Give at least one method, one pruning rate and one seed.")
    base = base or PruningOptions()
    found: dict[str, Setting] = {}
    if "none" in methods:
        found["none"] = Setting(replace(base, method="none"))
    original = replace(base, method="truncate", pruning_rate=0.0)
    found[ORIGINAL.name] = Setting(original)
    for rate in rates:
        for method in methods:
            if method == "none":
                continue
            used = tuple(seeds) if method in CHANCE else (0,)
            options = replace(base, method=method, pruning_rate=rate, seed=used[0])
            setting = Setting(options, used)
            found[setting.name] = setting
    return list(found.values())
