"""A bundle opened for use: its sessions, its tokenizer, and what a single one of them does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.errors import BundleError, OptionError
from speechprune_ort.manifest import TOKENIZER_FILE, Manifest
from speechprune_ort.options import Backend, DeviceName, PruningOptions
from speechprune_ort.results import Timings
from speechprune_ort.runtime.audio import stream_windows
from speechprune_ort.runtime.budget import PrefillTime
from speechprune_ort.runtime.bundle import verify_files
from speechprune_ort.runtime.decoder import Decoder
from speechprune_ort.runtime.device import resolve_device
from speechprune_ort.runtime.embeddings import AudioEmbeds, EmbedsBuilder
from speechprune_ort.runtime.encoder import encode_windows
from speechprune_ort.runtime.features import LogMel
from speechprune_ort.runtime.prompt import Prompt, build_prompt
from speechprune_ort.runtime.scoring import NumpyScorer, OrtScorer, Scorer, assemble
from speechprune_ort.runtime.session import CheckedSession, memory_errors, open_session
from speechprune_ort.runtime.tokenizer import TextTokenizer
from speechprune_ort.runtime.tokenizer_file import open_tokenizer, tokenizer_errors
from speechprune_ort.specs import (
    ASSEMBLE,
    ATTENTION,
    AUDIO_ENCODER,
    DECODER,
    EMBED_TOKENS,
    FIRST_LAYER_QK,
    FIRST_LAYER_QK_FLOAT,
    RECEIVED_ATTENTION,
    ROTARY,
    SIMILARITY,
)

__all__ = ["Engine"]

TIMED_LENGTHS = (32, 128, 512)  # positions, to measure how long a prompt takes
WINDOWS_ON_GPU = 8  # encoded together
LONGEST_TIMED = 2.0  # seconds after which no longer prompt is tried


class Engine:
    """The graphs of a bundle on one device.

    Args:
        folder: The bundle.
        device: ``cpu``, ``cuda`` or ``auto``.
        threads: within an operator, numpy's products included; None lets each library choose.
        provider_options: of the CUDA execution provider.
        traces: folder for ONNX Runtime's own traces of every graph, see ``write_traces``; None
            for none, as they cost time.

    Attributes:
        manifest: of the bundle.
        device: where the graphs run.
        threads: within an operator, or None.
        tokenizer: of the bundle.
        text: the same for what people write; control tokens in it stay plain text.
        windows_at_once: that the audio encoder is given together.

    Raises:
        BundleError: the folder is no bundle, or of another schema, or incomplete.
        IntegrityError: a file of it was changed.
        DeviceError: the device cannot be used; the message says what is missing.
    """

    def __init__(
        self,
        folder: Path,
        device: DeviceName,
        threads: int | None,
        provider_options: Mapping[str, str] | None,
        traces: Path | None = None,
    ) -> None:
        self.manifest = manifest = Manifest.read(folder)
        self.device = resolve_device(device, manifest.target, provider_options)
        verify_files(folder, manifest)
        self.threads = threads
        self._folder, self._traces = folder, traces
        self.tokenizer = open_tokenizer(folder / TOKENIZER_FILE, manifest.dimensions.vocab)
        # A question must not be able to write control tokens into the prompt.
        self.text = TextTokenizer(self.tokenizer)
        self._log_mel = LogMel(
            sampling_rate=manifest.audio.sampling_rate,
            n_fft=manifest.audio.n_fft,
            hop_length=manifest.audio.hop_length,
            mel_bins=manifest.dimensions.mel_bins,
            window_seconds=manifest.audio.window_seconds,
        )
        # A CPU is busy with one: a batch is no faster there, and needs its memory at once.
        self.windows_at_once = 1 if self.device.name == "cpu" else WINDOWS_ON_GPU
        self._sessions: dict[str, CheckedSession] = {}
        for name in (AUDIO_ENCODER, EMBED_TOKENS, FIRST_LAYER_QK, ROTARY, DECODER):
            self.session(name)

    @property
    def tokens_per_second(self) -> float:
        """Audio tokens of a second of sound."""
        audio = self.manifest.audio
        return self.manifest.dimensions.window_tokens / audio.window_seconds

    def path(self, name: str) -> Path:
        """The file of a graph.

        Raises:
            BundleError: the bundle has no such graph.
        """
        if name not in self.manifest.graphs:
            raise BundleError(f"The bundle {self._folder} has no {name} graph: export it again.")
        return self._folder / self.manifest.graphs[name].file

    def session(self, name: str) -> CheckedSession:
        """The session of a graph, opened when it is first wanted.

        Raises:
            BundleError: the bundle has no such graph, or it is not what the manifest says.
            OutOfMemoryError: there is not enough memory for it.
        """
        if name not in self._sessions:
            self._sessions[name] = open_session(
                self.path(name),
                self.manifest.graphs[name].spec,
                self.device,
                self.threads,
                spinning=name == DECODER,
                trace=None if self._traces is None else self._traces / name,
            )
        return self._sessions[name]

    def write_traces(self) -> list[Path]:
        """End tracing and write one file a graph, ``NAME.json``; they open in Perfetto.

        Returns:
            The files; none where no folder for traces was given.
        """
        written = []
        if self._traces is not None:
            for name, session in self._sessions.items():
                path = self._traces / f"{name}.json"
                Path(session.end_profiling()).replace(path)
                written.append(path)
        return written

    def encode(
        self,
        blocks: Iterable[NDArray[np.float32]],
        timings: Timings,
        budget: int,
        progress: Callable[[float], None] | None = None,
        attention: list[NDArray[np.float32]] | None = None,
    ) -> AudioEmbeds:
        """A recording to audio embeddings, window by window.

        Args:
            blocks: (samples,) float32 each, in order.
            timings: stages are added to it; decoding of the blocks is ``audio``.
            budget: bytes that the embeddings may take; longer ones go to a temporary file.
            progress: called with the seconds heard after each window.
            attention: a list that takes (tokens,) attention received in the encoder's last layer,
                window by window; None where nobody wants it.

        Raises:
            OptionError: attention is wanted and the bundle's encoder does not tell it.
            AudioError: a block cannot be had, or the recording is too short for a single token.
            ComputeError: the encoder failed, or memory did not suffice.
        """
        audio, dims = self.manifest.audio, self.manifest.dimensions
        dtype = np.dtype(self.manifest.float_dtype)
        shape = (dims.window_tokens, dims.hidden)
        outputs = [tensor.name for tensor in self.manifest.graphs[AUDIO_ENCODER].spec.outputs]
        if attention is not None and ATTENTION not in outputs:
            raise OptionError(
                f"The audio encoder of {self._folder} has no attention output: export with "
                "--encoder-attention, or use another method."
            )
        with memory_errors(AUDIO_ENCODER):
            return encode_windows(
                self.session(AUDIO_ENCODER),
                stream_windows(timings.each("audio", blocks), audio.window_samples),
                self._log_mel,
                audio,
                EmbedsBuilder(shape, dtype, self.device, budget, self.windows_at_once),
                self.device,
                timings,
                progress,
                attention,
            )

    def embed(self, ids: tuple[int, ...]) -> NDArray[Any]:
        """Token ids to embeddings (tokens, hidden).

        Raises:
            BundleError: the embedding table has no row for an id.
        """
        session, rows = self.session(EMBED_TOKENS), self.manifest.dimensions.vocab
        beyond = next((token for token in ids if not 0 <= token < rows), None)
        if beyond is not None:
            raise BundleError(
                f"The tokenizer of {self._folder} gives token {beyond} "
                f"({self.tokenizer.id_to_token(beyond)!r}) and the embedding table has {rows} "
                "rows: export the bundle again."
            )
        embeds: NDArray[Any] = session.run(["embeds"], {"token_ids": np.array(ids, np.int64)})[0]
        return embeds

    def prompt(self, question: str) -> Prompt:
        """The template around a question.

        Raises:
            PromptError: the question is no text, is empty, gives no token or too many.
            BundleError: the tokenizer does not work.
        """
        context = self.manifest.dimensions.context
        with tokenizer_errors(self._folder / TOKENIZER_FILE):
            return build_prompt(self.text, self.manifest.prompt, question, context)

    def scorer(self, audio: AudioEmbeds, prompt: Prompt, options: PruningOptions) -> Scorer:
        """Scores of a recording's tokens for a prompt's question, by the chosen backend.

        Raises:
            BundleError: the bundle lacks a graph that is needed.
        """
        text = self.embed(prompt.query)
        # The ablation's graph is opened when it is asked for.
        projection = FIRST_LAYER_QK if options.attention == "binarized" else FIRST_LAYER_QK_FLOAT
        if options.backend == "ort":
            dims = self.manifest.dimensions
            names = (SIMILARITY, projection, RECEIVED_ATTENTION, ASSEMBLE)
            sizes = (dims.heads, dims.kv_heads, dims.head_dim)
            return OrtScorer(self.session, names, audio, text, sizes, self.device)
        session = self.session(projection)

        def project(part: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            query, key = session.run(["query", "key"], {"audio_embeds": part})
            return query, key

        return NumpyScorer(audio, text, project)

    def assemble(
        self,
        prompt: Prompt,
        audio: AudioEmbeds,
        indices: NDArray[np.int64],
        backend: Backend,
        timings: Timings,
    ) -> NDArray[Any] | ort.OrtValue:
        """Kept audio tokens between the prompt's own.

        Returns:
            (prompt, hidden) on the host, or (1, prompt, hidden) on the device by ``ort``.
        """
        with timings.measure("embed"):
            before, after = self.embed(prompt.before), self.embed(prompt.after)
        with timings.measure("assemble"), memory_errors(ASSEMBLE):
            if backend == "ort":
                session = self.session(ASSEMBLE)
                return assemble(session, self.device, before, audio, indices, after)
            return np.concatenate([before, audio.take(indices), after])

    @cached_property
    def prefill_time(self) -> PrefillTime:
        """How long reading a prompt takes here: measured, the better of two, a second or so."""
        seconds: dict[int, float] = {}
        vocab = self.manifest.dimensions.vocab
        for length in TIMED_LENGTHS:
            if length > self.manifest.dimensions.context:
                break
            embeds = self.embed(tuple(range(min(length, vocab))))
            embeds = np.resize(embeds, (length, embeds.shape[1]))
            decoder = self.decoder(length)
            taken = []
            for _ in range(3):  # the first warms up
                started = perf_counter()
                decoder.prefill(embeds, np.arange(length))
                taken.append(perf_counter() - started)
            seconds[length] = min(taken[1:])
            if seconds[length] > LONGEST_TIMED:
                break
        return PrefillTime.fit(seconds)

    def decoder(self, capacity: int) -> Decoder:
        """A decoder with an empty cache of ``capacity`` positions.

        Raises:
            OutOfMemoryError: there is not enough memory for the cache.
        """
        with memory_errors(DECODER):
            return Decoder(
                self.session(DECODER),
                self.session(EMBED_TOKENS),
                self.session(ROTARY),
                self.device,
                self.manifest.dimensions,
                self.manifest.float_dtype,
                capacity,
            )
