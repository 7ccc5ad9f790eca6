"""CDPruner and SA-MAP: sets of tokens that span the largest volume.

A determinantal point process prefers sets with a large determinant of their part of a kernel. With
the kernel ``relevance_i * cosine_ij * relevance_j`` the determinant is the squared volume that the
tokens' unit vectors span, each as long as it is relevant. The set is found greedily, each token the
one that adds the most volume (Chen, Zhang and Zhou, arXiv:1709.05135): its squared distance from
the space of those that are chosen, which an orthonormal basis keeps up to date, so that neither the
kernel (tokens, tokens) nor its Cholesky factor (kept, tokens) need ever exist.

CDPruner (arXiv:2506.10967) was made for images. Our reading: embeddings are those at the language
model's input, and the relevance of a token is its mean cosine to the question's own tokens, scaled
to the range from 0 to 1. Its code flips the sign of CLIP's similarities; no reason for that is
known for speech, so the sign stays.

SA-MAP (preprints.org 202606.0741): only the abstract of the paper was available, and what it leaves
open is taken from its published code, as facts. A token joins the run before it if its mean cosine
to that run's tokens is at least 0.85; a run becomes its tokens' mean, weighted by the attention
that they receive in the audio encoder's last layer; and of the runs the greedy maximum is kept, a
run's relevance being its tokens' mean attention. Our reading: attention is averaged over heads
throughout, where the code takes the largest head to merge and a token's attention to itself to
prune; where the threshold leaves too few runs, the lowest higher one that leaves enough is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.cancel import checkpoint
from speechprune_ort.errors import OptionError
from speechprune_ort.numbers import check_number
from speechprune_ort.runtime.choosing.methods.base import (
    SIMILARITY,
    MethodOptions,
    Request,
    Scores,
    Selection,
    Work,
    method,
    products_with_text,
)
from speechprune_ort.runtime.choosing.pruning import lengths, unit_rows

__all__ = [
    "SaMap",
    "cdpruner",
    "keep_diverse",
    "runs_of",
    "runs_of_at_least",
    "sa_map",
    "stretched",
]

NOTHING = 1e-6  # of the largest squared length: a token that adds less adds rounding errors
LEAST = 1e-6
THRESHOLD = 0.85
HALVINGS = 12  # of the threshold's room


def stretched(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scores (tokens,) scaled to the range from nearly 0 to 1; all 1 if all are the same.

    >>> stretched(np.array([0.2, 0.4, 0.6], np.float32)).round(3).tolist()
    [0.0, 0.5, 1.0]
    """
    low, high = float(scores.min()), float(scores.max())
    if high <= low:
        return np.ones_like(scores)
    found: NDArray[np.float32] = ((scores - low + LEAST) / (high - low)).astype(np.float32)
    return found


def keep_diverse(
    embeds: NDArray[Any], relevance: NDArray[np.float32], n_keep: int
) -> NDArray[np.int64]:
    """The greedy maximum of a determinantal point process.

    More tokens than the embeddings have dimensions span no volume. Once none of those that are left
    adds any, choosing begins again, as if none had been chosen yet.

    Args:
        embeds: (tokens, hidden); their lengths do not matter.
        relevance: (tokens,), at least 0.
        n_keep: tokens to keep, from 1 to ``tokens``.

    Returns:
        (n_keep,) int64, ascending; of equal tokens the earlier is chosen.

    Raises:
        OptionError: a value is not finite, or a relevance is below 0.

    The second token says the same as the first, the third something else:

    >>> embeds = np.array([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]])
    >>> keep_diverse(embeds, np.array([1.0, 0.9, 0.5], np.float32), 2).tolist()
    [0, 2]
    """
    if not np.isfinite(relevance).all() or relevance.min() < 0:
        raise OptionError("The relevance of tokens must be finite and at least 0.")
    wide = embeds.astype(np.float32, copy=False)
    norms = lengths(wide, "audio embeddings")
    scale = np.divide(relevance, norms, out=np.zeros_like(norms), where=norms > 0)
    longest = np.where(norms > 0, relevance, 0).astype(np.float64) ** 2
    least = NOTHING * float(longest.max())
    left, free = longest.copy(), np.ones(len(wide), bool)
    basis = np.empty((min(n_keep, wide.shape[1]), wide.shape[1]), np.float32)
    rank = 0
    for _ in range(n_keep):
        checkpoint()
        best = int(np.where(free, left, -np.inf).argmax())
        if rank and (left[best] <= least or rank == len(basis)):
            rank, left = 0, longest.copy()
            best = int(np.where(free, left, -np.inf).argmax())
        free[best] = False
        direction = wide[best] * scale[best]
        for _ in range(2):  # once leaves rounding errors in it
            direction = direction - basis[:rank].T @ (basis[:rank] @ direction)
        size = float(np.linalg.norm(direction))
        if size * size > least:
            basis[rank] = direction / size
            left -= (scale * (wide @ basis[rank])).astype(np.float64) ** 2
            rank += 1
    return np.flatnonzero(~free)


def runs_of(units: NDArray[np.float32], threshold: float) -> NDArray[np.int64]:
    """First tokens of runs whose tokens are alike.

    Args:
        units: (tokens, hidden) of length 1.
        threshold: least mean cosine of a token to those of the run that it joins.

    Returns:
        (runs,) int64, ascending, from 0.

    The third token is not like the first two, and the fourth is like the third:

    >>> units = np.array([[1.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], np.float32)
    >>> runs_of(units, 0.75).tolist()
    [0, 2]
    """
    starts: list[int] = []
    total, size = np.zeros(units.shape[1], np.float32), 0
    for place, unit in enumerate(units):
        if size and float(total @ unit) >= threshold * size:
            total, size = total + unit, size + 1
        else:
            starts.append(place)
            total, size = unit, 1
    return np.array(starts, np.int64)


def runs_of_at_least(
    units: NDArray[np.float32], threshold: float, fewest: int
) -> NDArray[np.int64]:
    """Like ``runs_of``, at the lowest threshold from the given one on that leaves enough runs.

    >>> units = np.array([[1.0, 0.0], [0.96, 0.28], [0.936, 0.352]], np.float32)
    >>> runs_of_at_least(units, 0.85, 2).tolist()
    [0, 1]
    """
    found = runs_of(units, threshold)
    if len(found) >= fewest:
        return found
    low, high, found = threshold, 1.0, np.arange(len(units))
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        tried = runs_of(units, middle)
        if len(tried) >= fewest:
            high, found = middle, tried
        else:
            low = middle
    return found


def choosing_operations(work: Work[Any], tokens: int) -> int:
    """Operations of the greedy maximum: each kept token times all ``tokens`` and the basis."""
    basis = min(work.kept, work.hidden)
    return 2 * work.kept * work.hidden * (tokens + 2 * basis)


def cdpruner_operations(work: Work[Any]) -> Mapping[str, int]:
    """Similarity of each token, then the greedy maximum."""
    return {**products_with_text(work), "phase_2": choosing_operations(work, work.tokens)}


def sa_map_operations(work: Work[Any]) -> Mapping[str, int]:
    """Merging, then the greedy maximum; an upper bound, as merged tokens are fewer."""
    # A norm, a product with its run and a part in its mean for each token.
    merging = 6 * work.tokens * work.hidden
    return {"phase_1": merging, "phase_2": choosing_operations(work, work.tokens)}


@method("cdpruner", summary="tokens like the question that differ from each other",
        source="arXiv:2506.10967", operations=cdpruner_operations)  # fmt: skip
def cdpruner(request: Request[MethodOptions]) -> Selection:
    """The greedy maximum, conditioned on the question."""
    with request.measure("phase_1"):
        similarity = request.scorer.similarity()
    with request.measure("phase_2"):
        kept = keep_diverse(request.embeds, stretched(similarity), request.n_keep)
    return Selection(kept, (Scores(SIMILARITY, similarity),))


@dataclass(frozen=True)
class SaMap(MethodOptions):
    """Options of ``sa-map``.

    Attributes:
        threshold: least mean cosine of a token to those of the run that it joins, -1 to 1.
    """

    threshold: float = THRESHOLD

    def check(self) -> None:
        """See ``MethodOptions``."""
        super().check()
        check_number("threshold", self.threshold, lambda cosine: -1 <= cosine <= 1, "from -1 to 1")


@method("sa-map", summary="runs of neighbours merged, of these the attended and different",
        source="preprints.org 202606.0741", encoder_attention=True, options=SaMap,
        operations=sa_map_operations)  # fmt: skip
def sa_map(request: Request[SaMap]) -> Selection:
    """Merging, then the greedy maximum; it does not look at the question."""
    attention = request.encoder_attention
    if attention is None:
        raise OptionError("sa-map needs request.encoder_attention.")
    embeds = request.embeds
    with request.measure("phase_1"):
        units = unit_rows(embeds, "audio embeddings")
        starts = runs_of_at_least(units, request.own.threshold, request.n_keep)
        sizes = np.diff(np.append(starts, len(embeds)))
        mean = (np.add.reduceat(attention, starts) / sizes).astype(np.float32)
        # A run that nobody attends to counts each of its tokens alike.
        weights = np.where(np.repeat(mean, sizes) > 0, attention, 1).astype(np.float32)
        sums = np.add.reduceat(weights, starts)[:, None]
        means = np.add.reduceat(embeds * weights[:, None], starts, axis=0) / sums
    with request.measure("phase_2"):
        kept = keep_diverse(means, mean, request.n_keep)
    return Selection(starts[kept], embeds=means[kept].astype(embeds.dtype))
