"""An answer as plain data: of one recording, and in a line among many; and the schemas of both."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

__all__ = [
    "AnswerRecord",
    "ErrorLine",
    "EvidenceRecord",
    "LineRecord",
    "PartRecord",
    "PruningRecord",
    "SampleRecord",
    "answer_schema",
    "line_schema",
]

DRAFT = "https://json-schema.org/draft/2020-12/schema"

Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(ge=0, description="In seconds.")]
SpanRecord = Annotated[
    list[Seconds],
    Meta(min_length=2, max_length=2, description="Start and end of a stretch of the recording."),
]

FinishReason = Annotated[
    Literal["stop", "length", "stop_string"],
    Meta(
        description="Whether the model ended its answer, max_new_tokens was reached, or a stop "
        "string was."
    ),
]
Text = Annotated[str, Meta(description="What the model said.")]
Notes = Annotated[list[str], Meta(description="Sentences on what is wrong with the recording.")]
Given = Annotated[Seconds, Meta(description="Length of the recording, in seconds.")]
Heard = Annotated[Seconds, Meta(description="Of them, those that were encoded.")]
Decoder = Annotated[str, Meta(description="What decoded the recording; empty for none.")]
Tokens = Annotated[Count, Meta(description="Audio tokens of the recording.")]
Kept = Annotated[Count, Meta(description="Of them, those that reached the language model.")]
Merged = Annotated[
    list[SpanRecord], Meta(description="Kept stretches, those less than 1 s apart joined.")
]

Name = Annotated[str, Meta(description="The request's id; its number by default.")]
Audio = Annotated[
    str | UnsetType, Meta(description="The recording, as it was given; of ask alone.")
]
Fingerprint = Annotated[
    str | UnsetType, Meta(description="Of all that the answer depends on; of batch alone.")
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
    total: Tokens
    kept: Kept
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


Support = Annotated[
    list[EvidenceRecord] | UnsetType,
    Meta(description="Most support first; left out if it was not asked for."),
]


class AnswerRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An answer and how it came about."""

    text: Text
    token_ids: Annotated[list[Count], Meta(description="Without the stop token.")]
    log_probabilities: Annotated[
        list[float],
        Meta(description="Natural logarithm of the probability that the model gave to each token."),
    ]
    confidence: Annotated[
        float | None, Meta(description="Mean of log_probabilities; null where there is no token.")
    ]
    finish_reason: FinishReason
    question: str
    seconds: Given
    seconds_heard: Heard
    device: Annotated[str, Meta(description="Where it ran: cpu or cuda.")]
    decoder: Decoder
    notes: Notes
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


class SampleRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One of several answers to a question."""

    seed: int
    text: Text
    finish_reason: FinishReason
    evidence: Support = UNSET


class LineRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An answer among many: a line of ``batch``, and of ``ask --json`` with several recordings."""

    id: Name
    question: str
    text: Text
    finish_reason: FinishReason
    seconds: Given
    seconds_heard: Heard
    decoder: Decoder
    notes: Notes
    tokens: Tokens
    kept: Kept
    merged_spans: Merged
    evidence: Support = UNSET
    samples: Annotated[
        list[SampleRecord] | UnsetType, Meta(description="All answers, the first included.")
    ] = UNSET
    audio: Audio = UNSET
    fingerprint: Fingerprint = UNSET


class ErrorLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A line in place of an answer that could not be given."""

    id: Name
    error: Annotated[str, Meta(description="A sentence that says why, and what to do.")]
    audio: Audio = UNSET
    fingerprint: Fingerprint = UNSET


def answer_schema() -> dict[str, Any]:
    """The JSON schema of an answer, as in ``docs/reference/answer.schema.json``."""
    return {
        "$schema": DRAFT,
        **msgspec.json.schema(AnswerRecord),
    }


def line_schema() -> dict[str, Any]:
    """The JSON schema of a line of answers, as in ``docs/reference/line.schema.json``."""
    either, components = msgspec.json.schema_components(
        (LineRecord, ErrorLine), ref_template="#/$defs/{name}"
    )
    return {"$schema": DRAFT, "anyOf": list(either), "$defs": components}
