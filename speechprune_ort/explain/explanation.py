"""An answer together with the recordings that it is about."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.errors import DataError, OptionError
from speechprune_ort.parts import Part
from speechprune_ort.results import Answer
from speechprune_ort.runtime.hearing.audio import SAMPLING_RATE, Source, stream_audio
from speechprune_ort.text import check_list, check_path, check_text, counted, printable, read_json

__all__ = [
    "Curve",
    "Explanation",
    "Line",
    "Sound",
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
class Sound:
    """One recording as it is drawn and played.

    Attributes:
        name: name that people know it by.
        low: (bins,) float32 smallest sample of each stretch of the recording.
        high: (bins,) float32 largest.
        file: the recording as it was heard, as a file that browsers play.
        file_type: what that is, such as ``audio/mpeg``.
        transcript: what is said, where that is known, in seconds of this recording.
    """

    name: str
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    file: bytes
    file_type: str
    transcript: tuple[Line, ...] = ()


@dataclass(frozen=True, slots=True)
class Explanation:
    """An answer together with the recordings that it is about.

    Attributes:
        answer: the answer, with its pruning.
        sounds: the recordings, one for each of ``answer.pruning.recordings``.
    """

    answer: Answer
    sounds: tuple[Sound, ...]

    def kept_shares(self, place: int) -> list[float]:
        """The share of each line of a recording's transcript that was kept, 0 to 1.

        Args:
            place: index of the recording in ``sounds``.
        """
        pruning = self.answer.pruning
        part, length = pruning.recordings[place], pruning.token_seconds
        own = pruning.indices[part.holds(pruning.indices)] - part.first
        places = (own + 0.5) * length
        shares = []
        for line in self.sounds[place].transcript:
            kept = int(((places >= line.start) & (places < line.end)).sum())
            shares.append(min(1.0, kept * length / max(line.end - line.start, length)))
        return shares

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: the answer, every score, kept tokens and spans.

        Tokens and their scores are counted through all recordings; waveforms and transcripts are
        each recording's own.
        """
        pruning = self.answer.pruning

        def listed(values: NDArray[Any], digits: int) -> list[float]:
            return [round(float(value), digits) for value in values]

        return {
            **self.answer.to_dict(),
            "token_seconds": pruning.token_seconds,
            "scores": [
                {
                    "name": scores.name,
                    "values": listed(scores.values, 9 if scores.of_one else 6),
                    "tokens": None if scores.tokens is None else scores.tokens.tolist(),
                    "of_one": scores.of_one,
                }
                for scores in pruning.scores
            ],
            "sounds": [
                {
                    "name": sound.name,
                    "waveform": {"low": listed(sound.low, 4), "high": listed(sound.high, 4)},
                    "transcript": [[line.start, line.end, line.text] for line in sound.transcript],
                }
                for sound in self.sounds
            ],
        }


def explain(
    answer: Answer,
    *audio: Source,
    sampling_rate: int | None = None,
    transcripts: Sequence[Path] = (),
    names: Sequence[str] = (),
    audio_options: AudioOptions | None = None,
) -> Explanation:
    """Put an answer together with its recording, or with all of its recordings.

    Args:
        answer: from ``ask``.
        audio: the recordings that it is about, in the order of the prompt, each read once more for
            its waveform.
        sampling_rate: sampling rate of each ``audio`` that is an array, in Hz.
        transcripts: none, or one for each recording: JSON with a list of
            ``{"start": ..., "end": ..., "text": ...}``, in seconds of that recording.
        names: none, or one for each recording; by default the names of files.
        audio_options: the options that the recordings were read with.

    Raises:
        AudioError: a recording cannot be read.
        OptionError: an argument is of another type, a transcript cannot be read, there are more or
            fewer recordings, transcripts or names than the answer has recordings, or a recording is
            longer or shorter than that which the answer is about: it is another, or was read with
            other options.
    """
    (found,) = explain_all(
        [answer],
        audio,
        sampling_rate=sampling_rate,
        transcripts=transcripts,
        names=names,
        audio_options=audio_options,
    )
    return found


def explain_all(
    answers: Sequence[Answer],
    audio: Sequence[Source],
    *,
    sampling_rate: int | None = None,
    transcripts: Sequence[Path] = (),
    names: Sequence[str] = (),
    audio_options: AudioOptions | None = None,
) -> list[Explanation]:
    """Put answers together with the recordings that all of them are about, which are read once.

    Arguments and errors are those of ``explain``; there is at least one answer.
    """
    if not check_list(answers, Answer, "answers"):
        raise OptionError("There is no answer to explain: give at least one.")
    check_list(names, str, "names")
    check_list(transcripts, object, "transcripts")
    for answer in answers:
        _require_as_many(answer, audio, "recording")
    for given, kind in ((transcripts, "transcript"), (names, "name")):
        if given:
            _require_as_many(answers[0], given, kind)
    lines = [read_transcript(path) for path in transcripts] or [()] * len(audio)
    sounds = []
    for place, source in enumerate(audio):
        lasts = answers[0].pruning.recordings[place].seconds
        sound, seconds = _drawn(source, sampling_rate, audio_options, lasts)
        for answer in answers:
            _require_about(answer, place, seconds)
        name = names[place] if names else _name_of(source)
        name = printable(name) or f"recording {place + 1}"
        sounds.append(replace(sound, name=name, transcript=lines[place]))
    return [Explanation(answer, tuple(sounds)) for answer in answers]


def _drawn(
    source: Source, sampling_rate: int | None, options: AudioOptions | None, lasts: float
) -> tuple[Sound, float]:
    """A recording without its name, and its length in seconds.

    Args:
        source: the recording.
        sampling_rate: that of an array, in Hz.
        options: how it is read.
        lasts: seconds that it should last, by which stretches are made.
    """
    step = max(1, int(np.ceil(lasts * SAMPLING_RATE / BINS)))
    count = 0
    low, high, rest = [], [], np.zeros(0, np.float32)
    file, kind = io.BytesIO(), _sound_type()
    written = {"MP3": {"bitrate_mode": "CONSTANT", "compression_level": SMALL}}.get(kind, {})
    with soundfile.SoundFile(file, "w", SAMPLING_RATE, 1, format=kind, **written) as sound:
        for block in stream_audio(source, sampling_rate, options=options):
            count += len(block)
            sound.write(np.clip(block, -1, 1))
            samples = np.concatenate([rest, block])
            whole = len(samples) // step * step
            shaped = samples[:whole].reshape(-1, step)
            low.append(shaped.min(axis=1, initial=0))
            high.append(shaped.max(axis=1, initial=0))
            rest = samples[whole:]
    if len(rest):
        low.append(rest.min(keepdims=True))
        high.append(rest.max(keepdims=True))
    mime = "audio/mpeg" if kind == "MP3" else "audio/flac"
    drawn = Sound("", np.concatenate(low), np.concatenate(high), file.getvalue(), mime)
    return drawn, count / SAMPLING_RATE


def _name_of(source: Source) -> str:
    """The name of a file; empty where there is none."""
    path = source if isinstance(source, (str, PathLike)) else getattr(source, "name", None)
    return Path(path).name if isinstance(path, (str, PathLike)) else ""


def _require_as_many(answer: Answer, given: Sequence[object], kind: str) -> None:
    """Refuse what does not belong to each of an answer's recordings.

    Raises:
        OptionError: there is more or less of it.
    """
    wanted, found = len(answer.pruning.recordings), len(given)
    if found != wanted:
        told = f"{kind} was" if found == 1 else f"{kind}s were"
        raise OptionError(
            f"The answer is about {counted(wanted, 'recording')} and {found} {told} given: "
            "give one for each, in the order of the prompt."
        )


def _require_about(answer: Answer, place: int, seconds: float) -> None:
    """Refuse to draw an answer over a sound that is not what it is about.

    Raises:
        OptionError: it lasts longer or shorter.
    """
    parts = answer.pruning.recordings
    if abs(parts[place].seconds - seconds) > ALIKE:
        which = f", its recording {place + 1}," if len(parts) > 1 else ""
        raise OptionError(
            f"The answer is about {parts[place].seconds:.1f} s of sound{which} and this recording "
            f"lasts {seconds:.1f} s: give the one that was asked about, and the options that it "
            "was heard with."
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
            Line(*_times(e["start"], e["end"]), check_text(e["text"], "a text", DataError))
            for e in content
        )
    except (DataError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise OptionError(
            f"{path} is not a transcript ({type(error).__name__}: {error}): give JSON like "
            '[{"start": 0.0, "end": 1.5, "text": "Hello."}].'
        ) from None


def _times(start: object, end: object) -> tuple[float, float]:
    first, last = _seconds(start), _seconds(end)
    if not 0 <= first <= last:
        raise ValueError(f"from {first:g} to {last:g} s is no stretch of a recording")
    return first, last


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < LONGEST:
        raise ValueError(f"{value!a:.60} is not a time in seconds")
    return float(value)


def check_ending(path: str | PathLike[str]) -> Path:
    """The path, if it is of a kind of file that ``write_explanation`` writes.

    Raises:
        OptionError: it is no path, or its ending is another.
    """
    path = check_path(path, "The path of an explanation", OptionError)
    if path.suffix.lower() not in ENDINGS:
        raise OptionError(f"{path} must end in {', '.join(ENDINGS)}.")
    return path


@dataclass(frozen=True, slots=True)
class Curve:
    """A score over time.

    Attributes:
        name: what the method calls it.
        seconds: (n,) middles of the tokens.
        values: (n,) scores.
        whole: whether every token has a score.
    """

    name: str
    seconds: NDArray[np.floating[Any]]
    values: NDArray[np.floating[Any]]
    whole: bool


def curves_of(answer: Answer, part: Part) -> list[Curve]:
    """The scores that the audio tokens of a recording have, each as a curve.

    Args:
        answer: the answer.
        part: one of its recordings; the curves' times begin where that begins.
    """
    pruning = answer.pruning
    length = pruning.token_seconds
    found: list[Curve] = []
    for scores in pruning.scores:
        whole = scores.tokens is None
        places = np.arange(pruning.total) if scores.tokens is None else scores.tokens
        own = part.holds(places)
        seconds = (places[own] - part.first + 0.5) * length
        values = scores.values.astype(float) * (len(places) if scores.of_one else 1)
        found.append(Curve(scores.name, seconds, values[own], whole))
    return found
