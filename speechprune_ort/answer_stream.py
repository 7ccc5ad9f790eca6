"""An answer on its way, held above the code that makes it."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from speechprune_ort.cancel import Limits
from speechprune_ort.results import Answer

__all__ = ["AnswerStream"]


class AnswerStream(Iterator[str]):
    """An answer on its way: iterate over pieces of text, then read ``answer``.

    Args:
        pieces: yields text and returns the ``Answer``.
        limits: what may end it before.
    """

    def __init__(self, pieces: Generator[str, None, Answer], limits: Limits | None = None) -> None:
        self._pieces, self._limits = pieces, limits or Limits()
        self._answer: Answer | None = None
        self._error: Exception | None = None

    def __next__(self) -> str:
        """The next piece of text, as soon as it is there.

        Raises:
            CancelledError: it was ended; ``DeadlineError`` where that was by its deadline.
        """
        try:
            with self._limits.held():
                return next(self._pieces)
        except StopIteration as end:
            # An exhausted generator gives no value a second time.
            self._answer = self._answer or end.value
            self._limits.over()
            raise
        except Exception as error:
            self._error = self._error or error
            self._limits.over()
            self._pieces.close()
            raise

    @property
    def answer(self) -> Answer:
        """The whole answer; waits for pieces that have not been read.

        Raises:
            Exception: what ended it before.
        """
        if self._answer is None and self._error is None:
            for _ in self:
                pass
        if self._answer is None:
            raise self._error or RuntimeError("the answer was closed before it was finished")
        return self._answer
