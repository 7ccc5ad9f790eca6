"""The rows of a plan: judged to the end, going on where an earlier run stopped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from speechprune_ort.evaluation.executor import Executor
from speechprune_ort.evaluation.perturbation import CLEAN
from speechprune_ort.evaluation.plan import Plan
from speechprune_ort.journal import Journal

__all__ = ["Rows", "discard", "judge_all"]

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
        DataError: it cannot be written; what is judged is kept.
    """
    with Journal(out / ROWS_FILE, plan.about(), ANOTHER) as journal:
        return _judge_all(plan, journal, executor, progress)


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
