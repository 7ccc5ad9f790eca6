"""Windows of a recording to audio embeddings, every window heard."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.errors import AudioError
from speechprune_ort.manifest import AudioSpec

__all__ = ["encode_windows"]


def encode_windows(
    session: ort.InferenceSession,
    features: NDArray[np.float32],
    lengths: NDArray[np.int64],
    audio: AudioSpec,
) -> NDArray[Any]:
    """Run the audio encoder and lay the windows' tokens end to end.

    Args:
        session: ``audio_encoder``.
        features: (windows, mel_bins, frames) float32.
        lengths: (windows,) int64, frames of each window that are audio.
        audio: how frames become tokens.

    Returns:
        (tokens, hidden) in the session's float dtype, padding tokens left out.

    Raises:
        AudioError: the recording is too short for a single token.
    """
    counts = [audio.tokens(int(length)) for length in lengths]
    if sum(counts) == 0:
        raise AudioError(
            "The recording is too short for one audio token: give at least "
            f"{_least_seconds(audio):.2f} seconds."
        )
    rows = []
    # One window at a time: a batch is no faster on a CPU and needs its memory at once.
    for window, length, count in zip(features, lengths, counts, strict=True):
        if count == 0:
            continue
        (embeds,) = session.run(
            ["audio_embeds"],
            {"input_features": window[None], "feature_lengths": np.array([length], np.int64)},
        )
        rows.append(embeds[0, :count])
    return np.concatenate(rows)


def _least_seconds(audio: AudioSpec) -> float:
    frames = next(n for n in range(1, 1000) if audio.tokens(n) > 0)
    return frames * audio.hop_length / audio.sampling_rate
