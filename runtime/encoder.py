"""Windows of a recording to audio embeddings, every window heard."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.errors import AudioError
from speechprune_ort.manifest import AudioSpec
from speechprune_ort.results import Timings
from speechprune_ort.runtime.device import Device
from speechprune_ort.runtime.embeddings import AudioEmbeds, EmbedsBuilder
from speechprune_ort.runtime.features import LogMel

__all__ = ["encode_windows"]


def encode_windows(
    session: ort.InferenceSession,
    windows: Iterable[NDArray[np.float32]],
    log_mel: LogMel,
    audio: AudioSpec,
    builder: EmbedsBuilder,
    device: Device,
    timings: Timings,
    progress: Callable[[float], None] | None = None,
) -> AudioEmbeds:
    """Run the audio encoder and lay the windows' tokens end to end.

    One window at a time: a batch is no faster on a CPU and needs its memory at once.

    Args:
        session: ``audio_encoder``.
        windows: (samples,) float32 each; read one by one.
        log_mel: makes features of a window.
        audio: how frames become tokens.
        builder: keeps the embeddings.
        device: where the session runs.
        timings: ``log_mel`` and ``encoder`` are added to it.
        progress: called with the seconds heard after each window.

    Returns:
        The tokens of all windows, padding left out.

    Raises:
        AudioError: the recording is too short for a single token.
    """
    total, heard = 0, 0.0
    for window in windows:
        with timings.measure("log_mel"):
            features, length = log_mel(window)
        count = audio.tokens(length)
        heard += len(window) / audio.sampling_rate
        if count:
            with timings.measure("encoder"):
                _encode(session, features, length, builder, device)
                builder.commit(count)
        total += count
        if progress:
            progress(heard)
    if total == 0:
        raise AudioError(
            "The recording is too short for one audio token: give at least "
            f"{_least_seconds(audio):.2f} seconds."
        )
    return builder.finish()


def _encode(
    session: ort.InferenceSession,
    features: NDArray[np.float32],
    length: int,
    builder: EmbedsBuilder,
    device: Device,
) -> None:
    binding: Any = session.io_binding()
    # A binding holds addresses; what they point to is held here until the run is over.
    inputs = (device.put(features[None]), device.put(np.array([length], np.int64)))
    binding.bind_ortvalue_input("input_features", inputs[0])
    binding.bind_ortvalue_input("feature_lengths", inputs[1])
    builder.bind_next(binding, "audio_embeds")
    session.run_with_iobinding(binding)


def _least_seconds(audio: AudioSpec) -> float:
    frames = next(n for n in range(1, 1000) if audio.tokens(n) > 0)
    return frames * audio.hop_length / audio.sampling_rate
