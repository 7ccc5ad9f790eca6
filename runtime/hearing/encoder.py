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
from speechprune_ort.runtime.hearing.windows import MelWindow
from speechprune_ort.runtime.ort.device import Device
from speechprune_ort.timings import Timings

__all__ = ["encode_windows"]

Scores = NDArray[np.float32]


def encode_windows(
    session: ort.InferenceSession,
    windows: Iterable[MelWindow],
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
        windows: features of each; read one by one.
        audio: how frames become tokens.
        builder: keeps the embeddings.
        device: where the session runs.
        timings: ``encoder`` is added to it.
        progress: called with the seconds heard after each window.
        attention: a list that takes (tokens,) attention received, window by window, or None.

    Returns:
        The tokens of all windows, padding left out.

    Raises:
        AudioError: the recording is too short for a single token.
        BundleError: the encoder writes fewer tokens than the manifest promises.
    """
    total, heard = 0, 0.0
    silent: dict[int, tuple[NDArray[Any], Scores | None]] = {}  # by frames of sound
    inputs = {tensor.name: tensor for tensor in session.get_inputs()}
    takes_short = not isinstance(inputs["input_features"].shape[-1], int)
    whole: list[NDArray[np.float32]] = []  # features that wait for their run

    def run(features: list[NDArray[np.float32]], length: int, tokens: int) -> Scores | None:
        wanted = attention is not None
        return _encode(session, np.stack(features), length, tokens, builder, device, wanted)

    def flush() -> None:
        if not whole:
            return
        with timings.measure("encoder"):
            received = run(whole, whole[0].shape[1], builder.window_tokens)
            builder.commit(len(whole) * builder.window_tokens)
        if attention is not None and received is not None:
            attention.extend(received)
        whole.clear()

    for window in windows:
        heard += window.seconds
        features, length, frames = window.features, window.length, window.features.shape[1]
        received: Scores | None = None
        if window.silent and length in silent:
            flush()
            rows, received = silent[length]
            with timings.measure("encoder"):
                builder.append(rows)
            total += len(rows)
        else:
            tokens = builder.window_tokens
            if takes_short:
                needed, tokens = audio.padded_frames(length, frames, tokens)
                features = np.ascontiguousarray(features[:, :needed])
            count = audio.tokens(length)
            if count > tokens:  # rows that nobody wrote would be heard
                raise BundleError(
                    f"The manifest promises {count} tokens of {length} frames and the audio "
                    f"encoder writes {tokens}: export the bundle again."
                )
            total += count
            if length == frames and count == builder.window_tokens and not window.silent:
                whole.append(features)
                if len(whole) == builder.at_once:
                    flush()
            elif count:
                flush()
                with timings.measure("encoder"):
                    attended = run([features], length, tokens)
                    received = None if attended is None else attended[0, :count]
                    if window.silent:
                        silent[length] = builder.peek(count), received
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


def _least_seconds(audio: AudioSpec) -> float:
    frames = next(n for n in itertools.count(1) if audio.tokens(n) > 0)
    return frames * audio.hop_length / audio.sampling_rate
