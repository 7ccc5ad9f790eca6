"""Runs a plan to its end, going on where an earlier run stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from speechprune_ort.evaluation.executor import Executor
from speechprune_ort.evaluation.journal import Journal
from speechprune_ort.evaluation.plan import Plan

__all__ = ["Rows", "evaluate"]

Rows = list[dict[str, dict[str, Any]]]
"""The rows of each sample by perturbation, in the order of the plan."""


def evaluate(
    plan: Plan, out: Path, executor: Executor, progress: Callable[[int, int], None] | None = None
) -> Rows:
    """Judge every sample of a plan.

    Args:
        plan: what to do.
        out: folder of results; ``rows.jsonl`` in it keeps what is done, and what is there of
            the same plan is not done again.
        executor: where.
        progress: called with the number of samples done and of all.

    Returns:
        The rows in the order of the samples, however they came.

    Raises:
        OptionError: ``out`` holds rows of another plan.
    """
    journal = Journal(out / "rows.jsonl", plan.about())
    names = [sample.name for sample in plan.samples]
    missing = [index for index, name in enumerate(names) if name not in journal.rows]
    if progress:
        progress(len(names) - len(missing), len(names))
    for index, rows in executor.run(plan, missing):
        journal.add(names[index], rows)
        if progress:
            progress(sum(name in journal.rows for name in names), len(names))
    return [journal.rows[name] for name in names]
