"""Choosing the next token from the last position's logits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.options import GenerationOptions

__all__ = ["Sampler", "log_probability"]


def log_probability(logits: NDArray[np.float32], token: int) -> float:
    """Natural logarithm of the probability that the model itself gives a token.

    That is at temperature 1 and among all tokens, whatever a ``Sampler`` chooses by.

    Args:
        logits: (vocab,) of the position before the token.
        token: its id.

    >>> round(log_probability(np.zeros(4, np.float32), 2), 4)  # one of four that are alike
    -1.3863
    """
    largest = logits.max()
    return float(logits[token] - largest - np.log(np.exp(logits - largest).sum(dtype=np.float64)))


class Sampler:
    """Greedy or nucleus sampling, deterministic for a seed.

    >>> sampler = Sampler(GenerationOptions())
    >>> sampler(np.array([0.1, 2.0, 2.0], np.float32))  # the first of equals
    1
    >>> nucleus = Sampler(GenerationOptions(temperature=1.0, top_p=0.5))
    >>> nucleus(np.array([0.0, 9.0, 0.0], np.float32))  # token 1 alone reaches 0.5
    1
    """

    def __init__(self, options: GenerationOptions) -> None:
        self._options = options
        self._random = np.random.default_rng(options.seed)

    def __call__(self, logits: NDArray[Any]) -> int:
        """Pick a token id from ``logits`` (vocab,)."""
        options = self._options
        if options.temperature == 0:
            return int(logits.argmax())
        behind = logits.astype(np.float64) - logits.max()
        with np.errstate(over="ignore"):  # at the lowest temperatures nothing but the first is left
            odds = np.exp(behind / options.temperature)
        odds /= odds.sum()
        order = np.argsort(-odds, kind="stable")
        reached = np.cumsum(odds[order])
        # The token that crosses top_p belongs to the nucleus.
        size = int(np.searchsorted(reached, options.top_p, side="left")) + 1
        nucleus = order[:size]
        weights = odds[nucleus]
        return int(self._random.choice(nucleus, p=weights / weights.sum()))
