"""Explanations in files: a page, a picture or the data, by the ending."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np

from speechprune_ort.errors import OptionError
from speechprune_ort.explain.explanation import Explanation, check_ending, curves_of
from speechprune_ort.explain.page import written_page
from speechprune_ort.files import cannot_write, save_figure, whole_file
from speechprune_ort.text import check_list, check_path, check_type, for_picture

__all__ = ["write_explanation", "write_page"]

TITLE, LABEL = 66, 26  # characters of a line, in a title and beside an axis, however wide they are
TITLE_LINE = 0.17  # inches


def write_explanation(explanation: Explanation, path: str | PathLike[str]) -> None:
    """Write a page (``.html``), a picture (``.png``) or the data (``.json``), by the ending.

    Raises:
        OptionError: it is no explanation, the ending is another, the file cannot be written, or a
            picture needs matplotlib, which is not installed.
    """
    check_type(explanation, Explanation, "explanation")
    path = check_ending(path)
    _write(path, lambda partial: WRITERS[path.suffix.lower()](explanation, partial))


def write_page(explanations: Sequence[Explanation], path: str | PathLike[str]) -> None:
    """Write several answers about the same recordings side by side on one page.

    Raises:
        OptionError: there is no explanation, or the file cannot be written.
    """
    check_list(explanations, Explanation, "explanations")
    if not explanations:
        raise OptionError("There is no answer to explain: give at least one.")
    path = check_path(path, "The path of the page", OptionError)
    _write(path, lambda partial: _write_html(explanations, partial))


def _write(path: Path, content: Callable[[Path], object]) -> None:
    try:
        with whole_file(path) as partial:
            content(partial)
    except OSError as error:
        raise OptionError(cannot_write(path, error)) from None


def _write_html(explanations: Sequence[Explanation], path: Path) -> None:
    path.write_text(written_page(explanations), encoding="utf-8")


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
    parts = pruning.recordings
    curves = [curves_of(answer, part) for part in parts]
    heights = [2.2 + 1.6 * len(found) for found in curves]
    title = for_picture(f"{answer.question}  —  {answer.text}", TITLE)
    height = sum(heights) + TITLE_LINE * title.count("\n")
    figure = Figure(figsize=(11, height), dpi=130, layout="constrained")
    figure.suptitle(title, fontsize=10, parse_math=False)
    panels = figure.subfigures(len(parts), 1, squeeze=False, height_ratios=heights)[:, 0]
    for panel, part, sound, found in zip(panels, parts, explanation.sounds, curves, strict=True):
        if len(parts) > 1:
            panel.suptitle(for_picture(sound.name, TITLE), fontsize=9, parse_math=False)
        axes = panel.subplots(1 + len(found), 1, sharex=True, squeeze=False)[:, 0]
        places = np.linspace(0, part.seconds, len(sound.low))
        axes[0].fill_between(places, sound.low, sound.high, color="grey", linewidth=0)
        for span in pruning.spans_in(part):
            start, end = span.start - part.start, span.end - part.start
            axes[0].axvspan(start, end, color="tab:blue", alpha=0.25, linewidth=0)
        axes[0].set_ylabel("kept", fontsize=8)
        axes[0].set_xlim(0, max(part.seconds, pruning.token_seconds))
        for axis, curve in zip(axes[1:], found, strict=True):
            axis.plot(curve.seconds, curve.values, linewidth=0.6)
            axis.set_ylabel(for_picture(curve.name, LABEL, 4), fontsize=8, parse_math=False)
        axes[-1].set_xlabel("seconds")
    save_figure(figure, path, ".png")


WRITERS: Mapping[str, Callable[[Explanation, Path], None]] = {
    ".html": lambda explanation, path: _write_html([explanation], path),
    ".png": _write_png,
    ".json": _write_json,
}
