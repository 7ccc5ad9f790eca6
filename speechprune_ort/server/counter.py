"""A bounded queue of requests to one model."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from speechprune_ort.cancel import Cancel
from speechprune_ort.errors import CancelledError, DeadlineError
from speechprune_ort.server.request_error import RequestError

__all__ = ["Counter", "Event", "Ticket", "Work"]


@dataclass(frozen=True, slots=True)
class Event:
    """What became of a request: a piece of its answer, or its end.

    Attributes:
        piece: what the work yielded, if it goes on.
        result: what the work returned, if it has ended.
        error: what ended it.
        ended: whether nothing comes after this.
    """

    piece: Any = None
    result: Any = None
    error: Exception | None = None
    ended: bool = False


Work = Callable[["Ticket"], Generator[Any, None, Any]]
"""Does a request: yields pieces of it, and returns its result."""


class Ticket:
    """A place in the queue.

    Args:
        work: what is to be done.
        tell: called with every event, from the thread that does the work.
        seconds: seconds in which it must be done.
        begun: when these seconds began, by ``time.monotonic``; None is now.

    Attributes:
        cancel: ends the work; to be given to every call of the model.
    """

    def __init__(
        self, work: Work, tell: Callable[[Event], None], seconds: float, begun: float | None = None
    ) -> None:
        self.cancel = Cancel()
        self._work, self._tell = work, tell
        self._seconds = seconds
        self._due = (time.monotonic() if begun is None else begun) + seconds

    @property
    def left(self) -> float:
        """Seconds that are left for it.

        Raises:
            DeadlineError: none are.
        """
        left = self._due - time.monotonic()
        if left <= 0:
            raise self._late()
        return left

    def _late(self) -> DeadlineError:
        return DeadlineError(
            f"The request was not answered within {self._seconds:g} seconds: ask again when "
            "the server is less busy, or give a shorter recording."
        )

    def do(self) -> None:
        """Do the work, and tell what becomes of it."""
        try:
            self.cancel.check()
            _ = self.left
            pieces = self._work(self)
            while True:
                self._tell(Event(piece=next(pieces)))
        except StopIteration as end:
            self._tell(Event(result=end.value, ended=True))
        except DeadlineError:  # in words of its own: the client has no deadline to move
            self._tell(Event(error=self._late(), ended=True))
        except Exception as error:
            self._tell(Event(error=error, ended=True))


class Counter:
    """Requests in the order of their arrival, a few at a time.

    Args:
        waiting: largest number of requests that wait.
        at_once: number of requests that are worked on at once: as many as the model decodes answers
            together.
    """

    def __init__(self, waiting: int, at_once: int = 1) -> None:
        self._most = waiting
        self._at_once = at_once
        self._line: deque[Ticket] = deque()
        self._working: set[Ticket] = set()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._serve, name=f"counter-{n}", daemon=True)
            for n in range(at_once)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._line)

    @property
    def working(self) -> int:
        """Requests that are worked on."""
        return len(self._working)

    def enter(
        self, work: Work, tell: Callable[[Event], None], seconds: float, begun: float | None = None
    ) -> Ticket:
        """Take a place in the queue.

        Args:
            work: what is to be done, in a thread of the counter.
            tell: called with every event, from that thread.
            seconds: seconds in which it must be done.
            begun: when these seconds began, by ``time.monotonic``; None is now.

        Raises:
            RequestError: the queue is full, or the counter has closed.
        """
        ticket = Ticket(work, tell, seconds, begun)
        with self._changed:
            self._room()
            self._line.append(ticket)
            self._changed.notify()
        return ticket

    def check_room(self) -> None:
        """Refuse a request if the queue is full, before any of it is read.

        Raises:
            RequestError: it is, or the counter has closed.
        """
        with self._changed:
            self._room()

    def _room(self) -> None:
        if self._closed:
            raise RequestError(503, "The server is stopping: ask again later.", "stopping", 5)
        # A request that can be served at once does not wait.
        if len(self._line) >= self._most + self._at_once - len(self._working):
            raise RequestError(
                429,
                f"The queue is full (it holds {self._most} requests): ask again later.",
                "queue_full",
                retry_after=2,
            )

    def leave(self, ticket: Ticket) -> None:
        """Give up a place, whether it is waiting or worked on."""
        ticket.cancel.cancel()
        with self._changed:
            if ticket in self._line:
                self._line.remove(ticket)

    def end(self) -> None:
        """Take no more requests, and end those that are left; their clients are told."""
        with self._changed:
            self._closed = True
            left = [*self._line, *self._working]
            self._changed.notify_all()
        for ticket in left:
            ticket.cancel.end(CancelledError("The server is stopping."))

    def close(self, seconds: float = 5.0) -> None:
        """End what is left, and the threads.

        Args:
            seconds: seconds to wait for each thread to finish its work.
        """
        self.end()
        for thread in self._threads:
            thread.join(seconds)

    def _serve(self) -> None:
        while True:
            with self._changed:
                while not self._line and not self._closed:
                    self._changed.wait()
                if not self._line:
                    return
                ticket = self._line.popleft()
                self._working.add(ticket)
            try:
                ticket.do()
            finally:
                with self._changed:
                    self._working.discard(ticket)
