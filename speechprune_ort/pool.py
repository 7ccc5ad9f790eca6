"""A few threads at work, results in the order of what was asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

__all__ = ["in_order"]

Given = TypeVar("Given")
Made = TypeVar("Made")


def in_order(work: Callable[[Given], Made], items: Iterable[Given], workers: int) -> Iterator[Made]:
    """Results of ``work`` in the order of the items, at most ``workers`` at a time.

    No more items are taken than there are workers and finished results not yet read.

    >>> list(in_order(lambda n: n * n, range(4), 2))
    [0, 1, 4, 9]
    """
    source = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        running: deque[Future[Made]] = deque(
            pool.submit(work, item) for item in islice(source, workers)
        )
        try:
            while running:
                made = running.popleft().result()
                running.extend(pool.submit(work, item) for item in islice(source, 1))
                yield made
        finally:
            for future in running:
                future.cancel()
