"""Choosing by the method that the options name, and counting what that costs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.contract.contained import contained
from speechprune_ort.errors import OptionError
from speechprune_ort.options import PruningOptions
from speechprune_ort.runtime.choosing.methods import (
    METHODS,
    Method,
    Request,
    Scores,
    Selection,
    Work,
)
from speechprune_ort.runtime.choosing.methods.base import PHASES, Measure, is_ours, untimed
from speechprune_ort.runtime.choosing.scoring import Scorer

__all__ = ["operations_of", "select"]


def select(
    options: PruningOptions,
    scorer: Scorer,
    *,
    window_tokens: int,
    frame_tokens: int,
    encoder_attention: NDArray[np.float32] | None = None,
    decoder_attention: NDArray[np.float32] | None = None,
    measure: Measure = untimed,
    tokens_per_second: float | None = None,
) -> Selection:
    """Choose which audio tokens reach the language model.

    Args:
        options: method, rate, budget and the rest.
        scorer: scores the recording's tokens for the question; used only by methods that need it.
        window_tokens: tokens of one window, the default budget.
        frame_tokens: tokens of a frame of phase 1.
        encoder_attention: (tokens,) attention received in the audio encoder's last layer, where
            it was recorded.
        decoder_attention: (tokens,) attention received behind the decoder's first layers, where
            they have read them.
        measure: times those of ``PHASES`` that the method has.
        tokens_per_second: of sound; None where a frame is a second.

    Returns:
        Exactly ``options.kept_tokens(tokens, window_tokens)`` tokens, in time order.

    Raises:
        OptionError: there are no audio tokens, a size is below 1, a method that reads the
            embeddings finds them of different widths or not finite, it needs the encoder's or the
            decoder's attention and that is not there, or a method of the user's own fails or does
            not return a selection of that many tokens.
    """
    tokens = scorer.tokens
    for name, size in (
        ("audio tokens", tokens),
        ("window_tokens", window_tokens),
        ("frame_tokens", frame_tokens),
    ):
        if size < 1:
            raise OptionError(f"{name} must be at least 1, not {size}.")
    method = METHODS[options.method]
    if method.encoder_attention and encoder_attention is None:
        raise OptionError(
            f"{method.name} needs the audio encoder's attention: listen to the recording with "
            "encoder_attention=True."
        )
    if method.decoder_attention and decoder_attention is None:
        raise OptionError(
            f"{method.name} needs the decoder's attention: ask with a bundle that was exported "
            "with --cut-after 2."
        )
    request = Request(
        own=options.own,
        seed=options.seed,
        scorer=scorer,
        n_keep=options.kept_tokens(tokens, window_tokens),
        budget=min(options.budget or window_tokens, tokens),
        frame_tokens=frame_tokens,
        encoder_attention=encoder_attention,
        decoder_attention=decoder_attention,
        measure=_of_phases(measure),
        tokens_per_second=tokens_per_second,
    )
    with _author_named(method, method.select):
        selection = method.select(request)
    found = _checked(method.name, request, selection)
    if method.decoder_attention and found.embeds is not None:
        cure = "what is kept behind the decoder's first layers cannot be merged"
        raise _wrong(method.name, "gave embeds", cure)
    return found


def operations_of(name: str, work: Work[Any]) -> dict[str, int]:
    """Floating point operations of a choice, as its method counts them.

    Args:
        name: the method's name.
        work: sizes of the choice.

    Returns:
        Counts of those of ``PHASES`` that the method has.

    Raises:
        OptionError: a method of the user's own fails, or does not give whole numbers for these.
    """
    method = METHODS[name]
    with _author_named(method, method.operations):
        given = method.operations(work)
    if not isinstance(given, Mapping):
        raise _wrong(name, f"gave {_kind(given)} as operations", "they must be a mapping")
    for phase, count in given.items():
        if phase not in PHASES:
            raise _wrong(name, f"counts operations of {phase!a:.80}", f"it may count {EITHER}")
        if not isinstance(count, (int, np.integer)) or count < 0:
            cure = "it must be a whole number, at least 0"
            raise _wrong(name, f"counts {count!a:.80} operations of {phase}", cure)
    return {phase: int(given[phase]) for phase in PHASES if phase in given}


EITHER = " and ".join(PHASES)


def _of_phases(measure: Measure) -> Measure:
    """Times nothing but the method's own stages."""

    def measured(phase: str) -> AbstractContextManager[None]:
        if phase not in PHASES:
            raise OptionError(f"A method measures {EITHER}, not {phase!a:.80}.")
        return measure(phase)

    return measured


def _author_named(method: Method, hook: object) -> AbstractContextManager[None]:
    return nullcontext() if is_ours(hook) else contained(f"The method {method.name!r}")


def _checked(name: str, request: Request[Any], given: object) -> Selection:
    """Check what a method returned: it may be the user's own."""
    if not isinstance(given, Selection):
        raise _wrong(name, f"gave {_kind(given)}", "it must return a Selection")
    tokens = request.tokens
    indices = _whole(name, "indices", given.indices)
    ascending = bool((np.diff(indices) > 0).all())
    inside = len(indices) > 0 and indices[0] >= 0 and indices[-1] < tokens
    if len(indices) != request.n_keep or not ascending or not inside:
        raise _wrong(
            name,
            f"gave {len(indices)} tokens",
            f"it must give {request.n_keep} of {tokens}, each once, in time order",
        )
    embeds = given.embeds
    if embeds is not None:
        shape = (len(indices), request.embeds.shape[1])
        embeds = _finite(name, "embeds", embeds, shape)
    return Selection(indices, _scores(name, given.scores, tokens), embeds)


def _whole(name: str, field: str, given: object) -> NDArray[np.int64]:
    if not isinstance(given, np.ndarray) or given.ndim != 1 or given.dtype.kind not in "iu":
        raise _wrong(name, f"gave {_kind(given)} as {field}", "it takes whole numbers (n,)")
    return np.asarray(given).astype(np.int64)


def _scores(name: str, given: object, tokens: int) -> tuple[Scores, ...]:
    if not isinstance(given, (tuple, list)) or not all(isinstance(s, Scores) for s in given):
        raise _wrong(name, f"gave {_kind(given)} as scores", "they must be a tuple of Scores")
    found = []
    for number, scores in enumerate(given, 1):
        called, count = f"scores {number}", tokens
        if not isinstance(scores.name, str) or not scores.name:
            raise _wrong(name, f"gave {called} no name", "it must be a text")
        among = scores.tokens
        if among is not None:
            among = _whole(name, f"the tokens of {called}", among)
            if len(among) == 0 or among.min() < 0 or among.max() >= tokens:
                raise _wrong(
                    name, f"gave tokens of {called} out of range", f"there are {tokens} tokens"
                )
            count = len(among)
        values = _finite(name, called, scores.values, (count,)).astype(np.float32, copy=False)
        found.append(Scores(scores.name, values, among, bool(scores.of_one)))
    return tuple(found)


def _finite(name: str, field: str, given: object, shape: tuple[int, ...]) -> NDArray[Any]:
    if not isinstance(given, np.ndarray) or given.shape != shape or given.dtype.kind not in "fiu":
        raise _wrong(name, f"gave {_kind(given)} as {field}", f"it takes numbers of shape {shape}")
    if not np.isfinite(given).all():
        raise _wrong(name, f"gave NaN or infinity in {field}", "it must return finite numbers")
    return np.asarray(given)


def _kind(given: object) -> str:
    if isinstance(given, np.ndarray):
        return f"an array of {given.dtype} and shape {given.shape}"
    return f"a {type(given).__name__}" if given is not None else "None"


def _wrong(name: str, what: str, cure: str) -> OptionError:
    return OptionError(f"The method {name!r} {what}: {cure}.")
