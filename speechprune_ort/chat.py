"""``Chat``: questions about a recording, each one answered with the turns before it in mind.

Made by ``Recording.chat`` and ``SpeechLLM.chat``.
"""

from __future__ import annotations

import threading
from collections.abc import Generator

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.answer_stream import AnswerStream
from speechprune_ort.cancel import Cancel, Limits
from speechprune_ort.errors import OptionError, PromptError
from speechprune_ort.methods import needs_cut
from speechprune_ort.options import GenerationOptions, PruningOptions
from speechprune_ort.results import Answer
from speechprune_ort.runtime.answering.beginning import open_decoder
from speechprune_ort.runtime.answering.decoder import Decoder
from speechprune_ort.runtime.answering.generation import Generation, spoken_alone
from speechprune_ort.runtime.answering.prompt import Prompt, embed_ids
from speechprune_ort.runtime.answering.question import LaidOut, Question
from speechprune_ort.runtime.hearing.heard import Heard
from speechprune_ort.runtime.ort.engine import Engine
from speechprune_ort.text import check_type
from speechprune_ort.timings import Timings
from speechprune_ort.wording import Wording

__all__ = ["Chat"]


class Chat:
    """A conversation about a recording.

    The first question is asked as ``Recording.ask`` asks it, and the audio that is kept for it
    serves all later questions. Keys and values of earlier turns stay in memory, so that a further
    turn reads only its own text. Its answer has the token ids that it would have if the whole
    conversation were read again.

    Args:
        engine: the bundle.
        heard: the recording.
        wording: what the prompt says besides the questions.
        pruning: what is kept of the audio, for the first question.
        generation: how answers' tokens are chosen, unless a turn has options of its own.

    Raises:
        OptionError: the method drops tokens within the decoder.
    """

    def __init__(
        self,
        engine: Engine,
        heard: Heard,
        wording: Wording,
        pruning: PruningOptions,
        generation: GenerationOptions,
    ) -> None:
        if needs_cut(pruning):
            raise OptionError(
                f"The method {pruning.method} takes a single question: ask each on its own, or use "
                "another method for a chat."
            )
        self._engine, self._heard, self._wording = engine, heard, wording
        self._pruning, self._generation = pruning, generation
        self._busy = threading.Lock()
        self._answers: list[Answer] = []
        self._begun: tuple[Question, LaidOut, Decoder] | None = None
        self._positions: NDArray[np.int64] = np.zeros(0, np.int64)  # of what the cache holds
        self._unread: tuple[int, ...] = ()  # ids of the last answer that it does not hold

    @property
    def answers(self) -> tuple[Answer, ...]:
        """The answers of all turns so far."""
        return tuple(self._answers)

    def ask(
        self,
        question: str,
        *,
        generation: GenerationOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
    ) -> Answer:
        """Answer the next question.

        Args:
            question: what to ask.
            generation: how the answer's tokens are chosen; None takes the options of the chat.
            deadline: seconds from now within which the answer must be complete.
            cancel: token by which another thread can end it.

        Raises:
            PromptError: the question is empty, the conversation exceeds the context, or the
                bundle's chat template has no form for a further turn.
            OptionError: the chat is still answering.
            CancelledError: it was cancelled; ``DeadlineError``: it was not complete by the
                deadline. A turn that is not completed is forgotten.
        """
        return self.stream(question, generation=generation, deadline=deadline, cancel=cancel).answer

    def stream(
        self,
        question: str,
        *,
        generation: GenerationOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
    ) -> AnswerStream:
        """Like ``ask``, piece by piece as the text is generated; ``.answer`` has the result.

        Arguments and errors are those of ``ask``.
        """
        if generation is not None:
            check_type(generation, GenerationOptions, "generation=")
        pieces = self._pieces(question, generation or self._generation)
        return AnswerStream(pieces, Limits(cancel, deadline))

    def _pieces(self, question: str, generation: GenerationOptions) -> Generator[str, None, Answer]:
        if not self._busy.acquire(blocking=False):
            raise OptionError(
                "This chat is still answering: take the answer of one question before you ask the "
                "next."
            )
        try:
            return (yield from self._turn(question, generation))
        finally:
            if self._begun is not None:
                # Nothing stays of a turn that was not completed.
                self._begun[2].rewind(len(self._positions))
            self._busy.release()

    def _turn(self, question: str, generation: GenerationOptions) -> Generator[str, None, Answer]:
        timings, begun = Timings(), self._begun
        if begun is None:
            recordings = len(self._heard.parts)
            prompt = Prompt.of(self._engine, question, self._wording, recordings)
            most = generation.max_new_tokens
            asked = Question(self._engine, prompt, self._heard, self._pruning, most, timings)
            laid_out = asked.lay_out(asked.choose())
            positions = laid_out.positions
            yield ""
            decoder = open_decoder(self._engine, laid_out.length + most)
            with timings.measure("prefill"):
                logits = decoder.prefill(laid_out.embeds, positions)
        else:
            asked, laid_out, decoder = begun
            ids = self._unread + Prompt.further(self._engine, question).ids
            first = int(self._positions[-1]) + 1
            added = np.arange(first, first + len(ids))
            positions = np.concatenate([self._positions, added])
            self._make_room(decoder, positions, generation.max_new_tokens)
            yield ""
            with timings.measure("embed"):
                embeds = embed_ids(self._engine, ids)
            with timings.measure("prefill"):
                logits = decoder.extend(embeds, added)
        stops = self._engine.manifest.stop_token_ids
        said = Generation(self._engine.text, stops, generation, int(positions[-1]))
        said.take(logits)
        yield from spoken_alone(said, decoder.step, timings)
        whole = LaidOut(laid_out.selection, laid_out.embeds, positions)
        answer = asked.answer(question, said, generation, whole, timings)
        read = decoder.length - len(positions)
        last = int(positions[-1])
        self._positions = np.concatenate([positions, np.arange(last + 1, last + 1 + read)])
        self._unread = tuple(said.ids[read:])
        self._begun = asked, LaidOut(laid_out.selection, np.zeros(0), positions), decoder
        self._answers.append(answer)
        return answer

    def _make_room(self, decoder: Decoder, positions: NDArray[np.int64], new_tokens: int) -> None:
        """Let the cache hold a turn and its answer.

        Raises:
            PromptError: the model does not have as many positions.
        """
        context = self._engine.manifest.dimensions.context
        needed = int(positions[-1]) + 1 + new_tokens
        if needed > context:
            raise PromptError(
                f"The conversation and its answer need {needed} positions and the model has "
                f"{context}: lower max_new_tokens, or begin a new chat."
            )
        room = len(positions) + new_tokens
        if room > decoder.capacity:
            decoder.grow(1, room)
