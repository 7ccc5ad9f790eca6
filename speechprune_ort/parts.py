"""``Part``: where one of several recordings lies on the axes of tokens and of seconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Part"]


@dataclass(frozen=True, slots=True)
class Part:
    """One of the recordings of a prompt, which lie end to end.

    Attributes:
        first: its first token.
        tokens: number of its tokens.
        start: where it begins, in seconds.
        seconds: its length.
    """

    first: int
    tokens: int
    start: float
    seconds: float

    @property
    def end(self) -> float:
        """Where it ends, in seconds."""
        return self.start + self.seconds

    def holds(self, indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which tokens are its own.

        Args:
            indices: (n,) indices of audio tokens.

        Returns:
            (n,) bool.
        """
        found: NDArray[np.bool_] = (indices >= self.first) & (indices < self.first + self.tokens)
        return found
