"""An encoded recording, from which every question about it starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.runtime.hearing.embeddings import AudioEmbeds

__all__ = ["Heard"]


@dataclass(frozen=True, slots=True)
class Heard:
    """An encoded recording.

    Attributes:
        audio: embeddings of all audio tokens; none for a question without audio.
        seconds: length of the recording.
        seconds_heard: seconds that were encoded.
        encoder_attention: (tokens,) attention that each token received in the audio encoder's last
            layer, if it was kept.
        decoder: which decoder read it, as in ``Answer``.
        notes: sentences about what is wrong with it, as in ``Answer``.
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
