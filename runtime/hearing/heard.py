"""A recording as it was heard: what every question about it starts from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.runtime.hearing.embeddings import AudioEmbeds

__all__ = ["Heard"]


@dataclass(frozen=True, slots=True)
class Heard:
    """A recording that was encoded.

    Attributes:
        audio: embeddings of all of it; without tokens it is no audio.
        seconds: its length.
        seconds_heard: length of the part that was encoded.
        encoder_attention: (tokens,) attention that each token received in the audio encoder's last
            layer, where that was kept.
        decoder: what decoded it, as in ``Answer``.
        notes: sentences on what is wrong with it, as in ``Answer``.
    """

    audio: AudioEmbeds
    seconds: float
    seconds_heard: float
    encoder_attention: NDArray[np.float32] | None = None
    decoder: str = ""
    notes: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """Audio tokens of the recording."""
        return self.audio.tokens
