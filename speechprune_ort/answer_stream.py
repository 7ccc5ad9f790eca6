"""An answer in progress, independent of the code that generates it."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator
from typing import Any, TypeVar

from speechprune_ort.cancel import Cancel, Limits
from speechprune_ort.errors import OutOfMemoryError, SpeechPruneError
from speechprune_ort.results import Answer

__all__ = ["NO_MEMORY", "AnswerStream", "answers_together", "begin_all"]

NO_MEMORY = "It needs more memory than there is: give a shorter recording or question."

T = TypeVar("T")


class AnswerStream(Iterator[str]):
    """An answer in progress: iterate over pieces of text, then read ``answer``.

    In a coroutine, ``async for piece in stream`` and ``answer = await stream`` do the same on a
    thread of the event loop's executor; where the task is cancelled, so is the answer.

    Args:
        pieces: yields text and returns the ``Answer``; empty pieces are skipped, and one comes
            first where there is work to do before decoding.
        limits: what may end it early.
    """

    def __init__(self, pieces: Generator[str, None, Answer], limits: Limits | None = None) -> None:
        self._pieces, self._limits = pieces, limits or Limits()
        self._answer: Answer | None = None
        self._error: Exception | None = None
        self._begun, self._first = False, ""

    def begin(self) -> None:
        """Do all that comes before decoding: encode, choose, and join the others to be decoded.

        Raises:
            Exception: what ended the answer; ``answer`` raises it again.
        """
        if not self._begun:
            self._begun = True
            self._first = self._piece()

    def __next__(self) -> str:
        """The next piece of text, as soon as it is there.

        Raises:
            CancelledError: it was cancelled, or its deadline passed (``DeadlineError``).
        """
        self._begun = True
        piece, self._first = self._first, ""
        while not piece:
            piece = self._piece()
        return piece

    def _piece(self) -> str:
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

    async def __aiter__(self) -> AsyncIterator[str]:
        """Pieces of text as they come, without holding up the event loop."""
        while (piece := await self._in_thread(lambda: next(self, None))) is not None:
            yield piece

    def __await__(self) -> Generator[Any, None, Answer]:
        """The whole answer; raises what ``answer`` raises."""
        return self._in_thread(lambda: self.answer).__await__()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        import asyncio  # a caller that awaits has it; others need not load it at their start

        done = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            # The thread cannot be left alone with a model that others are about to use.
            self._limits.give_up()
            await asyncio.wait([done])
            done.exception()
            raise

    def close(self) -> None:
        """Give up the rest of the answer."""
        self._limits.over()
        self._pieces.close()

    @property
    def answer(self) -> Answer:
        """The whole answer; waits for pieces that have not been read.

        Raises:
            Exception: what ended it early; a ``RuntimeError`` if it was closed.
        """
        if self._answer is None and self._error is None:
            for _ in self:
                pass
        if self._answer is None:
            raise self._error or RuntimeError("the answer was closed before it was finished")
        return self._answer


def begin_all(streams: Iterable[AnswerStream]) -> None:
    """Begin answers that are read one after the other, so that they are decoded together.

    What one of them raises is raised again by its ``answer``.
    """
    for stream in streams:
        with contextlib.suppress(SpeechPruneError, MemoryError):
            stream.begin()


def answers_together(
    streams: Iterable[AnswerStream], most: int, return_exceptions: bool, cancel: Cancel | None
) -> Iterator[Answer | SpeechPruneError]:
    """Answers in order, up to ``most`` of them in progress at a time.

    Args:
        streams: taken one by one as there is room for them.
        most: largest number of answers in progress at once.
        return_exceptions: yield a ``SpeechPruneError`` in place of its answer, and go on.
        cancel: the streams' token; once it is cancelled, errors are raised in any case.
    """
    begun: deque[AnswerStream] = deque()

    def first() -> Answer | SpeechPruneError:
        try:
            return begun.popleft().answer
        except MemoryError:
            if not return_exceptions:
                raise
            return OutOfMemoryError(NO_MEMORY)
        except SpeechPruneError as error:
            if not return_exceptions or (cancel is not None and cancel.cancelled):
                raise
            return error

    try:
        for stream in streams:
            begun.append(stream)
            begin_all([stream])
            if len(begun) == most:
                yield first()
        while begun:
            yield first()
    finally:
        for stream in begun:
            stream.close()
