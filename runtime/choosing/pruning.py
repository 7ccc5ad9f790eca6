"""SpeechPrune's two phases in numpy: the reference that every faster form must equal.

Source: arXiv:2412.12009 (SpeechPrune: Context-aware Token Pruning for Speech Information
Retrieval). Equations are cited where they are implemented; what the paper leaves open is
decided here and said so.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.cancel import checkpoint
from speechprune_ort.errors import OptionError

__all__ = [
    "binarize",
    "cosine_matrix",
    "frame_budgets",
    "frame_scores",
    "keep_by_attention",
    "keep_by_similarity",
    "lengths",
    "received_attention",
    "similarity_scores",
    "text_direction",
    "unit_rows",
]

Floats = NDArray[np.floating[Any]]

ROWS_AT_ONCE = 256  # embeddings widened at a time: stays in the cache at any hidden size
THREADS_FROM = 1 << 11  # tokens whose attention to each other is worth several threads
ATTENTION_AT_ONCE = 1 << 22  # values of the attention matrix at a time: 16 MB of float32


def _check(name: str, array: NDArray[Any], axes: tuple[str, ...]) -> None:
    if array.ndim != len(axes) or 0 in array.shape:
        raise OptionError(
            f"{name} must be a non-empty array ({', '.join(axes)}), not of shape {array.shape}."
        )


def _check_finite(name: str, array: NDArray[Any]) -> None:
    if not np.isfinite(array).all():
        raise OptionError(f"There is NaN or infinity in the {name}: nothing can be ranked by it.")


def _check_embeddings(audio: NDArray[Any], text: NDArray[Any]) -> None:
    _check("audio embeddings", audio, ("tokens", "hidden"))
    _check("text embeddings", text, ("query", "hidden"))
    if audio.shape[1] != text.shape[1]:
        raise OptionError(
            f"audio embeddings are {audio.shape[1]} wide and text embeddings {text.shape[1]}: "
            "both must come from one model."
        )


def _check_at_least_1(name: str, count: int) -> None:
    if count < 1:
        raise OptionError(f"{name} must be at least 1, not {count}.")


def similarity_scores(audio: Floats, text: Floats) -> NDArray[np.float32]:
    """Mean cosine of every audio token to the query's tokens, eq. 3-4.

    The mean over text tokens of cosines to unit vectors is the dot product with the mean of
    those unit vectors: one product instead of the (tokens, query) matrix, and exact.

    Args:
        audio: (tokens, hidden) audio embeddings.
        text: (query, hidden) embeddings of the query's own tokens.

    Returns:
        (tokens,) float32 in [-1, 1]; an embedding of zeros has similarity 0.

    Raises:
        OptionError: an array is empty, widths differ, or a value is not finite.

    >>> audio = np.array([[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    >>> text = np.array([[1.0, 0.0], [5.0, 0.0]])
    >>> similarity_scores(audio, text).astype(float).round(4).tolist()
    [1.0, 0.0, 0.7071]
    """
    _check_embeddings(audio, text)
    direction = text_direction(text)

    scores = np.zeros(len(audio), np.float32)  # what embeddings of zeros keep
    for start in range(0, len(audio), ROWS_AT_ONCE):
        checkpoint()
        rows = audio[start : start + ROWS_AT_ONCE].astype(np.float32, copy=False)
        norms = lengths(rows, "audio embeddings")
        out = scores[start : start + len(rows)]
        np.divide(rows @ direction, norms, out=out, where=norms > 0)
    return scores


def lengths(rows: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Length of each row (n, hidden).

    Args:
        rows: what is measured.
        name: what the error calls them.

    Raises:
        OptionError: a value is not finite, or a length is not.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found: NDArray[np.float32] = np.sqrt(np.vecdot(rows, rows))
    # A NaN or infinity anywhere in a row reaches its length: no second pass over the data.
    _check_finite(name, found)
    return found


def unit_rows(embeds: NDArray[Any], name: str = "embeddings") -> NDArray[np.float32]:
    """Rows (n, hidden) divided by their lengths; a row of zeros stays.

    Args:
        embeds: (n, hidden) of any floating type.
        name: what the error calls them.

    Raises:
        OptionError: a value is not finite.
    """
    wide = embeds.astype(np.float32)
    norms = lengths(wide, name)[:, None]
    units: NDArray[np.float32] = np.divide(wide, norms, out=np.zeros_like(wide), where=norms > 0)
    return units


def cosine_matrix(audio: NDArray[Any], text: NDArray[Any]) -> NDArray[np.float32]:
    """Cosine of every audio token to every token of a text.

    Args:
        audio: (tokens, hidden).
        text: (query, hidden).

    Returns:
        (tokens, query) float32; 0 for embeddings of zeros.

    Raises:
        OptionError: an array is empty, widths differ, or a value is not finite.
    """
    _check_embeddings(audio, text)
    columns = np.ascontiguousarray(unit_rows(text, "text embeddings").T)
    cosines = np.zeros((len(audio), len(text)), np.float32)  # what embeddings of zeros keep
    for start in range(0, len(audio), ROWS_AT_ONCE):
        checkpoint()
        rows = audio[start : start + ROWS_AT_ONCE].astype(np.float32, copy=False)
        norms = lengths(rows, "audio embeddings")[:, None]
        out = cosines[start : start + len(rows)]
        np.divide(rows @ columns, norms, out=out, where=norms > 0)
    return cosines


def text_direction(text: Floats) -> NDArray[np.float32]:
    """Mean of the unit vectors of a text's embeddings.

    Args:
        text: (query, hidden).

    Returns:
        (hidden,) float32.

    Raises:
        OptionError: the array is empty, or a value is not finite.

    >>> text_direction(np.array([[2.0, 0.0], [0.0, 5.0]])).tolist()
    [0.5, 0.5]
    """
    _check("text embeddings", text, ("query", "hidden"))
    direction: NDArray[np.float32] = unit_rows(text, "text embeddings").mean(axis=0)
    return direction


def frame_scores(scores: Floats, frame_tokens: int) -> NDArray[np.float64]:
    """Sum of token scores in each one-second frame, eq. 5.

    Args:
        scores: (tokens,).
        frame_tokens: tokens of a frame, f; the last frame may be shorter.

    Returns:
        (frames,) float64.

    Raises:
        OptionError: a score is not finite, or a frame has no tokens.

    >>> frame_scores(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), 2).tolist()
    [3.0, 7.0, 5.0]
    """
    _check("token scores", scores, ("tokens",))
    _check_finite("token scores", scores)
    _check_at_least_1("frame_tokens", frame_tokens)
    return np.add.reduceat(scores.astype(np.float64), np.arange(0, len(scores), frame_tokens))


def frame_budgets(
    scores: Floats, sizes: NDArray[np.int64], n_keep: int, temperature: float = 1.0
) -> NDArray[np.int64]:
    """How many tokens each frame keeps, eq. 6-7: exactly ``min(n_keep, sum(sizes))`` in all.

    The paper takes floor(n_keep * softmax), which loses tokens, and a frame cannot keep more
    than it has. Decided here: shares are apportioned by largest remainder under each frame's
    size, and what a full frame cannot take goes to the best frames that still have room. Ties
    go to the earlier frame.

    Args:
        scores: (frames,) frame scores.
        sizes: (frames,) tokens of each frame.
        n_keep: tokens to keep.
        temperature: temperature of the softmax; 1.0 is the paper's.

    Returns:
        (frames,) int64, each at most its size.

    Raises:
        OptionError: a score is not finite, shapes differ, ``n_keep`` is negative, or the
            temperature is not positive.

    Two frames of 4 tokens: shares of 5 are 4.4 and 0.6, the first is full at 4, and the token
    that is over goes to the second.

    >>> frame_budgets(np.array([2.0, 0.0]), np.array([4, 4]), 5).tolist()
    [4, 1]
    """
    _check("frame scores", scores, ("frames",))
    _check_finite("frame scores", scores)
    if sizes.shape != scores.shape:
        raise OptionError(f"{len(scores)} frame scores need as many sizes, not {sizes.shape}.")
    if n_keep < 0:
        raise OptionError(f"n_keep must be at least 0, not {n_keep}.")
    if not 0 < temperature < np.inf:
        raise OptionError(f"temperature must be positive and finite, not {temperature}.")
    n_keep = min(int(n_keep), int(sizes.sum()))
    below = scores.astype(np.float64)
    below -= below.max()
    # Divided after the subtraction: however low the temperature, the best frame stays at 0.
    with np.errstate(over="ignore"):
        shares = np.exp(below / temperature)
    shares *= n_keep / shares.sum()
    whole = np.floor(shares)
    budgets: NDArray[np.int64] = np.minimum(whole, sizes).astype(np.int64)
    # What floor() lost goes to the largest remainders, among frames that have room. Stable
    # sorting gives ties to the earlier frame.
    room = budgets < sizes
    lost = min(n_keep - int(whole.sum()), int(room.sum()))
    order = np.argsort(-np.where(room, shares - whole, -1.0), kind="stable")
    budgets[order[: max(lost, 0)]] += 1
    # What full frames could not take goes to the best frames that have room.
    best = np.argsort(-scores, kind="stable")
    space = (sizes - budgets)[best]
    before = np.cumsum(space) - space
    budgets[best] += np.clip(n_keep - int(budgets.sum()) - before, 0, space)
    return budgets


def keep_by_similarity(
    scores: Floats, n_keep: int, frame_tokens: int, temperature: float = 1.0
) -> NDArray[np.int64]:
    """Phase 1, eq. 5-8: the best tokens of each frame, as many as its frame may keep.

    Args:
        scores: (tokens,) similarity.
        n_keep: tokens to keep.
        frame_tokens: tokens of a frame.
        temperature: temperature of the softmax over frames.

    Returns:
        (min(n_keep, tokens),) int64 indices in time order.

    Raises:
        OptionError: a score is not finite, nothing is to be kept, or a frame has no tokens.

    >>> keep_by_similarity(np.array([0.1, 0.9, 0.8, 0.2]), 2, frame_tokens=2).tolist()
    [1, 2]
    """
    _check("token scores", scores, ("tokens",))
    _check_finite("token scores", scores)
    _check_at_least_1("n_keep", n_keep)
    _check_at_least_1("frame_tokens", frame_tokens)
    tokens = len(scores)
    if n_keep >= tokens:
        return np.arange(tokens)
    frame_tokens = min(frame_tokens, tokens)
    frames = -(-tokens // frame_tokens)
    sizes = np.full(frames, frame_tokens)
    sizes[-1] = tokens - (frames - 1) * frame_tokens
    budgets = frame_budgets(frame_scores(scores, frame_tokens), sizes, n_keep, temperature)
    # One row per frame, best first; what the last frame lacks is filled with infinitely bad ones,
    # which no budget reaches.
    badness = np.full((frames, frame_tokens), np.inf, scores.dtype)
    badness.ravel()[:tokens] = -scores
    order = np.argsort(badness, axis=1, kind="stable")
    chosen = np.zeros((frames, frame_tokens), bool)
    np.put_along_axis(chosen, order, np.arange(frame_tokens) < budgets[:, None], axis=1)
    return np.flatnonzero(chosen)


def binarize(x: NDArray[Any]) -> NDArray[np.int8]:
    """Signs, with sign(0) = +1 so that values stay binary, eq. 9.

    Args:
        x: array of any shape.

    Returns:
        int8 of the same shape, each -1 or +1. Products of these are exact with int32 sums,
        and in float32 up to a width of 2^24.

    Raises:
        OptionError: a value is not finite.

    >>> binarize(np.array([-0.5, 0.0, 2.0])).tolist()
    [-1, 1, 1]
    """
    _check_finite("array to binarize", x)
    return np.where(x >= 0, np.int8(1), np.int8(-1))


def received_attention(
    query: Floats, key: Floats, *, single_head: bool = False
) -> NDArray[np.float32]:
    """Attention that each token receives from the others, eq. 11-12.

    ``mean(A, axis=1)`` over the softmax's own axis would be 1/n for every token, as each row of
    A sums to 1, and would rank nothing. What ranks the tokens is the mean over queries, the column
    mean. No text, no rotary embedding, no bias, no causal mask.

    Args:
        query: (tokens, heads, head_dim) Q'.
        key: (tokens, kv_heads, head_dim) K'; where there are fewer, each serves its group.
        single_head: one softmax over the whole width, the other reading of the paper.

    Returns:
        (tokens,) float32, mean over heads; sums to 1.

    Raises:
        OptionError: shapes do not fit each other, or a value is not finite.

    Both tokens look at the second:

    >>> q = np.array([[[0.0, 3.0]], [[0.0, 3.0]]])
    >>> k = np.array([[[1.0, 0.0]], [[0.0, 1.0]]])
    >>> received_attention(q, k).astype(float).round(3).tolist()
    [0.107, 0.893]
    """
    _check("query", query, ("tokens", "heads", "head_dim"))
    _check("key", key, ("tokens", "kv_heads", "head_dim"))
    tokens, heads, head_dim = query.shape
    if key.shape[0] != tokens or key.shape[2] != head_dim or heads % key.shape[1]:
        raise OptionError(f"query {query.shape} and key {key.shape} do not belong to one layer.")
    _check_finite("query", query)
    _check_finite("key", key)
    group = heads // key.shape[1]
    if single_head:
        wide = np.repeat(key, group, axis=1).reshape(tokens, 1, heads * head_dim)
        return received_attention(query.reshape(tokens, 1, heads * head_dim), wide)

    received = np.zeros(tokens, np.float64)
    scale = np.float32(1 / np.sqrt(head_dim))
    rows = max(1, ATTENTION_AT_ONCE // tokens)
    for head in range(heads):
        keys = np.ascontiguousarray(key[:, head // group].T, np.float32)
        queries = np.ascontiguousarray(query[:, head], np.float32)
        for start in range(0, tokens, rows):
            checkpoint()
            attention = queries[start : start + rows] @ keys
            # Scaled last: binarized Q' and K' are whole numbers, and so are these products and
            # differences, exact in float32 up to 2^24.
            attention -= attention.max(axis=1, keepdims=True)
            attention *= scale
            np.exp(attention, out=attention)
            # Weights of the rows instead of a division of the whole matrix.
            received += (1 / attention.sum(axis=1)) @ attention
    mean: NDArray[np.float32] = (received / (tokens * heads)).astype(np.float32)
    return mean


def keep_by_attention(scores: Floats, n_keep: int) -> NDArray[np.int64]:
    """Phase 2: the tokens that receive the most attention.

    Args:
        scores: (tokens,) attention received.
        n_keep: tokens to keep.

    Returns:
        (min(n_keep, tokens),) int64 indices in time order; ties go to the earlier.

    Raises:
        OptionError: a score is not finite, or nothing is to be kept.

    >>> keep_by_attention(np.array([0.2, 0.5, 0.2, 0.1]), 2).tolist()
    [0, 1]
    """
    _check("attention scores", scores, ("tokens",))
    _check_finite("attention scores", scores)
    _check_at_least_1("n_keep", n_keep)
    return np.sort(np.argsort(-scores, kind="stable")[:n_keep])
