"""One way to draw curves: one colour per method in all pictures, intervals, labels at the lines.

Needs the extra ``[eval]`` (matplotlib).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from speechprune_ort.errors import DataError
from speechprune_ort.files import save_figure, whole_file
from speechprune_ort.methods import METHODS
from speechprune_ort.statistics import FEW, Estimate
from speechprune_ort.text import counted

__all__ = ["KINDS", "Picture", "colour_of", "save", "spread"]

KINDS = (".png", ".svg", ".pdf")
"""What every picture is written as."""
SIZE = (7.6, 4.4)  # inches
ASIDE = 1.8  # points from the interval of one curve to that of the next
LINE = 0.032  # of the axes' height, that a label takes
PALE = 0.35
MARKERS = "osD^vPX"
COLOURS = (
    *("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2"),
    *("#7f7f7f", "#bcbd22", "#003f5c", "#a05195", "#006d2c", "#e6ab02", "#666666", "#66c2a5"),
    # For methods of one's own.
    *("#b30000", "#4d4dff", "#7a5c00", "#00b3b3", "#cc0099", "#5c8a00", "#335c81", "#ff9e80"),
)


def colour_of(name: str) -> str:
    """The colour of a method, in every picture of every run: by its place in the registry."""
    known = list(METHODS)
    place = known.index(name) if name in known else len(known)
    return COLOURS[place % len(COLOURS)]


def _marker_of(name: str) -> str:
    known = list(METHODS)
    return MARKERS[(known.index(name) if name in known else len(known)) % len(MARKERS)]


def spread(heights: Sequence[float], distance: float) -> list[float]:
    """Heights that are at least a distance apart, moved as little as that takes, order kept.

    >>> [round(height, 2) for height in spread([0.5, 0.5, 0.9], 0.1)]
    [0.45, 0.55, 0.9]
    """
    order = np.argsort(heights, kind="stable")
    # Blocks of labels that touch, each around the mean of what its members want.
    blocks: list[list[float]] = []
    for place, index in enumerate(order):
        blocks.append([heights[index] - place * distance])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    levels = [float(np.mean(block)) for block in blocks for _ in block]
    found = np.empty(len(order))
    found[order] = np.array(levels) + distance * np.arange(len(order))
    return [float(height) for height in found]


@dataclass
class Picture:
    """Accuracy over something, as curves of percentages.

    Attributes:
        x_label: label of the x axis.
        n: number of samples.
        groups: number of independent pieces of evidence; if it is small, the curves are pale.
        logarithmic: whether the x axis is logarithmic.
    """

    x_label: str
    n: int
    groups: int
    logarithmic: bool = False

    def __post_init__(self) -> None:
        from matplotlib.figure import Figure

        self.figure = Figure(figsize=SIZE, dpi=150, layout="constrained")
        self.axes = self.figure.add_subplot()
        if self.logarithmic:
            self.axes.set_xscale("log")
        self.axes.spines[["top", "right"]].set_visible(False)
        self._ends: list[float] = []
        self._labels: list[tuple[float, float, str, str]] = []
        self._curves = 0

    @property
    def caption(self) -> str:
        """How much evidence it shows, in a line."""
        groups = "" if self.groups == self.n else f" in {counted(self.groups, 'group')}"
        few = f"; fewer than {FEW} groups: descriptive only" if self.groups < FEW else ""
        return f"n = {self.n}{groups}; intervals of 95 %{few}"

    def curve(
        self,
        method: str,
        x: Sequence[float],
        found: Sequence[Estimate],
        count: int,
        label: str | None = None,
        dashed: bool = False,
    ) -> None:
        """Draw a curve with its intervals; points stay in place, only intervals are moved aside.

        Args:
            method: the method whose colour it has.
            x: places of the points, ascending.
            found: accuracies.
            count: number of curves in the picture, for the intervals' places.
            label: label at its end; the method's name by default.
            dashed: whether it is dashed, to tell apart two curves of one method.
        """
        from matplotlib.transforms import ScaledTranslation

        colour = colour_of(method)
        means = 100 * np.array([one.mean for one in found])
        low, high = (
            100 * np.array([getattr(one, end) for one in found]) for end in ("low", "high")
        )
        alpha = PALE if self.groups < FEW else 1.0
        style = "--" if dashed else "-"
        self.axes.plot(
            x, means, style, marker=_marker_of(method), markersize=3.5, linewidth=1.2,
            color=colour, alpha=alpha, label=label or method, zorder=3,
        )  # fmt: skip
        inches = ASIDE / 72 * (self._curves - (count - 1) / 2)
        aside = self.axes.transData + ScaledTranslation(inches, 0, self.figure.dpi_scale_trans)
        self.axes.vlines(
            x, low, high, colors=colour, linewidth=0.8, alpha=0.7 * alpha, transform=aside
        )
        self._curves += 1
        self._ends += [*low, *high]
        self._labels.append((x[-1], float(means[-1]), label or method, colour))

    def band(self, found: Estimate, label: str, colour: str = "#444444") -> None:
        """Draw what holds at every x: a line, and its interval as a band."""
        self.axes.axhspan(100 * found.low, 100 * found.high, color=colour, alpha=0.1, linewidth=0)
        self.axes.axhline(100 * found.mean, color=colour, linewidth=1)
        self._ends += [100 * found.low, 100 * found.high]
        self._labels.append((np.inf, 100 * found.mean, label, colour))

    def level(self, share: float, label: str, colour: str = "#888888") -> None:
        """Draw a dotted line, such as that of chance."""
        self.axes.axhline(100 * share, color=colour, linewidth=1, linestyle=":")
        self._ends.append(100 * share)
        self._labels.append((np.inf, 100 * share, label, colour))

    def finish(self, ticks: Sequence[float] | None = None) -> Any:
        """Return the figure, with labels at the ends of the lines and a caption.

        Args:
            ticks: ticks of the x axis, if it has only a few values.
        """
        axes = self.axes
        axes.set_ylabel("right choices, %")
        axes.set_xlabel(f"{self.x_label}\n{self.caption}", fontsize=9)
        if ticks is not None:
            from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator, ScalarFormatter

            axes.xaxis.set_major_locator(FixedLocator(list(ticks)))
            axes.xaxis.set_major_formatter(ScalarFormatter())
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_minor_formatter(NullFormatter())
        # What stands aside of its point is no part of matplotlib's own limits.
        low, high = min(self._ends, default=0.0) - 3, max(self._ends, default=100.0) + 3
        axes.set_ylim(low, high)
        heights = [(y - low) / (high - low) for _, y, _, _ in self._labels]
        for (x, y, text, colour), height in zip(self._labels, spread(heights, LINE), strict=True):
            # A thin line leads from the end of a curve to its label, where that had to move.
            axes.annotate(
                text, xy=(1.0 if np.isinf(x) else x, y), xytext=(1.02, height),
                xycoords=("axes fraction", "data") if np.isinf(x) else "data",
                textcoords="axes fraction", color=colour, fontsize=7, va="center", ha="left",
                annotation_clip=False, parse_math=False,
                arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.4, "alpha": 0.6,
                            "shrinkA": 0, "shrinkB": 2},
            )  # fmt: skip
        return self.figure


def save(figure: Any, path: Path) -> Path:
    """Write a picture in every kind of ``KINDS``, each whole.

    Args:
        figure: a ``Figure`` of matplotlib.
        path: file of the first kind; the others lie beside it.

    Returns:
        ``path``.

    Raises:
        DataError: it cannot be written.
    """
    for kind in KINDS:
        place = path.with_suffix(kind)
        try:
            with whole_file(place) as partial:
                save_figure(figure, partial, kind)
        except OSError as error:
            raise DataError(
                f"{place} cannot be written ({error.strerror or error}): make room there; the same "
                "command goes on from what was judged."
            ) from None
    return path
