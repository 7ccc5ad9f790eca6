"""Choosing by the method that the options name."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.errors import OptionError
from speechprune_ort.options import PruningOptions
from speechprune_ort.runtime.methods import METHODS, Request, Selection
from speechprune_ort.runtime.methods.base import Measure, untimed
from speechprune_ort.runtime.scoring import Scorer

__all__ = ["select"]


def select(
    options: PruningOptions,
    scorer: Scorer,
    *,
    window_tokens: int,
    frame_tokens: int,
    encoder_attention: NDArray[np.float32] | None = None,
    measure: Measure = untimed,
) -> Selection:
    """Choose which audio tokens reach the language model.

    Args:
        options: method, rate, budget and the rest.
        scorer: of the recording's tokens for the question; asked only by methods that need it.
        window_tokens: tokens of one window, the default budget.
        frame_tokens: tokens of a one-second frame.
        encoder_attention: (tokens,) attention received in the audio encoder's last layer, where
            it was recorded.
        measure: times ``phase_1`` and ``phase_2``, where the method has them.

    Returns:
        Exactly ``options.kept_tokens(tokens, window_tokens)`` tokens, in time order.

    Raises:
        OptionError: there are no audio tokens, a size is below 1, a method that reads the
            embeddings finds them of different widths or not finite, it needs the encoder's
            attention and that was not recorded, or it gave another number of tokens.
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
    request = Request(
        options=options,
        scorer=scorer,
        n_keep=options.kept_tokens(tokens, window_tokens),
        budget=min(options.budget or window_tokens, tokens),
        frame_tokens=frame_tokens,
        encoder_attention=encoder_attention,
        measure=measure,
    )
    selection = method.select(request)
    _check(method.name, request, selection)
    return selection


def _check(name: str, request: Request, selection: Selection) -> None:
    """Refuse what a method must not give: it may be the user's own."""
    indices = selection.indices
    ascending = len(indices) == 0 or bool((np.diff(indices) > 0).all())
    inside = len(indices) > 0 and indices[0] >= 0 and indices[-1] < request.tokens
    if len(indices) != request.n_keep or not ascending or not inside:
        raise OptionError(
            f"The method {name!r} gave {len(indices)} tokens: it must give {request.n_keep} of "
            f"{request.tokens}, each once, in time order."
        )
    embeds = selection.embeds
    if embeds is not None and embeds.shape != (len(indices), request.embeds.shape[1]):
        raise OptionError(
            f"The method {name!r} gave embeddings of shape {embeds.shape} for {len(indices)} "
            "tokens: it must give a row each, as wide as the audio's."
        )
