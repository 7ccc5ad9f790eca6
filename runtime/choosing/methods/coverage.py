"""Coverage: how many of the question's words are spoken around a token. A method of our own.

SpeechPrune's phase 1 (arXiv:2412.12009, eq. 3-4) averages the cosines of a token to all words of
the question. Two things mislead it. Some audio tokens resemble every word a little (cosines of
embeddings share a large common part), and a token stands for a piece of one word, while a passage
that answers a question holds several of its words. So cosines are compared within the recording,
question token by question token, and a passage is scored by the best match of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.errors import OptionError
from speechprune_ort.runtime.choosing.methods.base import (
    MethodOptions,
    Request,
    Scores,
    Selection,
    Work,
    method,
)
from speechprune_ort.runtime.choosing.pruning import keep_by_similarity

__all__ = [
    "SPOKEN",
    "coverage",
    "coverage_operations",
    "coverage_scores",
    "moving_max",
    "passage_scores",
]

PASSAGE_SECONDS = 10
TEMPERATURE = 0.05  # nearly the best frames alone: passages stay whole


def moving_max(values: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """Largest value within ``width`` rows around each row; at the ends, within those that exist.

    Args:
        values: (tokens, columns).
        width: rows, at least 1; an even width reaches one row further back than ahead.

    Returns:
        (tokens, columns).

    >>> moving_max(np.array([[0.0], [3.0], [1.0], [0.0], [0.0]], np.float32), 3).ravel().tolist()
    [3.0, 3.0, 3.0, 1.0, 0.0]
    """
    tokens = len(values)
    back = width // 2
    padded = np.full((tokens + width - 1, values.shape[1]), -np.inf, np.float32)
    padded[back : back + tokens] = values
    # Maxima of 1, 2, 4, ... rows; two that overlap make any width.
    reach = 1
    while 2 * reach <= width:
        padded = np.maximum(padded[: len(padded) - reach], padded[reach:])
        reach *= 2
    rest = width - reach
    widest: NDArray[np.float32] = np.maximum(padded[:tokens], padded[rest : rest + tokens])
    return widest


def coverage_scores(cosines: NDArray[Any], width: int) -> NDArray[np.float32]:
    """Mean over the question's tokens of their best match within ``width`` audio tokens.

    A match is a cosine in standard deviations above the mean of that question token over the
    recording: what is alike everywhere counts nothing anywhere. Below the mean counts as 0.

    Args:
        cosines: (tokens, query) of every audio token to every token of the question.
        width: length of a passage, in audio tokens.

    Returns:
        (tokens,) float32, at least 0.

    Raises:
        OptionError: the array is empty, a value is not finite, or the width is below 1.

    The first token of the question is heard at the end; the other is everywhere:

    >>> cosines = np.array([[0.1, 0.5], [0.1, 0.5], [0.1, 0.5], [0.1, 0.5], [0.9, 0.5]])
    >>> coverage_scores(cosines, 3).tolist()
    [0.0, 0.0, 0.0, 1.0, 1.0]
    """
    if cosines.ndim != 2 or cosines.size == 0:
        raise OptionError(
            f"cosines must be a non-empty array (tokens, query), not of shape {cosines.shape}."
        )
    if width < 1:
        raise OptionError(f"width must be at least 1, not {width}.")
    if not np.isfinite(cosines).all():
        raise OptionError("cosines hold NaN or infinity: nothing can be ranked by them.")
    total = np.zeros(len(cosines))
    for column in cosines.T:  # one at a time: hours have many rows
        wide = column.astype(np.float64)
        spread = wide.std()
        if spread > 1e-9:
            above = ((wide - wide.mean()) / spread).astype(np.float32)
            total += np.maximum(moving_max(above[:, None], width)[:, 0], 0)
    scores: NDArray[np.float32] = (total / cosines.shape[1]).astype(np.float32)
    return scores


def passage_scores(request: Request[Any]) -> NDArray[np.float32]:
    """``coverage_scores`` of a request's tokens, (tokens,), with passages of 10 s."""
    return coverage_scores(request.scorer.cosines(), request.tokens_in(PASSAGE_SECONDS))


SPOKEN = "words of the question spoken around it, in standard deviations"


def coverage_operations(work: Work[Any]) -> Mapping[str, int]:
    """A norm of each token, and its product with each token of the question."""
    return {"phase_1": 2 * work.tokens * work.hidden * (work.words + 1)}


@method("coverage", summary="passages of 10 s in which the most words of the question are spoken",
        operations=coverage_operations)  # fmt: skip
def coverage(request: Request[MethodOptions]) -> Selection:
    """The best seconds by ``coverage_scores``."""
    frame = request.frame_tokens
    with request.measure("phase_1"):
        scores = passage_scores(request)
        kept = keep_by_similarity(scores, request.n_keep, frame, TEMPERATURE)
    return Selection(kept, (Scores(SPOKEN, scores),))
