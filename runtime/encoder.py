"""Windows of a recording to audio embeddings, every window heard."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.errors import AudioError
from speechprune_ort.manifest import AudioSpec
from speechprune_ort.runtime.device import Device
from speechprune_ort.runtime.embeddings import AudioEmbeds

__all__ = ["encode_windows"]


def encode_windows(
    session: ort.InferenceSession,
    features: NDArray[np.float32],
    lengths: NDArray[np.int64],
    audio: AudioSpec,
    device: Device,
    shape: tuple[int, int],
    dtype: np.dtype[Any],
) -> AudioEmbeds:
    """Run the audio encoder and lay the windows' tokens end to end, on its device.

    Args:
        session: ``audio_encoder``.
        features: (windows, mel_bins, frames) float32.
        lengths: (windows,) int64, frames of each window that are audio.
        audio: how frames become tokens.
        device: where the session runs.
        shape: of a window's embeddings, (window_tokens, hidden).
        dtype: of the embeddings.

    Returns:
        The tokens of all windows, padding left out.

    Raises:
        AudioError: the recording is too short for a single token.
    """
    counts = [audio.tokens(int(length)) for length in lengths]
    if sum(counts) == 0:
        raise AudioError(
            "The recording is too short for one audio token: give at least "
            f"{_least_seconds(audio):.2f} seconds."
        )
    # Each window is written behind the tokens of the one before, over its padding.
    window_tokens, hidden = shape
    rows = sum(counts) + window_tokens
    embeds = AudioEmbeds(rows, sum(counts), hidden, dtype, device)
    start = 0
    # One window at a time: a batch is no faster on a CPU and needs its memory at once.
    for window, length, count in zip(features, lengths, counts, strict=True):
        if count == 0:
            continue
        binding = session.io_binding()
        inputs = (device.put(window[None]), device.put(np.array([length], np.int64)))
        binding.bind_ortvalue_input("input_features", inputs[0])
        binding.bind_ortvalue_input("feature_lengths", inputs[1])
        embeds.bind_rows_as_output(binding, "audio_embeds", start, (1, window_tokens, hidden))
        session.run_with_iobinding(binding)
        start += count
    return embeds


def _least_seconds(audio: AudioSpec) -> float:
    frames = next(n for n in range(1, 1000) if audio.tokens(n) > 0)
    return frames * audio.hop_length / audio.sampling_rate
