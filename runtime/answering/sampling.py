"""Choosing the next token from the last position's logits."""

from __future__ import annotations

from collections.abc import Sequence
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


def completing(said: Sequence[int], size: int) -> list[int]:
    """Tokens that would let a run of ``size`` tokens stand a second time.

    >>> completing([5, 6, 7, 5, 6], 3), completing([5, 6, 7], 1), completing([5, 6], 3)
    ([7], [5, 6, 7], [])
    """
    begun = list(said[len(said) - size + 1 :])
    starts = range(len(said) - size + 1)
    return [said[at + size - 1] for at in starts if list(said[at : at + size - 1]) == begun]


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

    def __call__(self, logits: NDArray[Any], said: Sequence[int] = ()) -> int:
        """Pick a token id from ``logits`` (vocab,), ``said`` being the answer's ids so far."""
        options = self._options
        logits = self._less_repeated(logits, said)
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

    def _less_repeated(self, logits: NDArray[Any], said: Sequence[int]) -> NDArray[Any]:
        """Logits by which what was said is less likely or out of the question, as the options say.

        Where nothing else were left, everything is allowed.
        """
        penalty, size = self._options.repetition_penalty, self._options.no_repeat_ngram_size
        if not said or (penalty == 1 and not size):
            return logits
        found = logits.astype(np.float64)
        if penalty != 1:
            known = np.unique(said)
            found[known] *= np.where(found[known] < 0, penalty, 1 / penalty)
        banned = completing(said, size) if size else []
        if len(set(banned)) < len(found):
            found[banned] = -np.inf
        return found
