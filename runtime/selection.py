"""One interface over every way to choose which audio tokens are kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.errors import OptionError
from speechprune_ort.options import Method, PruningOptions
from speechprune_ort.runtime.coverage import coverage_scores
from speechprune_ort.runtime.pruning import keep_by_attention, keep_by_similarity
from speechprune_ort.runtime.scoring import Scorer

__all__ = ["METHODS", "Request", "Selection", "select"]


PAPER_TEMPERATURE = 1.0
PASSAGE_SECONDS = 10
COVERAGE_TEMPERATURE = 0.05  # nearly the best frames alone: passages stay whole

Measure = Callable[[str], AbstractContextManager[None]]
"""Times a block under a name, such as ``Timings.measure``."""


def _untimed(_: str) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True)
class Selection:
    """What a method kept, and the scores that it went by.

    Attributes:
        indices: (kept,) int64, ascending.
        similarity: (tokens,) float32 phase 1 score of every token, or None.
        attention: (candidates,) float32 phase 2 score, or None.
        candidates: int64 tokens that phase 2 chose among, or None.
    """

    indices: NDArray[np.int64]
    similarity: NDArray[np.float32] | None = None
    attention: NDArray[np.float32] | None = None
    candidates: NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Request:
    """What a method is given.

    Attributes:
        options: as the caller set them.
        scorer: scores tokens, wherever the embeddings lie.
        n_keep: tokens to keep, at least 1 and at most ``tokens``.
        budget: tokens that phase 1 leaves to phase 2, at least ``n_keep``.
        frame_tokens: tokens of a one-second frame.
        measure: times ``phase_1`` and ``phase_2``.
    """

    options: PruningOptions
    scorer: Scorer
    n_keep: int
    budget: int
    frame_tokens: int
    measure: Measure = _untimed

    @property
    def tokens(self) -> int:
        """Audio tokens of the recording."""
        return self.scorer.tokens

    def by_similarity(self, n_keep: int) -> Selection:
        """Phase 1 over all tokens."""
        temperature = self.options.frame_temperature or PAPER_TEMPERATURE
        with self.measure("phase_1"):
            scores = self.scorer.similarity()
            kept = keep_by_similarity(scores, n_keep, self.frame_tokens, temperature)
        return Selection(kept, similarity=scores)

    def by_attention(self, candidates: NDArray[np.int64]) -> Selection:
        """Phase 2 among ``candidates``."""
        with self.measure("phase_2"):
            scores = self.scorer.attention(candidates, self.options.single_head)
            if len(scores) != len(candidates):
                raise OptionError(
                    f"project gave {len(scores)} tokens for {len(candidates)}: "
                    "it must keep each one."
                )
            kept = keep_by_attention(scores, self.n_keep)
        return Selection(candidates[kept], attention=scores, candidates=candidates)


def _speechprune(request: Request) -> Selection:
    first = request.by_similarity(request.budget)
    if request.n_keep == len(first.indices):
        return first
    second = request.by_attention(first.indices)
    return Selection(second.indices, first.similarity, second.attention, second.candidates)


def _similarity(request: Request) -> Selection:
    return request.by_similarity(request.n_keep)


def _attention(request: Request) -> Selection:
    return request.by_attention(np.arange(request.tokens))


def _coverage(request: Request) -> Selection:
    frame = request.frame_tokens
    with request.measure("phase_1"):
        scores = coverage_scores(request.scorer.cosines(), PASSAGE_SECONDS * frame)
        kept = keep_by_similarity(scores, request.n_keep, frame, COVERAGE_TEMPERATURE)
    return Selection(kept, similarity=scores)


def _random(request: Request) -> Selection:
    random = np.random.default_rng(request.options.seed)
    kept = random.choice(request.tokens, request.n_keep, replace=False)
    return Selection(np.sort(kept).astype(np.int64))


def _crop(request: Request) -> Selection:
    random = np.random.default_rng(request.options.seed)
    start = int(random.integers(0, request.tokens - request.n_keep + 1))
    return Selection(np.arange(start, start + request.n_keep))


def _first(request: Request) -> Selection:
    return Selection(np.arange(request.n_keep))


METHODS: Mapping[Method, Callable[[Request], Selection]] = {
    "speechprune": _speechprune,
    "similarity": _similarity,
    "attention": _attention,
    "coverage": _coverage,
    "random": _random,
    "crop": _crop,
    "truncate": _first,
    "none": _first,
}


def select(
    options: PruningOptions,
    scorer: Scorer,
    *,
    window_tokens: int,
    frame_tokens: int,
    measure: Measure = _untimed,
) -> Selection:
    """Choose which audio tokens reach the language model.

    Args:
        options: method, rate, budget and the rest.
        scorer: of the recording's tokens for the question; asked only by methods that need it.
        window_tokens: tokens of one window, the default budget.
        frame_tokens: tokens of a one-second frame.
        measure: times ``phase_1`` and ``phase_2``, where the method has them.

    Returns:
        Exactly ``options.kept_tokens(tokens, window_tokens)`` tokens, in time order.

    Raises:
        OptionError: there are no audio tokens, a size is below 1, or a method that reads the
            embeddings finds them of different widths or not finite.
    """
    tokens = scorer.tokens
    for name, size in (
        ("audio tokens", tokens),
        ("window_tokens", window_tokens),
        ("frame_tokens", frame_tokens),
    ):
        if size < 1:
            raise OptionError(f"{name} must be at least 1, not {size}.")
    request = Request(
        options=options,
        scorer=scorer,
        n_keep=options.kept_tokens(tokens, window_tokens),
        budget=min(options.budget or window_tokens, tokens),
        frame_tokens=frame_tokens,
        measure=measure,
    )
    return METHODS[options.method](request)
