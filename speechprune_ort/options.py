"""What a caller may choose: how audio is pruned and how an answer is generated."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypedDict, get_args

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
from speechprune_ort.errors import OptionError
from speechprune_ort.numbers import check_number, take_plain, whole
from speechprune_ort.runtime.choosing.methods import METHOD_OPTIONS, METHODS, Method
from speechprune_ort.text import check_text

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
    "unused_options",
]


def check_long_audio(value: str) -> None:
    """Refuse what is none of ``LongAudio``.

    Raises:
        OptionError: it is not.
    """
    check_choice("long_audio", value, get_args(LongAudio))


def check_method(name: object) -> None:
    """Refuse what is no registered method.

    Raises:
        OptionError: it is not; the message has those that are.
    """
    check_choice("method", name, tuple(METHODS))
    if not isinstance(METHODS[str(name)], Method):
        raise OptionError(f"The method {name!r} is not registered: use the decorator `method`.")


@dataclass(frozen=True, slots=True)
class PruningOptions:
    """Which audio tokens reach the language model.

    Attributes:
        method: ``speechprune`` (both phases of arXiv:2412.12009), ``similarity`` (phase 1
            alone), ``attention`` (phase 2 alone), ``coverage`` (our own: passages in which the
            most words of the question are spoken), ``passages`` (our own: of such passages what
            stands out from the recording's mean), ``segment-attention`` (arXiv:2511.14293),
            ``affinity-pooling`` (arXiv:2604.06871), ``fastadasp`` (arXiv:2410.03007), ``random``
            tokens, ``crop`` (one random contiguous stretch), ``truncate`` (the beginning of the
            recording, as today's stacks do it), ``none`` (every token), or one of the user's own
            (``speechprune_ort.methods``).
        pruning_rate: share of the budget that is removed, 0 <= rate < 1, the paper's PR. Of
            a 750-token budget 0.2 leaves 600 tokens, however long the recording is. ``auto`` keeps
            as many as fit the model's context beside prompt and answer, and both targets below;
            results say how many these are and what bounded them.
        budget: tokens that the pruning rate is a share of, and that phase 1 of ``speechprune``
            leaves; None takes one window of the model (750 for Qwen2-Audio).
        candidates: tokens that the first phase leaves to the second for each one that is kept, at
            least 1: the balance of the phases, of methods that have two (``speechprune``,
            ``passages``). 1 is the first phase
            alone; as many as there are the second. None takes the method's own: the budget for
            ``speechprune``, 4 for ``passages``.
        frame_temperature: of the softmax over one-second frames, eq. 6, of ``speechprune`` and
            ``similarity``; 1.0 is the paper's. Lower
            concentrates the budget on the best frames, higher spreads it. None takes the
            bundle's, which is 1.0 unless its checkpoint names another.
        attention: of ``speechprune`` and ``attention``: phase 2 from sign-binarized projections
            (the paper's, eq. 9-10) or from the layer's own float ones (the ablation that shows
            what binarizing costs).
        single_head: of the same two: phase 2 over the whole width instead of head by head.
        seed: of ``random`` and ``crop``.
        positions: ``renumbered`` gives kept tokens consecutive positions (what the paper's
            setting amounts to); ``original`` leaves each at the position that it had.
        backend: what scores the tokens: ``numpy`` on the host, or ``ort``: the bundle's graphs on
            its device, where embeddings then stay. ``auto`` takes ``ort`` on CUDA and ``numpy``
            on the CPU, the faster each (``scripts/bench/bench_pruning.py``).
        latency_target: seconds that reading the prompt may take, for ``auto``; how long it takes
            on this device is measured once, when it is first wanted.
        memory_target_mb: 1e6 bytes that the decoder's cache and activations may take, for
            ``auto``.

    Raises:
        OptionError: a value is out of range, or an option is set that the method does not read.
    """

    method: str = DEFAULT_METHOD
    pruning_rate: float | Literal["auto"] = 0.2
    budget: int | None = None
    candidates: float | None = None
    frame_temperature: float | None = None
    attention: AttentionForm = "binarized"
    single_head: bool = False
    seed: int = 0
    positions: Positions = "renumbered"
    backend: Backend = "auto"
    latency_target: float | None = None
    memory_target_mb: float | None = None

    def __post_init__(self) -> None:
        take_plain(self)
        check_method(self.method)
        check_choice("attention", self.attention, get_args(AttentionForm))
        check_choice("positions", self.positions, get_args(Positions))
        check_choice("backend", self.backend, get_args(Backend))
        rate = self.pruning_rate
        if rate != "auto":
            check_number(
                "pruning_rate",
                rate,
                isinstance(rate, (int, float)) and 0 <= rate < 1,
                "at least 0 and below 1, or auto",
            )
        for name in ("frame_temperature", "latency_target", "memory_target_mb"):
            value = getattr(self, name)
            if value is None:
                continue
            ok = isinstance(value, (int, float)) and 0 < value < math.inf
            check_number(name, value, ok, "positive and finite")
        for name in ("latency_target", "memory_target_mb"):
            if getattr(self, name) is not None and rate != "auto":
                raise OptionError(f"{name} needs pruning_rate='auto': give both or neither.")
        if self.budget is not None:
            whole("budget", self.budget, 1)
        if self.candidates is not None:
            self._check_candidates(self.candidates)
        whole("seed", self.seed, 0)
        check_flag("single_head", self.single_head)
        self._check_used()

    def _check_candidates(self, value: object) -> None:
        ok = isinstance(value, (int, float)) and 1 <= value < math.inf
        check_number("candidates", value, ok, "at least 1 and finite")

    def _check_used(self) -> None:
        """Refuse what the method would not look at."""
        for name in unused_options(self):
            users = [m.name for m in METHODS.values() if name in m.options]
            raise OptionError(
                f"The method {self.method} does not read {name}: leave it out, or use a method "
                f"that does ({', '.join(users)})."
            )
        if self.method == EVERY_TOKEN and (self.budget is not None or self.pruning_rate == "auto"):
            name = "pruning_rate='auto'" if self.budget is None else "budget"
            raise OptionError(f"The method none keeps every token: leave out {name}.")

    def for_method(self, method: str, **changes: Any) -> PruningOptions:
        """The same for another method, without what that does not read.

        Args:
            method: its name.
            **changes: fields to set besides.

        Raises:
            OptionError: a value is out of range.
        """
        check_method(method)
        dropped: dict[str, Any] = {name: DEFAULTS[name] for name in unused_options(self, method)}
        if method == EVERY_TOKEN:
            dropped["budget"] = None
        return replace(self, method=method, **(dropped | changes))

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

    def candidate_tokens(self, kept: int, total: int, default: int) -> int:
        """How many tokens a first phase leaves to a second, of methods that have two.

        Args:
            kept: tokens that are kept in the end.
            total: audio tokens of the recording.
            default: the method's own number.

        Returns:
            ``candidates`` for each that is kept or the default; at least ``kept``, at most
            ``total``.

        >>> PruningOptions(method="speechprune", candidates=1.5).candidate_tokens(300, 2200, 750)
        450
        >>> PruningOptions(method="speechprune").candidate_tokens(300, 2200, 750)
        750
        """
        wanted = default if self.candidates is None else round(min(self.candidates * kept, total))
        return min(total, max(kept, wanted))


DEFAULTS = {field.name: field.default for field in fields(PruningOptions)}


def unused_options(options: PruningOptions, method: str | None = None) -> list[str]:
    """Names of the options that are set and that a method does not read.

    Args:
        options: all of them.
        method: its name; by default the options' own.
    """
    read = METHODS[method or options.method].options
    return [n for n in sorted(METHOD_OPTIONS - read) if getattr(options, n) != DEFAULTS[n]]


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    """How the answer's tokens are chosen.

    Attributes:
        max_new_tokens: upper bound on the answer's length, in tokens.
        temperature: 0 is greedy; above 0 samples from the softmax of logits / temperature.
        top_p: sample from the smallest set of tokens whose probability reaches this share,
            0 < top_p <= 1. Without effect when greedy.
        seed: of sampling.
        stop: the answer ends before the first of these strings; the string is not returned.
        ignore_stop: go on after the model's own end of the answer, up to ``max_new_tokens``: for
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

    def __post_init__(self) -> None:
        take_plain(self)
        whole("max_new_tokens", self.max_new_tokens, 1)
        warmth, share = self.temperature, self.top_p
        check_number(
            "temperature",
            warmth,
            isinstance(warmth, (int, float)) and 0 <= warmth < math.inf,
            "0 (greedy) or positive and finite",
        )
        check_number(
            "top_p",
            share,
            isinstance(share, (int, float)) and 0 < share <= 1,
            "above 0 and at most 1",
        )
        whole("seed", self.seed, 0)
        check_flag("ignore_stop", self.ignore_stop)
        # A set has no order, and what reads them would depend on it.
        if not isinstance(self.stop, (tuple, list)) or not all(
            isinstance(text, str) and text for text in self.stop
        ):
            raise OptionError(f"stop must be a tuple of non-empty strings, not {self.stop!a:.80}.")
        for text in self.stop:
            check_text(text, "A stop string", OptionError)
        object.__setattr__(self, "stop", tuple(self.stop))


class Options(TypedDict, total=False):
    """Fields of ``PruningOptions`` and of ``GenerationOptions`` as keyword arguments.

    ``seed`` is set in both.
    """

    method: str
    pruning_rate: float | Literal["auto"]
    budget: int | None
    candidates: float | None
    frame_temperature: float | None
    attention: AttentionForm
    single_head: bool
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
