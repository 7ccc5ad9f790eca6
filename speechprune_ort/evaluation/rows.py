"""The rows of a plan: judged to the end, going on where an earlier run stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec

from speechprune_ort.choices import EVERY_TOKEN
from speechprune_ort.evaluation.executor import Executor
from speechprune_ort.evaluation.perturbation import CLEAN
from speechprune_ort.evaluation.plan import Plan
from speechprune_ort.evaluation.samples import LONGEST
from speechprune_ort.journal import Journal

__all__ = ["Rows", "check_row", "discard", "judge_all"]

ANOTHER = "give another --out"
ROWS_FILE = "rows.jsonl"

Rows = list[dict[str, dict[str, Any]]]
"""The rows of each sample by perturbation, in the order of the plan."""


def judge_all(
    plan: Plan, out: Path, executor: Executor, progress: Callable[[int, int], None] | None = None
) -> Rows:
    """Judge every sample of a plan.

    Args:
        plan: what to do.
        out: folder of results; ``rows.jsonl`` in it keeps what is done. Rows of the same bundle and
            options are not judged again: with more samples, methods, rates, seeds or perturbations,
            only what is new is judged.
        executor: where samples are judged.
        progress: called with the number of samples done and of all.

    Returns:
        The rows in the order of the samples, however they came.

    Raises:
        OptionError: ``out`` is a file, or holds rows of another bundle or of other options.
        DataError: it is damaged, or cannot be written; what is judged is kept.
    """
    with Journal(out / ROWS_FILE, plan.about(), ANOTHER, check_row) as journal:
        return _judge_all(plan, journal, executor, progress)


_Seconds = Annotated[float, msgspec.Meta(ge=0, le=LONGEST)]


class _Result(msgspec.Struct, frozen=True):
    """What was chosen under one setting, as ``Judge.result`` says it."""

    seeds: list[int]
    chosen: list[Annotated[int, msgspec.Meta(ge=0)] | None]
    kept: Annotated[int, msgspec.Meta(ge=0)]
    key_kept: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None

    def __post_init__(self) -> None:
        if not self.seeds or len(self.chosen) != len(self.seeds):
            raise ValueError("chosen has not one choice for each of seeds")


class _Row(msgspec.Struct, frozen=True):
    """What ``Judge.rows`` says of a sample that could be judged."""

    sample: str
    kind: str
    group: str
    hard: bool
    seconds: Annotated[float, msgspec.Meta(gt=0, le=LONGEST)]
    tokens: Annotated[int, msgspec.Meta(ge=1)]
    answer: Annotated[int, msgspec.Meta(ge=0)]
    choices: Annotated[int, msgspec.Meta(ge=2)]
    longest: Annotated[int, msgspec.Meta(ge=0)]
    settings: dict[str, _Result]
    key: tuple[_Seconds, _Seconds] | None = None
    controls: dict[str, Annotated[int, msgspec.Meta(ge=0)] | None] = {}
    another_read_as: str = EVERY_TOKEN

    def __post_init__(self) -> None:
        chosen = [c for result in self.settings.values() for c in result.chosen]
        picked = [self.answer, self.longest, *chosen, *self.controls.values()]
        if any(choice is not None and choice >= self.choices for choice in picked):
            raise ValueError(f"there is no such choice among {self.choices}")
        if any(result.kept > self.tokens for result in self.settings.values()):
            raise ValueError(f"more is kept than there is, {self.tokens} tokens")


class _Failed(msgspec.Struct, frozen=True):
    """What it says of one that could not."""

    sample: str
    error: str


def check_row(key: str, row: Mapping[str, Any]) -> None:
    """Refuse a row that no judge has written.

    Raises:
        ValueError: a part of it is missing or of another kind.
    """
    kinds: list[type[_Failed | _Row]] = [_Failed] if "error" in row else [_Row]
    if "error" in row and len(row) > 2:  # of a sample that could be judged in part
        kinds.append(_Row)
    try:
        for kind in kinds:
            found = msgspec.convert(dict(row), kind)
            if not key.startswith(f"{found.sample} "):
                raise ValueError(f"it is of the sample {found.sample!a:.60}")
    except (ValueError, msgspec.ValidationError) as error:
        raise ValueError(f"row {key!a:.80}: {error}") from None


def _judge_all(
    plan: Plan,
    journal: Journal,
    executor: Executor,
    progress: Callable[[int, int], None] | None,
) -> Rows:
    def row(index: int) -> dict[str, dict[str, Any]]:
        names = dict.fromkeys((CLEAN.name, *(p.name for p in plan.perturbations)))
        keys = {name: plan.key(index, name) for name in names}
        return {name: journal.rows[key] for name, key in keys.items() if key in journal.rows}

    indices = range(len(plan.samples))
    missing = [work for index in indices if (work := plan.work(index, row(index)))]
    done = len(indices) - len(missing)
    if progress:
        progress(done, len(indices))
    for index, rows in executor.run(plan, missing):
        for name, found in rows.items():
            journal.add(plan.key(index, name), found)
        done += 1
        if progress:
            progress(done, len(indices))
    return [plan.asked_for(index, row(index)) for index in indices]


def discard(out: Path) -> None:
    """Remove the rows that ``judge_all`` kept in a folder, and the folder if nothing else is in it.

    Args:
        out: the folder, which ``judge_all`` has filled.
    """
    (out / ROWS_FILE).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        out.rmdir()
