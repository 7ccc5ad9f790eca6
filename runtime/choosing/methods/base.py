"""What a method of choosing audio tokens is given, what it gives back, and how it is registered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.choices import AttentionForm
from speechprune_ort.contract.contained import contained
from speechprune_ort.errors import OptionError, SpeechPruneError
from speechprune_ort.numbers import check_number, take_plain
from speechprune_ort.runtime.choosing.pruning import keep_by_attention, keep_by_similarity

if TYPE_CHECKING:  # methods are known where ONNX Runtime is not installed
    from speechprune_ort.runtime.choosing.scoring import Scorer

__all__ = [
    "METHODS",
    "PHASES",
    "Measure",
    "Method",
    "MethodOptions",
    "Request",
    "Scores",
    "Selection",
    "TwoPhases",
    "Work",
    "is_ours",
    "method",
    "untimed",
]

PHASES = ("phase_1", "phase_2")
"""Stages of an answer that a method times and counts; all others are not its own."""
PAPER_TEMPERATURE = 1.0
SIMILARITY = "similarity to the question"
"""What scores of ``Scorer.similarity`` are called."""

Measure = Callable[[str], AbstractContextManager[None]]
"""Times a block under a name, such as ``Timings.measure``."""


def untimed(_: str) -> AbstractContextManager[None]:
    """Times nothing."""
    return nullcontext()


def is_ours(defined: object) -> bool:
    """Whether a function or class is this package's.

    A defect of ours shows its traceback; a plugin's is its author's, and named.
    """
    return str(getattr(defined, "__module__", "")).startswith("speechprune_ort.runtime.")


@dataclass(frozen=True)
class MethodOptions:
    """Options of a method: none. Those of other methods are frozen dataclasses derived from it.

    Fields have defaults; what they may hold is checked in ``check``.

    Raises:
        OptionError: a value is out of range.
    """

    def __post_init__(self) -> None:
        take_plain(self)
        if is_ours(type(self)):
            self.check()
            return
        kind = type(self).__name__
        with contained(f"The check of the options {kind}", passing=(SpeechPruneError,)):
            found: object = self.check()  # type: ignore[func-returns-value]
        if found is not None:
            raise OptionError(
                f"The check of the options {kind} gave a {type(found).__name__}: it must raise "
                "OptionError, or return nothing."
            )

    def check(self) -> None:
        """Refuse values that are out of range.

        Raises:
            OptionError: one is.
        """

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Names of the options, in order.

        >>> TwoPhases.names()
        ('candidates',)
        """
        return tuple(field.name for field in fields(cls))


@dataclass(frozen=True)
class TwoPhases(MethodOptions):
    """The balance of two phases.

    Attributes:
        candidates: tokens that the first phase leaves to the second for each one that is kept, at
            least 1. 1 makes it the first phase alone; as many as there are tokens make it the
            second. None takes the method's own number.
    """

    candidates: float | None = None

    def check(self) -> None:
        """See ``MethodOptions``."""
        super().check()
        if self.candidates is not None:
            check_number(
                "candidates", self.candidates, lambda number: number >= 1, "at least 1 and finite"
            )

    def candidate_tokens(self, kept: int, total: int, default: int) -> int:
        """How many tokens the first phase leaves to the second.

        Args:
            kept: tokens that are kept in the end.
            total: audio tokens of the recording.
            default: the method's own number.

        Returns:
            ``candidates`` for each that is kept or the default; at least ``kept``, at most
            ``total``.

        >>> TwoPhases(candidates=1.5).candidate_tokens(300, 2200, 750)
        450
        >>> TwoPhases().candidate_tokens(300, 2200, 750)
        750
        """
        wanted = default if self.candidates is None else round(min(self.candidates * kept, total))
        return min(total, max(kept, wanted))


Own = TypeVar("Own", bound=MethodOptions)


@dataclass(frozen=True)
class Scores:
    """Scores of audio tokens that a method went by.

    Attributes:
        name: what people see them called: a few words, with the unit.
        values: (n,) float32, one for each of ``tokens``.
        tokens: (n,) int64, the tokens that the method still chose among; None for all of them.
        of_one: whether they are shares of 1, which are shown in multiples of an even share.
    """

    name: str
    values: NDArray[np.float32]
    tokens: NDArray[np.int64] | None = None
    of_one: bool = False


@dataclass(frozen=True)
class Selection:
    """What a method kept, and the scores that it went by.

    Attributes:
        indices: (kept,) int64, ascending; for merged tokens the first of each group.
        scores: in the order in which the method went by them.
        embeds: (kept, hidden) in place of the kept tokens' own, from a method that merges; or None.
    """

    indices: NDArray[np.int64]
    scores: tuple[Scores, ...] = ()
    embeds: NDArray[Any] | None = None


@dataclass(frozen=True)
class Request(Generic[Own]):
    """What a method is given.

    Attributes:
        own: the method's own options, as the caller set them.
        seed: seed for methods in which chance decides.
        scorer: scores tokens, wherever the embeddings lie.
        n_keep: tokens to keep, at least 1 and at most ``tokens``.
        budget: tokens that phase 1 leaves to phase 2, at least ``n_keep``.
        frame_tokens: tokens of a frame of phase 1: of a second, as in the paper, or of the shortest
            time near it that whole tokens fill.
        encoder_attention: (tokens,) float32, the attention that each token receives in the audio
            encoder's last layer, 1 on average; only for methods that are registered as needing it.
        decoder_attention: (tokens,) float32, the attention that each token receives from the
            prompt's last position behind the decoder's first layers, which have read all of them;
            likewise.
        measure: times a block as one of ``PHASES``.
        tokens_per_second: of sound; None where a frame is a second.
    """

    own: Own
    seed: int
    scorer: Scorer
    n_keep: int
    budget: int
    frame_tokens: int
    encoder_attention: NDArray[np.float32] | None = None
    decoder_attention: NDArray[np.float32] | None = None
    measure: Measure = untimed
    tokens_per_second: float | None = None

    def tokens_in(self, seconds: float) -> int:
        """Audio tokens of so many seconds, at least 1."""
        rate = self.frame_tokens if self.tokens_per_second is None else self.tokens_per_second
        return max(1, round(seconds * rate))

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

    def by_similarity(self, n_keep: int, temperature: float = PAPER_TEMPERATURE) -> Selection:
        """SpeechPrune's phase 1 over all tokens, eq. 3-8.

        Args:
            n_keep: tokens to keep.
            temperature: temperature of the softmax over frames, eq. 6.
        """
        with self.measure("phase_1"):
            scores = self.scorer.similarity()
            kept = keep_by_similarity(scores, n_keep, self.frame_tokens, temperature)
        return Selection(kept, (Scores(SIMILARITY, scores),))

    def by_attention(
        self,
        candidates: NDArray[np.int64],
        form: AttentionForm = "binarized",
        single_head: bool = False,
    ) -> Selection:
        """SpeechPrune's phase 2 among ``candidates``, eq. 9-12.

        Args:
            candidates: tokens that are left to it.
            form: form of the first layer's projections.
            single_head: whether to compute over the whole width instead of head by head.
        """
        with self.measure("phase_2"):
            scores = self.scorer.attention(candidates, form, single_head)
            if len(scores) != len(candidates):
                raise OptionError(
                    f"project gave {len(scores)} tokens for {len(candidates)}: "
                    "it must keep each one."
                )
            kept = keep_by_attention(scores, self.n_keep)
        found = Scores("attention received, 1 = even", scores, candidates, of_one=True)
        return Selection(candidates[kept], (found,))


Select = Callable[[Request[Any]], Selection]


@dataclass(frozen=True)
class Work(Generic[Own]):
    """Sizes of a choice, to count its operations.

    Attributes:
        own: the method's own options, as the caller set them.
        tokens: audio tokens of the recording.
        kept: number of them that are kept.
        budget: tokens that phase 1 leaves to phase 2, where the options do not say.
        words: tokens of the question.
        hidden: width of an embedding.
        heads: heads of the language model's attention.
        head_dim: width of a head.
        projection: operations of the first layer's query and key projections, by tokens.
    """

    own: Own
    tokens: int
    kept: int
    budget: int
    words: int
    hidden: int
    heads: int
    head_dim: int
    projection: Callable[[int], int]


Operations = Callable[[Work[Any]], Mapping[str, int]]
"""Counts floating point operations of one or both of ``PHASES``, two per multiplication and
addition."""


def no_operations(_: Work[Any]) -> Mapping[str, int]:
    """Counts nothing: for methods that multiply nothing."""
    return {}


def products_with_text(work: Work[Any]) -> Mapping[str, int]:
    """Operations of ``Request.by_similarity``: a product and a norm of each token."""
    return {"phase_1": 4 * work.tokens * work.hidden}


def products_of_pairs(work: Work[Any], candidates: int) -> Mapping[str, int]:
    """Operations of ``Request.by_attention``: projections, and products of queries with keys."""
    if work.kept >= candidates:  # there is nothing to choose
        return {}
    pairs = 2 * candidates * candidates * work.heads * work.head_dim
    return {"phase_2": work.projection(candidates) + pairs}


@dataclass(frozen=True)
class Method:
    """A registered method.

    Attributes:
        name: the name by which it is asked for.
        select: the function that chooses.
        summary: what it keeps, in a few words.
        source: paper, or empty.
        encoder_attention: whether requests must have it.
        decoder_attention: whether requests must have it; what is not kept is then dropped behind
            the decoder's first layers.
        options: class of its own options.
        random: whether it draws by ``seed``, so that results are averaged over several.
        operations: counts those of a choice.
    """

    name: str
    select: Select
    summary: str
    source: str = ""
    encoder_attention: bool = False
    decoder_attention: bool = False
    options: type[MethodOptions] = MethodOptions
    random: bool = False
    operations: Operations = no_operations

    @property
    def two_phases(self) -> bool:
        """Whether the balance of its phases can be chosen."""
        return issubclass(self.options, TwoPhases)


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
    decoder_attention: bool = False,
    options: type[MethodOptions] = MethodOptions,
    random: bool = False,
    operations: Operations = no_operations,
) -> Callable[[Select], Select]:
    """Register a function from ``Request`` to ``Selection`` as a method.

    Args:
        name: the name by which it is asked for.
        summary: what it keeps, in a few words.
        source: the paper that it is from.
        encoder_attention: whether it reads ``request.encoder_attention``.
        decoder_attention: whether it reads ``request.decoder_attention``: then the decoder's first
            layers read every token, and the others what the method keeps.
        options: class of its own options, which it finds in ``request.own``.
        random: whether it draws by ``request.seed``.
        operations: counts those of a choice, for profiles.

    Raises:
        OptionError: another function has that name, or an argument is of another type.
    """
    if not isinstance(name, str) or not name:
        raise OptionError(f"A method's name must be a text, not {name!r}.")
    for field, value in (("summary", summary), ("source", source)):
        if not isinstance(value, str):
            raise OptionError(f"The {field} of the method {name!r} must be a text, not {value!r}.")
    flags = (
        ("encoder_attention", encoder_attention),
        ("decoder_attention", decoder_attention),
        ("random", random),
    )
    for field, flag in flags:
        if not isinstance(flag, bool):
            raise OptionError(
                f"{field} of the method {name!r} must be True or False, not {flag!r}."
            )
    if not callable(operations):
        raise OptionError(
            f"The operations of the method {name!r} must be a function, not {operations!r}."
        )
    if not (
        isinstance(options, type) and issubclass(options, MethodOptions) and is_dataclass(options)
    ):
        raise OptionError(
            f"The options of the method {name!r} must be a frozen dataclass that inherits from "
            f"MethodOptions, not {options!a:.80}."
        )
    if any("names" in vars(kind) for kind in options.__mro__ if kind is not MethodOptions):
        raise OptionError(
            f"The options of the method {name!r} define names, which MethodOptions has: give that "
            "another name."
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
            decoder_attention,
            options,
            random,
            operations,
        )
        return select

    return register
