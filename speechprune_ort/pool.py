"""A few worker threads, whose results come in the order of the items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import TypeVar

__all__ = ["in_order"]

Given = TypeVar("Given")
Made = TypeVar("Made")


def in_order(work: Callable[[Given], Made], items: Iterable[Given], workers: int) -> Iterator[Made]:
    """Results of ``work`` in the order of the items, at most ``workers`` at a time.

    No more items are taken than there are workers and finished results not yet read. What the
    source of items raises comes after the results of the items before it.

    >>> list(in_order(lambda n: n * n, range(4), 2))
    [0, 1, 4, 9]
    """
    source = iter(items)
    failure: Exception | None = None
    with ThreadPoolExecutor(workers) as pool:
        running: deque[Future[Made]] = deque()

        def take() -> bool:
            nonlocal failure
            try:
                # A call's tokens and deadline hold in its threads, too.
                running.append(pool.submit(copy_context().run, work, next(source)))
            except StopIteration:
                return False
            except Exception as error:
                failure = error
                return False
            return True

        try:
            more = True
            while more and len(running) < workers:
                more = take()
            while running:
                made = running.popleft().result()
                more = more and take()
                yield made
        finally:
            for future in running:
                future.cancel()
    if failure is not None:
        raise failure
