"""One budget of threads: numpy's products keep to the number that ONNX Runtime was told.

ONNX Runtime's sessions have a number of threads each; the library behind numpy's matrix products
has a pool of its own, as wide as the machine, and its threads spin while they wait for each other.
Waking them takes longer than a small product does, many times longer where ONNX Runtime's threads
still spin after a decoder's step: small products use one thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["numpy_threads"]

_lock = threading.Lock()
_limits: list[int] = []  # of the blocks that are being run, in any thread
_before: list[int] = []  # threads of each library outside all of them


@cache
def _libraries() -> list[Any]:
    """The libraries behind numpy's matrix products, looked up once."""
    found: list[Any] = ThreadpoolController().select(user_api="blas").lib_controllers
    return found


@contextmanager
def numpy_threads(limit: int | None) -> Iterator[None]:
    """Let numpy's matrix products use no more threads within the block.

    The number is the process's: where blocks overlap in several threads, the least holds, and the
    last one to end puts back what was before the first.

    Args:
        limit: threads; None changes nothing.
    """
    if limit is None:
        yield
        return
    with _lock:
        if not _limits:
            _before[:] = [library.get_num_threads() for library in _libraries()]
        _limits.append(limit)
        _apply()
    try:
        yield
    finally:
        with _lock:
            _limits.remove(limit)
            _apply()


def _apply() -> None:
    for library, before in zip(_libraries(), _before, strict=True):
        library.set_num_threads(min([before, *_limits]))
