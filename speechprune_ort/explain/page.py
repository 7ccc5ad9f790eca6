"""Answers on a page: what it draws of each, and the page that ``--explain`` writes."""

from __future__ import annotations

import base64
import functools
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from speechprune_ort.explain.explanation import Curve, Explanation, curves_of
from speechprune_ort.parts import Part
from speechprune_ort.results import Answer, Evidence, Pruning, Span, merged

__all__ = ["asking_page", "view_of", "written_page"]

MOST_POINTS = 4000  # of a curve: more than a screen is wide


@functools.cache
def _templates() -> jinja2.Environment:
    """Those of the page. All that is not a file of the page itself is escaped where it is put."""
    found = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FunctionLoader(_file),
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters["file"] = lambda name: Markup(_file(name))  # noqa: S704 - a file of the package
    found.filters["base64"] = lambda content: base64.b64encode(content).decode()
    return found


def _file(name: str) -> str:
    """One of the page's files, as text."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def written_page(explanations: Sequence[Explanation]) -> str:
    """Answers about the same recordings side by side, with their sound, in one file."""
    first = explanations[0]
    return (
        _templates()
        .get_template("written.html")
        .render(
            title=first.answer.question,
            sounds=first.sounds,
            views=[_view(explanation) for explanation in explanations],
        )
    )


def asking_page(model: str) -> str:
    """The page of a server: a recording is chosen and asked about.

    Args:
        model: its name, as requests give it.
    """
    return _templates().get_template("ask.html").render(model=model)


def view_of(answer: Answer) -> dict[str, Any]:
    """What the page draws of an answer, as plain data; it needs nothing of the recordings.

    Times are those of each recording, from its own beginning.
    """
    pruning = answer.pruning
    kept = (
        f"{pruning.kept} tokens, {pruning.kept_share:.1%} of the recording; pruning rate "
        f"{pruning.options.rate:g} of the budget"
    )
    facts = [
        ("audio", f"{answer.seconds_heard:.1f} s, {pruning.total} audio tokens"),
        ("kept", kept),
        ("method", f"{pruning.options.method}, {pruning.options.backend}"),
        (
            "time",
            f"first token {answer.timings.first_token:.2f} s, all {answer.timings.total:.2f} s",
        ),
        *(("note", note) for note in answer.notes),
    ]
    if answer.confidence is not None:
        facts.insert(2, ("confidence", f"{answer.confidence:.2f}, mean log-probability of a token"))
    return {
        "question": answer.question,
        "text": answer.text,
        "facts": facts,
        "evidence": None
        if answer.evidence is None
        else [_evidence(pruning, e) for e in answer.evidence],
        "recordings": [
            {
                "name": f"recording {number}",
                "seconds": part.seconds,
                "spans": _times(pruning.spans_in(part), part),
                "merged": _times(merged(pruning.spans_in(part)), part),
                "curves": [_curve(curve) for curve in curves_of(answer, part)],
                "transcript": [],
            }
            for number, part in enumerate(pruning.recordings, 1)
        ],
    }


def _times(spans: Iterable[Span], part: Part) -> list[list[float]]:
    """Spans in seconds of their own recording."""
    return [
        [round(max(0.0, span.start - part.start), 3), round(span.end - part.start, 3)]
        for span in spans
    ]


def _evidence(pruning: Pruning, found: Evidence) -> dict[str, Any]:
    """A passage, by the recording that it is of."""
    place = pruning.recordings.index(pruning.part_of(found.span))
    ((start, end),) = _times([found.span], pruning.recordings[place])
    return {"recording": place, "start": start, "end": end, "support": round(found.support, 3)}


def _view(explanation: Explanation) -> dict[str, Any]:
    view = view_of(explanation.answer)
    for place, (drawn, sound) in enumerate(
        zip(view["recordings"], explanation.sounds, strict=True)
    ):
        kept = explanation.kept_shares(place)
        drawn["name"] = sound.name
        drawn["wave"] = {"low": _listed(sound.low), "high": _listed(sound.high)}
        drawn["transcript"] = [
            {"start": line.start, "end": line.end, "text": line.text, "share": round(share, 3)}
            for line, share in zip(sound.transcript, kept, strict=True)
        ]
    return view


def _curve(curve: Curve) -> dict[str, Any]:
    """A curve with no more points than can be seen: the highest of each stretch."""
    seconds, values = curve.seconds, curve.values
    if curve.whole and len(values) > MOST_POINTS:
        step = -(-len(values) // MOST_POINTS)
        starts = np.arange(0, len(values), step)
        highest = [start + int(np.argmax(values[start : start + step])) for start in starts]
        seconds, values = seconds[highest], values[highest]
    return {
        "name": curve.name,
        "whole": curve.whole,
        "seconds": _listed(seconds, 2),
        "values": _listed(values),
    }


def _listed(values: NDArray[Any], digits: int = 4) -> list[float]:
    return [round(float(value), digits) for value in values]
