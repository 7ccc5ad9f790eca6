"""Pictures and LaTeX tables of an evaluation: where things stand in them, not how they look."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from speechprune_ort.evaluation import plots
from speechprune_ort.evaluation.drawing import KINDS, Picture, colour_of, save, spread
from speechprune_ort.evaluation.latex import latex
from speechprune_ort.evaluation.plots import draw_plots
from speechprune_ort.evaluation.settings import settings_of
from speechprune_ort.evaluation.summary import Summary, summarize
from speechprune_ort.methods import METHODS
from speechprune_ort.statistics import Estimate

SETTINGS = settings_of(["none", "random", "passages"], [0.2, 0.8], [0])
KEPT = {"none": 1000, "truncate@0": 750}


def rows(groups: int = 20) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    found = []
    for i in range(20):
        settings = {
            s.name: {
                "seeds": [0],
                "chosen": [int(random.random() < 0.4)],
                "kept": KEPT.get(s.name, round(750 * (1 - s.options.rate))),
            }
            for s in SETTINGS
        }
        row = {
            "sample": f"s{i}", "kind": "", "group": f"g{i % groups}", "hard": False,
            "seconds": 40.0, "tokens": 1000, "answer": 0, "choices": 4, "longest": 0,
            "settings": settings, "key": [2.0 * i, 2.0 * i + 1], "controls": {"question": 1},
        }  # fmt: skip
        found.append({"clean": row})
    return found


def summary(groups: int = 20) -> Summary:
    return summarize(rows(groups), SETTINGS, ["passages"])


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Figures by the name of their file, in place of the files."""
    found: dict[str, Any] = {}

    def keep(figure: Any, path: Path) -> Path:
        found[path.stem] = figure
        return path

    monkeypatch.setattr(plots, "save", keep)
    return found


def test_points_stand_where_they_are_and_intervals_aside(
    drawn: dict[str, Any], tmp_path: Path
) -> None:
    draw_plots(tmp_path, summary(), rows(), SETTINGS)
    figure = drawn["accuracy_over_kept_tokens"]
    [axes] = figure.axes
    assert axes.get_xscale() == "log"
    curves = {line.get_label(): line for line in axes.lines if line.get_label() in METHODS}
    assert set(curves) == {"truncate", "random", "passages"}
    for method in ("random", "passages"):
        assert curves[method].get_xdata().tolist() == [150.0, 600.0]
    # The intervals of two methods at one place are some pixels apart, each at its own.
    FigureCanvasAgg(figure).draw()
    places = [bars.get_transform().transform((150.0, 50.0))[0] for bars in axes.collections]
    assert len(set(np.round(places, 2))) == 3


def test_one_colour_a_method_whatever_else_is_drawn(drawn: dict[str, Any], tmp_path: Path) -> None:
    draw_plots(tmp_path, summary(), rows(), SETTINGS)
    for name in ("accuracy_over_kept_tokens", "accuracy_over_key_position"):
        lines = drawn[name].axes[0].lines
        shown = {line.get_label().split("@")[0]: line.get_color() for line in lines}
        assert shown["passages"] == colour_of("passages")
        assert shown["random"] == colour_of("random")
    assert len({colour_of(name) for name in METHODS}) == len(METHODS)


def test_chance_every_token_and_n_are_there(drawn: dict[str, Any], tmp_path: Path) -> None:
    draw_plots(tmp_path, summary(), rows(), SETTINGS)
    axes = drawn["accuracy_over_kept_tokens"].axes[0]
    labels = [text.get_text() for text in axes.texts]
    assert {"passages", "random", "every token (1000 tokens)", "chance", "question only"} <= set(
        labels
    )
    [chance] = [line for line in axes.lines if list(line.get_ydata()) == [25.0, 25.0]]
    assert chance.get_linestyle() == ":"
    every = summary().subsets["clean"][0].settings[0].accuracy
    [band] = axes.patches
    assert band.get_y() == pytest.approx(100 * every.low)
    assert band.get_height() == pytest.approx(100 * (every.high - every.low))
    assert "n = 20; intervals of 95 %" in axes.get_xlabel()


def test_few_groups_are_pale_and_said() -> None:
    picture = Picture("x", 40, 9)
    picture.curve("passages", [1.0], [Estimate(40, 0.5, 0.2, 0.8, 9)], 1)
    assert "40 in 9 groups" in picture.caption
    assert "descriptive only" in picture.caption
    assert picture.axes.lines[0].get_alpha() < 0.5


def test_nothing_is_cut_off_and_no_labels_overlap() -> None:
    picture = Picture("x", 40, 40)
    for name in METHODS:
        picture.curve(name, [1.0, 2.0], [Estimate(40, 0.9, 0.8, 0.99, 40)] * 2, len(METHODS))
    axes = picture.finish().axes[0]
    assert axes.get_ylim()[0] < 80
    assert axes.get_ylim()[1] > 99
    FigureCanvasAgg(picture.figure).draw()
    # Of the texts alone, without the lines that lead to them.
    boxes = sorted((Text.get_window_extent(text) for text in axes.texts), key=lambda box: box.y0)
    assert all(a.y1 <= b.y0 + 1 for a, b in pairwise(boxes))
    width = picture.figure.bbox.width
    assert all(box.x1 <= width for box in boxes)


def test_labels_move_as_little_as_it_takes() -> None:
    assert spread([], 0.1) == []
    assert spread([0.9, 0.1], 0.1) == [0.9, 0.1]
    random = np.random.default_rng(0)
    for count in (2, 5, 12):
        wanted = random.random(count)
        found = np.array(spread(wanted.tolist(), 0.05))
        ordered = found[np.argsort(wanted, kind="stable")]
        assert (np.diff(ordered) >= 0.05 - 1e-9).all()
        assert found.mean() == pytest.approx(wanted.mean())


def test_every_picture_is_png_svg_and_pdf_and_the_same_each_time(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        picture = Picture("x", 40, 40)
        picture.curve("passages", [1.0, 2.0], [Estimate(40, 0.9, 0.8, 0.99, 40)] * 2, 1)
        path = save(picture.finish(), tmp_path / f"{name}.png")
        contents.append([path.with_suffix(kind).read_bytes() for kind in KINDS])
    assert contents[0] == contents[1]
    png, svg, pdf = contents[0]
    assert png[:4] == b"\x89PNG"
    assert b"<svg" in svg[:600]
    assert pdf[:5] == b"%PDF-"


def test_latex_has_every_line_and_greys_few_groups() -> None:
    text = latex(summary(), {}, "none")
    subsets = summary().subsets["clean"]
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == len(subsets)
    first = text.split(r"\end{table}")[0]
    for line in (*subsets[0].settings, *subsets[0].controls):
        assert line.name in first
    rows_of = [line for line in first.splitlines() if line.endswith(r"\\")]
    assert len({line.count("&") for line in rows_of}) == 1
    assert r"\textcolor{gray}" not in first
    assert "n = 20 in 20 groups" in first
    assert "Holm" in first
    few = latex(summary(5), {}, "none").split(r"\end{table}")[0]
    assert r"\textcolor{gray}{passages@0.2}" in few
    assert "% " not in few.split("\n", 1)[1].replace(r"\%", "")
