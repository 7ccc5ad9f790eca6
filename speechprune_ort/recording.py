"""``Recording``: audio that was encoded once, and can be asked any number of questions."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import pairwise
from os import PathLike
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.cancel import Cancel, Limits
from speechprune_ort.errors import OptionError, PromptError, RecordingError
from speechprune_ort.options import GenerationOptions, PruningOptions
from speechprune_ort.results import Answer, AnswerStream, Pruning, Score, Timings, spans_of
from speechprune_ort.runtime.budget import pick_tokens
from speechprune_ort.runtime.embeddings import AudioEmbeds, HostEmbeds
from speechprune_ort.runtime.engine import Engine
from speechprune_ort.runtime.methods import METHODS, Selection
from speechprune_ort.runtime.prompt import Prompt
from speechprune_ort.runtime.recording_file import Heard, save_embeds
from speechprune_ort.runtime.sampling import Sampler
from speechprune_ort.runtime.selection import select
from speechprune_ort.runtime.text_stream import TextStream
from speechprune_ort.runtime.threads import numpy_threads
from speechprune_ort.text import check_path, check_type

__all__ = ["Recording", "sort_options"]

Reason = Literal["stop", "length", "stop_string"]


class Recording:
    """A recording as audio embeddings; pruning and decoding run per question.

    Made by ``SpeechLLM.listen``. Safe to use from several threads at once.

    Args:
        engine: the bundle.
        audio: embeddings of all of it; without tokens it is no audio.
        seconds: its length.
        timings: what encoding took.
        seconds_heard: length of the part that was encoded; None where it is all of it.
        encoder_attention: (tokens,) attention that each token received in the audio encoder's last
            layer, where that was kept.
        decoder: what decoded it, as in ``Answer``.
        notes: sentences on what is wrong with it, as in ``Answer``.

    Attributes:
        seconds: as given.
        seconds_heard: less than ``seconds`` where ``long_audio`` was ``truncate``.
        timings: as given; answers to ``ask`` count their own stages alone.
        encoder_attention: as given.
        decoder: as given.
        notes: as given.
    """

    def __init__(
        self,
        engine: Engine,
        audio: AudioEmbeds,
        seconds: float,
        timings: Timings,
        seconds_heard: float | None = None,
        encoder_attention: NDArray[np.float32] | None = None,
        decoder: str = "",
        notes: tuple[str, ...] = (),
    ) -> None:
        self._engine, self._audio = engine, audio
        self.encoder_attention = encoder_attention
        self.decoder, self.notes = decoder, notes
        self.seconds, self.timings = seconds, timings
        self.seconds_heard = seconds if seconds_heard is None else seconds_heard

    @property
    def tokens(self) -> int:
        """Audio tokens of the recording."""
        return self._audio.tokens

    @property
    def embeds(self) -> NDArray[Any]:
        """Audio embeddings (tokens, hidden), on the host."""
        return self._audio.host

    def ask(
        self,
        question: str,
        *,
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
        **options: Any,
    ) -> Answer:
        """Answer a question about the recording.

        Args:
            question: what to ask.
            pruning: what is kept of the audio.
            generation: how the answer's tokens are chosen.
            deadline: seconds from now in which all of it must be there.
            cancel: ends it when another thread says so.
            **options: fields of either, for short: ``pruning_rate=0.4, max_new_tokens=20``;
                ``seed`` is set in both.

        Raises:
            PromptError: the question is empty, or prompt and answer exceed the context.
            OptionError: an option has an impossible value.
            CancelledError: it was cancelled; ``DeadlineError``: it was not there by the deadline.
        """
        return self.stream(
            question,
            pruning=pruning,
            generation=generation,
            deadline=deadline,
            cancel=cancel,
            **options,
        ).answer

    def stream(
        self,
        question: str,
        *,
        pruning: PruningOptions | None = None,
        generation: GenerationOptions | None = None,
        deadline: float | None = None,
        cancel: Cancel | None = None,
        **options: Any,
    ) -> AnswerStream:
        """The same, piece by piece as the text comes; ``.answer`` has the rest at the end.

        Arguments and errors are those of ``ask``. Options are checked at once, the question at
        the first piece.
        """
        pruning, generation = sort_options(pruning, generation, options)
        pieces = self.pieces(question, pruning, generation, Timings())
        return AnswerStream(pieces, Limits(cancel, deadline))

    def save(self, path: str | PathLike[str]) -> None:
        """Keep the recording in a file, for ``SpeechLLM.load_recording`` of the same bundle.

        Args:
            path: file to write; an earlier one is replaced.

        Raises:
            RecordingError: the file cannot be written.
        """
        place = check_path(path, "The path of a recording", RecordingError)
        heard = Heard(self.seconds, self.seconds_heard, self.decoder, self.notes)
        digest = self._engine.manifest.digest
        save_embeds(place, self._audio, digest, heard, self.encoder_attention)

    def prune(self, question: str, pruning: PruningOptions | None = None) -> Pruning:
        """What would be kept of the audio for a question, without answering it.

        Args:
            question: what is asked.
            pruning: what is kept of the audio.

        Raises:
            PromptError: the question is empty.
        """
        pruning, _ = sort_options(pruning, None, {})
        prompt = self._engine.prompt(question)
        new_tokens = GenerationOptions().max_new_tokens
        settled, picked = self._settled(pruning, prompt, new_tokens)
        return self._pruning(settled, self._select(prompt, settled, Timings()), picked)

    def score(
        self,
        question: str,
        continuations: Sequence[str],
        *,
        pruning: PruningOptions | None = None,
    ) -> Score:
        """How likely the model finds each of several answers, without generating any.

        The prompt is read once; each continuation is then tried from its end.

        Args:
            question: what is asked.
            continuations: answers to try, such as the choices of a question.
            pruning: what is kept of the audio.

        Raises:
            PromptError: the question or a continuation is empty, or they exceed the context.
        """
        pruning, _ = sort_options(pruning, None, {})
        # A text is a sequence, too: of one-letter answers that nobody means.
        if isinstance(continuations, (str, bytes)) or not isinstance(continuations, Sequence):
            raise PromptError(
                f"continuations must be a list of texts, not {type(continuations).__name__}."
            )
        engine, timings = self._engine, Timings()
        tokenized = [engine.text.encode(c, "A continuation").ids for c in continuations]
        if not tokenized or not all(tokenized):
            raise PromptError("A continuation to score has no token: give a longer text.")
        longest = max(map(len, tokenized))
        prompt = engine.prompt(question)
        settled, picked = self._settled(pruning, prompt, longest)
        selection = self._select(prompt, settled, timings)
        prefill, positions = self._assemble(selection, prompt, settled, longest, timings)
        decoder = engine.decoder(len(positions) + longest)
        with timings.measure("prefill"):
            # The decoder's own logits are overwritten by its next step.
            first = _log_softmax(decoder.prefill(prefill, positions))
        found = []
        with timings.measure("decode"):
            for ids in tokenized:
                decoder.rewind(len(positions))
                scores, position = first, int(positions[-1])
                values = [float(scores[ids[0]])]
                for token, after in pairwise(ids):
                    position += 1
                    scores = _log_softmax(decoder.step(token, position))
                    values.append(float(scores[after]))
                found.append(tuple(values))
        return Score(
            log_probabilities=tuple(found),
            prompt_tokens=len(positions),
            pruning=self._pruning(settled, selection, picked),
            timings=timings,
        )

    def pieces(
        self,
        question: str,
        pruning: PruningOptions,
        generation: GenerationOptions,
        timings: Timings,
    ) -> Generator[str, None, Answer]:
        """Yield the answer's text and return the ``Answer``; stages are added to ``timings``."""
        prompt = self._engine.prompt(question)
        pruning, picked = self._settled(pruning, prompt, generation.max_new_tokens)
        selection = self._select(prompt, pruning, timings)
        prefill, positions = self._assemble(
            selection, prompt, pruning, generation.max_new_tokens, timings
        )
        text, ids, reason = yield from self._generate(prefill, positions, generation, timings)
        return Answer(
            text=text,
            token_ids=tuple(ids),
            finish_reason=reason,
            question=question,
            seconds=self.seconds,
            seconds_heard=self.seconds_heard,
            prompt_tokens=len(positions),
            pruning=self._pruning(pruning, selection, picked),
            generation=generation,
            timings=timings,
            device=self._engine.device.name,
            decoder=self.decoder,
            notes=self.notes,
        )

    def _settled(
        self, pruning: PruningOptions, prompt: Prompt, new_tokens: int
    ) -> tuple[PruningOptions, str | None]:
        """Options with the bundle's and the device's choices where the caller left them open.

        Returns:
            The options, and for ``pruning_rate="auto"`` what bounded the number of tokens.
        """
        engine, picked = self._engine, None
        if pruning.pruning_rate == "auto" and not self.tokens:
            pruning = replace(pruning, pruning_rate=0.0, latency_target=None, memory_target_mb=None)
        elif pruning.pruning_rate == "auto":
            pick = pick_tokens(
                self.tokens,
                len(prompt.before) + len(prompt.after),
                new_tokens,
                engine.manifest,
                lambda: engine.prefill_time,
                pruning.latency_target,
                pruning.memory_target_mb,
            )
            window = pruning.budget or engine.manifest.dimensions.window_tokens
            budget, picked = min(self.tokens, max(window, pick.tokens)), pick.limit
            pruning = replace(
                pruning,
                pruning_rate=1 - pick.tokens / budget,
                budget=budget,
                latency_target=None,
                memory_target_mb=None,
            )
        temperature, backend = pruning.frame_temperature, pruning.backend
        reads = METHODS[pruning.method].options
        if temperature is None and "frame_temperature" in reads:
            temperature = engine.manifest.frame_temperature
        if backend == "auto":
            backend = "ort" if engine.device.name == "cuda" else "numpy"
        return replace(pruning, frame_temperature=temperature, backend=backend), picked

    def _pruning(
        self, options: PruningOptions, selection: Selection, picked: str | None
    ) -> Pruning:
        return Pruning(
            options=options,
            indices=selection.indices,
            total=self.tokens,
            spans=spans_of(
                selection.indices,
                self._engine.tokens_per_second,
                self.seconds,
                self._engine.manifest.audio.span_tokens,
            ),
            similarity=selection.similarity,
            attention=selection.attention,
            candidates=selection.candidates,
            picked=picked,
        )

    def _select(self, prompt: Prompt, pruning: PruningOptions, timings: Timings) -> Selection:
        if not self.tokens:
            return Selection(np.zeros(0, np.int64))
        manifest = self._engine.manifest
        with timings.measure("embed"):
            scorer = self._engine.scorer(self._audio, prompt, pruning)
        with numpy_threads(self._engine.threads):
            return select(
                pruning,
                scorer,
                window_tokens=manifest.dimensions.window_tokens,
                frame_tokens=manifest.audio.frame_tokens,
                encoder_attention=self.encoder_attention,
                measure=timings.measure,
            )

    def _assemble(
        self,
        selection: Selection,
        prompt: Prompt,
        pruning: PruningOptions,
        new_tokens: int,
        timings: Timings,
    ) -> tuple[Any, NDArray[np.int64]]:
        """Prompt embeddings, on the host or the device, and their positions (tokens,)."""
        engine = self._engine
        indices, audio, rows = selection.indices, self._audio, selection.indices
        if selection.embeds is not None:  # merged tokens stand where their first ones stood
            typed = selection.embeds.astype(audio.dtype, copy=False)
            audio, rows = HostEmbeds(typed), np.arange(len(indices))
        prefill = engine.assemble(prompt, audio, rows, pruning.backend, timings)
        first = len(prompt.before)
        positions = np.arange(first + len(indices) + len(prompt.after))
        if pruning.positions == "original":
            behind = first + self.tokens
            positions = np.concatenate(
                [np.arange(first), first + indices, behind + np.arange(len(prompt.after))]
            )
        context = engine.manifest.dimensions.context
        needed = int(positions[-1]) + 1 + new_tokens
        if needed > context:
            raise PromptError(
                f"Prompt and answer need {needed} positions and the model has {context}: "
                f"{_cure(pruning, len(indices), needed - context)}."
            )
        return prefill, positions.astype(np.int64)

    def _generate(
        self,
        prefill: Any,
        positions: NDArray[np.int64],
        generation: GenerationOptions,
        timings: Timings,
    ) -> Generator[str, None, tuple[str, list[int], Reason]]:
        engine = self._engine
        decoder = engine.decoder(len(positions) + generation.max_new_tokens)
        sampler = Sampler(generation)
        out = TextStream(engine.text, generation.stop)
        ids: list[int] = []
        reason: Reason = "length"
        with timings.measure("prefill"):
            logits = decoder.prefill(prefill, positions)
        position = int(positions[-1])
        while True:
            with timings.measure("decode"):
                token = sampler(logits)
                if token in engine.manifest.stop_token_ids and not generation.ignore_stop:
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


def sort_options(
    pruning: PruningOptions | None, generation: GenerationOptions | None, given: dict[str, Any]
) -> tuple[PruningOptions, GenerationOptions]:
    """Sort short-hand options to the dataclass that they belong to.

    Raises:
        OptionError: an option is unknown, of another type, or given beside the dataclass that it
            belongs to.
    """
    pruning_names = set(PruningOptions.__dataclass_fields__)
    generation_names = set(GenerationOptions.__dataclass_fields__)
    if pruning is not None:
        check_type(pruning, PruningOptions, "pruning=")
    if generation is not None:
        check_type(generation, GenerationOptions, "generation=")
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


def _log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max()
    wide -= np.log(np.exp(wide).sum())
    return wide


def _cure(pruning: PruningOptions, kept: int, excess: int) -> str:
    if pruning.method == "none":
        return "prune (method='speechprune'), or give a shorter recording"
    if pruning.positions == "original":
        return "use positions='renumbered', or give a shorter recording"
    if kept > excess:
        return f"lower the budget or max_new_tokens by {excess}, or raise the pruning rate"
    return "lower max_new_tokens, or ask a shorter question"
