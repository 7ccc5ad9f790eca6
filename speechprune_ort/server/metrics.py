"""What a server tells Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from speechprune_ort.results import Answer
from speechprune_ort.server.counter import Counter as Line

__all__ = ["Metrics"]

SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 600)


class Metrics:
    """The figures of one server.

    Args:
        line: the queue of its requests.
    """

    def __init__(self, line: Line) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "speechprune_requests", "Requests by route and status.", ("route", "status"),
            registry=registry,
        )  # fmt: skip
        for name, text, value in (
            ("waiting", "Requests that are waiting.", lambda: float(line.waiting)),
            ("working", "Requests that are being worked on.", lambda: float(line.working)),
        ):
            Gauge(f"speechprune_{name}", text, registry=registry).set_function(value)
        self._seconds = Histogram(
            "speechprune_request_seconds",
            "From a request's arrival to its end, waiting included.", ("route",),
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._first = Histogram(
            "speechprune_first_token_seconds",
            "From a question's arrival to the first piece of its answer, waiting included.",
            buckets=SECONDS, registry=registry,
        )  # fmt: skip
        self._heard = Counter("speechprune_audio_seconds", "Audio encoded.", registry=registry)
        self._kept = Counter("speechprune_kept_tokens", "Audio tokens kept.", registry=registry)
        self._said = Counter("speechprune_answer_tokens", "Tokens of answers.", registry=registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """A request has ended."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def first_token(self, seconds: float) -> None:
        """An answer has begun."""
        self._first.observe(seconds)

    def heard(self, seconds: float) -> None:
        """A recording was heard."""
        self._heard.inc(seconds)

    def answered(self, answer: Answer) -> None:
        """An answer was given."""
        self._kept.inc(answer.pruning.kept)
        self._said.inc(len(answer.token_ids))

    def text(self) -> bytes:
        """The figures in Prometheus' own form."""
        return generate_latest(self._registry)
