"""From a recording to its audio embeddings: cut it into windows, make features, encode."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.choices import LongAudio
from speechprune_ort.contract.specs import AUDIO_ENCODER
from speechprune_ort.errors import OptionError
from speechprune_ort.runtime.hearing.audio import AudioStream, HeardBlocks
from speechprune_ort.runtime.hearing.embeddings import EmbedsBuilder, disk_errors
from speechprune_ort.runtime.hearing.encoder import WindowEncoder
from speechprune_ort.runtime.hearing.features import LogMel
from speechprune_ort.runtime.hearing.heard import Heard
from speechprune_ort.runtime.hearing.intake import Intake
from speechprune_ort.runtime.hearing.live import LIVE, ByRecording, ByWindow, GrowingRecording
from speechprune_ort.runtime.hearing.windows import mel_windows
from speechprune_ort.runtime.ort.engine import Engine
from speechprune_ort.runtime.ort.session import memory_errors
from speechprune_ort.timings import Timings

__all__ = ["Ear"]

WINDOWS_ON_GPU = 8  # encoded together


class Ear:
    """Hears recordings with the audio encoder of a bundle.

    Args:
        engine: the bundle.

    Attributes:
        windows_at_once: how many windows one run of the audio encoder takes.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine, manifest = engine, engine.manifest
        self._log_mel = LogMel(
            sampling_rate=manifest.audio.sampling_rate,
            n_fft=manifest.audio.n_fft,
            hop_length=manifest.audio.hop_length,
            mel_bins=manifest.dimensions.mel_bins,
            window_seconds=manifest.audio.window_seconds,
            scale=manifest.audio.log_mel.scale,
            taper=manifest.audio.log_mel.taper,
        )
        # One window keeps a CPU busy: a batch is no faster there and needs more memory. Beside a
        # GPU it makes features, which takes many times as long as encoding them there.
        on_cpu = engine.device.name == "cpu"
        self.windows_at_once = 1 if on_cpu else WINDOWS_ON_GPU
        cores = engine.threads or len(os.sched_getaffinity(0))
        self._workers = 1 if on_cpu else min(cores, WINDOWS_ON_GPU)

    def hear(
        self,
        stream: AudioStream,
        timings: Timings,
        budget: int,
        *,
        long_audio: LongAudio = "prune",
        encoder_attention: bool = False,
        progress: Callable[[float], None] | None = None,
    ) -> Heard:
        """Encode a recording, window by window.

        Args:
            stream: the recording, at the bundle's rate.
            timings: the stages are added to it; reading the recording is ``audio``.
            budget: bytes of memory that the embeddings may take; larger ones go to a temporary
                file.
            long_audio: what to do with a recording longer than the model's window.
            encoder_attention: whether to keep the attention in the audio encoder.
            progress: called with the seconds heard after each window.

        Raises:
            OptionError: attention is wanted and the bundle's encoder has no such output.
            AudioError: the recording cannot be read, is silent, too short for a single token, or
                too long for ``error``.
            ComputeError: the encoder failed, or there was not enough memory.
        """
        audio = self._engine.manifest.audio
        encoder = self._encoder(timings, budget, encoder_attention, self.windows_at_once)
        blocks, heard = HeardBlocks(stream, audio.window_samples, long_audio, timings), 0.0
        with memory_errors(AUDIO_ENCODER), disk_errors():
            for cut in mel_windows(blocks, self._log_mel, audio, timings, self._workers):
                encoder.add(cut)
                heard += cut.seconds
                if progress:
                    progress(heard)
            embeds, attention = encoder.finish()
        stream.refuse_silence()
        return Heard(
            audio=embeds,
            seconds=blocks.samples / audio.sampling_rate,
            seconds_heard=blocks.heard / audio.sampling_rate,
            encoder_attention=attention,
            decoder=stream.decoder,
            notes=stream.notes,
        )

    def grow(
        self, timings: Timings, budget: int, options: AudioOptions, encoder_attention: bool = False
    ) -> GrowingRecording:
        """Begin a recording that arrives block by block.

        Arguments and errors as for ``hear``. Windows are encoded one at a time, so that none waits
        for others.
        """
        audio, log_mel = self._engine.manifest.audio, self._log_mel

        def encoder() -> WindowEncoder:
            return self._encoder(timings, budget, encoder_attention, 1)

        by = ByRecording if audio.log_mel.over == "recording" else ByWindow
        intake = Intake(LIVE, audio.sampling_rate, options)
        return GrowingRecording(intake, by(encoder, log_mel, audio, timings), audio, timings)

    def _encoder(
        self, timings: Timings, budget: int, attention: bool, at_once: int
    ) -> WindowEncoder:
        manifest, device = self._engine.manifest, self._engine.device
        if attention and not manifest.encoder_attention:
            raise OptionError(
                f"The audio encoder of {self._engine.folder} has no attention output: export with "
                "--encoder-attention, or use another method."
            )
        shape = (manifest.dimensions.window_tokens, manifest.dimensions.hidden)
        dtype = np.dtype(manifest.float_dtype)
        return WindowEncoder(
            self._engine.session(AUDIO_ENCODER),
            manifest.audio,
            EmbedsBuilder(shape, dtype, device, budget, at_once),
            device,
            timings,
            attention,
        )
