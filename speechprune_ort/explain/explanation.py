"""An answer together with the recording that it is about."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.errors import DataError, OptionError
from speechprune_ort.results import Answer, Pruning
from speechprune_ort.runtime.choosing.methods import METHODS, ScoreName
from speechprune_ort.runtime.choosing.methods.base import FIRST, SECOND
from speechprune_ort.runtime.hearing.audio import SAMPLING_RATE, Source, stream_audio
from speechprune_ort.text import check_text, check_type, read_json

__all__ = [
    "Curve",
    "Explanation",
    "Line",
    "check_ending",
    "curves_of",
    "explain",
    "explain_all",
    "read_transcript",
]

BINS = 1200  # of the waveform: more than a page has pixels
ENDINGS = (".html", ".png", ".json")
SMALL = 0.9  # of libsndfile's compression: 24 kbit/s, 11 MB an hour

ALIKE = 1.0  # seconds by which an answer's recording may differ from it in length
LONGEST = 1e9  # seconds: thirty years


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a transcript, from ``start`` to ``end`` in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """An answer together with the recording that it is about.

    Attributes:
        answer: the answer, with its pruning.
        low: (bins,) float32 smallest sample of each stretch of the recording.
        high: (bins,) float32 largest.
        sound: the recording as it was heard, as a file that browsers play.
        sound_type: what that is, such as ``audio/mpeg``.
        transcript: what is said, where that is known.
    """

    answer: Answer
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    sound: bytes
    sound_type: str
    transcript: tuple[Line, ...] = ()

    @property
    def token_seconds(self) -> float:
        """Length of an audio token, in seconds."""
        return self.answer.seconds_heard / max(1, self.answer.pruning.total)

    def kept_shares(self) -> list[float]:
        """The share of each line of the transcript that was kept, 0 to 1."""
        length = self.token_seconds
        places = (self.answer.pruning.indices + 0.5) * length
        shares = []
        for line in self.transcript:
            kept = int(((places >= line.start) & (places < line.end)).sum())
            shares.append(min(1.0, kept * length / max(line.end - line.start, length)))
        return shares

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the answer, every score, kept tokens and spans."""
        pruning = self.answer.pruning

        def listed(scores: NDArray[Any] | None, digits: int = 6) -> list[float] | None:
            return None if scores is None else [round(float(s), digits) for s in scores]

        return {
            **self.answer.to_dict(),
            "token_seconds": self.token_seconds,
            "score_names": [name.label for name in _names(pruning)],
            "similarity": listed(pruning.similarity),
            "attention": listed(pruning.attention, 9),
            "candidates": None if pruning.candidates is None else pruning.candidates.tolist(),
            "waveform": {"low": listed(self.low, 4), "high": listed(self.high, 4)},
            "transcript": [[line.start, line.end, line.text] for line in self.transcript],
        }


def explain(
    answer: Answer,
    audio: Source,
    sampling_rate: int | None = None,
    transcript: Path | None = None,
    audio_options: AudioOptions | None = None,
) -> Explanation:
    """Put an answer together with its recording.

    Args:
        answer: from ``ask``.
        audio: the one recording that it is about, read once more for its waveform.
        sampling_rate: sampling rate of ``audio`` if it is an array, in Hz.
        transcript: JSON with a list of ``{"start": ..., "end": ..., "text": ...}``.
        audio_options: the options that the recording was read with.

    Raises:
        AudioError: the recording cannot be read.
        OptionError: the transcript cannot be read, or the answer is about more sound, or less, than
            this: about another recording, about several at once, or read with other options.
    """
    (found,) = explain_all([answer], audio, sampling_rate, transcript, audio_options)
    return found


def explain_all(
    answers: Sequence[Answer],
    audio: Source,
    sampling_rate: int | None = None,
    transcript: Path | None = None,
    audio_options: AudioOptions | None = None,
) -> list[Explanation]:
    """Put answers together with the one recording that they are about, which is read once.

    Arguments and errors are those of ``explain``; there is at least one answer.
    """
    if not answers:
        raise OptionError("There is no answer to explain: give at least one.")
    for answer in answers:
        check_type(answer, Answer, "answer")
    lines = read_transcript(transcript) if transcript else ()
    step = max(1, int(np.ceil(answers[0].seconds * SAMPLING_RATE / BINS)))
    count = 0
    low, high, rest = [], [], np.zeros(0, np.float32)
    file, kind = io.BytesIO(), _sound_type()
    options = {"MP3": {"bitrate_mode": "CONSTANT", "compression_level": SMALL}}.get(kind, {})
    with soundfile.SoundFile(file, "w", SAMPLING_RATE, 1, format=kind, **options) as sound:
        for block in stream_audio(audio, sampling_rate, options=audio_options):
            count += len(block)
            sound.write(np.clip(block, -1, 1))
            samples = np.concatenate([rest, block])
            whole = len(samples) // step * step
            shaped = samples[:whole].reshape(-1, step)
            low.append(shaped.min(axis=1, initial=0))
            high.append(shaped.max(axis=1, initial=0))
            rest = samples[whole:]
    for answer in answers:
        _require_about(answer, count / SAMPLING_RATE)
    if len(rest):
        low.append(rest.min(keepdims=True))
        high.append(rest.max(keepdims=True))
    waves = np.concatenate(low), np.concatenate(high)
    mime = "audio/mpeg" if kind == "MP3" else "audio/flac"
    return [Explanation(answer, *waves, file.getvalue(), mime, lines) for answer in answers]


def _require_about(answer: Answer, seconds: float) -> None:
    """Refuse to draw an answer over a sound that is not what it is about.

    Raises:
        OptionError: it lasts longer or shorter.
    """
    if abs(answer.seconds - seconds) > ALIKE:
        raise OptionError(
            f"The answer is about {answer.seconds:.1f} s of sound and this recording lasts "
            f"{seconds:.1f} s: give the one that was asked about, and the options that it was "
            "heard with; an answer about several recordings at once cannot be drawn."
        )


def _sound_type() -> str:
    """MP3, which is small, if libsndfile can write it, else FLAC; every browser plays both."""
    return "MP3" if "MP3" in soundfile.available_formats() else "FLAC"


def read_transcript(path: Path) -> tuple[Line, ...]:
    """Lines of a JSON list of ``{"start", "end", "text"}``.

    An object that holds such a list as ``sentences`` or ``turns`` is accepted, too.

    Raises:
        OptionError: it cannot be read, or is not of this form.
    """
    try:
        content = read_json(path)
        if isinstance(content, dict):
            content = content["sentences" if "sentences" in content else "turns"]
        return tuple(
            Line(
                _seconds(e["start"]), _seconds(e["end"]), check_text(e["text"], "a text", DataError)
            )
            for e in content
        )
    except (DataError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise OptionError(
            f"{path} is not a transcript ({type(error).__name__}: {error}): give JSON like "
            '[{"start": 0.0, "end": 1.5, "text": "Hello."}].'
        ) from None


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < LONGEST:
        raise ValueError(f"{value!a:.60} is not a time in seconds")
    return float(value)


def check_ending(path: Path) -> None:
    """Refuse a file of a kind that ``write_explanation`` does not write.

    Raises:
        OptionError: its ending is another.
    """
    if path.suffix.lower() not in ENDINGS:
        raise OptionError(f"{path} must end in {', '.join(ENDINGS)}.")


@dataclass(frozen=True, slots=True)
class Curve:
    """A score over time.

    Attributes:
        name: what the method calls it.
        seconds: (n,) middles of the tokens.
        values: (n,) scores.
        whole: whether every token has a score, and not the candidates alone.
    """

    name: str
    seconds: NDArray[np.floating[Any]]
    values: NDArray[np.floating[Any]]
    whole: bool


def _names(pruning: Pruning) -> tuple[ScoreName, ScoreName]:
    # An answer may be looked at where the user's own method is not registered.
    method = METHODS.get(pruning.options.method)
    return (FIRST, SECOND) if method is None else method.scores


def curves_of(answer: Answer) -> list[Curve]:
    """The scores that an answer's audio tokens have, each as a curve."""
    pruning = answer.pruning
    length = answer.seconds_heard / max(1, pruning.total)
    found: list[Curve] = []

    def add(name: ScoreName, places: NDArray[Any], scores: NDArray[Any], whole: bool) -> None:
        values = scores.astype(float) * (len(scores) if name.of_one else 1)
        found.append(Curve(name.label, (places + 0.5) * length, values, whole))

    first, second = _names(pruning)
    if pruning.similarity is not None:
        add(first, np.arange(pruning.total), pruning.similarity, True)
    if pruning.attention is not None and pruning.candidates is not None:
        add(second, pruning.candidates, pruning.attention, False)
    return found
