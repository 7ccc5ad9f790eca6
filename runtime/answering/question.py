"""The one path of every question: choose tokens, lay out the prompt, then answer or score."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.choices import DEFAULT_METHOD, EVERY_TOKEN
from speechprune_ort.contract.specs import DECODER
from speechprune_ort.errors import OptionError, PromptError
from speechprune_ort.options import GenerationOptions, PruningOptions
from speechprune_ort.results import Answer, Evidence, Pruning, Score, Span, spans_of
from speechprune_ort.runtime.answering.beginning import open_decoder
from speechprune_ort.runtime.answering.budget import PrefillTime, pick_tokens
from speechprune_ort.runtime.answering.cut_decoder import CutDecoder, check_cut
from speechprune_ort.runtime.answering.decoder import Decoder, check_finite
from speechprune_ort.runtime.answering.evidence import stretches
from speechprune_ort.runtime.answering.generation import Generation, spoken_alone
from speechprune_ort.runtime.answering.prompt import Prompt, embed_ids
from speechprune_ort.runtime.answering.sampling import log_probability
from speechprune_ort.runtime.answering.scheduler import Reading, Scheduler
from speechprune_ort.runtime.choosing.backends import open_backend
from speechprune_ort.runtime.choosing.methods import METHODS, MethodOptions, Selection
from speechprune_ort.runtime.choosing.selection import select
from speechprune_ort.runtime.hearing.embeddings import HostEmbeds
from speechprune_ort.runtime.hearing.heard import Heard
from speechprune_ort.runtime.ort.engine import Engine
from speechprune_ort.runtime.ort.threads import numpy_threads
from speechprune_ort.timings import Timings

__all__ = ["LaidOut", "Question", "check_evidence", "pieces"]


@dataclass(frozen=True, slots=True)
class LaidOut:
    """A prompt, ready to be read.

    Attributes:
        selection: audio tokens in it.
        embeds: (prompt, hidden) on the host, or (1, prompt, hidden) on the device.
        positions: (prompt,) int64 of each.
        cut: the decoder whose lower half has read all of it, dropped tokens included, so that there
            are no ``embeds``; None where the whole decoder reads it.
    """

    selection: Selection
    embeds: NDArray[Any] | ort.OrtValue
    positions: NDArray[np.int64]
    cut: CutDecoder | None = None

    @property
    def length(self) -> int:
        """Positions of the prompt, kept audio included."""
        return len(self.positions)


class Question:
    """A question about a recording.

    Its prompt is embedded, its options are settled and its backend is opened here, once;
    ``choose``, ``lay_out`` and then ``speak`` or ``score`` use that.

    Args:
        engine: the bundle.
        prompt: the template around the question.
        heard: the recording.
        options: pruning options; whatever the caller left open is filled in.
        new_tokens: length of the longest answer.
        timings: stages are added to it.

    Attributes:
        options: the options with nothing left open.
        picked: for ``pruning_rate="auto"`` what bounded the number of tokens, or None.

    Raises:
        PromptError: ``pruning_rate="auto"`` finds no room for a single audio token.
        OptionError: the method needs a cut decoder, which the bundle lacks.
        BundleError: the embedding table has no row for a token.
    """

    def __init__(
        self,
        engine: Engine,
        prompt: Prompt,
        heard: Heard,
        options: PruningOptions,
        new_tokens: int,
        timings: Timings,
    ) -> None:
        self._engine, self._prompt, self._heard = engine, prompt, heard
        self._new_tokens, self._timings = new_tokens, timings
        check_cut(engine, options.method)
        self._cut: CutDecoder | None = None
        options, self.picked = self._rated(options)
        self._backend = open_backend(engine, options.backend)
        own = settled(options.own, {"frame_temperature": engine.manifest.frame_temperature})
        self.options = replace(options, own=own, backend=self._backend.name)
        with timings.measure("embed"):
            rows = embed_ids(engine, prompt.ids)
        ends = np.cumsum([len(part) for part in prompt.parts])[:-1]
        self._before, *self._between, self._after = np.split(rows, ends)
        self._query = rows[list(prompt.places)]

    def _rated(self, options: PruningOptions) -> tuple[PruningOptions, str | None]:
        """The options with a rate that is a number, and what bounded it if it was open."""
        if options.pruning_rate != "auto":
            return options, None
        engine, total = self._engine, self._heard.tokens
        open_bounds: dict[str, Any] = {"latency_target": None, "memory_target_mb": None}
        if not total:
            return replace(options, pruning_rate=0.0, **open_bounds), None
        pick = pick_tokens(
            total,
            len(self._prompt.ids),
            self._new_tokens,
            engine.manifest,
            lambda: PrefillTime.measured(engine),
            options.latency_target,
            options.memory_target_mb,
        )
        window = options.budget or engine.manifest.dimensions.window_tokens
        budget = min(total, max(window, pick.tokens))
        rate = 1 - pick.tokens / budget
        return replace(options, pruning_rate=rate, budget=budget, **open_bounds), pick.limit

    def choose(self) -> Selection:
        """Choose the audio tokens that reach the language model.

        A method that goes by the decoder's attention has its first layers read the whole prompt
        here.

        Raises:
            OptionError: the method cannot choose, see ``select``.
            PromptError: a prompt that is read as a whole exceeds the context, with its answer.
        """
        if not self._heard.tokens:
            return Selection(np.zeros(0, np.int64))
        manifest = self._engine.manifest
        attention = None
        if METHODS[self.options.method].decoder_attention:
            attention = self._read_below()
        scorer = self._backend.scorer(self._heard.audio, self._query)
        with numpy_threads(self._engine.threads):
            return select(
                self.options,
                scorer,
                window_tokens=manifest.dimensions.window_tokens,
                frame_tokens=manifest.audio.frame_tokens,
                encoder_attention=self._heard.encoder_attention,
                decoder_attention=attention,
                measure=self._timings.measure,
                tokens_per_second=manifest.tokens_per_second,
            )

    def _read_below(self) -> NDArray[np.float32]:
        """Let the first layers of a cut decoder read every token.

        Returns:
            (tokens,) attention that each audio token receives from the prompt's last position.
        """
        self._cut = None
        every = np.arange(self._heard.tokens)
        whole = self.lay_out(Selection(every))
        cut = CutDecoder(self._engine, self._new_tokens)
        with self._timings.measure("lower_layers"):
            attention = cut.read(whole.embeds, whole.length)
        self._cut = cut
        return attention[len(self._before) + self._placed(every)]

    def pruning(self, selection: Selection) -> Pruning:
        """What was chosen, for the caller."""
        return Pruning(
            options=self.options,
            indices=selection.indices,
            total=self._heard.tokens,
            spans=self._spans(selection.indices),
            token_seconds=1 / self._engine.manifest.tokens_per_second,
            recordings=self._heard.parts,
            scores=selection.scores,
            picked=self.picked,
        )

    def _spans(self, indices: NDArray[np.int64]) -> tuple[Span, ...]:
        """Stretches of time of tokens; several recordings lie end to end."""
        manifest, found = self._engine.manifest, []
        for part in self._heard.parts:
            own = indices[part.holds(indices)] - part.first
            found += [
                Span(round(span.start + part.start, 3), round(span.end + part.start, 3))
                for span in spans_of(
                    own, manifest.tokens_per_second, part.seconds, manifest.audio.span_tokens
                )
            ]
        return tuple(found)

    def lay_out(self, selection: Selection) -> LaidOut:
        """Put the chosen audio tokens between the prompt's own.

        Raises:
            PromptError: prompt and answer exceed the context.
        """
        if self._cut is not None:
            return self._kept_of(self._cut, selection)
        audio, rows, places = self._heard.audio, selection.indices, selection.indices
        # Merged tokens stand where their first ones stood.
        if selection.embeds is not None and len(rows):
            typed = selection.embeds.astype(audio.dtype, copy=False)
            audio, rows = HostEmbeds(typed), np.arange(len(rows))
        if self._between:  # the template's text between recordings goes where they meet
            places, order = self._with_text_between(places)
            whole = np.concatenate([audio.take(rows), *self._between])[order]
            if len(whole):
                audio, rows = HostEmbeds(whole), np.arange(len(whole))
        positions = self._positions(places)
        with self._timings.measure("assemble"):
            embeds = self._backend.lay_out(self._before, audio, rows, self._after)
        return LaidOut(selection, embeds, positions)

    def _kept_of(self, cut: CutDecoder, selection: Selection) -> LaidOut:
        """The prompt whose lower half was read, without the tokens that were not chosen."""
        places = selection.indices
        if self._between:
            places, _ = self._with_text_between(places)
        kept = self._unpruned(places)
        original = self.options.positions == "original"
        positions = kept if original else np.arange(len(kept), dtype=np.int64)
        cut.keep(kept, positions)
        return LaidOut(selection, np.zeros(0), positions, cut)

    def _placed(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Places of audio tokens behind the beginning of the unpruned prompt."""
        lengths = [0, *(len(text) for text in self._between)]
        starts = np.array([part.first for part in self._heard.parts[1:]], np.int64)
        ahead: NDArray[np.int64] = np.cumsum(lengths)
        return indices + ahead[np.searchsorted(starts, indices, side="right")]

    def _with_text_between(
        self, indices: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places of kept tokens and of the text between recordings, and the order of both.

        Args:
            indices: (kept,) indices of the kept tokens.

        Returns:
            Ascending places among recordings and text; and which row of the kept tokens, followed
            by all text, stands at each.
        """
        meets = [part.first for part in self._heard.parts[1:]]
        lengths = [len(text) for text in self._between]
        ahead = np.cumsum([0, *lengths])  # rows of text before each recording
        audio = self._placed(indices)
        text = [
            meet + first + np.arange(length)
            for meet, first, length in zip(meets, ahead, lengths, strict=False)
        ]
        places = np.concatenate([audio, *text])
        order = np.argsort(places, kind="stable")
        return places[order], order

    def _positions(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        first, last = len(self._before), len(self._after)
        positions = np.arange(first + len(indices) + last, dtype=np.int64)
        if self.options.positions == "original":
            positions = self._unpruned(indices)
        context = self._engine.manifest.dimensions.context
        needed = int(positions[-1]) + 1 + self._new_tokens
        if needed > context:
            rate = self._engine.manifest.tokens_per_second
            raise PromptError(
                f"Prompt and answer need {needed} positions and the model has {context}: "
                f"{_cure(self.options, len(indices), needed - context, rate)}."
            )
        return positions

    def _unpruned(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions of the kept tokens, text included, in the unpruned prompt.

        Args:
            places: (kept,) int64, among recordings and the text between them.
        """
        first, last = len(self._before), len(self._after)
        behind = first + self._heard.tokens + sum(map(len, self._between))
        return np.concatenate([np.arange(first), first + places, behind + np.arange(last)])

    def speak(
        self, generation: GenerationOptions, scheduler: Scheduler
    ) -> Generator[str, None, Answer]:
        """Yield the answer's text as it comes, and return the ``Answer``.

        The first piece is empty: it comes when all is chosen and the prompt waits to be read.

        Args:
            generation: how tokens are chosen.
            scheduler: decodes it, together with other answers.

        Raises:
            PromptError: prompt and answer exceed the context.
        """
        laid_out = self.lay_out(self.choose())
        return (yield from self.say(laid_out, generation, scheduler, self._timings))

    def say(
        self,
        laid_out: LaidOut,
        generation: GenerationOptions,
        scheduler: Scheduler,
        timings: Timings,
    ) -> Generator[str, None, Answer]:
        """Like ``speak``, for a prompt that is laid out and may be answered several times.

        Args:
            laid_out: the prompt.
            generation: how tokens are chosen.
            scheduler: decodes it.
            timings: timings of this answer, to which reading and decoding are added.
        """
        said = Generation(
            self._engine.text,
            self._engine.manifest.stop_token_ids,
            generation,
            int(laid_out.positions[-1]),
        )
        if laid_out.cut is not None:
            yield ""
            yield from self._say_alone(laid_out.cut, said, timings)
            return self.answer(self._prompt.question, said, generation, laid_out, timings)
        reading = Reading(
            laid_out.embeds,
            laid_out.positions,
            laid_out.length + generation.max_new_tokens,
            said,
            timings,
        )
        self._engine.session(DECODER)  # which may have to be opened: no part of reading
        scheduler.enter(reading)
        try:
            yield ""
            yield from scheduler.pieces(reading)
        finally:
            scheduler.leave(reading)
        return self.answer(self._prompt.question, said, generation, laid_out, timings)

    @staticmethod
    def _say_alone(
        cut: CutDecoder, said: Generation, timings: Timings
    ) -> Generator[str, None, None]:
        with timings.measure("prefill"):
            logits = cut.prefill()
        with timings.measure("decode"):
            said.take(logits)
        yield from spoken_alone(said, cut.step, timings)

    def answer(
        self,
        question: str,
        said: Generation,
        generation: GenerationOptions,
        laid_out: LaidOut,
        timings: Timings,
    ) -> Answer:
        """The answer, for the caller.

        Args:
            question: the question that it answers.
            said: its tokens.
            generation: how they were chosen.
            laid_out: the prompt that was read.
            timings: timings of its stages.
        """
        return Answer(
            text=said.text,
            token_ids=tuple(said.ids),
            log_probabilities=tuple(said.log_probabilities),
            finish_reason=said.reason or "length",
            question=question,
            seconds=self._heard.seconds,
            seconds_heard=self._heard.seconds_heard,
            prompt_tokens=laid_out.length,
            pruning=self.pruning(laid_out.selection),
            generation=generation,
            timings=timings,
            device=self._engine.device.name,
            decoder=self._heard.decoder,
            notes=self._heard.notes,
        )

    def score(self, continuations: Sequence[Sequence[int]], rows: int) -> Score:
        """How likely the model finds each of several answers.

        The prompt is read once; its part of the cache is copied, and the continuations are tried
        together from its end. On CUDA they are tried one after the other.

        Args:
            continuations: token ids, at least one each, at most ``new_tokens``.
            rows: largest number that is decoded together.

        Raises:
            PromptError: prompt and answer exceed the context.
        """
        laid_out = self.lay_out(self.choose())
        stepped = sum(len(ids) > 1 for ids in continuations)
        alone = self._engine.device.name != "cpu" or laid_out.cut is not None
        rows = 1 if alone else max(1, min(rows, stepped))
        if laid_out.cut is None:
            self._engine.session(DECODER)  # as in ``say``
        decoder: Decoder | CutDecoder
        with self._timings.measure("prefill"):
            # The decoder's own logits are overwritten by its next step.
            if laid_out.cut is not None:
                decoder = laid_out.cut
                first = decoder.prefill().copy()
            else:
                # One position more: one that has ended stays in the batch while others go on.
                room = laid_out.length + self._new_tokens + 1
                decoder = open_decoder(self._engine, room, rows)
                first = decoder.prefill(laid_out.embeds, laid_out.positions).copy()
        found: list[tuple[float, ...]] = []
        with self._timings.measure("decode"):
            if isinstance(decoder, Decoder):
                for row in range(1, rows):
                    decoder.copy(0, row, laid_out.length)
            for start in range(0, len(continuations), rows):
                found += _tried(decoder, laid_out, first, continuations[start : start + rows])
        return Score(
            log_probabilities=tuple(found),
            prompt_tokens=laid_out.length,
            pruning=self.pruning(laid_out.selection),
            timings=self._timings,
        )

    def evidence(self, ids: Sequence[int]) -> list[Evidence]:
        """How much likelier an answer is with each stretch of the kept audio than without any.

        Args:
            ids: token ids of the answer, at most ``new_tokens``.

        Returns:
            One for each stretch, in time order; none where there is no answer or no audio.

        Raises:
            PromptError: prompt and answer exceed the context.
            OptionError: the method drops tokens within the decoder.
        """
        check_evidence(self.options)
        selection, audio = self.choose(), self._engine.manifest.audio
        rate = self._engine.manifest.tokens_per_second
        kept = selection.indices
        places: list[NDArray[np.int64]] = []
        spans: list[Span] = []
        for part in self._heard.parts:
            own = np.flatnonzero(part.holds(kept))
            for within in stretches(kept[own] - part.first, rate, audio.span_tokens):
                ends = (kept[own[within]][[0, -1]] - part.first) // audio.span_tokens
                first, last = (int(unit) * audio.span_tokens for unit in ends)
                # Of Python, not of numpy: they go into JSON.
                start, end = first / rate, min((last + audio.span_tokens) / rate, part.seconds)
                spans.append(Span(round(start + part.start, 3), round(end + part.start, 3)))
                places.append(own[within])
        if not ids or not places:
            return []
        alone = self._alone(selection, places, ids)
        return [Evidence(span, value) for span, value in zip(spans, alone, strict=True)]

    def _alone(
        self, selection: Selection, places: list[NDArray[np.int64]], ids: Sequence[int]
    ) -> list[float]:
        nothing, *parts = [self.lay_out(_part(selection, p)) for p in (places[0][:0], *places)]
        longest = max(part.length for part in parts)
        decoder = open_decoder(self._engine, longest + self._new_tokens)
        base, *values = [
            np.mean(_tried(decoder, p, decoder.prefill(p.embeds, p.positions), [ids]))
            for p in (nothing, *parts)
        ]
        return [float(value - base) for value in values]


def pieces(
    engine: Engine,
    scheduler: Scheduler,
    heard: Heard | Callable[[], Heard],
    prompt: Callable[[], Prompt],
    pruning: PruningOptions,
    generation: GenerationOptions,
    timings: Timings,
) -> Generator[str, None, Answer]:
    """Answer a question about a recording, which is encoded first if it was not yet.

    Args:
        engine: the bundle.
        scheduler: decodes the answer.
        heard: the recording, or a function that encodes it, called once the question is checked.
        prompt: lays out the question.
        pruning: what is kept of the audio.
        generation: how the answer's tokens are chosen.
        timings: stages are added to it.

    Yields:
        The answer's text, as ``Question.speak`` does.

    Raises:
        PromptError: the question is empty, or prompt and answer exceed the context.
    """
    check_cut(engine, pruning.method)
    text = prompt()  # refused before hours are encoded
    heard = heard() if callable(heard) else heard
    asked = Question(engine, text, heard, pruning, generation.max_new_tokens, timings)
    return (yield from asked.speak(generation, scheduler))


def check_evidence(options: PruningOptions) -> None:
    """Refuse evidence of a method whose answers cannot be asked about one passage alone.

    Raises:
        OptionError: the method drops tokens within the decoder.
    """
    if METHODS[options.method].decoder_attention:
        raise OptionError(
            f"The method {options.method} reads every token before it drops some, so that no "
            "passage is alone: leave out the evidence, or use another method."
        )


def _part(selection: Selection, places: NDArray[np.int64]) -> Selection:
    """Some of the kept tokens."""
    embeds = None if selection.embeds is None else selection.embeds[places]
    return Selection(selection.indices[places], embeds=embeds)


def _tried(
    decoder: Decoder | CutDecoder,
    laid_out: LaidOut,
    first: NDArray[np.float32],
    continuations: Sequence[Sequence[int]],
) -> list[tuple[float, ...]]:
    """Log-probabilities of continuations, each in a row that holds the prompt.

    ``first`` are the logits that follow the prompt.
    """
    values = [[log_probability(first, ids[0])] for ids in continuations]
    for row in range(len(continuations)):
        decoder.rewind(laid_out.length, row)
    last = int(laid_out.positions[-1])
    for place in range(1, max(map(len, continuations))):
        going = {row: ids for row, ids in enumerate(continuations) if place < len(ids)}
        steps = decoder.steps({row: (i[place - 1], last + place) for row, i in going.items()})
        for row, ids in going.items():
            check_finite(steps[row])
            values[row].append(log_probability(steps[row], ids[place]))
    return [tuple(found) for found in values]


def _cure(pruning: PruningOptions, kept: int, excess: int, tokens_per_second: float) -> str:
    if pruning.method == EVERY_TOKEN or METHODS[pruning.method].decoder_attention:
        fits = max(0, kept - excess)
        return (
            f"prune (method={DEFAULT_METHOD!r}), or give a shorter recording: {fits} audio tokens "
            f"fit, {fits / tokens_per_second:.0f} s"
        )
    if pruning.positions == "original":
        return "use positions='renumbered', or give a shorter recording"
    if kept > excess:
        return f"lower the budget or max_new_tokens by {excess}, or raise the pruning rate"
    return "lower max_new_tokens, or ask a shorter question"


def settled(own: MethodOptions, defaults: Mapping[str, Any]) -> MethodOptions:
    """Options of a method, with those that it leaves open filled in from ``defaults``."""
    open_ones = {n: v for n, v in defaults.items() if getattr(own, n, v) is None}
    return replace(own, **open_ones) if open_ones else own
