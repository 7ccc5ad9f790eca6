"""An answer as plain data: what ``Answer.to_dict`` and ``ask --json`` give, and its schema."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

__all__ = ["AnswerRecord", "EvidenceRecord", "PartRecord", "PruningRecord", "answer_schema"]

Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0, description="In seconds.")]
SpanRecord = Annotated[
    list[Seconds],
    Meta(min_length=2, max_length=2, description="Start and end of a stretch of the recording."),
]


class PartRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where one of the recordings of a prompt lies, which are counted end to end."""

    first: Annotated[Count, Meta(description="Its first audio token.")]
    tokens: Annotated[Count, Meta(description="Number of its audio tokens.")]
    start: Annotated[Seconds, Meta(description="Where it begins, in seconds.")]
    seconds: Annotated[Seconds, Meta(description="Its length, in seconds.")]


class PruningRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was kept of the recording."""

    options: Annotated[
        dict[str, Any],
        Meta(description="Fields of PruningOptions, with whatever was left open filled in."),
    ]
    total: Annotated[Count, Meta(description="Audio tokens of the recording.")]
    kept: Annotated[Count, Meta(description="Of them, those that reached the language model.")]
    kept_share: Annotated[float, Meta(ge=0, le=1, description="kept / total.")]
    rate_of_budget: Annotated[
        float, Meta(ge=0, le=1, description="The pruning rate that was used.")
    ]
    picked: Annotated[
        str | None, Meta(description='What bounded the tokens of pruning_rate="auto".')
    ]
    indices: Annotated[list[Count], Meta(description="Kept audio tokens, ascending.")]
    spans: Annotated[list[SpanRecord], Meta(description="The stretches that they cover.")]
    merged_spans: Annotated[
        list[SpanRecord], Meta(description="The same, with those less than 1 s apart joined.")
    ]
    recordings: Annotated[
        list[PartRecord], Meta(min_length=1, description="The recordings, in their order.")
    ]


class EvidenceRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A stretch of the recording that the answer rests on."""

    start: Seconds
    end: Seconds
    support: Annotated[
        float,
        Meta(
            description="Natural logarithm of how many times as likely it makes a token of the "
            "answer, on average."
        ),
    ]


class AnswerRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An answer and how it came about."""

    text: Annotated[str, Meta(description="What the model said.")]
    token_ids: Annotated[list[Count], Meta(description="Without the stop token.")]
    log_probabilities: Annotated[
        list[float],
        Meta(description="Natural logarithm of the probability that the model gave to each token."),
    ]
    confidence: Annotated[
        float | None, Meta(description="Mean of log_probabilities; null where there is no token.")
    ]
    finish_reason: Annotated[
        Literal["stop", "length", "stop_string"],
        Meta(
            description="Whether the model ended its answer, max_new_tokens was reached, or a "
            "stop string was."
        ),
    ]
    question: str
    seconds: Annotated[Seconds, Meta(description="Length of the recording, in seconds.")]
    seconds_heard: Annotated[Seconds, Meta(description="Of them, those that were encoded.")]
    device: Annotated[str, Meta(description="Where it ran: cpu or cuda.")]
    decoder: Annotated[str, Meta(description="What decoded the recording; empty for none.")]
    notes: Annotated[list[str], Meta(description="Sentences on what is wrong with the recording.")]
    prompt_tokens: Annotated[
        Count, Meta(description="Length of the prompt in positions, kept audio included.")
    ]
    pruning: PruningRecord
    evidence: Annotated[
        list[EvidenceRecord] | None,
        Meta(description="Most support first; null if it was not asked for."),
    ]
    generation: Annotated[dict[str, Any], Meta(description="Fields of GenerationOptions.")]
    timings: Annotated[dict[str, Seconds], Meta(description="Seconds of each stage that was run.")]
    tokens_per_second: Annotated[float, Meta(ge=0, description="Of the answer, while decoding.")]


def answer_schema() -> dict[str, Any]:
    """The JSON schema of an answer, as in ``docs/reference/answer.schema.json``."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **msgspec.json.schema(AnswerRecord),
    }
