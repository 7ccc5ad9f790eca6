"""Rows to accuracies: every setting and every control with its interval, per subset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from string import ascii_uppercase
from typing import Any

import numpy as np

from speechprune_ort.choices import EVERY_TOKEN
from speechprune_ort.errors import DataError
from speechprune_ort.evaluation.rows import Rows
from speechprune_ort.evaluation.settings import ORIGINAL, Setting
from speechprune_ort.runtime.choosing.methods.speechprune import PAPER_METHOD
from speechprune_ort.statistics import Estimate, difference, holm, proportion
from speechprune_ort.text import counted

__all__ = ["Line", "Subset", "Summary", "comparisons", "summarize"]

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """One setting or control in a table.

    Attributes:
        name: name of the setting or control.
        accuracy: share of right choices; seeds of a sample are averaged first.
        kept: mean number of audio tokens that reached the language model, None for controls.
        kept_share: mean share of the recording's tokens.
        pruning_rate: share of the budget that was removed.
        key_kept: mean share of the key sentence's tokens that was kept, where its time is known.
        unanswered: share of answers that named no choice.
        versus: paired difference to other settings, by their names; the p-values of one subset are
            adjusted to each other.
    """

    name: str
    accuracy: Estimate
    kept: float | None = None
    kept_share: float | None = None
    pruning_rate: float | None = None
    key_kept: float | None = None
    unanswered: float = 0.0
    versus: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True)
class Subset:
    """A part of the samples.

    Attributes:
        name: ``all``, ``hard (SPIRAL-H)``, ``hard (this bundle)``, a kind of recording, or where
            its key sentence begins: ``key early``, ``middle`` or ``late``.
        note: what a reader must know about it.
        groups: number of groups that its samples belong to; see ``Sample``.
        settings: one line for each setting.
        controls: one line for each control.
        comparisons: number of different pairs of settings that are compared.
    """

    name: str
    note: str
    groups: int
    settings: tuple[Line, ...]
    controls: tuple[Line, ...]
    comparisons: int


@dataclass(frozen=True)
class Summary:
    """Everything that was found.

    Attributes:
        subsets: by perturbation, clean recordings first.
        failed: samples that could not be used, with the reason; if only one perturbation of a
            sample failed, the name ends in it, such as ``s1 (babble 10 dB)``.
    """

    subsets: Mapping[str, tuple[Subset, ...]]
    failed: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


HARD_NOTE = (
    "SPIRAL-H is the part of SPIRAL on which one model, Qwen2-Audio cut to 30 s, failed: its "
    "Original accuracy is 0 by definition for that model, and for another model it is just a "
    "subset."
)
OWN_NOTE = (
    "The samples on which this bundle fails when the recording is cut to its first window: the "
    "truncated accuracy is 0 by definition."
)


COMPARED = (PAPER_METHOD,)
PLACES = ("early", "middle", "late")


def summarize(
    rows: Rows, settings: Sequence[Setting], compared: Sequence[str] = COMPARED
) -> Summary:
    """Aggregate the rows of an evaluation.

    Args:
        rows: from ``judge_all``.
        settings: the plan's settings.
        compared: methods that are compared with every other at the same rate, sample by sample.

    Raises:
        DataError: no sample could be used.
    """
    failed: dict[str, str] = {}
    usable = []
    for item in rows:
        wrong = {name: part for name, part in item.items() if "error" in part}
        lost = len(wrong) == len(item) or "clean" in wrong
        for name, part in wrong.items():
            shown = part["sample"] if lost else f"{part['sample']} ({name})"
            failed.setdefault(shown, str(part["error"]))
        if not lost:
            usable.append({name: part for name, part in item.items() if name not in wrong})
    if not usable:
        raise DataError(
            f"Of {counted(len(rows), 'sample')} none could be used; the first: "
            f"{next(iter(failed.values()), 'there is none')}"
        )
    own = {
        row["sample"]
        for item in usable
        if (row := item.get("clean")) and not _right(row, row["settings"].get(ORIGINAL.name))
    }
    perturbations = dict.fromkeys(name for item in rows for name in item)
    subsets: dict[str, tuple[Subset, ...]] = {}
    for perturbation in perturbations:
        every = [item[perturbation] for item in usable if perturbation in item]
        if not every:
            continue
        parts: list[tuple[str, str, Sequence[Row]]] = [
            ("all", "", every),
            ("hard (SPIRAL-H)", HARD_NOTE, [row for row in every if row["hard"]]),
            ("hard (this bundle)", OWN_NOTE, [row for row in every if row["sample"] in own]),
        ]
        kinds = sorted({row["kind"] for row in every})
        if len(kinds) > 1:
            parts += [
                (kind or "(no kind)", "", [r for r in every if r["kind"] == kind]) for kind in kinds
            ]
        if perturbation == "clean":
            parts += _places(every)
        subsets[perturbation] = tuple(
            _subset(name, note, some, settings, compared) for name, note, some in parts if some
        )
    return Summary(subsets, failed)


def comparisons(settings: Sequence[Setting], compared: Sequence[str] = COMPARED) -> int:
    """How many pairs of settings a table compares; see ``summarize``."""
    return len(
        {
            frozenset((setting.name, other))
            for setting in settings
            for other in _rivals(setting, settings, compared)
        }
    )


def _places(rows: Sequence[Row]) -> list[tuple[str, str, Sequence[Row]]]:
    """Rows by the third of the recording in which the key sentence begins, where that differs."""
    found: dict[str, list[Row]] = {place: [] for place in PLACES}
    for row in rows:
        if "key" in row:
            third = int(len(PLACES) * row["key"][0] / row["seconds"])
            found[PLACES[max(0, min(len(PLACES) - 1, third))]].append(row)
    if sum(map(bool, found.values())) < 2:
        return []
    return [(f"key {place}", "", some) for place, some in found.items()]


def _right(row: Row, result: Mapping[str, Any] | None) -> float:
    """Share of a sample's seeds that chose rightly."""
    if result is None:
        return 0.0
    return float(np.mean([chosen == row["answer"] for chosen in result["chosen"]]))


def _subset(
    name: str,
    note: str,
    rows: Sequence[Row],
    settings: Sequence[Setting],
    compared: Sequence[str],
) -> Subset:
    groups = [row["group"] for row in rows]
    rights = {s.name: [_right(r, r["settings"][s.name]) for r in rows] for s in settings}
    lines = []
    for setting in settings:
        results = [row["settings"][setting.name] for row in rows]
        versus = {
            other: difference(np.subtract(rights[setting.name], rights[other]).tolist(), groups)
            for other in _rivals(setting, settings, compared)
        }
        covered = [result["key_kept"] for result in results if "key_kept" in result]
        lines.append(
            Line(
                setting.name,
                proportion(rights[setting.name], groups),
                kept=float(np.mean([result["kept"] for result in results])),
                kept_share=float(
                    np.mean([s["kept"] / r["tokens"] for s, r in zip(results, rows, strict=True)])
                ),
                pruning_rate=None
                if setting.options.method == EVERY_TOKEN
                else setting.options.rate,
                key_kept=float(np.mean(covered)) if covered else None,
                unanswered=float(np.mean([c is None for r in results for c in r["chosen"]])),
                versus=versus,
            )
        )
    adjusted, comparisons = _adjusted(lines)
    return Subset(
        name, note, len(set(groups)), tuple(adjusted), tuple(_controls(rows)), comparisons
    )


def _adjusted(lines: Sequence[Line]) -> tuple[list[Line], int]:
    """Lines whose differences are adjusted to each other, and how many pairs there are.

    A pair is one comparison, whichever of the two stands first.
    """
    pairs = {
        frozenset((line.name, other)): found.p if found.p is not None else 1.0
        for line in lines
        for other, found in line.versus.items()
    }
    adjusted = dict(zip(pairs, holm(list(pairs.values())), strict=True))
    return [
        replace(
            line,
            versus={
                other: replace(found, p=adjusted[frozenset((line.name, other))])
                for other, found in line.versus.items()
            },
        )
        for line in lines
    ], len(pairs)


def _rivals(setting: Setting, settings: Sequence[Setting], compared: Sequence[str]) -> list[str]:
    """What a setting is compared with, sample by sample.

    All tokens, the truncated recording, and for the methods that are compared all others at the
    same rate.
    """
    method, rate = setting.options.method, setting.options.rate
    names = [EVERY_TOKEN, ORIGINAL.name]
    if method in compared:
        names += [s.name for s in settings if s.options.rate == rate]
    known = {s.name for s in settings}
    return [name for name in dict.fromkeys(names) if name in known and name != setting.name]


def _controls(rows: Sequence[Row]) -> list[Line]:
    def line(name: str, some: Sequence[Row], values: Sequence[float]) -> Line:
        return Line(name, proportion(values, [row["group"] for row in some]))

    lines = []
    for name in ("question", "mismatched", "transcript"):
        with_it = [row for row in rows if name in row.get("controls", {})]
        if with_it:
            values = [float(row["controls"][name] == row["answer"]) for row in with_it]
            lines.append(line(CONTROL_NAMES[name], with_it, values))
    longest = [float(row["longest"] == row["answer"]) for row in rows]
    lines.append(line("longest choice", rows, longest))
    counts = np.bincount([row["answer"] for row in rows])
    best = int(counts.argmax())
    always = [float(row["answer"] == best) for row in rows]
    lines.append(line(f"always {ascii_uppercase[best]}", rows, always))
    chance = float(np.mean([1 / row["choices"] for row in rows]))
    groups = len({row["group"] for row in rows})
    # Known, not found.
    lines.append(Line("chance", Estimate(len(rows), chance, chance, chance, groups)))
    return lines


CONTROL_NAMES = {
    "question": "question only",
    "mismatched": "another recording",
    "transcript": "transcript as text",
}
