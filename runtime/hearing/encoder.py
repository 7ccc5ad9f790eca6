"""Windows of a recording to audio embeddings, every window heard."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.contract.manifest import AudioSpec
from speechprune_ort.contract.specs import ATTENTION
from speechprune_ort.errors import AudioError, BundleError
from speechprune_ort.runtime.hearing.embeddings import AudioEmbeds, EmbedsBuilder
from speechprune_ort.runtime.hearing.features import LogMel
from speechprune_ort.runtime.ort.device import Device
from speechprune_ort.timings import Timings

__all__ = ["encode_windows"]

Scores = NDArray[np.float32]

REACH = 4  # frames behind the last one that convolutions may look at


def encode_windows(
    session: ort.InferenceSession,
    windows: Iterable[NDArray[np.float32]],
    log_mel: LogMel,
    audio: AudioSpec,
    builder: EmbedsBuilder,
    device: Device,
    timings: Timings,
    progress: Callable[[float], None] | None = None,
    attention: list[NDArray[np.float32]] | None = None,
) -> AudioEmbeds:
    """Run the audio encoder and lay the windows' tokens end to end.

    Whole windows run ``builder.at_once`` together. Windows without a sound (every sample 0) are all
    alike and encoded once; where the graph takes short windows, the last one is not padded to
    its full length.

    Args:
        session: ``audio_encoder``.
        windows: (samples,) float32 each; read one by one.
        log_mel: makes features of a window.
        audio: how frames become tokens.
        builder: keeps the embeddings.
        device: where the session runs.
        timings: ``log_mel`` and ``encoder`` are added to it.
        progress: called with the seconds heard after each window.
        attention: a list that takes (tokens,) attention received, window by window, or None.

    Returns:
        The tokens of all windows, padding left out.

    Raises:
        AudioError: the recording is too short for a single token.
        BundleError: the encoder writes fewer tokens than the manifest promises.
    """
    total, heard = 0, 0.0
    silent: dict[int, tuple[NDArray[Any], Scores | None]] = {}  # by length in samples
    inputs = {tensor.name: tensor for tensor in session.get_inputs()}
    takes_short = not isinstance(inputs["input_features"].shape[-1], int)
    per_token = log_mel.frames // builder.window_tokens
    whole: list[NDArray[np.float32]] = []  # features that wait for their run

    def run(features: list[NDArray[np.float32]], length: int, tokens: int) -> Scores | None:
        wanted = attention is not None
        return _encode(session, np.stack(features), length, tokens, builder, device, wanted)

    def flush() -> None:
        if not whole:
            return
        with timings.measure("encoder"):
            received = run(whole, log_mel.frames, builder.window_tokens)
            builder.commit(len(whole) * builder.window_tokens)
        if attention is not None and received is not None:
            attention.extend(received)
        whole.clear()

    for window in windows:
        heard += len(window) / audio.sampling_rate
        is_silent = not window.any()
        received: Scores | None = None
        if is_silent and len(window) in silent:
            flush()
            rows, received = silent[len(window)]
            with timings.measure("encoder"):
                builder.append(rows)
            total += len(rows)
        else:
            with timings.measure("log_mel"):
                features, length = log_mel(window)
                tokens = builder.window_tokens
                if takes_short:
                    features = _unpadded(features, length, per_token)
                    tokens = features.shape[1] // per_token
            count = audio.tokens(length)
            if count > tokens:  # rows that nobody wrote would be heard
                raise BundleError(
                    f"The manifest promises {count} tokens of {length} frames and the audio "
                    f"encoder writes {tokens}: export the bundle again."
                )
            total += count
            if length == log_mel.frames and count == builder.window_tokens and not is_silent:
                whole.append(features)
                if len(whole) == builder.at_once:
                    flush()
            elif count:
                flush()
                with timings.measure("encoder"):
                    attended = run([features], length, tokens)
                    received = None if attended is None else attended[0, :count]
                    if is_silent:
                        silent[len(window)] = builder.peek(count), received
                    builder.commit(count)
        if attention is not None and received is not None:
            attention.append(received)
        if progress:
            progress(heard)
    flush()
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
    tokens: int,
    builder: EmbedsBuilder,
    device: Device,
    attention: bool,
) -> Scores | None:
    """Windows (windows, mel_bins, frames) of one length into the builder.

    Returns:
        (windows, tokens) attention that their tokens receive, where that is wanted.
    """
    binding: Any = session.io_binding()
    # A binding holds addresses; what they point to is held here until the run is over.
    count = len(features)
    inputs = (device.put(features), device.put(np.full(count, length, np.int64)))
    binding.bind_ortvalue_input("input_features", inputs[0])
    binding.bind_ortvalue_input("feature_lengths", inputs[1])
    builder.bind_next(binding, "audio_embeds", tokens, count)
    received = np.empty((count, tokens), np.float32) if attention else None
    if received is not None:
        binding.bind_ortvalue_output(ATTENTION, ort.OrtValue.ortvalue_from_numpy(received))
    session.run_with_iobinding(binding)
    return received


def _unpadded(features: NDArray[np.float32], length: int, per_token: int) -> NDArray[np.float32]:
    """Features without frames of padding that no token of the recording depends on."""
    needed = -(-(length + REACH) // per_token) * per_token
    return np.ascontiguousarray(features[:, : min(needed, features.shape[1])])


def _least_seconds(audio: AudioSpec) -> float:
    frames = next(n for n in itertools.count(1) if audio.tokens(n) > 0)
    return frames * audio.hop_length / audio.sampling_rate
