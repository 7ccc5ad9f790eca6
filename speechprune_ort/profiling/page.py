"""A profile to look at: a picture of the stages, or a page of one file."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from speechprune_ort.errors import OptionError
from speechprune_ort.files import picture_of, save_figure
from speechprune_ort.profiling.break_even import break_even
from speechprune_ort.profiling.condition import Condition
from speechprune_ort.profiling.report import tables
from speechprune_ort.profiling.run import Profile
from speechprune_ort.text import for_picture
from speechprune_ort.timings import STAGES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PICTURES", "check_picture", "draw", "page", "require_matplotlib"]

COLOURS = ("#8c8c8c", "#bdb76b", "#4c72b0", "#c0c0c0", "#64b5cd", "#dd8452", "#c44e52", "#da8bc3",
           "#55a868", "#8172b3")  # fmt: skip

STYLE = """body{font:15px/1.45 system-ui,sans-serif;margin:2rem auto;max-width:1120px;color:#222}
table{border-collapse:collapse;margin:.6rem 0 1.6rem;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right;font-size:13px;
white-space:nowrap}th{white-space:normal}
td:nth-child(-n+2),th:nth-child(-n+2){text-align:left}caption{caption-side:bottom;text-align:left;
font-size:12px;color:#555;padding-top:.4rem}
figure{margin:0}svg{max-width:100%;height:auto}
dl{display:grid;grid-template-columns:max-content auto;gap:.1rem 1rem;font-size:13px}dd{margin:0}"""


PICTURES = (".png", ".svg", ".pdf", ".jpg")


def require_matplotlib() -> None:
    """Say what is missing before the measurement, not after.

    Raises:
        OptionError: matplotlib is not installed.
    """
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise OptionError(
            "--plot and --html need matplotlib: pip install 'speechprune-ort[profile]', or use "
            "--format json."
        ) from None


def _stages(condition: Condition) -> list[float]:
    return [condition.figures[f"{stage}_ms"].p50 for stage in STAGES]


def check_picture(path: Path) -> None:
    """Refuse a kind of picture that is not drawn, before the measurement.

    Raises:
        OptionError: its ending is another.
    """
    if path.suffix.lower() not in PICTURES:
        raise OptionError(f"--plot {path} must end in {', '.join(PICTURES)}.")


def draw(profile: Profile, path: Path, kind: str = ".png") -> None:
    """Stages of every condition as bars, and what pruning gains over length.

    Args:
        profile: what was measured.
        path: picture to write.
        kind: one of ``PICTURES``.
    """
    save_figure(_figure(profile), path, kind)


def _figure(profile: Profile) -> Figure:
    from matplotlib.figure import Figure

    shown = [c for c in profile.conditions if c.figures]
    trades = break_even(profile.conditions)
    figure = Figure(figsize=(9, 1.2 + 0.32 * len(shown) + (3.2 if trades else 0)), dpi=140,
                    layout="constrained")  # fmt: skip
    heights = [1 + 0.32 * len(shown), 3.2] if trades else [1]
    parts = figure.subplots(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    bars, rows = parts[0], range(len(shown))
    left = [0.0] * len(shown)
    for number, stage in enumerate(STAGES):
        widths = [_stages(condition)[number] for condition in shown]
        drawn = bars.barh(rows, widths, left=left, label=stage, color=COLOURS[number])
        left = [a + b for a, b in zip(left, widths, strict=True)]
    bars.bar_label(drawn, [f"{whole:,.0f} ms" for whole in left], padding=3, fontsize=7)
    bars.margins(x=0.1)
    names = [f"{for_picture(c.sound, 40, 2)} @ {c.setting}" for c in shown]
    bars.set_yticks(rows, names, parse_math=False)
    bars.invert_yaxis()
    bars.set_xlabel("ms, medians")
    bars.legend(fontsize=7, ncols=len(STAGES), loc="lower left", bbox_to_anchor=(0, 1),
                frameon=False, handlelength=1)  # fmt: skip
    if trades:
        gains = parts[1]
        for setting in dict.fromkeys(trade.setting for trade in trades):
            of_rate = sorted((t for t in trades if t.setting == setting), key=lambda t: t.seconds)
            x, y = [t.seconds for t in of_rate], [t.net_ms for t in of_rate]
            gains.plot(x, y, marker="o", label=f"rate {setting}")
        gains.axhline(0, color="black", linewidth=0.8)
        gains.set_xlabel("seconds of audio")
        gains.set_ylabel("gained by pruning, ms")
        gains.legend(fontsize=7)
    return figure


def _html_table(table: Table) -> str:
    heads = "".join(f"<th>{escape(str(column.header))}</th>" for column in table.columns)
    rows = zip(*(list(column.cells) for column in table.columns), strict=True)
    body = "".join(
        f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    caption = escape(str(table.caption or ""))
    return (
        f"<h2>{escape(str(table.title))}</h2><table><caption>{caption}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table>"
    )


def _said(value: object) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{name}: {part}" for name, part in value.items())
    return str(value)


def page(profile: Profile) -> str:
    """The profile as one HTML file that needs no other; its picture is drawn by matplotlib."""
    about = "".join(
        f"<dt>{escape(str(name))}</dt><dd>{escape(_said(value))}</dd>"
        for name, value in profile.about.items()
    )
    found = "".join(_html_table(table) for table in tables(profile))
    picture = ""
    if any(condition.figures for condition in profile.conditions):
        drawn = picture_of(_figure(profile), ".svg").decode()
        inner = drawn[drawn.index("<svg") :]  # what stands before it is for a file of its own
        picture = f'<figure role="img" aria-label="stages of each condition">{inner}</figure>'
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f"<title>speechprune-ort profile</title><style>{STYLE}</style></head><body>"
        f"<h1>speechprune-ort profile</h1>{picture}{found}<h2>about</h2><dl>{about}</dl>"
        "</body></html>\n"
    )
