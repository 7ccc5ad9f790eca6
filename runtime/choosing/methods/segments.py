"""Segmentwise top-k by the audio encoder's own attention, arXiv:2511.14293.

"Segmentwise Pruning in Audio-Language Models" (Gibier et al.): the encoder's output is cut into S
segments of equal length, and in each the floor(K / S) tokens are kept that receive the most
attention in the encoder's last layer, averaged over heads and queries. It does not look at the
question.

Our reading: attention is averaged over the frames that a token is pooled from; segments are of ten
seconds, however long the recording is; what floor() loses is spread over the segments, so that
exactly K tokens stay.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.errors import OptionError
from speechprune_ort.runtime.choosing.methods.base import (
    MethodOptions,
    Request,
    Scores,
    Selection,
    method,
)

__all__ = ["keep_by_segments", "segment_attention"]

SEGMENT_SECONDS = 10
ATTENDED = "attention in the audio encoder's last layer, 1 = even"


def keep_by_segments(scores: NDArray[np.float32], n_keep: int, segments: int) -> NDArray[np.int64]:
    """The best tokens of each segment, as many of each as their lengths allow.

    Args:
        scores: (tokens,).
        n_keep: tokens to keep, at most ``tokens``.
        segments: number of segments of equal length, at least 1; at most one per token.

    Returns:
        (n_keep,) int64, ascending.

    >>> keep_by_segments(np.array([9.0, 8.0, 7.0, 1.0, 2.0, 3.0], np.float32), 2, 2).tolist()
    [0, 5]
    """
    tokens = len(scores)
    segments = min(segments, tokens)
    bounds = np.arange(segments + 1) * tokens // segments
    quotas = np.diff(np.arange(segments + 1) * n_keep // segments)
    kept: list[NDArray[np.int64]] = []
    missing = 0
    for start, stop, quota in zip(bounds[:-1], bounds[1:], quotas, strict=True):
        wanted = int(quota) + missing
        count = min(wanted, int(stop - start))
        missing = wanted - count
        order = np.argsort(-scores[start:stop], kind="stable")
        kept.append(start + np.sort(order[:count]))
    found = np.concatenate(kept)
    if missing:  # the last segments were full: the best of the rest
        rest = np.setdiff1d(np.arange(tokens), found)
        best = rest[np.argsort(-scores[rest], kind="stable")[:missing]]
        found = np.sort(np.concatenate([found, best]))
    return found


@method("segment-attention", summary="of each 10 s those that the audio encoder attends to most",
        source="arXiv:2511.14293", encoder_attention=True)  # fmt: skip
def segment_attention(request: Request[MethodOptions]) -> Selection:
    """Segmentwise top-k."""
    scores = request.encoder_attention
    if scores is None:
        raise OptionError("segment-attention needs request.encoder_attention.")
    with request.measure("phase_1"):
        length = request.tokens_in(SEGMENT_SECONDS)
        kept = keep_by_segments(scores, request.n_keep, -(-request.tokens // length))
    return Selection(kept, (Scores(ATTENDED, scores),))
