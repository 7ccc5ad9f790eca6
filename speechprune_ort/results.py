"""What comes back from a question: the answer, what was kept of the audio, and the time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.options import GenerationOptions, PruningOptions
from speechprune_ort.timings import STAGES, Timings

__all__ = ["STAGES", "Answer", "Evidence", "Pruning", "Score", "Span", "Timings", "spans_of"]


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
        tokens_per_second: of the model.
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


@dataclass(frozen=True, slots=True)
class Pruning:
    """What pruning kept.

    Attributes:
        options: as used; what was left open is settled.
        indices: (kept,) int64, ascending, of the recording's audio tokens.
        total: audio tokens of the recording.
        spans: the kept stretches in seconds.
        similarity: (total,) float32 phase 1 score of every token, or None.
        attention: float32 phase 2 score of every token that phase 1 left, or None.
        candidates: int64 indices of the tokens that ``attention`` belongs to, or None.
        picked: for ``pruning_rate="auto"`` what bounded the number of tokens: ``recording`` (all
            of them fit), ``context``, ``latency_target`` or ``memory_target_mb``; or None.
    """

    options: PruningOptions
    indices: NDArray[np.int64]
    total: int
    spans: tuple[Span, ...]
    similarity: NDArray[np.float32] | None = None
    attention: NDArray[np.float32] | None = None
    candidates: NDArray[np.int64] | None = None
    picked: str | None = None

    @property
    def kept(self) -> int:
        """Audio tokens that reached the language model."""
        return len(self.indices)

    @property
    def kept_share(self) -> float:
        """Share of the recording's audio tokens that was kept; 0 where there is no audio."""
        return self.kept / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """A stretch of the recording that an answer rests on.

    Attributes:
        span: in seconds, from its first kept token to its last.
        support: natural logarithm of how many times as likely a token of the answer is because of
            it, on average; positive.
    """

    span: Span
    support: float


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer and how it came about.

    Attributes:
        text: what the model said.
        token_ids: of the answer, the stop token not among them.
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
        notes: whole sentences on what is wrong with the recording; none where nothing is.
        evidence: the stretches that it rests on, most support first, where they were asked for
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
    evidence: tuple[Evidence, ...] | None = None

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the answer a second of decoding."""
        spent = self.timings.seconds.get("decode", 0.0)
        return len(self.token_ids) / spent if spent else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON; per-token scores are left out."""
        pruning = self.pruning
        evidence = None
        if self.evidence is not None:
            evidence = [
                {"start": e.span.start, "end": e.span.end, "support": round(e.support, 4)}
                for e in self.evidence
            ]
        return {
            "text": self.text,
            "token_ids": list(self.token_ids),
            "finish_reason": self.finish_reason,
            "question": self.question,
            "seconds": round(self.seconds, 3),
            "seconds_heard": round(self.seconds_heard, 3),
            "device": self.device,
            "decoder": self.decoder,
            "notes": list(self.notes),
            "prompt_tokens": self.prompt_tokens,
            "pruning": {
                "options": asdict(pruning.options),
                "total": pruning.total,
                "kept": pruning.kept,
                "kept_share": round(pruning.kept_share, 4),
                "rate_of_budget": pruning.options.pruning_rate,
                "picked": pruning.picked,
                "indices": pruning.indices.tolist(),
                "spans": [[span.start, span.end] for span in pruning.spans],
            },
            "evidence": evidence,
            "generation": asdict(self.generation),
            "timings": {name: round(s, 6) for name, s in self.timings.seconds.items()},
            "tokens_per_second": round(self.tokens_per_second, 2),
        }


@dataclass(frozen=True, slots=True)
class Score:
    """How likely the model found each of several continuations.

    Attributes:
        log_probabilities: natural logarithms, one tuple a continuation with one value a token.
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
