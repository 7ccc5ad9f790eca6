"""What a manifest is made of: its entries, with their types and ranges."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from speechprune_ort.contract.specs import GraphSpec

__all__ = [
    "AudioSpec",
    "FileEntry",
    "FileName",
    "GraphEntry",
    "LogMelSpec",
    "Parity",
    "PromptForm",
    "PromptPiece",
    "TokenId",
    "Words",
    "whole_windows",
]

# A bundle is one flat folder: a plain name cannot lead out of it.
FileName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]
GraphFile = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.onnx$", max_length=200)]
# What is printed cannot move a terminal's cursor.
Words = Annotated[str, Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", max_length=2000)]
REACH = 4
"""Frames after the last one that convolutions may read, where a window is not made of chunks."""

TokenId = Annotated[int, Meta(ge=0, lt=1 << 24)]
Ids = Annotated[tuple[TokenId, ...], Meta(max_length=1 << 16)]
Step = tuple[
    Annotated[int, Meta(ge=-(1 << 20), le=1 << 20)],
    Annotated[int, Meta(ge=1, le=1 << 20)],
    Annotated[int, Meta(ge=-(1 << 20), le=1 << 20)],
]


class LogMelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How log-mel features are computed; the defaults are those of Whisper's windows.

    Attributes:
        over: ``window``: each window is transformed on its own, padded with silence, and scaled by
            its own loudest value. ``recording``: frames continue across the edges of windows, and
            all are scaled by the loudest value of the whole recording.
        ending: for ``recording``: what the frames at its end see after it: ``silence`` to the end
            of the window, or the recording itself, mirrored (``mirror``).
        scale: scale of the filters: ``slaney``, of equal area, or ``htk``, of equal height.
        taper: samples in the middle of a frame that the Hann window covers; None for ``n_fft``.
        least_samples: length that a shorter recording is padded to, with silence that is encoded.
        last_frame: whether the frame after the last whole hop counts, too.
        stack: the number of frames is rounded down to a multiple of it.
    """

    over: Literal["window", "recording"] = "window"
    ending: Literal["silence", "mirror"] = "silence"
    scale: Literal["slaney", "htk"] = "slaney"
    taper: Annotated[int, Meta(ge=2, le=1 << 14)] | None = None
    least_samples: Annotated[int, Meta(ge=0, le=1 << 20)] = 0
    last_frame: bool = False
    stack: Annotated[int, Meta(ge=1, le=64)] = 1


class AudioSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How sound becomes audio tokens.

    Attributes:
        sampling_rate: sampling rate of the sound that the model takes, in Hz.
        n_fft: samples under one log-mel frame.
        hop_length: samples from one log-mel frame to the next.
        window_seconds: length of the piece that the encoder takes at once, in seconds.
        frame_tokens: audio tokens of a frame of phase 1, f in arXiv:2412.12009, section III: of a
            second, or of the shortest time near it that whole tokens fill.
        length_steps: how ``frames`` log-mel frames become tokens: for each (a, b, c) in
            turn, n = (n + a) // b + c.
        span_tokens: tokens that share one stretch of time: 1 where a token is a stretch of its own,
            all tokens of a window where the encoder mixes its time (a Q-Former).
        chunk_frames: log-mel frames of a chunk that is made into tokens on its own, so that
            ``length_steps`` apply to what remains after whole chunks; None where a window is one
            piece.
        chunk_tokens: tokens of a whole chunk.
        log_mel: how features are made.
    """

    sampling_rate: Annotated[int, Meta(ge=1000, le=192_000)]
    n_fft: Annotated[int, Meta(ge=2, le=1 << 14)]
    hop_length: Annotated[int, Meta(ge=1, le=1 << 14)]
    window_seconds: Annotated[float, Meta(gt=0, le=600)]
    frame_tokens: Annotated[int, Meta(ge=1, le=1 << 15)]
    length_steps: Annotated[tuple[Step, ...], Meta(min_length=1, max_length=16)]
    span_tokens: Annotated[int, Meta(ge=1, le=1 << 15)] = 1
    chunk_frames: Annotated[int, Meta(ge=1, le=1 << 16)] | None = None
    chunk_tokens: Annotated[int, Meta(ge=1, le=1 << 15)] = 1
    log_mel: LogMelSpec = LogMelSpec()

    @property
    def window_samples(self) -> int:
        """Samples of one window."""
        return round(self.window_seconds * self.sampling_rate)

    def tokens(self, frames: int) -> int:
        """Audio tokens that ``frames`` log-mel frames of one window give.

        >>> spec = AudioSpec(16000, 400, 160, 30.0, 25, ((-1, 2, 1), (-2, 2, 1)))
        >>> spec.tokens(3000), spec.tokens(100), spec.tokens(1)
        (750, 25, 0)

        Thirteen tokens a second, of eight frames each, the last one of four:

        >>> spec = AudioSpec(16000, 400, 160, 24.0, 13, ((7, 8, 0),), 1, 100, 13)
        >>> spec.tokens(2400), spec.tokens(250), spec.tokens(0)
        (312, 33, 0)
        """
        whole = 0
        if self.chunk_frames is not None:
            count, frames = divmod(frames, self.chunk_frames)
            whole = count * self.chunk_tokens
            if not frames:
                return whole
        for add, divide, plus in self.length_steps:
            frames = (frames + add) // divide + plus
        return whole + max(0, frames)

    def padded_frames(self, frames: int, window_frames: int, window_tokens: int) -> tuple[int, int]:
        """Frames that an encoder of short windows is given for ``frames``, and their tokens.

        Args:
            frames: frames that are sound.
            window_frames: frames of a whole window.
            window_tokens: tokens of a whole window.
        """
        unit, tokens = self.chunk_frames, self.chunk_tokens
        if unit is None:
            unit, tokens = window_frames // window_tokens, 1
            frames += REACH
        units = min(-(-frames // unit), window_frames // unit)
        return units * unit, units * tokens


def whole_windows(frames: int, tokens: int) -> tuple[tuple[int, int, int], ...]:
    """``length_steps`` of an encoder that gives all tokens of a window however full it is.

    Args:
        frames: log-mel frames of a window.
        tokens: audio tokens of it.

    >>> spec = AudioSpec(16000, 400, 160, 30.0, 25, whole_windows(3000, 375))
    >>> spec.tokens(3000), spec.tokens(1)
    (375, 375)
    """
    return ((0, frames + 1, tokens),)


class PromptPiece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the prompt, in order.

    Attributes:
        kind: ``ids`` (template tokens), ``audio`` (the kept audio tokens), or a text of the
            caller's: ``query`` (the question), ``system`` (the system prompt) or ``language``.
        ids: token ids, for ``ids``.
        before: template text before the caller's, tokenized together with it.
        after: template text after it, likewise.
    """

    kind: Literal["ids", "audio", "query", "system", "language"]
    ids: Ids = ()
    before: Annotated[str, Meta(max_length=1 << 16)] = ""
    after: Annotated[str, Meta(max_length=1 << 16)] = ""


class PromptForm(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The chat template in another form than that of a single recording and a question.

    Attributes:
        recordings: number of recordings in the prompt.
        text_first: whether the question comes before them.
        pieces: pieces of the prompt.
        system: whether it has a system prompt.
        language: whether it says what language is spoken.
    """

    recordings: Annotated[int, Meta(ge=1, le=64)]
    text_first: bool
    pieces: Annotated[tuple[PromptPiece, ...], Meta(max_length=1000)]
    system: bool = False
    language: bool = False


class Parity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One comparison of an exported graph with torch.

    Attributes:
        case: what went in, such as ``speech, 2 windows``.
        measure: what was compared: ``max_relative_error`` to the largest torch value,
            ``cosine`` or ``first_token``.
        value: what was found.
        tolerance: the bound that it had to keep.
    """

    case: Words
    measure: Words
    value: float
    tolerance: float


class GraphEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One graph of the bundle.

    Attributes:
        file: its file name in the bundle.
        precision: what its weights are stored and computed in, in words.
        spec: its inputs and outputs.
        parity: comparisons made at export; empty where the graph could not be run.
        unverified: what the comparisons lack: made on another device than the target, or not
            made at all, and why; None where nothing is lacking.
        parameters: weights of the part of the model that it computes, None where not counted.
    """

    file: GraphFile
    precision: Words
    spec: GraphSpec
    parity: tuple[Parity, ...]
    unverified: Annotated[str, Meta(max_length=10_000)] | None = None
    parameters: Annotated[int, Meta(ge=0)] | None = None


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of the bundle: bytes and sha256 (hexadecimal)."""

    size: Annotated[int, Meta(ge=0, lt=1 << 50)]
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
