"""``SpeechLLM``: a bundle, ready to be asked about recordings."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from speechprune_ort.errors import BundleError, OptionError, PromptError
from speechprune_ort.manifest import TOKENIZER_FILE, Manifest
from speechprune_ort.options import DeviceName, GenerationOptions, PruningOptions
from speechprune_ort.results import Answer, AnswerStream, Pruning, Timings, spans_of
from speechprune_ort.runtime.audio import load_audio, split_windows
from speechprune_ort.runtime.bundle import verify_files
from speechprune_ort.runtime.decoder import Decoder
from speechprune_ort.runtime.device import resolve_device
from speechprune_ort.runtime.encoder import encode_windows
from speechprune_ort.runtime.features import LogMel
from speechprune_ort.runtime.prompt import Prompt, build_prompt
from speechprune_ort.runtime.sampling import Sampler
from speechprune_ort.runtime.selection import Selection, select
from speechprune_ort.runtime.session import open_session
from speechprune_ort.runtime.text_stream import TextStream
from speechprune_ort.specs import (
    AUDIO_ENCODER,
    DECODER,
    EMBED_TOKENS,
    FIRST_LAYER_QK,
    FIRST_LAYER_QK_FLOAT,
)

__all__ = ["Audio", "SpeechLLM"]

Audio = str | PathLike[str] | BinaryIO | NDArray[Any]
"""A path, a binary file object, or samples (samples,) or (samples, channels)."""


class SpeechLLM:
    """A Speech LLM that hears only the audio tokens that matter for the question.

    Args:
        bundle: folder that ``speechprune-ort export`` wrote.
        device: ``cpu``, ``cuda`` or ``auto`` (what the bundle was exported for; says on
            stderr which it took). Never falls back.
        threads: threads within an operator; None lets ONNX Runtime choose.
        provider_options: of the CUDA execution provider, such as ``{"device_id": "1"}``.

    Raises:
        BundleError: the folder is no bundle, or of another schema, or incomplete.
        IntegrityError: a file of it was changed.
        DeviceError: the device cannot be used; the message says what is missing.
        OptionError: an option has an impossible value.

    Sessions are safe to use from several threads at once.
    """

    def __init__(
        self,
        bundle: str | PathLike[str],
        device: DeviceName = "auto",
        threads: int | None = None,
        provider_options: Mapping[str, str] | None = None,
    ) -> None:
        if threads is not None and (isinstance(threads, bool) or threads < 1):
            raise OptionError(f"threads must be at least 1, not {threads!r}.")
        folder = Path(bundle).expanduser()
        self.manifest = manifest = Manifest.read(folder)
        self.device = resolve_device(device, manifest.target, provider_options)
        verify_files(folder, manifest)
        self._folder, self._threads = folder, threads
        try:
            self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        except Exception as error:  # the library raises a bare Exception
            raise BundleError(
                f"{folder / TOKENIZER_FILE} cannot be read ({error}): export the bundle again."
            ) from None
        # A question must not be able to write control tokens into the prompt.
        self._tokenizer.encode_special_tokens = True
        self._log_mel = LogMel(
            sampling_rate=manifest.audio.sampling_rate,
            n_fft=manifest.audio.n_fft,
            hop_length=manifest.audio.hop_length,
            mel_bins=manifest.dimensions.mel_bins,
            window_seconds=manifest.audio.window_seconds,
        )
        self._sessions = {
            name: self._open(name)
            for name in (AUDIO_ENCODER, EMBED_TOKENS, FIRST_LAYER_QK, DECODER)
        }

    def ask(
        self,
        audio: Audio,
        question: str,
        *,
        sampling_rate: int | None = None,
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        **options: Any,
    ) -> Answer:
        """Answer a question about a recording.

        Args:
            audio: path, binary file object or samples.
            question: what to ask.
            sampling_rate: of ``audio`` where it is an array.
            pruning: what is kept of the audio.
            generation: how the answer's tokens are chosen.
            **options: fields of either, for short: ``pruning_rate=0.4, max_new_tokens=20``;
                ``seed`` is set in both.

        Raises:
            AudioError: the recording cannot be used.
            PromptError: the question is empty, or prompt and answer exceed the context.
            OptionError: an option has an impossible value.
        """
        return self.stream(
            audio,
            question,
            sampling_rate=sampling_rate,
            pruning=pruning,
            generation=generation,
            **options,
        ).answer

    def stream(
        self,
        audio: Audio,
        question: str,
        *,
        sampling_rate: int | None = None,
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        **options: Any,
    ) -> AnswerStream:
        """The same, piece by piece as the text comes; ``.answer`` has the rest at the end.

        Arguments and errors are those of ``ask``. Options are checked at once, the recording
        and the question at the first piece.
        """
        pruning, generation = _options(pruning, generation, options)
        return AnswerStream(self._stream(audio, question, sampling_rate, pruning, generation))

    def _stream(
        self,
        audio: Audio,
        question: str,
        sampling_rate: int | None,
        pruning: PruningOptions,
        generation: GenerationOptions,
    ) -> Generator[str, None, Answer]:
        timings = Timings()
        with timings.measure("audio"):
            samples = load_audio(audio, sampling_rate)
        embeds = self._encode(samples, timings)
        prompt = build_prompt(self._tokenizer, self.manifest.prompt, question)
        selection = self._select(embeds, prompt, pruning, timings)
        prefill, positions = self._assemble(
            embeds, selection.indices, prompt, pruning, generation, timings
        )
        text, ids, reason = yield from self._generate(prefill, positions, generation, timings)
        return Answer(
            text=text,
            token_ids=tuple(ids),
            finish_reason=reason,
            question=question,
            seconds=len(samples) / self.manifest.audio.sampling_rate,
            prompt_tokens=len(prefill),
            pruning=Pruning(
                options=pruning,
                indices=selection.indices,
                total=len(embeds),
                spans=spans_of(selection.indices, self._tokens_per_second),
                similarity=selection.similarity,
                attention=selection.attention,
                candidates=selection.candidates,
            ),
            generation=generation,
            timings=timings,
            device=self.device.name,
        )

    @property
    def _tokens_per_second(self) -> float:
        audio = self.manifest.audio
        return self.manifest.dimensions.window_tokens / audio.window_seconds

    def _open(self, name: str) -> Any:
        entry = self.manifest.graphs.get(name)
        if entry is None:
            raise BundleError(f"The bundle {self._folder} has no {name} graph: export it again.")
        return open_session(
            self._folder / entry.file,
            entry.spec,
            self.device,
            self._threads,
            spinning=name == DECODER,
        )

    def _encode(self, samples: NDArray[np.float32], timings: Timings) -> NDArray[Any]:
        """(samples,) float32 -> (tokens, hidden)."""
        audio = self.manifest.audio
        with timings.measure("log_mel"):
            windows = split_windows(samples, audio.window_samples)
            features, lengths = self._log_mel.windows(windows)
        with timings.measure("encoder"):
            return encode_windows(self._sessions[AUDIO_ENCODER], features, lengths, audio)

    def _embed(self, ids: tuple[int, ...]) -> NDArray[Any]:
        """(tokens,) ids -> (tokens, hidden)."""
        session = self._sessions[EMBED_TOKENS]
        embeds: NDArray[Any] = session.run(["embeds"], {"token_ids": np.array(ids, np.int64)})[0]
        return embeds

    def _select(
        self, embeds: NDArray[Any], prompt: Prompt, pruning: PruningOptions, timings: Timings
    ) -> Selection:
        graph = FIRST_LAYER_QK if pruning.attention == "binarized" else FIRST_LAYER_QK_FLOAT
        if graph not in self._sessions:  # the ablation's graph is opened when it is asked for
            self._sessions[graph] = self._open(graph)
        session = self._sessions[graph]

        def project(audio: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            query, key = session.run(["query", "key"], {"audio_embeds": audio})
            return query, key

        with timings.measure("embed"):
            text = self._embed(prompt.query)
        with timings.measure("prune"):
            return select(
                pruning,
                embeds,
                text,
                window_tokens=self.manifest.dimensions.window_tokens,
                frame_tokens=self.manifest.audio.frame_tokens,
                project=project,
            )

    def _assemble(
        self,
        embeds: NDArray[Any],
        indices: NDArray[np.int64],
        prompt: Prompt,
        pruning: PruningOptions,
        generation: GenerationOptions,
        timings: Timings,
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Prompt embeddings (tokens, hidden) and their positions (tokens,)."""
        with timings.measure("embed"):
            before, after = self._embed(prompt.before), self._embed(prompt.after)
        with timings.measure("assemble"):
            prefill = np.concatenate([before, embeds[indices], after])
            positions = np.arange(len(prefill))
            if pruning.positions == "original":
                first, behind = len(before), len(before) + len(embeds)
                positions = np.concatenate(
                    [np.arange(first), first + indices, behind + np.arange(len(after))]
                )
        context = self.manifest.dimensions.context
        needed = int(positions[-1]) + 1 + generation.max_new_tokens
        if needed > context:
            raise PromptError(
                f"Prompt and answer need {needed} positions and the model has {context}: "
                f"{_cure(pruning, len(indices), needed - context)}."
            )
        return prefill, positions.astype(np.int64)

    def _generate(
        self,
        prefill: NDArray[Any],
        positions: NDArray[np.int64],
        generation: GenerationOptions,
        timings: Timings,
    ) -> Generator[str, None, tuple[str, list[int], Literal["stop", "length", "stop_string"]]]:
        manifest = self.manifest
        decoder = Decoder(
            self._sessions[DECODER],
            self._sessions[EMBED_TOKENS],
            self.device,
            manifest.dimensions,
            manifest.float_dtype,
            capacity=len(prefill) + generation.max_new_tokens,
        )
        sampler = Sampler(generation)
        out = TextStream(self._tokenizer, generation.stop)
        ids: list[int] = []
        reason: Literal["stop", "length", "stop_string"] = "length"
        with timings.measure("prefill"):
            logits = decoder.prefill(prefill, positions)
        position = int(positions[-1])
        while True:
            with timings.measure("decode"):
                token = sampler(logits)
                if token in manifest.stop_token_ids:
                    reason = "stop"
                    break
                ids.append(token)
                piece = out.push(token)
            if piece:
                yield piece
            if out.stopped:
                return out.text, ids, "stop_string"
            if len(ids) == generation.max_new_tokens:
                break
            position += 1
            with timings.measure("decode"):
                logits = decoder.step(token, position)
        rest = out.finish()
        if rest:
            yield rest
        return out.text, ids, reason


def _options(
    pruning: PruningOptions | None, generation: GenerationOptions | None, given: dict[str, Any]
) -> tuple[PruningOptions, GenerationOptions]:
    """Sort short-hand options to the dataclass that they belong to."""
    pruning_names = set(PruningOptions.__dataclass_fields__)
    generation_names = set(GenerationOptions.__dataclass_fields__)
    unknown = sorted(set(given) - pruning_names - generation_names)
    if unknown:
        known = ", ".join(sorted(pruning_names | generation_names))
        raise OptionError(f"There is no option {unknown[0]!r}: the options are {known}.")
    for_generation = {k: v for k, v in given.items() if k in generation_names}
    for_pruning = {k: v for k, v in given.items() if k in pruning_names}
    for kind, options, short in (
        ("pruning", pruning, for_pruning),
        ("generation", generation, for_generation),
    ):
        if options is not None and short:
            raise OptionError(
                f"{next(iter(short))} is given beside {kind}=: set it in one of the two."
            )
    return (
        pruning or PruningOptions(**for_pruning),
        generation or GenerationOptions(**for_generation),
    )


def _cure(pruning: PruningOptions, kept: int, excess: int) -> str:
    if pruning.method == "none":
        return "prune (method='speechprune'), or give a shorter recording"
    if pruning.positions == "original":
        return "use positions='renumbered', or give a shorter recording"
    if kept > excess:
        return f"lower the budget or max_new_tokens by {excess}, or raise the pruning rate"
    return "lower max_new_tokens, or ask a shorter question"
