"""Answers on a page: what it draws of each, and the page that ``--explain`` writes."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from speechprune_ort.explain.explanation import Curve, Explanation, curves_of
from speechprune_ort.results import Answer

__all__ = ["asking_page", "view_of", "written_page"]

MOST_POINTS = 4000  # of a curve: more than a screen is wide


def _asset(name: str) -> str:
    """One of the page's files, as text."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _whole_page(title: str, body: str, scripts: Sequence[str]) -> str:
    """A page that needs no other file.

    Args:
        title: as text.
        body: as HTML.
        scripts: run one after the other.
    """
    run = "".join(f"<script>\n{script}</script>\n" for script in scripts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{_asset('page.css')}</style></head>\n"
        f"<body>\n{body}\n{run}</body></html>\n"
    )


def written_page(explanations: Sequence[Explanation]) -> str:
    """Answers about one recording side by side, with its sound, in one file."""
    first = explanations[0]
    source = f"data:{first.sound_type};base64,{base64.b64encode(first.sound).decode()}"
    views = json.dumps([_view(explanation) for explanation in explanations])
    # Nothing is escaped within a script as it is in HTML: it must not contain its own end.
    content = views.replace("<", "\\u003c")
    body = (
        f'<div class="sound"><audio controls preload="auto" src="{source}"></audio></div>\n'
        '<div id="answers" class="answers"></div>\n'
        "<noscript>The answers are drawn by JavaScript, which is switched off.</noscript>\n"
        f'<script type="application/json" id="content">{content}</script>'
    )
    scripts = (_asset("page.js"), _asset("written.js"))
    return _whole_page(first.answer.question, body, scripts)


def asking_page(model: str) -> str:
    """The page of a server: a recording is chosen and asked about.

    Args:
        model: its name, as requests give it.
    """
    name = f"const MODEL = {json.dumps(model)};\n".replace("<", "\\u003c")
    return _whole_page(
        "Ask about a recording", _asset("ask.html"), (_asset("page.js"), name + _asset("ask.js"))
    )


def view_of(answer: Answer) -> dict[str, Any]:
    """What the page draws of an answer, as plain data; it needs nothing of the recording."""
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
        "seconds": answer.seconds,
        "facts": facts,
        "spans": [[span.start, span.end] for span in pruning.spans],
        "merged": [[span.start, span.end] for span in pruning.merged_spans],
        "evidence": None
        if answer.evidence is None
        else [[e.span.start, e.span.end, round(e.support, 3)] for e in answer.evidence],
        "curves": [_curve(curve) for curve in curves_of(answer)],
        "transcript": [],
    }


def _view(explanation: Explanation) -> dict[str, Any]:
    kept = explanation.kept_shares()
    return {
        **view_of(explanation.answer),
        "wave": {"low": _listed(explanation.low), "high": _listed(explanation.high)},
        "transcript": [
            {"start": line.start, "end": line.end, "text": line.text, "share": round(share, 3)}
            for line, share in zip(explanation.transcript, kept, strict=True)
        ],
    }


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
