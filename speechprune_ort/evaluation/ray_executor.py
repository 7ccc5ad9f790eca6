"""Samples judged by workers on a Ray cluster. Needs the extra ``[ray]``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from speechprune_ort.evaluation.executor import Judged
from speechprune_ort.evaluation.judge import Judge
from speechprune_ort.evaluation.plan import Plan, Work
from speechprune_ort.ray_workers import RayWorkers

__all__ = ["RayExecutor"]


class RayExecutor:
    """One bundle per worker; a sample whose worker dies is given to another.

    Args:
        address: address of the cluster; None starts one on this machine.
        workers: number of workers.

    Raises:
        OptionError: Ray is not installed.
    """

    def __init__(self, address: str | None, workers: int) -> None:
        self._workers = RayWorkers(address, workers)

    def run(self, plan: Plan, works: Sequence[Work]) -> Iterator[Judged]:
        """See ``Executor``."""
        for place, rows in self._workers.map(_Rows(plan, works), range(len(works))):
            yield works[place].index, rows


class _Rows:
    """Made on the driver, opened on the worker."""

    def __init__(self, plan: Plan, works: Sequence[Work]) -> None:
        self._plan, self._works = plan, works

    @property
    def uses_cuda(self) -> bool:
        return self._plan.device == "cuda"

    @property
    def plugins(self) -> tuple[Path, ...]:
        return self._plan.plugins

    def open(self) -> Any:
        judge = Judge(self._plan)
        return lambda place: judge.rows(self._works[place])
