"""What a caller may choose: how audio is pruned and how an answer is generated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Unpack, get_args

from speechprune_ort.choices import (
    DEFAULT_METHOD,
    EVERY_TOKEN,
    AttentionForm,
    Backend,
    DeviceName,
    LongAudio,
    Positions,
    check_choice,
    check_flag,
)
from speechprune_ort.contract.contained import contained
from speechprune_ort.errors import OptionError, SpeechPruneError
from speechprune_ort.numbers import (
    LARGEST_MB,
    LONGEST,
    check_number,
    check_positive,
    take_plain,
    whole,
)
from speechprune_ort.runtime.choosing.methods import METHODS, Method, MethodOptions, OwnOptions
from speechprune_ort.runtime.choosing.methods.base import is_ours
from speechprune_ort.text import check_text, shown

__all__ = [
    "DEFAULT_METHOD",
    "AttentionForm",
    "Backend",
    "DeviceName",
    "GenerationOptions",
    "LongAudio",
    "Options",
    "Positions",
    "PruningOptions",
    "check_long_audio",
    "check_method",
    "own_options",
]

PENALTIES = (1e-3, 1e3)
"""Penalties of repetition that a logit times one of them has room for; useful are 1 to 2."""


def check_long_audio(value: str) -> None:
    """Refuse a value that is not one of ``LongAudio``.

    Raises:
        OptionError: it is not.
    """
    check_choice("long_audio", value, get_args(LongAudio))


def check_method(name: object) -> None:
    """Refuse a name that is not a registered method.

    Raises:
        OptionError: it is not; the message lists those that are.
    """
    check_choice("method", name, tuple(METHODS))
    if not isinstance(METHODS[str(name)], Method):
        raise OptionError(f"The method {name!r} is not registered: use the decorator `method`.")


def own_options(method: str, given: Mapping[str, Any]) -> MethodOptions:
    """Options of a method by their names.

    Args:
        method: name of a registered method.
        given: values; None for an option that the method does not have counts as not given.

    Raises:
        OptionError: the method has no option of such a name, or a value is out of range.

    >>> own_options("passages", {"candidates": 2})
    Passages(candidates=2)
    """
    kind = METHODS[method].options
    given = {n: v for n, v in given.items() if n in kind.names() or v is not None}
    for name in sorted(set(given) - set(kind.names())):
        users = [m.name for m in METHODS.values() if name in m.options.names()]
        cure = f", or use a method that does ({', '.join(users)})" if users else ""
        known = f" Its options are {', '.join(kind.names())}." if kind.names() else ""
        raise OptionError(f"The method {method} does not read {name}: leave it out{cure}.{known}")
    if is_ours(kind):
        return kind(**given)
    what = f"The class {kind.__name__} of options of the method {method!r}"
    with contained(what, passing=(SpeechPruneError,)):
        return kind(**given)


def _is_plain(value: object) -> bool:
    """Whether JSON has such a value."""
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _method_of(own: MethodOptions) -> str:
    """Name of the method that options belong to.

    Raises:
        OptionError: they are those of no method, or of several.
    """
    names = [name for name, found in METHODS.items() if found.options is type(own)]
    if len(names) != 1:
        kind = type(own).__name__
        of = "no registered method" if not names else f"several methods, {', '.join(names)}"
        raise OptionError(f"{kind} are options of {of}: give the method's name, and these as own=.")
    return names[0]


@dataclass(frozen=True, slots=True, init=False)
class PruningOptions:
    """Which audio tokens reach the language model.

    A method's own options can be given in three equivalent ways:

    >>> from speechprune_ort.methods import SpeechPrune
    >>> short = PruningOptions("speechprune", candidates=2)
    >>> short == PruningOptions(SpeechPrune(candidates=2))
    True
    >>> short == PruningOptions("speechprune", own=SpeechPrune(candidates=2))
    True

    Attributes:
        method: ``speechprune`` (both phases of arXiv:2412.12009), ``similarity`` (phase 1 alone),
            ``attention`` (phase 2 alone), ``coverage`` (our own: passages in which the most words
            of the question are spoken), ``passages`` (our own: what stands out in such passages
            from the recording's mean), ``focused-pooling`` (our own: neighbours merged, the fewer
            in one the more of the question's words are spoken there), ``segment-attention``
            (arXiv:2511.14293), ``affinity-pooling`` (arXiv:2604.06871), ``fastadasp``
            (arXiv:2410.03007), ``cdpruner`` (arXiv:2506.10967), ``sa-map`` (preprints.org
            202606.0741), ``fastv`` of arXiv:2403.06764 (within the language model, behind its first
            layers), ``random`` tokens, ``crop`` (one random contiguous stretch), ``truncate`` (the
            beginning of the recording, as other stacks do), ``none`` (every token), or a method of
            your own (``speechprune_ort.methods``).
        pruning_rate: share of the budget that is removed, 0 <= rate < 1, the paper's PR. Of
            a 750-token budget 0.2 leaves 600 tokens, however long the recording is. ``auto`` keeps
            as many as fit the model's context along with prompt and answer, and both targets below;
            results say how many these are and what the limit was.
        budget: tokens that the pruning rate is a share of, and that phase 1 of ``speechprune``
            leaves; None takes one window of the model (750 for Qwen2-Audio).
        own: options of the method itself, an object of its class.
        seed: for methods that draw at random, ``random`` and ``crop``.
        positions: ``renumbered`` gives kept tokens consecutive positions (what the paper's
            setting amounts to); ``original`` leaves each at the position that it had.
        backend: what scores the tokens: ``numpy`` on the host, or ``ort``: the bundle's graphs on
            its device, where embeddings then stay. ``auto`` takes ``ort`` on CUDA and ``numpy``
            on the CPU, whichever is faster there (``scripts/bench/bench_pruning.py``).
        latency_target: seconds that reading the prompt may take, for ``auto``; how long it takes
            on this device is measured once, on first use.
        memory_target_mb: 1e6 bytes that the decoder's cache and activations may take, for
            ``auto``.

    Raises:
        OptionError: a value is out of range, or an option is set that the method does not have.
    """

    method: str
    pruning_rate: float | Literal["auto"]
    budget: int | None
    own: MethodOptions
    seed: int
    positions: Positions
    backend: Backend
    latency_target: float | None
    memory_target_mb: float | None

    def __init__(
        self,
        method: str | MethodOptions = DEFAULT_METHOD,
        pruning_rate: float | Literal["auto"] = 0.2,
        budget: int | None = None,
        *,
        own: MethodOptions | None = None,
        seed: int = 0,
        positions: Positions = "renumbered",
        backend: Backend = "auto",
        latency_target: float | None = None,
        memory_target_mb: float | None = None,
        **options: Unpack[OwnOptions],
    ) -> None:
        if isinstance(method, MethodOptions):
            if own is not None:
                raise OptionError("The method's options are given twice: leave out own=.")
            own = method
            method = _method_of(own)
        check_method(method)
        if own is None:
            own = own_options(method, options)
        elif type(own) is not METHODS[method].options:
            kind = METHODS[method].options.__name__
            raise OptionError(f"own= of the method {method} must be {kind}, not {shown(own)}.")
        elif options:
            own = own_options(method, asdict(own) | dict(options))
        values = (method, pruning_rate, budget, own, seed, positions, backend, latency_target,
                  memory_target_mb)  # fmt: skip
        for field, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, field.name, value)
        self._check()

    def _check(self) -> None:
        take_plain(self)
        check_choice("positions", self.positions, get_args(Positions))
        check_choice("backend", self.backend, get_args(Backend))
        rate, auto = self.pruning_rate, isinstance(self.pruning_rate, str)
        if not auto or rate != "auto":
            check_number(
                "pruning_rate", rate, lambda rate: 0 <= rate < 1, "at least 0 and below 1, or auto"
            )
        for name, most in (("latency_target", LONGEST), ("memory_target_mb", LARGEST_MB)):
            value = getattr(self, name)
            if value is None:
                continue
            check_positive(name, value, most)
            if not auto:
                raise OptionError(f"{name} needs pruning_rate='auto': give both or neither.")
        if self.budget is not None:
            whole("budget", self.budget, 1)
        whole("seed", self.seed, 0)
        for name in self.own.names():
            if not _is_plain(value := getattr(self.own, name)):
                raise OptionError(
                    f"The option {name} of the method {self.method!r} must be a number, a text, "
                    f"true or false, or a list of these, not a {type(value).__name__}."
                )
        if self.method == EVERY_TOKEN and (self.budget is not None or rate == "auto"):
            name = "pruning_rate='auto'" if self.budget is None else "budget"
            raise OptionError(f"The method none keeps every token: leave out {name}.")
        if METHODS[self.method].decoder_attention and rate == "auto":
            raise OptionError(
                f"The method {self.method} has the decoder's first layers read every token, which "
                "pruning_rate='auto' cannot bound: give a number."
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, with the method's own options among the others."""
        return {
            **{name: v for name, v in asdict(self).items() if name != "own"},
            **asdict(self.own),
        }

    def for_method(self, method: str, **changes: Any) -> PruningOptions:
        """The same options for another method, without those that it does not have.

        Args:
            method: its name.
            **changes: fields to set besides.

        Raises:
            OptionError: a value is out of range.
        """
        check_method(method)
        has = METHODS[method].options.names()
        own = own_options(method, {n: v for n, v in asdict(self.own).items() if n in has})
        kept: dict[str, Any] = {"budget": None} if method == EVERY_TOKEN else {}
        return replace(self, method=method, own=own, **(kept | changes))

    @property
    def rate(self) -> float:
        """The pruning rate as a number.

        Raises:
            OptionError: it is ``auto``, which only a recording and a question settle.
        """
        if isinstance(self.pruning_rate, str):
            raise OptionError("pruning_rate='auto' depends on the recording: give a number.")
        return self.pruning_rate

    def kept_tokens(self, total: int, window_tokens: int) -> int:
        """How many of ``total`` audio tokens these options keep.

        Args:
            total: audio tokens of the recording.
            window_tokens: tokens of one window of the model, the default budget.

        Returns:
            ``total`` for method ``none``; otherwise the budget less the pruning rate,
            rounded to the nearest token, at least 1 and at most ``total``.

        >>> PruningOptions(pruning_rate=0.2).kept_tokens(2200, 750)
        600
        >>> PruningOptions(pruning_rate=0.2).kept_tokens(100, 750)
        80
        """
        if self.method == EVERY_TOKEN:
            return total
        budget = min(self.budget or window_tokens, total)
        return max(1, min(total, round(budget * (1 - self.rate))))


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How the answer's tokens are chosen.

    Attributes:
        max_new_tokens: upper bound on the answer's length, in tokens.
        temperature: 0 is greedy; above 0 samples from the softmax of logits / temperature.
        top_p: sample from the smallest set of tokens whose probability reaches this share,
            0 < top_p <= 1. Has no effect when greedy.
        repetition_penalty: the logit of a token that the answer has said already is divided by
            this, or multiplied where it is negative (arXiv:1909.05858, section 4.1); 0.001 to
            1000, and 1 leaves it.
        no_repeat_ngram_size: no run of so many tokens stands twice in an answer, which ends the
            loops that greedy search falls into; 0 allows any.
        seed: seed for sampling.
        stop: the answer ends before the first of these strings; the string is not returned.
        ignore_stop: continue past the model's own end of the answer, up to ``max_new_tokens``: for
            measurements that need answers of one length.

    Raises:
        OptionError: a value is out of range.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    ignore_stop: bool = False
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0

    def __post_init__(self) -> None:
        take_plain(self)
        whole("max_new_tokens", self.max_new_tokens, 1)
        check_number(
            "temperature",
            self.temperature,
            lambda warmth: warmth >= 0,
            "0 (greedy) or positive and finite",
        )
        check_positive("top_p", self.top_p, 1)
        least, most = PENALTIES
        check_number(
            "repetition_penalty",
            self.repetition_penalty,
            lambda penalty: least <= penalty <= most,
            f"from {least:g} to {most:g}",
        )
        whole("no_repeat_ngram_size", self.no_repeat_ngram_size, 0)
        whole("seed", self.seed, 0)
        check_flag("ignore_stop", self.ignore_stop)
        # A set has no order, and what is done with them would depend on it.
        if not isinstance(self.stop, (tuple, list)):
            raise OptionError(f"stop must be a tuple of non-empty strings, not {shown(self.stop)}.")
        for text in self.stop:
            if not isinstance(text, str) or not text:
                raise OptionError(
                    f"stop must be a tuple of non-empty strings, and has {shown(text)}."
                )
            check_text(text, "A stop string", OptionError)
        object.__setattr__(self, "stop", tuple(self.stop))


class Options(OwnOptions, total=False):
    """Fields of ``PruningOptions`` and of ``GenerationOptions`` as keyword arguments.

    ``seed`` is set in both.
    """

    method: str | MethodOptions
    pruning_rate: float | Literal["auto"]
    budget: int | None
    own: MethodOptions
    seed: int
    positions: Positions
    backend: Backend
    latency_target: float | None
    memory_target_mb: float | None
    max_new_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...]
    ignore_stop: bool
    repetition_penalty: float
    no_repeat_ngram_size: int
