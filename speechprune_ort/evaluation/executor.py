"""Where the samples of a plan are judged: in this process, or by workers on a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

from speechprune_ort.evaluation.judge import Judge
from speechprune_ort.evaluation.plan import Plan, Work

__all__ = ["Executor", "ExecutorName", "Judged", "LocalExecutor"]

ExecutorName = Literal["local", "ray"]

Judged = tuple[int, dict[str, dict[str, Any]]]
"""Index of a sample and its rows, by perturbation."""


@runtime_checkable
class Executor(Protocol):
    """Judges samples in any order."""

    def run(self, plan: Plan, works: Sequence[Work]) -> Iterator[Judged]:
        """Do all works; each result comes as soon as it is there."""
        ...


class LocalExecutor:
    """In this process, one sample after the other."""

    def run(self, plan: Plan, works: Sequence[Work]) -> Iterator[Judged]:
        """See ``Executor``."""
        if not works:
            return
        judge = Judge(plan)
        for work in works:
            yield work.index, judge.rows(work)
