"""``Recording``: audio that was encoded once, and can be asked any number of questions."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any, Literal, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.answer_stream import AnswerStream, answers_together
from speechprune_ort.cancel import Cancel, Limits
from speechprune_ort.chat import Chat
from speechprune_ort.errors import OptionError, PromptError, RecordingError, SpeechPruneError
from speechprune_ort.methods import METHODS, needs_cut
from speechprune_ort.numbers import whole
from speechprune_ort.options import GenerationOptions, Options, PruningOptions
from speechprune_ort.results import Answer, Pruning, Score
from speechprune_ort.runtime.answering.prompt import AS_IS, Prompt, form_of
from speechprune_ort.runtime.answering.question import Question, pieces
from speechprune_ort.runtime.answering.scheduler import MOST_ROWS, Scheduler
from speechprune_ort.runtime.hearing.heard import Heard, joined
from speechprune_ort.runtime.hearing.recording_file import About, save_embeds
from speechprune_ort.runtime.ort.engine import Engine
from speechprune_ort.text import check_path, check_type
from speechprune_ort.timings import Timings
from speechprune_ort.wording import Wording

__all__ = ["Recording", "check_samples", "sort_options"]


class Recording:
    """A recording as audio embeddings; pruning and decoding run per question.

    Made by ``SpeechLLM.listen``. Safe to use from several threads at once.

    Args:
        engine: the bundle.
        scheduler: decodes its answers.
        heard: its embeddings and what is known of it.
        timings: what encoding took.
        wording: what its prompts say besides the questions.

    Attributes:
        timings: as given; answers to ``ask`` count only their own stages.
    """

    def __init__(
        self,
        engine: Engine,
        scheduler: Scheduler,
        heard: Heard,
        timings: Timings,
        wording: Wording = AS_IS,
    ) -> None:
        self._engine, self._scheduler = engine, scheduler
        self._heard, self.timings, self._wording = heard, timings, wording

    @property
    def seconds(self) -> float:
        """Length of the recording, in seconds."""
        return self._heard.seconds

    @property
    def seconds_heard(self) -> float:
        """Length that was encoded, in seconds: less than ``seconds`` if it was truncated."""
        return self._heard.seconds_heard

    @property
    def encoder_attention(self) -> NDArray[np.float32] | None:
        """Attention that each token received in the audio encoder's last layer, (tokens,).

        None where it was not kept.
        """
        return self._heard.encoder_attention

    @property
    def decoder(self) -> str:
        """What decoded it, as in ``Answer``."""
        return self._heard.decoder

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on what is wrong with it, as in ``Answer``."""
        return self._heard.notes

    @property
    def tokens(self) -> int:
        """Audio tokens of the recording."""
        return self._heard.tokens

    @property
    def embeds(self) -> NDArray[Any]:
        """Audio embeddings (tokens, hidden), on the host."""
        return self._heard.audio.host

    def worded(
        self,
        *,
        system: str | None = None,
        text_first: bool | None = None,
        language: str | None = None,
    ) -> Recording:
        """The same recording, asked in another form of the model's chat template.

        Everything that is asked of the result, in a chat as well, uses that form.

        Args:
            system: system prompt; None for the template's own.
            text_first: whether the question comes before the audio; None for the template's order.
            language: language that is spoken, by its code (``en``) or its name.

        Raises:
            OptionError: a value is not possible.
            PromptError: the template has no such form; the message says what it lacks.
        """
        wording = Wording(system, text_first, language)
        # What the template has no place for is refused at once.
        form_of(self._engine.manifest, wording, len(self._heard.parts))
        return Recording(self._engine, self._scheduler, self._heard, self.timings, wording)

    def beside(self, *others: Recording) -> Recording:
        """This recording and others in one prompt, in this order.

        They are pruned as one: budget and rate apply to all of them together. Times, those of spans
        and evidence included, continue: the second recording begins where the first ends.

        Args:
            others: recordings of the same bundle.

        Raises:
            OptionError: one of them is not a recording, or was made by another bundle.
            PromptError: the chat template allows fewer recordings.
        """
        every = (self, *others)
        for other in others:
            check_type(other, Recording, "beside()")
            bundle = other._engine.manifest.digest  # noqa: SLF001 - its own class
            if bundle != self._engine.manifest.digest:
                raise OptionError(
                    "Recordings in one prompt must be of one bundle: listen to all of them with "
                    "the same model."
                )
        heard = joined([one._heard for one in every])  # noqa: SLF001 - its own class
        timings = Timings()
        for one in every:
            timings.add(one.timings)
        form_of(self._engine.manifest, self._wording, len(heard.parts))
        return Recording(self._engine, self._scheduler, heard, timings, self._wording)

    def ask(
        self,
        question: str,
        *,
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[Options],
    ) -> Answer:
        """Answer a question about the recording.

        Args:
            question: what to ask.
            pruning: what is kept of the audio.
            generation: how the answer's tokens are chosen.
            deadline: seconds within which the whole answer must be complete.
            cancel: lets another thread end it.
            **options: fields of either, for short: ``pruning_rate=0.4, max_new_tokens=20``;
                ``seed`` is set in both.

        Raises:
            PromptError: the question is empty, or prompt and answer exceed the context.
            OptionError: an option has an impossible value.
            CancelledError: it was cancelled; ``DeadlineError``: the deadline passed first.
        """
        return self.stream(
            question,
            pruning=pruning,
            generation=generation,
            deadline=deadline,
            cancel=cancel,
            **options,
        ).answer

    @overload
    def ask_many(
        self,
        questions: Iterable[str],
        *,
        return_exceptions: Literal[False] = False,
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Answer]: ...

    @overload
    def ask_many(
        self,
        questions: Iterable[str],
        *,
        return_exceptions: bool,
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Answer | SpeechPruneError]: ...

    def ask_many(
        self,
        questions: Iterable[str],
        *,
        return_exceptions: bool = False,
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[Options],
    ) -> Iterator[Answer | SpeechPruneError]:
        """Answer several questions about the recording, decoded together, in order.

        Up to ``max_batch`` of ``SpeechLLM`` are in progress at once. The answers' tokens are
        those of ``ask``, except where rounding decides a near tie.

        Args:
            questions: what to ask; they are read only as there is room for them.
            return_exceptions: yield the package's own errors in the place of answers, and
                continue.
            pruning: what is kept of the audio.
            generation: how the answers' tokens are chosen.
            deadline: seconds that each answer may take from its start.
            cancel: lets another thread end all of them, even with ``return_exceptions``.
            **options: fields of ``pruning`` and ``generation``, for short.

        Yields:
            One answer for each question. What ``ask`` raises is raised in the question's turn and
            ends the rest, unless ``return_exceptions`` is set.

        Raises:
            OptionError: at once, if an option has an impossible value or ``questions`` is a
                single text.
        """
        if isinstance(questions, (str, bytes)) or not isinstance(questions, Iterable):
            raise OptionError(f"questions must be texts, not {type(questions).__name__}.")
        pruning, generation = sort_options(pruning, generation, options)
        Limits(cancel, deadline).over()  # refused here, not question by question
        streams = (
            self.stream(
                question, pruning=pruning, generation=generation, deadline=deadline, cancel=cancel
            )
            for question in questions
        )
        return answers_together(streams, self._scheduler.rows, return_exceptions, cancel)

    def stream(
        self,
        question: str,
        *,
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[Options],
    ) -> AnswerStream:
        """Like ``ask``, piece by piece as the text is generated; ``.answer`` has the result.

        Arguments and errors are those of ``ask``. Options are checked at once, the question at
        the first piece.
        """
        pruning, generation = sort_options(pruning, generation, options)
        return AnswerStream(
            self.pieces(question, pruning, generation, Timings()), Limits(cancel, deadline)
        )

    def sample(
        self,
        question: str,
        n: int,
        *,
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[Options],
    ) -> tuple[Answer, ...]:
        """Several answers to one question, whose prompt is read once, and decoded together.

        The first is that of ``ask``. Each further one has the next seed, which its ``generation``
        states; without a ``temperature`` they are all the same. On CUDA, where nothing is copied
        within the cache, the prompt is read for each of them.

        Args:
            question: what to ask.
            n: number of answers, 1 to 256.
            pruning: what is kept of the audio, for all of them.
            generation: how the first answer's tokens are chosen.
            deadline: seconds within which all answers must be complete.
            cancel: lets another thread end them.
            **options: fields of either, for short, as in ``ask``.

        Raises:
            PromptError: the question is empty, or prompt and answer exceed the context.
            OptionError: an option has an impossible value.
            CancelledError: it was cancelled; ``DeadlineError``: the deadline passed first.
        """
        streams = self.stream_samples(
            question,
            n,
            pruning=pruning,
            generation=generation,
            deadline=deadline,
            cancel=cancel,
            **options,
        )
        return tuple(
            a for a in answers_together(streams, n, False, cancel) if isinstance(a, Answer)
        )

    def stream_samples(
        self,
        question: str,
        n: int,
        *,
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
        **options: Unpack[Options],
    ) -> tuple[AnswerStream, ...]:
        """Like ``sample``, each answer piece by piece as the text is generated.

        What is kept of the audio is chosen at once. Arguments and errors are those of ``sample``.
        """
        pruning, generation = sort_options(pruning, generation, options)
        n = check_samples(n, pruning)
        choosing, *limits = (Limits(cancel, deadline) for _ in range(n + 1))
        shared = Timings()
        try:
            with choosing.held():
                prompt = self._prompt(question)
                asked = self._about(prompt, pruning, generation.max_new_tokens, shared)
                laid_out = asked.lay_out(asked.choose())
        except BaseException:
            for limit in limits:
                limit.over()
            raise
        finally:
            choosing.over()
        streams = []
        for number, limit in enumerate(limits):
            own = replace(generation, seed=generation.seed + number)
            timings = Timings()
            timings.add(shared)
            streams.append(AnswerStream(asked.say(laid_out, own, self._scheduler, timings), limit))
        return tuple(streams)

    def chat(
        self,
        *,
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        **options: Unpack[Options],
    ) -> Chat:
        """Begin a conversation about the recording, in which each turn remembers those before.

        Args:
            pruning: what is kept of the audio; it is chosen for the first question, and used in all
                turns.
            generation: how answers' tokens are chosen.
            **options: fields of either, for short.

        Raises:
            OptionError: an option has an impossible value.
        """
        pruning, generation = sort_options(pruning, generation, options)
        return Chat(self._engine, self._heard, self._wording, pruning, generation)

    def save(self, path: str | PathLike[str]) -> None:
        """Save the recording to a file, for ``SpeechLLM.load_recording`` of the same bundle.

        Args:
            path: file to write; an earlier one is replaced.

        Raises:
            RecordingError: the file cannot be written, or these are several recordings.
        """
        if self._heard.several:
            raise RecordingError("A file holds one recording: save each of these by itself.")
        place = check_path(path, "The path of a recording", RecordingError)
        heard, digest = self._heard, self._engine.manifest.digest
        about = About(heard.seconds, heard.seconds_heard, heard.decoder, heard.notes)
        save_embeds(place, heard.audio, digest, about, heard.encoder_attention)

    def prune(self, question: str, pruning: PruningOptions | None = None) -> Pruning:
        """Choose what is kept of the audio for a question, without answering it.

        Args:
            question: what is asked.
            pruning: what is kept of the audio.

        Raises:
            PromptError: the question is empty.
        """
        pruning, _ = sort_options(pruning, None, {})
        prompt, new_tokens = self._prompt(question), GenerationOptions().max_new_tokens
        asked = self._about(prompt, pruning, new_tokens, Timings())
        return asked.pruning(asked.choose())

    def score(
        self,
        question: str,
        continuations: Sequence[str],
        *,
        pruning: PruningOptions | None = None,
    ) -> Score:
        """Score how likely the model finds each of several answers, without generating any.

        The prompt is read once; the continuations are then tried together from its end.

        Args:
            question: what is asked.
            continuations: answers to try, such as the choices of a question.
            pruning: what is kept of the audio.

        Raises:
            PromptError: the question or a continuation is empty, they exceed the context, or
                ``continuations`` is not a list of texts.
        """
        pruning, _ = sort_options(pruning, None, {})
        # A text is a sequence, too: of one-letter answers that nobody means.
        if isinstance(continuations, (str, bytes)) or not isinstance(continuations, Sequence):
            raise PromptError(
                f"continuations must be a list of texts, not {type(continuations).__name__}."
            )
        ids = [self._engine.text.encode(c, "A continuation").ids for c in continuations]
        if not ids or not all(ids):
            raise PromptError("A continuation to score has no token: give a longer text.")
        prompt, longest = self._prompt(question), max(map(len, ids))
        return self._about(prompt, pruning, longest, Timings()).score(ids, self._scheduler.rows)

    def with_evidence(self, answer: Answer, count: int = 3) -> Answer:
        """The answer with the passages of the recording that it is based on.

        Each passage of the kept audio, a sentence at most, is tried alone: how much more likely is
        the answer with it than without any audio? That takes about as long as an answer or two.

        Args:
            answer: answer to a question about this recording.
            count: largest number of passages to name, those with the most support first.

        Raises:
            OptionError: it is not an answer, or ``count`` is below 1.
            PromptError: prompt and answer exceed the context.
        """
        check_type(answer, Answer, "answer")
        count = whole("count", count, 1)
        prompt = self._prompt(answer.question)
        ids = answer.token_ids
        asked = self._about(prompt, answer.pruning.options, max(1, len(ids)), Timings())
        found = sorted(asked.evidence(ids), key=lambda e: -e.support)
        return replace(answer, evidence=tuple(e for e in found[:count] if e.support > 0))

    def pieces(
        self,
        question: str,
        pruning: PruningOptions,
        generation: GenerationOptions,
        timings: Timings,
    ) -> Generator[str, None, Answer]:
        """Yield the answer's text and return the ``Answer``; stages are added to ``timings``."""
        return pieces(
            self._engine,
            self._scheduler,
            self._heard,
            self._laying_out(question),
            pruning,
            generation,
            timings,
        )

    def _prompt(self, question: str) -> Prompt:
        return self._laying_out(question)()

    def _laying_out(self, question: str) -> Callable[[], Prompt]:
        """A function that lays out a question, for lower layers that do not import this file."""
        return partial(Prompt.of, self._engine, question, self._wording, len(self._heard.parts))

    def _about(
        self, prompt: Prompt, pruning: PruningOptions, new_tokens: int, timings: Timings
    ) -> Question:
        return Question(self._engine, prompt, self._heard, pruning, new_tokens, timings)


def check_samples(n: int, pruning: PruningOptions, name: str = "n") -> int:
    """The number of answers to one question, if so many can be given at once.

    Args:
        n: the number.
        pruning: what is kept of the audio.
        name: of the number, for the message.

    Raises:
        OptionError: it is out of range, or the method gives one answer at a time.
    """
    n = whole(name, n, 1, MOST_ROWS)
    if n > 1 and needs_cut(pruning):
        raise OptionError(
            f"The method {pruning.method} gives one answer at a time: ask for one, or use another "
            "method."
        )
    return n


def sort_options(
    pruning: PruningOptions | None, generation: GenerationOptions | None, given: Mapping[str, Any]
) -> tuple[PruningOptions, GenerationOptions]:
    """Sort short-hand options to the dataclass that they belong to.

    Raises:
        OptionError: an option is unknown, of another type, or given along with the dataclass that
            it belongs to.
    """
    pruning_names = set(PruningOptions.__dataclass_fields__)
    generation_names = set(GenerationOptions.__dataclass_fields__)
    if pruning is not None:
        check_type(pruning, PruningOptions, "pruning=")
    if generation is not None:
        check_type(generation, GenerationOptions, "generation=")
    own_names = {name for method in METHODS.values() for name in method.options.names()}
    unknown = sorted(set(given) - pruning_names - generation_names - own_names)
    if unknown:
        known = ", ".join(sorted(pruning_names | generation_names | own_names))
        raise OptionError(f"There is no option {unknown[0]!r}: the options are {known}.")
    for_generation = {k: v for k, v in given.items() if k in generation_names}
    for_pruning = {k: v for k, v in given.items() if k in pruning_names | own_names}
    for kind, options, short in (
        ("pruning", pruning, for_pruning),
        ("generation", generation, for_generation),
    ):
        if options is not None and short:
            raise OptionError(
                f"{next(iter(short))} is given along with {kind}=: set it in one of the two."
            )
    return (
        pruning or PruningOptions(**for_pruning),
        generation or GenerationOptions(**for_generation),
    )
