"""An encoded recording, from which every question about it starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.parts import Part
from speechprune_ort.runtime.hearing.embeddings import AudioEmbeds, JoinedEmbeds

__all__ = ["Heard", "joined"]


@dataclass(frozen=True, slots=True)
class Heard:
    """An encoded recording, or several that are asked about together.

    Attributes:
        audio: embeddings of all audio tokens; none for a question without audio.
        seconds: length of the recording.
        seconds_heard: seconds that were encoded.
        encoder_attention: (tokens,) attention that each token received in the audio encoder's last
            layer, if it was kept.
        decoder: which decoder read it, as in ``Answer``.
        notes: sentences about what is wrong with it, as in ``Answer``.
        several: the recordings, where there is more than one.
    """

    audio: AudioEmbeds
    seconds: float
    seconds_heard: float
    encoder_attention: NDArray[np.float32] | None = None
    decoder: str = ""
    notes: tuple[str, ...] = ()
    several: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The recordings, at least one."""
        return self.several or (Part(0, self.tokens, 0.0, self.seconds),)

    @property
    def tokens(self) -> int:
        """Audio tokens of the recording."""
        return self.audio.tokens


def joined(recordings: Sequence[Heard]) -> Heard:
    """Recordings end to end, on one axis of tokens and one of seconds.

    Args:
        recordings: recordings of one bundle, at least one.
    """
    parts: list[Part] = []
    token, second = 0, 0.0
    for heard in recordings:
        parts += [
            replace(part, first=part.first + token, start=part.start + second)
            for part in heard.parts
        ]
        token, second = token + heard.tokens, second + heard.seconds
    attention = [h.encoder_attention for h in recordings if h.encoder_attention is not None]
    return Heard(
        audio=JoinedEmbeds([heard.audio for heard in recordings]),
        seconds=second,
        seconds_heard=sum(heard.seconds_heard for heard in recordings),
        encoder_attention=np.concatenate(attention) if len(attention) == len(recordings) else None,
        decoder="+".join(dict.fromkeys(h.decoder for h in recordings if h.decoder)),
        notes=tuple(dict.fromkeys(note for heard in recordings for note in heard.notes)),
        several=tuple(parts),
    )
