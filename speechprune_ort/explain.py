"""What was kept of a recording, to look at: one page, one picture, or the data behind them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.errors import DataError, OptionError
from speechprune_ort.files import cannot_write, save_figure, whole_file
from speechprune_ort.results import Answer, Pruning
from speechprune_ort.runtime.choosing.methods import METHODS, ScoreName
from speechprune_ort.runtime.choosing.methods.base import FIRST, SECOND
from speechprune_ort.runtime.hearing.audio import SAMPLING_RATE, Source, stream_audio
from speechprune_ort.text import check_text, read_json

__all__ = [
    "Explanation",
    "Line",
    "check_ending",
    "explain",
    "read_transcript",
    "write_explanation",
]

BINS = 1200  # of the waveform: more than a page has pixels
WIDTH, WAVE, CURVE, GAP, LEFT = 1200, 110, 90, 26, 46  # of the picture, in pixels


LONGEST = 1e9  # seconds: thirty years


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a transcript, from ``start`` to ``end`` in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """An answer beside the recording that it was given about.

    Attributes:
        answer: with its pruning.
        low: (bins,) float32 smallest sample of each stretch of the recording.
        high: (bins,) float32 largest.
        transcript: what is said, where that is known.
    """

    answer: Answer
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    transcript: tuple[Line, ...] = ()

    @property
    def token_seconds(self) -> float:
        """Length of an audio token."""
        return self.answer.seconds_heard / max(1, self.answer.pruning.total)

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
    """Put an answer beside its recording.

    Args:
        answer: from ``ask``.
        audio: the recording, read once more for its waveform.
        sampling_rate: of ``audio`` where it is an array.
        transcript: JSON with a list of ``{"start": ..., "end": ..., "text": ...}``.
        audio_options: as the recording was heard with.

    Raises:
        AudioError: the recording cannot be read.
        OptionError: the transcript cannot.
    """
    step = max(1, int(np.ceil(answer.seconds * SAMPLING_RATE / BINS)))
    low, high, rest = [], [], np.zeros(0, np.float32)
    for block in stream_audio(audio, sampling_rate, options=audio_options):
        samples = np.concatenate([rest, block])
        whole = len(samples) // step * step
        shaped = samples[:whole].reshape(-1, step)
        low.append(shaped.min(axis=1, initial=0))
        high.append(shaped.max(axis=1, initial=0))
        rest = samples[whole:]
    if len(rest):
        low.append(rest.min(keepdims=True))
        high.append(rest.max(keepdims=True))
    lines = read_transcript(transcript) if transcript else ()
    return Explanation(answer, np.concatenate(low), np.concatenate(high), lines)


def read_transcript(path: Path) -> tuple[Line, ...]:
    """Lines of a JSON list of ``{"start", "end", "text"}``; an object's ``turns`` will do.

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
        raise ValueError(f"{value!a:.60} is no time in seconds")
    return float(value)


def check_ending(path: Path) -> None:
    """Refuse a file of a kind that ``write_explanation`` does not write.

    Raises:
        OptionError: it is one.
    """
    if path.suffix.lower() not in WRITERS:
        raise OptionError(f"{path} must end in {', '.join(WRITERS)}.")


def write_explanation(explanation: Explanation, path: Path) -> None:
    """Write a page (``.html``), a picture (``.png``) or the data (``.json``), by the ending.

    Raises:
        OptionError: the ending is another, the file cannot be written, or a picture needs
            matplotlib, which is not installed.
    """
    check_ending(path)
    try:
        with whole_file(path) as partial:
            WRITERS[path.suffix.lower()](explanation, partial)
    except OSError as error:
        raise OptionError(cannot_write(path, error)) from None


def _write_json(explanation: Explanation, path: Path) -> None:
    path.write_text(json.dumps(explanation.to_dict()) + "\n", encoding="utf-8")


def _write_png(explanation: Explanation, path: Path) -> None:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise OptionError(
            "A picture needs matplotlib: pip install 'speechprune-ort[eval]', or use .html."
        ) from None
    answer, pruning = explanation.answer, explanation.answer.pruning
    curves = _curves(explanation)
    figure = Figure(figsize=(11, 2.2 + 1.6 * len(curves)), dpi=130, layout="constrained")
    axes = figure.subplots(1 + len(curves), 1, sharex=True, squeeze=False)[:, 0]
    figure.suptitle(
        f"{answer.question}  —  {answer.text}", fontsize=10, wrap=True, parse_math=False
    )
    places = np.linspace(0, answer.seconds, len(explanation.low))
    axes[0].fill_between(places, explanation.low, explanation.high, color="grey", linewidth=0)
    for span in pruning.spans:
        axes[0].axvspan(span.start, span.end, color="tab:blue", alpha=0.25, linewidth=0)
    axes[0].set_ylabel("kept", fontsize=8)
    for axis, curve in zip(axes[1:], curves, strict=True):
        axis.plot(curve.seconds, curve.values, linewidth=0.6)
        axis.set_ylabel(curve.name, fontsize=8, wrap=True)
    axes[-1].set_xlabel("seconds")
    save_figure(figure, path, ".png")


@dataclass(frozen=True, slots=True)
class Curve:
    """A score over time.

    Attributes:
        name: what the method calls it.
        seconds: (n,) middles of the tokens.
        values: (n,) scores.
        whole: every token has one, not the candidates alone.
    """

    name: str
    seconds: NDArray[np.floating[Any]]
    values: NDArray[np.floating[Any]]
    whole: bool


def _names(pruning: Pruning) -> tuple[ScoreName, ScoreName]:
    # An answer may be looked at where the user's own method is not registered.
    method = METHODS.get(pruning.options.method)
    return (FIRST, SECOND) if method is None else method.scores


def _curves(explanation: Explanation) -> list[Curve]:
    """Each score that there is."""
    pruning, length = explanation.answer.pruning, explanation.token_seconds
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


def _write_html(explanation: Explanation, path: Path) -> None:
    path.write_text(_page(explanation), encoding="utf-8")


WRITERS: Mapping[str, Callable[[Explanation, Path], None]] = {
    ".html": _write_html,
    ".png": _write_png,
    ".json": _write_json,
}

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 1280px; padding: 0 1em;
       color: #222; background: #fff; }
h1 { font-size: 1.3em; margin: 0; } .answer { font-size: 1.15em; margin: .3em 0 1em; }
svg { width: 100%; height: auto; } .kept { fill: #2b7bba; fill-opacity: .28; }
.wave { fill: #777; } .curve { fill: none; stroke: #2b7bba; stroke-width: .8; }
.dots { fill: #c8553d; } .axis { stroke: #bbb; } text { font-size: 12px; fill: #555; }
table { border-collapse: collapse; } td { padding: .15em .8em .15em 0; vertical-align: top; }
.out { color: #999; } .in { background: #2b7bba22; } dl { display: grid; gap: 0 1em;
grid-template-columns: max-content 1fr; } dd { margin: 0; } dt { color: #777; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818; }
.wave { fill: #999; } text { fill: #aaa; } .axis { stroke: #555; } }
"""


def _page(explanation: Explanation) -> str:
    answer, pruning = explanation.answer, explanation.answer.pruning
    facts = {
        "heard": f"{answer.seconds:.1f} s, {pruning.total} audio tokens",
        "kept": f"{pruning.kept} tokens, {pruning.kept_share:.1%} of the recording; pruning rate "
        f"{pruning.options.rate:g} of the budget",
        "method": f"{pruning.options.method}, {pruning.options.backend}",
        "time": f"first token {answer.timings.first_token:.2f} s, all {answer.timings.total:.2f} s",
    }
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{escape(answer.question)}</title><style>{STYLE}</style></head><body>\n"
        f"<h1>{escape(answer.question)}</h1>\n"
        f'<p class="answer">{escape(answer.text)}</p>\n<dl>{listed}</dl>\n'
        f"{_drawing(explanation)}\n{_transcript(explanation)}</body></html>\n"
    )


def _drawing(explanation: Explanation) -> str:
    """Waveform with the kept spans, and a panel a score, in one time axis."""
    answer, curves = explanation.answer, _curves(explanation)
    height = WAVE + len(curves) * (CURVE + GAP) + 2 * GAP
    scale = (WIDTH - LEFT) / answer.seconds
    label = "waveform, scores and kept spans"
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">']
    for span in answer.pruning.spans:
        x, width = LEFT + span.start * scale, (span.end - span.start) * scale
        title = f"<title>{span.start:.2f} to {span.end:.2f} s</title>"
        parts.append(
            f'<rect class="kept" x="{x:.1f}" y="0" width="{max(width, 0.5):.1f}" '
            f'height="{height - 2 * GAP}">{title}</rect>'
        )
    parts.append(_wave(explanation))
    top = WAVE
    for curve in curves:
        top += GAP
        parts.append(f'<text x="{LEFT}" y="{top - 6}">{escape(curve.name)}</text>')
        parts.append(_panel(curve, scale, top))
        top += CURVE
    parts.append(_axis(answer.seconds, scale, top + 6))
    return "".join([*parts, "</svg>"])


def _wave(explanation: Explanation) -> str:
    loudest = float(max(np.abs(explanation.low).max(), np.abs(explanation.high).max(), 1e-6))
    x = np.linspace(LEFT, WIDTH, len(explanation.low))
    upper = WAVE / 2 * (1 - explanation.high / loudest)
    lower = WAVE / 2 * (1 - explanation.low / loudest)
    points = [f"{a:.1f},{b:.1f}" for a, b in zip(x, upper, strict=True)]
    points += [f"{a:.1f},{b:.1f}" for a, b in zip(x[::-1], lower[::-1], strict=True)]
    return f'<polygon class="wave" points="{" ".join(points)}"/>'


def _panel(curve: Curve, per_second: float, top: int) -> str:
    x, values = curve.seconds * per_second + LEFT, curve.values
    low, high = float(values.min()), float(values.max())
    y = top + CURVE * (1 - (values - low) / (high - low or 1.0))
    scale = (
        f'<text x="0" y="{top + 10}">{high:.2f}</text>'
        f'<text x="0" y="{top + CURVE}">{low:.2f}</text>'
    )
    if not curve.whole:
        dots = "".join(f"M{a:.1f} {b:.1f}h1.4v1.4h-1.4z" for a, b in zip(x, y, strict=True))
        return f'{scale}<path class="dots" d="{dots}"/>'
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return f'{scale}<polyline class="curve" points="{line}"/>'


def _axis(seconds: float, scale: float, y: int) -> str:
    steps = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200)
    step = next((s for s in steps if seconds / s <= 16), steps[-1])
    marks = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH}" y1="{y}" y2="{y}"/>']
    for second in range(0, int(seconds) + 1, step):
        x = LEFT + second * scale
        anchor = "middle" if x < WIDTH - 20 else "end"
        label = _clock(second, seconds) if seconds > 120 else f"{second} s"
        marks.append(f'<text x="{x:.1f}" y="{y + 16}" text-anchor="{anchor}">{label}</text>')
    return "".join(marks)


def _clock(second: float, length: float) -> str:
    """A time in a recording: seconds of a short one, minutes and seconds of a long one."""
    if length <= 120:
        return f"{second:.1f}"
    return f"{int(second) // 60}:{int(second) % 60:02d}"


def _transcript(explanation: Explanation) -> str:
    """Lines with the share of each that was kept."""
    if not explanation.transcript:
        return ""
    pruning, length = explanation.answer.pruning, explanation.token_seconds
    seconds = explanation.answer.seconds
    places = (pruning.indices + 0.5) * length
    rows = []
    for line in explanation.transcript:
        kept = int(((places >= line.start) & (places < line.end)).sum())
        share = min(1.0, kept * length / max(line.end - line.start, length))
        style = "in" if share >= 0.5 else "out" if share < 0.1 else ""
        rows.append(
            f'<tr class="{style}"><td>{_clock(line.start, seconds)}</td><td>{share:.0%}</td>'
            f"<td>{escape(line.text)}</td></tr>"
        )
    head = "<tr><td>from</td><td>kept</td><td></td></tr>"
    return f"<table>{head}{''.join(rows)}</table>\n"
