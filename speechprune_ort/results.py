"""What comes back from a question: the answer, what was kept of the audio, and the time."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from speechprune_ort.answer_record import (
    AnswerRecord,
    EvidenceRecord,
    PartRecord,
    PruningRecord,
)
from speechprune_ort.options import GenerationOptions, PruningOptions
from speechprune_ort.parts import Part
from speechprune_ort.runtime.choosing.methods import Scores
from speechprune_ort.timings import STAGES, Timings

__all__ = [
    "STAGES", "Answer", "Evidence", "Pruning", "Score", "Span", "Timings", "merged", "spans_of",
]  # fmt: skip

SHOWN = 12  # spans of a printed answer
MERGED_GAP = 1.0  # seconds that nobody wants to skip when listening to what was kept


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the recording, in seconds."""

    start: float
    end: float


def spans_of(
    indices: NDArray[np.int64],
    tokens_per_second: float,
    seconds: float = float("inf"),
    span_tokens: int = 1,
) -> tuple[Span, ...]:
    """Stretches of time that runs of neighbouring tokens cover.

    Args:
        indices: ascending token indices.
        tokens_per_second: audio tokens per second of the model.
        seconds: length of the recording: tokens of the silence after it cover nothing of it.
        span_tokens: tokens that share one stretch; see ``AudioSpec``.

    >>> spans_of(np.array([0, 1, 2, 50]), 25.0)
    (Span(start=0.0, end=0.12), Span(start=2.0, end=2.04))
    >>> spans_of(np.array([3, 900, 1400]), 448 / 30, 70.5, 448)
    (Span(start=0.0, end=30.0), Span(start=60.0, end=70.5))
    """
    if not len(indices):
        return ()
    indices, tokens_per_second = np.unique(indices // span_tokens), tokens_per_second / span_tokens
    runs = np.split(indices, np.flatnonzero(np.diff(indices) > 1) + 1)
    spans = (
        Span(
            round(float(run[0]) / tokens_per_second, 3),
            round(min(float(run[-1] + 1) / tokens_per_second, seconds), 3),
        )
        for run in runs
    )
    return tuple(span for span in spans if span.end > span.start)


def merged(spans: Sequence[Span], gap: float = MERGED_GAP) -> tuple[Span, ...]:
    """Spans, with those less than ``gap`` seconds apart joined.

    Args:
        spans: ascending, none overlapping another.
        gap: largest gap to close, exclusive, in seconds.

    >>> merged((Span(0.0, 0.5), Span(1.2, 2.0), Span(3.0, 3.1)))
    (Span(start=0.0, end=2.0), Span(start=3.0, end=3.1))
    """
    joined: list[Span] = []
    for span in spans:
        if joined and span.start - joined[-1].end < gap:
            joined[-1] = Span(joined[-1].start, span.end)
        else:
            joined.append(span)
    return tuple(joined)


@dataclass(frozen=True, slots=True)
class Pruning:
    """What pruning kept.

    Attributes:
        options: the options as used, with whatever was left open filled in.
        indices: (kept,) int64, ascending, of the recording's audio tokens.
        total: audio tokens of the recording.
        spans: the kept stretches in seconds; none reaches from one recording into the next.
        token_seconds: length of an audio token, in seconds.
        recordings: where each recording lies on these tokens and seconds, at least one.
        scores: those that the method went by, in its order.
        picked: for ``pruning_rate="auto"`` what bounded the number of tokens: ``recording`` (all
            of them fit), ``context``, ``latency_target`` or ``memory_target_mb``; or None.
    """

    options: PruningOptions
    indices: NDArray[np.int64]
    total: int
    spans: tuple[Span, ...]
    token_seconds: float
    recordings: tuple[Part, ...]
    scores: tuple[Scores, ...] = ()
    picked: str | None = None

    @property
    def kept(self) -> int:
        """Audio tokens that reached the language model."""
        return len(self.indices)

    @property
    def merged_spans(self) -> tuple[Span, ...]:
        """``spans``, with those less than a second apart joined: for reading and for playing."""
        return tuple(span for part in self.recordings for span in merged(self.spans_in(part)))

    def spans_in(self, part: Part) -> tuple[Span, ...]:
        """Those of ``spans`` that lie in one of the recordings."""
        return tuple(span for span in self.spans if self.part_of(span) == part)

    def part_of(self, span: Span) -> Part:
        """The recording that a stretch lies in."""
        # By its middle, since ends are rounded and may reach a hair into a neighbour.
        middle = (span.start + span.end) / 2
        return self.recordings[bisect(self.recordings[1:], middle, key=lambda part: part.start)]

    @property
    def kept_share(self) -> float:
        """Share of the recording's audio tokens that was kept; 0 where there is no audio."""
        return self.kept / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """A passage of the recording that an answer is based on.

    Attributes:
        span: in seconds, from its first kept token to its last.
        support: natural logarithm of how many times more likely it makes a token of the answer, on
            average; positive.
    """

    span: Span
    support: float

    def record(self) -> EvidenceRecord:
        """Plain data for JSON."""
        return EvidenceRecord(self.span.start, self.span.end, round(self.support, 4))


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """An answer and how it was made; ``print(answer)`` shows the essentials.

    Attributes:
        text: what the model said.
        token_ids: ids of the answer's tokens, without the stop token.
        finish_reason: ``stop`` (the model ended), ``length`` (max_new_tokens) or
            ``stop_string``.
        question: what was asked.
        seconds: length of the recording that was given.
        seconds_heard: length of what was encoded of it: all, unless the caller had it truncated.
        prompt_tokens: positions of the prompt, kept audio included.
        pruning: what was kept.
        generation: options as used.
        timings: seconds per stage.
        device: where it ran.
        decoder: what decoded the recording: ``libsndfile``, ``ffmpeg``, ``libsndfile+ffmpeg`` where
            one went on for the other, ``array`` for samples; empty where nothing was decoded.
        notes: whole sentences on what is wrong with the recording; empty if nothing is.
        log_probabilities: natural logarithm of the probability that the model gave to each of
            ``token_ids``, after all before it: of the logits themselves, whatever temperature and
            ``top_p`` were used to choose.
        evidence: the passages that it is based on, most support first, if they were asked for
            (``Recording.with_evidence``); else None.
    """

    text: str
    token_ids: tuple[int, ...]
    finish_reason: Literal["stop", "length", "stop_string"]
    question: str
    seconds: float
    seconds_heard: float
    prompt_tokens: int
    pruning: Pruning
    generation: GenerationOptions
    timings: Timings
    device: str
    decoder: str = ""
    notes: tuple[str, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    evidence: tuple[Evidence, ...] | None = None

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the answer per second of decoding."""
        spent = self.timings.seconds.get("decode", 0.0)
        return len(self.token_ids) / spent if spent else 0.0

    @property
    def confidence(self) -> float | None:
        """Mean of ``log_probabilities``: at most 0, and 0 where the model was sure of every token.

        It says how sure the model was of these words, given what was kept of the recording; not
        whether they are true. The stop token does not count. None where the answer has no token.
        """
        return float(np.mean(self.log_probabilities)) if self.log_probabilities else None

    def __str__(self) -> str:
        """The text, and below it what was kept, the confidence, the time, and every note."""
        pruning, timings = self.pruning, self.timings
        spans = [f"{span.start:.1f}-{span.end:.1f}" for span in pruning.merged_spans]
        more = f" and {len(spans) - SHOWN} more" if len(spans) > SHOWN else ""
        method, seconds = pruning.options.method, (timings.first_token, timings.total)
        rows = [
            ("kept", f"{pruning.kept} of {pruning.total} audio tokens ({method})"),
            ("at", f"{' '.join(spans[:SHOWN])}{more} s" if spans else "nothing of the recording"),
            ("time", "first token {:.2f} s, total {:.2f} s".format(*seconds) + f", {self.device}"),
            *(("note", note) for note in self.notes),
        ]
        if self.confidence is not None:
            said = f"{self.confidence:.2f} (mean log-probability of a token)"
            rows.insert(2, ("confidence", said))
        return "\n".join([self.text, *(f"{name:<12}{said}" for name, said in rows)])

    def __repr__(self) -> str:
        """The text and a few figures: arrays of hours say nothing on a screen."""
        confidence = "None" if self.confidence is None else f"{self.confidence:.2f}"
        return (
            f"<Answer {self.text!r}, confidence {confidence}, "
            f"kept {self.pruning.kept} of {self.pruning.total}>"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, as ``docs/reference/answer.schema.json`` describes it.

        Scores of single audio tokens are left out.
        """
        found: dict[str, Any] = msgspec.to_builtins(self._record())
        return found

    def _record(self) -> AnswerRecord:
        pruning = self.pruning
        return AnswerRecord(
            text=self.text,
            token_ids=list(self.token_ids),
            log_probabilities=[round(value, 6) for value in self.log_probabilities],
            confidence=None if self.confidence is None else round(self.confidence, 6),
            finish_reason=self.finish_reason,
            question=self.question,
            seconds=round(self.seconds, 3),
            seconds_heard=round(self.seconds_heard, 3),
            device=self.device,
            decoder=self.decoder,
            notes=list(self.notes),
            prompt_tokens=self.prompt_tokens,
            pruning=PruningRecord(
                options=pruning.options.to_dict(),
                total=pruning.total,
                kept=pruning.kept,
                kept_share=round(pruning.kept_share, 4),
                rate_of_budget=pruning.options.rate,
                picked=pruning.picked,
                indices=pruning.indices.tolist(),
                spans=[[span.start, span.end] for span in pruning.spans],
                merged_spans=[[span.start, span.end] for span in pruning.merged_spans],
                recordings=[
                    PartRecord(p.first, p.tokens, round(p.start, 3), round(p.seconds, 3))
                    for p in pruning.recordings
                ],
            ),
            evidence=None if self.evidence is None else [e.record() for e in self.evidence],
            generation=asdict(self.generation),
            timings={name: round(s, 6) for name, s in self.timings.seconds.items()},
            tokens_per_second=round(self.tokens_per_second, 2),
        )


@dataclass(frozen=True, slots=True)
class Score:
    """How likely the model found each of several continuations.

    Attributes:
        log_probabilities: natural logarithms, a tuple for each continuation with a value for each
            token.
        prompt_tokens: positions of the prompt, kept audio included.
        pruning: what was kept.
        timings: seconds per stage; ``decode`` is the scoring.
    """

    log_probabilities: tuple[tuple[float, ...], ...]
    prompt_tokens: int
    pruning: Pruning
    timings: Timings

    @property
    def means(self) -> NDArray[np.float64]:
        """Mean log-probability of a token of each continuation, (continuations,)."""
        return np.array([np.mean(values) for values in self.log_probabilities])
