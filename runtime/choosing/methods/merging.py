"""Methods that merge neighbours instead of dropping tokens. Neither looks at the question.

- Affinity pooling, "Do We Need Distinct Representations for Every Speech Token?", arXiv:2604.06871:
  runs of neighbours whose cosine exceeds a threshold become their mean.
- FastAdaSP, arXiv:2410.03007: the most similar neighbours are merged, weighted by the attention
  that they receive.

Our reading: both work at the language model's input alone (the papers merge in its layers, too);
the threshold is the one that leaves exactly the tokens that may be kept; FastAdaSP's weights are
the attention received in the audio encoder's last layer, since at the input there is none of the
language model's yet.
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
    Selection,
    Work,
    method,
)
from speechprune_ort.runtime.choosing.pruning import ROWS_AT_ONCE, unit_rows

__all__ = [
    "affinity_pooling",
    "fastadasp",
    "merged",
    "merging_operations",
    "neighbour_cosines",
    "pooled",
    "starts_of_groups",
]


def neighbour_cosines(embeds: NDArray[Any]) -> NDArray[np.float32]:
    """Cosine of every token to the next one.

    Args:
        embeds: (tokens, hidden).

    Returns:
        (tokens - 1,) float32; 0 beside an embedding of zeros.

    >>> neighbour_cosines(np.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])).tolist()
    [1.0, 0.0]
    """
    found = np.empty(max(0, len(embeds) - 1), np.float32)
    for start in range(0, len(found), ROWS_AT_ONCE):
        units = unit_rows(embeds[start : start + ROWS_AT_ONCE + 1], "audio embeddings")
        found[start : start + len(units) - 1] = np.vecdot(units[:-1], units[1:])
    return found


def starts_of_groups(cosines: NDArray[np.float32], n_keep: int) -> NDArray[np.int64]:
    """First tokens of ``n_keep`` groups, whose borders are where neighbours are least alike.

    Args:
        cosines: (tokens - 1,) of neighbours, or another measure of how alike they are.
        n_keep: groups, from 1 to ``tokens``.

    Returns:
        (n_keep,) int64, ascending, from 0; of equal borders the earlier is taken.

    >>> starts_of_groups(np.array([0.9, 0.1, 0.8, 0.2], np.float32), 3).tolist()
    [0, 2, 4]
    """
    borders = np.sort(np.argsort(cosines, kind="stable")[: n_keep - 1])
    return np.concatenate([np.zeros(1, np.int64), borders + 1])


def merged(
    embeds: NDArray[Any], starts: NDArray[np.int64], weights: NDArray[np.float32]
) -> NDArray[Any]:
    """Weighted mean of each group.

    Args:
        embeds: (tokens, hidden).
        starts: (groups,) first tokens, ascending from 0.
        weights: (tokens,), at least 0; a group of zeros counts each token alike.

    Returns:
        (groups, hidden), of the dtype of ``embeds``.

    >>> embeds = np.array([[0.0], [4.0], [1.0]])
    >>> merged(embeds, np.array([0, 2]), np.array([3.0, 1.0, 5.0])).tolist()
    [[1.0], [1.0]]
    """
    wide = weights.astype(np.float64)
    sums = np.add.reduceat(wide, starts)
    sizes = np.diff(np.append(starts, len(embeds)))
    wide = np.where(np.repeat(sums, sizes) > 0, wide, 1.0)
    shares = wide / np.repeat(np.add.reduceat(wide, starts), sizes)
    means = np.add.reduceat(embeds * shares.astype(np.float32)[:, None], starts, axis=0)
    return means.astype(embeds.dtype)


def pooled(
    embeds: NDArray[Any],
    likeness: NDArray[np.float32],
    n_keep: int,
    weights: NDArray[np.float32] | None = None,
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """First tokens of groups, and what each group becomes.

    Args:
        embeds: (tokens, hidden).
        likeness: (tokens - 1,) of neighbours, as ``starts_of_groups`` takes it.
        n_keep: groups.
        weights: (tokens,) of the means; None counts each token alike.

    Returns:
        (n_keep,) int64, and (n_keep, hidden) of the dtype of ``embeds``.
    """
    starts = starts_of_groups(likeness, n_keep)
    even = np.ones(len(embeds), np.float32)
    return starts, merged(embeds, starts, even if weights is None else weights)


def _merge(
    request: Request[MethodOptions], weights: NDArray[np.float32] | None = None
) -> Selection:
    with request.measure("phase_1"):
        embeds = request.embeds
        starts, means = pooled(embeds, neighbour_cosines(embeds), request.n_keep, weights)
        return Selection(starts, embeds=means)


def merging_operations(work: Work[Any]) -> Mapping[str, int]:
    """A norm of each token, a product with its neighbour, and its part in a mean."""
    return {"phase_1": 6 * work.tokens * work.hidden}


@method("affinity-pooling", summary="means of runs of neighbours that are alike",
        source="arXiv:2604.06871", operations=merging_operations)  # fmt: skip
def affinity_pooling(request: Request[MethodOptions]) -> Selection:
    """Groups of similar neighbours, each token counting alike."""
    return _merge(request)


@method("fastadasp", summary="neighbours that are alike, weighted by the encoder's attention",
        source="arXiv:2410.03007", encoder_attention=True,
        operations=merging_operations)  # fmt: skip
def fastadasp(request: Request[MethodOptions]) -> Selection:
    """Groups of similar neighbours, weighted by attention received."""
    if request.encoder_attention is None:
        raise OptionError("fastadasp needs request.encoder_attention.")
    return _merge(request, request.encoder_attention)
