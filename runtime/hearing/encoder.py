"""Runs the audio encoder over the windows of a recording."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.contract.manifest import AudioSpec
from speechprune_ort.contract.specs import ATTENTION
from speechprune_ort.errors import AudioError, BundleError
from speechprune_ort.runtime.hearing.embeddings import AudioEmbeds, DeviceEmbeds, EmbedsBuilder
from speechprune_ort.runtime.hearing.windows import MelWindow
from speechprune_ort.runtime.ort.device import Device
from speechprune_ort.timings import Timings

__all__ = ["WindowEncoder"]

Scores = NDArray[np.float32]


class WindowEncoder:
    """Runs the audio encoder on windows as they come and concatenates their tokens.

    Whole windows run ``builder.at_once`` at a time. Windows in which every sample is 0 are all
    alike and are encoded once. Where the graph takes short windows, the last one is not padded to
    its full length.

    Args:
        session: session of the graph ``audio_encoder``.
        audio: how frames become tokens.
        builder: collects the embeddings.
        device: where the session runs.
        timings: the time is added to its ``encoder``.
        attention: whether to keep the attention that tokens receive in the encoder's last layer.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        audio: AudioSpec,
        builder: EmbedsBuilder,
        device: Device,
        timings: Timings,
        attention: bool = False,
    ) -> None:
        self._session, self._audio, self._builder = session, audio, builder
        self._device, self._timings = device, timings
        self._total = 0
        self._attention: list[Scores] | None = [] if attention else None
        self._silent: dict[int, tuple[DeviceEmbeds, Scores | None]] = {}  # by frames of sound
        inputs = {tensor.name: tensor for tensor in session.get_inputs()}
        self._takes_short = not isinstance(inputs["input_features"].shape[-1], int)
        self._whole: list[NDArray[np.float32]] = []  # features that wait until a run is full

    def add(self, window: MelWindow) -> None:
        """Add a window; only the last one may be shorter than a whole window.

        Raises:
            BundleError: the encoder writes fewer tokens than the manifest promises.
        """
        length, builder = window.length, self._builder
        if window.silent and length in self._silent:
            self._flush()
            part, received = self._silent[length]
            with self._timings.measure("encoder"):
                builder.repeat(part)
            self._total += part.tokens
            self._attend(received)
            return
        features, tokens, count = self._shaped(window)
        self._total += count
        full = length == window.features.shape[1] and count == builder.window_tokens
        if full and not window.silent:
            self._whole.append(features)
            if len(self._whole) == builder.at_once:
                self._flush()
        elif count:
            self._flush()
            with self._timings.measure("encoder"):
                received = self._run_one(features, length, tokens, count)
                if window.silent:
                    self._silent[length] = builder.peek(count), received
                builder.commit(count)
            self._attend(received)

    def so_far(self, rest: MelWindow | None) -> tuple[AudioEmbeds, Scores | None]:
        """What ``finish`` would return if only ``rest``, or nothing, followed.

        Raises:
            AudioError: the recording is too short for a single token so far.
            BundleError: as for ``add``.
        """
        self._flush()
        count, received = 0, None
        if rest is not None:
            features, tokens, count = self._shaped(rest)
            if count:
                with self._timings.measure("encoder"):
                    received = self._run_one(features, rest.length, tokens, count)
        self._refuse_none(self._total + count)
        attention = None
        if self._attention is not None:
            parts = [*self._attention, *([] if received is None else [received])]
            attention = np.concatenate(parts)
        return self._builder.so_far(self._builder.peek(count)), attention

    def finish(self) -> tuple[AudioEmbeds, Scores | None]:
        """All tokens without padding, and the attention (tokens,) that they received.

        Raises:
            AudioError: the recording is too short for a single token.
        """
        self._flush()
        self._refuse_none(self._total)
        attention = None if self._attention is None else np.concatenate(self._attention)
        return self._builder.finish(), attention

    def _shaped(self, window: MelWindow) -> tuple[NDArray[np.float32], int, int]:
        """Features as the graph takes them, how many tokens it writes, how many of them count."""
        features, length = window.features, window.length
        tokens = self._builder.window_tokens
        if self._takes_short:
            needed, tokens = self._audio.padded_frames(length, features.shape[1], tokens)
            features = np.ascontiguousarray(features[:, :needed])
        count = self._audio.tokens(length)
        if count > tokens:  # rows that were never written would be used
            raise BundleError(
                f"The manifest promises {count} tokens of {length} frames and the audio "
                f"encoder writes {tokens}: export the bundle again."
            )
        return features, tokens, count

    def _run(self, features: list[NDArray[np.float32]], length: int, tokens: int) -> Scores | None:
        wanted = self._attention is not None
        stacked = np.stack(features)
        return _encode(self._session, stacked, length, tokens, self._builder, self._device, wanted)

    def _run_one(
        self, features: NDArray[np.float32], length: int, tokens: int, count: int
    ) -> Scores | None:
        attended = self._run([features], length, tokens)
        return None if attended is None else attended[0, :count]

    def _flush(self) -> None:
        if not self._whole:
            return
        with self._timings.measure("encoder"):
            frames = self._whole[0].shape[1]
            received = self._run(self._whole, frames, self._builder.window_tokens)
            self._builder.commit(len(self._whole) * self._builder.window_tokens)
        if self._attention is not None and received is not None:
            self._attention.extend(received)
        self._whole.clear()

    def _attend(self, received: Scores | None) -> None:
        if self._attention is not None and received is not None:
            self._attention.append(received)

    def _refuse_none(self, tokens: int) -> None:
        if tokens == 0:
            raise AudioError(
                "The recording is too short for one audio token: give at least "
                f"{_least_seconds(self._audio):.2f} seconds."
            )


def _encode(
    session: ort.InferenceSession,
    features: NDArray[np.float32],
    length: int,
    tokens: int,
    builder: EmbedsBuilder,
    device: Device,
    attention: bool,
) -> Scores | None:
    """Encode windows (windows, mel_bins, frames) of one length into the builder.

    Returns:
        (windows, tokens) attention that their tokens receive, or None if not wanted.
    """
    binding: Any = session.io_binding()
    # A binding holds addresses only, so the arrays must be kept alive until the run is over.
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
