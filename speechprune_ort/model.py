"""``SpeechLLM``: a bundle, ready to be asked about recordings."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from os import PathLike
from typing import Any, Literal, Self, Unpack, get_args, overload

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.answer_stream import AnswerStream
from speechprune_ort.audio_options import (
    HIGHEST_RATE,
    LOWEST_RATE,
    AudioOptions,
    check_audio_options,
)
from speechprune_ort.cancel import Cancel, Limits
from speechprune_ort.chat import Chat
from speechprune_ort.choices import Verify, check_choice, check_flag
from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.errors import (
    OptionError,
    PromptError,
    RecordingError,
    SpeechPruneError,
)
from speechprune_ort.live import LiveRecording
from speechprune_ort.methods import needs_encoder
from speechprune_ort.models.names import bundle_folder
from speechprune_ort.numbers import LARGEST_MB, check_number, check_positive, plain, whole
from speechprune_ort.options import (
    DeviceName,
    GenerationOptions,
    LongAudio,
    Options,
    PruningOptions,
    check_long_audio,
)
from speechprune_ort.pool import in_order
from speechprune_ort.recording import Recording, sort_options
from speechprune_ort.results import Answer
from speechprune_ort.runtime.answering.prompt import Prompt, embed_ids
from speechprune_ort.runtime.answering.question import pieces
from speechprune_ort.runtime.answering.scheduler import MOST_ROWS, Scheduler, most_rows
from speechprune_ort.runtime.hearing.audio import AudioStream, Source
from speechprune_ort.runtime.hearing.ear import Ear
from speechprune_ort.runtime.hearing.embeddings import DeviceEmbeds
from speechprune_ort.runtime.hearing.heard import Heard
from speechprune_ort.runtime.hearing.recording_file import load_embeds
from speechprune_ort.runtime.ort.device import Device
from speechprune_ort.runtime.ort.engine import Engine
from speechprune_ort.text import check_path, check_text, check_type, counted
from speechprune_ort.timings import Timings

__all__ = ["Audio", "SpeechLLM"]

Audio = Source
"""A path, a binary file object, the bytes of a file, samples (samples,) or (samples, channels), a
pair of samples and rate, or a mapping with ``array`` and ``sampling_rate``."""

MOST_THREADS = 4096  # ONNX Runtime takes any number and starts as many
MEMORY_BUDGET_MB = 192.0
"""Memory for a recording's embeddings, in 1e6 bytes."""


class SpeechLLM:
    """A Speech LLM that reads only the audio tokens that matter for the question.

    Args:
        bundle: folder that ``speechprune-ort export`` wrote; or the name of a model, ``default`` or
            ``owner/name`` on the hub, which is fetched on first use.
        device: ``cpu``, ``cuda`` or ``auto`` (the device that the bundle was exported for; it is
            named on stderr). There is no fallback.
        threads: threads within an operator, of ONNX Runtime and of numpy; None lets each choose.
        provider_options: options of the CUDA execution provider, such as ``{"device_id": "1"}``.
        max_batch: largest number of answers that are decoded together; None is 8. Bundles of
            ``w8a8`` always decode one at a time.
        traces: folder for ONNX Runtime's own traces, written by ``engine.write_traces()``.
        verify: ``once`` hashes a bundle's files when they are first seen and when their size or
            times have changed since; ``always`` hashes them each time, for file systems whose times
            are not to be trusted.

    Attributes:
        engine: the opened graphs, one by one: for profiling and for building other stages.
        ear: encodes recordings with them.
        scheduler: decodes the answers.

    Raises:
        BundleError: the folder is not a bundle, has another schema, or is incomplete.
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
        traces: str | PathLike[str] | None = None,
        max_batch: int | None = None,
        verify: Verify = "once",
    ) -> None:
        check_choice("verify", verify, get_args(Verify))
        most = None if max_batch is None else whole("max_batch", max_batch, 1, MOST_ROWS)
        threads = None if threads is None else whole("threads", threads, 1, MOST_THREADS)
        if provider_options is not None:
            check_type(provider_options, Mapping, "provider_options")  # type: ignore[type-abstract]
        folder = None if traces is None else check_path(traces, "The folder of traces", OptionError)
        if folder is not None:  # which ONNX Runtime takes in UTF-8 alone
            check_text(str(folder), "The folder of traces", OptionError)
        self.engine = Engine(
            bundle_folder(bundle), device, threads, provider_options, folder, verify
        )
        self.ear = Ear(self.engine)
        self.scheduler = Scheduler(self.engine, most_rows(self.engine.manifest, most))

    def close(self) -> None:
        """Free what the model holds; answers that are being decoded are finished.

        Any later use of it or of its recordings raises ``OptionError``. Closing it again does
        nothing. ``with SpeechLLM(...) as model:`` closes it at the end of the block.
        """
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def manifest(self) -> Manifest:
        """What the bundle is and holds."""
        return self.engine.manifest

    @property
    def device(self) -> Device:
        """Where the graphs run."""
        return self.engine.device

    def listen(
        self,
        audio: Audio,
        *,
        sampling_rate: int | None = None,
        long_audio: LongAudio = "prune",
        memory_budget_mb: float = MEMORY_BUDGET_MB,
        encoder_attention: bool = False,
        progress: Callable[[float], None] | None = None,
        audio_options: AudioOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
    ) -> Recording:
        """Encode a recording once, for any number of questions.

        It is read and encoded window by window: hours need hardly more memory than minutes.

        Args:
            audio: path, binary file object or samples; see ``Audio``.
            sampling_rate: sampling rate of ``audio`` if it is an array, in Hz.
            long_audio: what to do with a recording longer than the model's window (30 s):
                ``prune`` uses all of it, ``truncate`` only the first window, as other stacks do
                (``seconds_heard`` then says so), ``error`` refuses it.
            memory_budget_mb: memory for its embeddings on the device, in 1e6 bytes; beyond it
                they go to a temporary file, and answers are the same.
            encoder_attention: keep the audio encoder's attention, for methods that need it; its
                last layer then takes longer.
            progress: called after each window with the seconds encoded so far.
            audio_options: the channel to use, limits, and what counts as silence.
            deadline: seconds within which it must be encoded.
            cancel: lets another thread end it.

        Raises:
            AudioError: the recording cannot be used, is silent, exceeds a limit, or is too long for
                ``error``.
            OptionError: the budget is not positive, ``long_audio`` is not one of the three, or the
                bundle's encoder has no attention output.
            CancelledError: it was cancelled; ``DeadlineError``: the deadline passed first.
        """
        budget = _budget(memory_budget_mb)
        if progress is not None and not callable(progress):
            raise OptionError(f"progress takes a function, not {type(progress).__name__}.")
        check_long_audio(long_audio)
        check_flag("encoder_attention", plain(encoder_attention))
        check_audio_options(audio_options)
        timings, rate = Timings(), self.manifest.audio.sampling_rate
        limits = Limits(cancel, deadline, "The recording was not processed")
        try:
            with limits.held():
                heard = self.ear.hear(
                    AudioStream(audio, sampling_rate, to=rate, options=audio_options),
                    timings,
                    budget,
                    long_audio=long_audio,
                    encoder_attention=encoder_attention,
                    progress=progress,
                )
        finally:
            limits.over()
        return Recording(self.engine, self.scheduler, heard, timings)

    def live(
        self,
        sampling_rate: int | None = None,
        *,
        memory_budget_mb: float = MEMORY_BUDGET_MB,
        encoder_attention: bool = False,
        audio_options: AudioOptions | None = None,
    ) -> LiveRecording:
        """Begin a recording that grows by blocks while it is asked about.

        Args:
            sampling_rate: sampling rate of the blocks, in Hz; None if each block states its own.
            memory_budget_mb: as in ``listen``.
            encoder_attention: as in ``listen``.
            audio_options: as in ``listen``.

        Raises:
            OptionError: the budget is not positive, the rate is impossible, or the bundle's encoder
                has no attention output.
        """
        if sampling_rate is not None:
            whole("sampling_rate", sampling_rate, LOWEST_RATE, HIGHEST_RATE)
        check_flag("encoder_attention", plain(encoder_attention))
        timings, options = Timings(), check_audio_options(audio_options)
        growing = self.ear.grow(timings, _budget(memory_budget_mb), options, encoder_attention)
        return LiveRecording(
            growing,
            timings,
            self.manifest.audio.sampling_rate,
            sampling_rate,
            lambda heard, taken: Recording(self.engine, self.scheduler, heard, taken),
        )

    def load_recording(
        self, path: str | PathLike[str], *, memory_budget_mb: float = MEMORY_BUDGET_MB
    ) -> Recording:
        """Load a recording that ``Recording.save`` wrote; nothing is encoded.

        Args:
            path: the file.
            memory_budget_mb: as in ``listen``.

        Raises:
            RecordingError: there is no such file, it is damaged, or it was made with another
                bundle.
            OptionError: the budget is not positive.
        """
        embeds, about, attention = load_embeds(
            check_path(path, "The path of a recording", RecordingError),
            self.manifest.digest,
            self.manifest.dimensions.hidden,
            np.dtype(self.manifest.float_dtype),
            self.engine.device,
            _budget(memory_budget_mb),
        )
        heard = Heard(
            embeds, about.seconds, about.seconds_heard, attention, about.decoder, about.notes
        )
        return Recording(self.engine, self.scheduler, heard, Timings())

    def recall(self, embeds: NDArray[Any], seconds: float | None = None) -> Recording:
        """A recording from audio embeddings that were kept, such as ``recording.embeds``.

        Token embeddings of a text can take their place, as if the recording had been understood
        perfectly; an array without rows stands for no audio at all.

        Args:
            embeds: (tokens, hidden), numbers, cast to the bundle's float type.
            seconds: length of the recording; by default that which its tokens stand for.

        Raises:
            OptionError: ``embeds`` is not an array of numbers or has another shape, or ``seconds``
                is negative or not finite.
        """
        hidden = self.manifest.dimensions.hidden
        check_type(embeds, np.ndarray, "embeds")
        if embeds.dtype.kind not in "iuf":
            raise OptionError(f"Audio embeddings must be numbers, not {embeds.dtype}.")
        if embeds.ndim != 2 or embeds.shape[1] != hidden:
            raise OptionError(
                f"Audio embeddings of this bundle are (tokens, {hidden}), not {embeds.shape}."
            )
        if seconds is None:
            seconds = len(embeds) / self.manifest.tokens_per_second
        length = check_number(
            "seconds", seconds, lambda length: length >= 0, "at least 0 and finite"
        )
        typed = embeds.astype(self.manifest.float_dtype, copy=False)
        audio = DeviceEmbeds.of(typed, self.engine.device)
        return Recording(
            self.engine, self.scheduler, Heard(audio, float(length), float(length)), Timings()
        )

    def embed_text(self, text: str) -> NDArray[Any]:
        """Token embeddings of a text, (tokens, hidden), in the bundle's float type.

        Raises:
            PromptError: it is not a text, or has more tokens than the model has positions.
        """
        ids, dims = self.engine.text.encode(text, "The text").ids, self.manifest.dimensions
        if len(ids) > dims.context:
            raise PromptError(
                f"The text has {counted(len(ids), 'token')} and the model "
                f"{counted(dims.context, 'position')}: give a "
                "shorter one."
            )
        if not ids:
            return np.zeros((0, dims.hidden), self.manifest.float_dtype)
        return embed_ids(self.engine, tuple(ids))

    def ask(
        self,
        audio: Audio,
        question: str,
        *,
        sampling_rate: int | None = None,
        long_audio: LongAudio = "prune",
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        audio_options: AudioOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[Options],
    ) -> Answer:
        """Answer a question about a recording.

        Args:
            audio: path, binary file object or samples; see ``Audio``.
            question: what to ask.
            sampling_rate: sampling rate of ``audio`` if it is an array, in Hz.
            long_audio: as in ``listen``.
            pruning: what is kept of the audio.
            generation: how the answer's tokens are chosen.
            audio_options: as in ``listen``.
            deadline: seconds within which the whole answer must be complete.
            cancel: lets another thread end it.
            **options: fields of ``pruning`` and ``generation``, for short:
                ``pruning_rate=0.4, max_new_tokens=20``;
                ``seed`` is set in both.

        Raises:
            AudioError: the recording cannot be used.
            PromptError: the question is empty, or prompt and answer exceed the context.
            OptionError: an option has an impossible value.
            CancelledError: it was cancelled; ``DeadlineError``: the deadline passed first.
        """
        return self.stream(
            audio,
            question,
            sampling_rate=sampling_rate,
            long_audio=long_audio,
            pruning=pruning,
            generation=generation,
            audio_options=audio_options,
            deadline=deadline,
            cancel=cancel,
            **options,
        ).answer

    def chat(
        self,
        audio: Audio,
        *,
        sampling_rate: int | None = None,
        long_audio: LongAudio = "prune",
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        audio_options: AudioOptions | None = None,
        **options: Unpack[Options],
    ) -> Chat:
        """Encode a recording and begin a conversation about it; see ``Recording.chat``.

        Args:
            audio: path, binary file object or samples; see ``Audio``.
            sampling_rate: sampling rate of ``audio`` if it is an array, in Hz.
            long_audio: as in ``listen``.
            pruning: what is kept of the audio, for the first question and all that follow.
            generation: how answers' tokens are chosen.
            audio_options: as in ``listen``.
            **options: fields of ``pruning`` and ``generation``, for short.

        Raises:
            AudioError: the recording cannot be used.
            OptionError: an option has an impossible value.
        """
        pruning, generation = sort_options(pruning, generation, options)
        recording = self.listen(
            audio,
            sampling_rate=sampling_rate,
            long_audio=long_audio,
            encoder_attention=needs_encoder(pruning),
            audio_options=audio_options,
        )
        return recording.chat(pruning=pruning, generation=generation)

    @overload
    def ask_many(
        self,
        requests: Iterable[tuple[Audio, str]],
        *,
        workers: int = 2,
        return_exceptions: Literal[False] = False,
        long_audio: LongAudio = "prune",
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        audio_options: AudioOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Answer]: ...

    @overload
    def ask_many(
        self,
        requests: Iterable[tuple[Audio, str]],
        *,
        workers: int = 2,
        return_exceptions: bool,
        long_audio: LongAudio = "prune",
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        audio_options: AudioOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Answer | SpeechPruneError]: ...

    def ask_many(
        self,
        requests: Iterable[tuple[Audio, str]],
        *,
        workers: int = 2,
        return_exceptions: bool = False,
        long_audio: LongAudio = "prune",
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        audio_options: AudioOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Answer | SpeechPruneError]:
        """Answer questions about several recordings, a few at a time, in order.

        Requests are read only as workers become free, so the source may be endless.

        Args:
            requests: recordings (paths or file objects) with a question each.
            workers: number of answers in progress at once.
            return_exceptions: yield the package's own errors in the place of answers, and
                continue.
            long_audio: as in ``listen``.
            pruning: what is kept of the audio.
            generation: how the answers' tokens are chosen.
            audio_options: as in ``listen``.
            deadline: seconds that each answer may take from its start.
            cancel: lets another thread end all of them, even with ``return_exceptions``.
            **options: fields of ``pruning`` and ``generation``, for short.

        Yields:
            One answer for each request. What ``ask`` raises is raised in the request's turn and
            ends the rest, unless ``return_exceptions`` is set.

        Raises:
            OptionError: at once, if an option has an impossible value; in its turn, if a request
                is not a pair of a recording and a question.
        """
        workers = whole("workers", workers, 1)
        if not isinstance(requests, Iterable):
            raise OptionError(
                "requests must be pairs of a recording and a question, not "
                f"{type(requests).__name__}."
            )
        pruning, generation = sort_options(pruning, generation, options)
        check_long_audio(long_audio)
        check_audio_options(audio_options)
        Limits(cancel, deadline).over()  # refused here, not request by request

        def answer(request: tuple[Audio, str]) -> Answer | SpeechPruneError:
            try:
                if not isinstance(request, (tuple, list)) or len(request) != 2:
                    raise OptionError(
                        "A request is a pair of a recording and a question, not "
                        f"{type(request).__name__}."
                    )
                audio, question = request
                return self.ask(
                    audio,
                    question,
                    long_audio=long_audio,
                    pruning=pruning,
                    generation=generation,
                    audio_options=audio_options,
                    deadline=deadline,
                    cancel=cancel,
                )
            except SpeechPruneError as error:
                if not return_exceptions or (cancel is not None and cancel.cancelled):
                    raise
                return error

        return in_order(answer, requests, workers)

    def stream(
        self,
        audio: Audio,
        question: str,
        *,
        sampling_rate: int | None = None,
        long_audio: LongAudio = "prune",
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        audio_options: AudioOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[Options],
    ) -> AnswerStream:
        """Like ``ask``, piece by piece as the text is generated; ``.answer`` has the result.

        Arguments and errors are those of ``ask``. Options are checked at once, the recording
        and the question at the first piece.
        """
        pruning, generation = sort_options(pruning, generation, options)
        check_long_audio(long_audio)
        check_audio_options(audio_options)
        timings = Timings()  # its stages count for this answer, the only one
        hear = partial(
            self.ear.hear,
            AudioStream(
                audio, sampling_rate, to=self.manifest.audio.sampling_rate, options=audio_options
            ),
            timings,
            _budget(MEMORY_BUDGET_MB),
            long_audio=long_audio,
            encoder_attention=needs_encoder(pruning),
        )
        return AnswerStream(
            pieces(
                self.engine,
                self.scheduler,
                hear,
                partial(Prompt.of, self.engine, question),
                pruning,
                generation,
                timings,
            ),
            Limits(cancel, deadline),
        )


def _budget(megabytes: float) -> int:
    number = plain(megabytes)
    if not isinstance(number, float) or number != math.inf:  # infinite: whatever is needed
        number = check_positive("memory_budget_mb", number)
    return int(min(number, LARGEST_MB) * 1e6)
