"""What a method of choosing audio tokens is given, what it gives back, and how it is registered."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.errors import OptionError
from speechprune_ort.runtime.choosing.pruning import keep_by_attention, keep_by_similarity

if TYPE_CHECKING:  # methods are known where ONNX Runtime is not installed
    from speechprune_ort.runtime.choosing.scoring import Scorer

__all__ = [
    "METHODS",
    "METHOD_OPTIONS",
    "Chosen",
    "Measure",
    "Method",
    "Request",
    "ScoreName",
    "Selection",
    "Work",
    "method",
    "untimed",
]

PAPER_TEMPERATURE = 1.0

Measure = Callable[[str], AbstractContextManager[None]]
"""Times a block under a name, such as ``Timings.measure``."""


def untimed(_: str) -> AbstractContextManager[None]:
    """Times nothing."""
    return nullcontext()


class Chosen(Protocol):
    """What methods read of the caller's ``PruningOptions``."""

    @property
    def frame_temperature(self) -> float | None:
        """Of the softmax over one-second frames; None is the paper's."""
        ...

    @property
    def single_head(self) -> bool:
        """Whether phase 2 takes the whole width at once."""
        ...

    @property
    def seed(self) -> int:
        """Of methods in which chance decides."""
        ...

    def candidate_tokens(self, kept: int, total: int, default: int) -> int:
        """How many tokens a first phase leaves to a second."""
        ...


@dataclass(frozen=True)
class Selection:
    """What a method kept, and the scores that it went by.

    Attributes:
        indices: (kept,) int64, ascending; of merged tokens the first of each group.
        similarity: (tokens,) float32 phase 1 score of every token, or None.
        attention: (candidates,) float32 phase 2 score, or None.
        candidates: int64 tokens that phase 2 chose among, or None.
        embeds: (kept, hidden) in the place of the kept tokens' own, of a method that merges.
    """

    indices: NDArray[np.int64]
    similarity: NDArray[np.float32] | None = None
    attention: NDArray[np.float32] | None = None
    candidates: NDArray[np.int64] | None = None
    embeds: NDArray[Any] | None = None


@dataclass(frozen=True)
class Request:
    """What a method is given.

    Attributes:
        options: as the caller set them.
        scorer: scores tokens, wherever the embeddings lie.
        n_keep: tokens to keep, at least 1 and at most ``tokens``.
        budget: tokens that phase 1 leaves to phase 2, at least ``n_keep``.
        frame_tokens: tokens of a one-second frame.
        encoder_attention: (tokens,) float32, the attention that each token receives in the audio
            encoder's last layer, 1 on average; of methods that are registered as needing it.
        measure: times ``phase_1`` and ``phase_2``.
    """

    options: Chosen
    scorer: Scorer
    n_keep: int
    budget: int
    frame_tokens: int
    encoder_attention: NDArray[np.float32] | None = None
    measure: Measure = untimed

    @property
    def tokens(self) -> int:
        """Audio tokens of the recording."""
        return self.scorer.tokens

    @property
    def embeds(self) -> NDArray[Any]:
        """Audio embeddings (tokens, hidden), on the host."""
        return self.scorer.embeds

    @property
    def text(self) -> NDArray[Any]:
        """Embeddings (query, hidden) of the question's own tokens, on the host."""
        return self.scorer.text

    def candidates(self, default: int) -> int:
        """Tokens that a first phase leaves to a second: at least those kept, at most all.

        Args:
            default: where the options do not say.
        """
        return self.options.candidate_tokens(self.n_keep, self.tokens, default)

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


Select = Callable[[Request], Selection]


@dataclass(frozen=True, slots=True)
class Work:
    """Sizes of a choice, to count its operations.

    Attributes:
        options: as the caller set them.
        tokens: audio tokens of the recording.
        kept: of them that are kept.
        budget: tokens that phase 1 leaves to phase 2, where the options do not say.
        words: tokens of the question.
        hidden: width of an embedding.
        heads: of the language model's attention.
        head_dim: width of a head.
        projection: operations of the first layer's query and key projections, by tokens.
    """

    options: Chosen
    tokens: int
    kept: int
    budget: int
    words: int
    hidden: int
    heads: int
    head_dim: int
    projection: Callable[[int], int]


Operations = Callable[[Work], Mapping[str, int]]
"""Counts floating point operations by the names that a method measures its work under, two a
multiplication and addition."""


def no_operations(_: Work) -> Mapping[str, int]:
    """Counts nothing: of methods that multiply nothing."""
    return {}


def products_with_text(work: Work) -> Mapping[str, int]:
    """Of ``Request.by_similarity``: a product and a norm of each token."""
    return {"phase_1": 4 * work.tokens * work.hidden}


def products_of_pairs(work: Work, candidates: int) -> Mapping[str, int]:
    """Of ``Request.by_attention``: projections, and the products of all queries with all keys."""
    if work.kept >= candidates:  # there is nothing to choose
        return {}
    pairs = 2 * candidates * candidates * work.heads * work.head_dim
    return {"phase_2": work.projection(candidates) + pairs}


@dataclass(frozen=True)
class ScoreName:
    """How the scores of a phase are called, for whoever looks at them.

    Attributes:
        label: in a few words, with the unit.
        of_one: they are shares of 1, and shown in multiples of an even share.
    """

    label: str
    of_one: bool = False


FIRST, SECOND = ScoreName("score of the first phase"), ScoreName("score of the second phase")


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        name: by which it is asked for.
        select: chooses.
        summary: what it keeps, in a few words.
        source: paper, or empty.
        encoder_attention: whether requests must have it.
        options: of ``METHOD_OPTIONS`` those that it reads; others are refused.
        scores: how its ``similarity`` and its ``attention`` are called.
        random: whether it draws by ``seed``, so that results are averaged over several.
        operations: counts those of a choice.
    """

    name: str
    select: Select
    summary: str
    source: str = ""
    encoder_attention: bool = False
    options: frozenset[str] = frozenset()
    scores: tuple[ScoreName, ScoreName] = (FIRST, SECOND)
    random: bool = False
    operations: Operations = no_operations

    @property
    def two_phases(self) -> bool:
        """Whether the balance of its phases can be chosen."""
        return "candidates" in self.options


METHOD_OPTIONS = frozenset({"candidates", "frame_temperature", "attention", "single_head"})
"""Fields of ``PruningOptions`` that some methods read and others do not."""


def _named(select: Select) -> str:
    # An object that is called has no name of its own: its class has.
    return str(getattr(select, "__qualname__", type(select).__qualname__))


METHODS: dict[str, Method] = {}
"""Every registered method by its name, in the order of registration."""


def method(
    name: str,
    *,
    summary: str,
    source: str = "",
    encoder_attention: bool = False,
    options: Collection[str] = (),
    scores: tuple[ScoreName, ScoreName] = (FIRST, SECOND),
    random: bool = False,
    operations: Operations = no_operations,
) -> Callable[[Select], Select]:
    """Register a function from ``Request`` to ``Selection`` as a method.

    Args:
        name: by which it is asked for.
        summary: what it keeps, in a few words.
        source: the paper that it is from.
        encoder_attention: it reads ``request.encoder_attention``.
        options: that it reads, of ``METHOD_OPTIONS``: ``candidates`` where it calls
            ``request.candidates``, ``frame_temperature`` where it calls ``request.by_similarity``,
            ``attention`` and ``single_head`` where it calls ``request.by_attention``.
        scores: how its ``similarity`` and its ``attention`` are called.
        random: it draws by ``request.options.seed``.
        operations: counts those of a choice, for profiles.

    Raises:
        OptionError: another function has that name, or there is no such option.
    """
    if not isinstance(name, str) or not name:
        raise OptionError(f"A method's name must be a text, not {name!r}.")
    unknown = sorted(set(options) - METHOD_OPTIONS)
    if unknown:
        raise OptionError(
            f"The method {name!r} reads {unknown[0]!r}, which is none of "
            f"{', '.join(sorted(METHOD_OPTIONS))}."
        )

    def register(select: Select) -> Select:
        there = METHODS.get(name)
        # A file that is read twice may register itself again.
        if there is not None and _named(there.select) != _named(select):
            raise OptionError(f"There is a method {name!r} already: give yours another name.")
        METHODS[name] = Method(
            name,
            select,
            summary,
            source,
            encoder_attention,
            frozenset(options),
            scores,
            random,
            operations,
        )
        return select

    return register
