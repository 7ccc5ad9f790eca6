"""A profile as a table, Markdown, CSV, JSON or JSON lines."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence

from rich.table import Table

from speechprune_ort.markdown import markdown_of
from speechprune_ort.profiling.break_even import break_even, shortest_that_pays
from speechprune_ort.profiling.compare import FALSE_ALARMS, Change
from speechprune_ort.profiling.condition import Condition
from speechprune_ort.profiling.run import Profile
from speechprune_ort.text import printable

__all__ = [
    "FORMATS",
    "PAIR_FORMATS",
    "changes_table",
    "render",
    "render_pair",
    "tables",
]

FORMATS = ("table", "md", "csv", "json", "jsonl")
PAIR_FORMATS = ("table", "md", "json")
SHOWN = (
    ("kept", None),
    ("encoder", "encoder_ms"),
    ("phase 1", "phase_1_ms"),
    ("phase 2", "phase_2_ms"),
    ("lower layers", "lower_layers_ms"),
    ("prefill", "prefill_ms"),
    ("first token", "ttft_ms"),
    ("from embeds", "ttft_embeds_ms"),
    ("a token", "tpot_ms"),
    ("end to end", "end_to_end_ms"),
    ("p95", "end_to_end_ms"),
    ("x real time", "rtf"),
    ("peak MB", "peak_rss_mb"),
    ("GFLOPs", None),
)
STATISTICS = ("n", "mean", "p50", "p90", "p95", "p99", "stdev", "min", "max")


def _number(value: float) -> str:
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def _cells(condition: Condition) -> list[str]:
    if condition.skipped is not None:
        return [printable(condition.sound), condition.setting, "skipped"]
    cells = [printable(condition.sound), condition.setting]
    for title, figure in SHOWN:
        if title == "kept":
            cells.append(f"{condition.kept} of {condition.tokens}")
        elif title == "GFLOPs":
            cells.append(_number(sum(condition.operations.values()) / 1e9))
        elif figure not in condition.figures:
            cells.append("-")
        else:
            found = condition.figures[figure]
            cells.append(_number(found.p95 if title == "p95" else found.p50))
    return cells


def tables(profile: Profile) -> list[Table]:
    """For the terminal: medians by condition, and where pruning pays."""
    about = profile.about
    caption = (
        f"Medians of {about['repeats']}, in milliseconds where no unit is given; "
        f"{about['device']}, {about['machine']['processor']}. Bundle opened in "
        f"{_number(profile.load.p50)} ms."
    )
    caption += f" Operators: {_places(about['operators'])}."
    for condition in profile.conditions:
        if condition.skipped is not None:
            caption += printable(f" {condition.name} was skipped: {condition.skipped}")
    table = Table(title="profile", caption=caption)
    for place, title in enumerate(("recording", "rate", *(title for title, _ in SHOWN))):
        table.add_column(title, justify="left" if place < 2 else "right")
    for condition in profile.conditions:
        table.add_row(*_cells(condition))
    found = [table]
    trades = break_even(profile.conditions)
    if trades:
        shortest = min(trade.seconds for trade in trades)
        words = "; ".join(
            f"rate {rate} {_from(seconds, shortest)}"
            for rate, seconds in shortest_that_pays(trades).items()
        )
        table = Table(title="what pruning costs and saves, ms", caption=f"It pays: {words}.")
        for place, title in enumerate(("recording", "rate", "costs", "saves", "gains")):
            table.add_column(title, justify="left" if place < 2 else "right")
        for trade in trades:
            figures = (trade.cost_ms, trade.saved_ms, trade.net_ms)
            table.add_row(
                printable(trade.sound), trade.setting, *(_signed(value) for value in figures)
            )
        found.append(table)
    return found


def _places(operators: Mapping[str, Mapping[str, int]]) -> str:
    """Which provider ran the operators; graph by graph if there was more than one."""
    everywhere = {provider for counts in operators.values() for provider in counts}
    if len(everywhere) == 1:
        return f"all by {everywhere.pop()}"
    return "; ".join(
        f"{name} {', '.join(f'{count} by {provider}' for provider, count in counts.items())}"
        for name, counts in operators.items()
    )


def _from(seconds: float | None, shortest: float) -> str:
    if seconds is None:
        return "at none of these lengths"
    measured = ", the shortest measured" if seconds <= shortest else ""
    return f"from {_number(seconds)} s{measured}"


def _signed(value: float) -> str:
    return f"-{_number(-value)}" if value < 0 else _number(value)


def _csv(profile: Profile) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["sound", "setting", "seconds", "tokens", "kept", "figure", *STATISTICS])
    for condition in profile.conditions:
        own = [condition.sound, condition.setting, f"{condition.seconds:.3f}", condition.tokens,
               condition.kept]  # fmt: skip
        for name, found in condition.figures.items():
            writer.writerow([*own, name, *(getattr(found, s) for s in STATISTICS)])
    return text.getvalue()


def render(profile: Profile, form: str) -> str:
    """A profile as text in any of the forms but ``table``.

    Args:
        profile: what was measured.
        form: ``md``, ``csv``, ``json`` (with all samples) or ``jsonl`` (one line per condition).
    """
    if form == "csv":
        return _csv(profile)
    if form == "md":
        lines = ["# Profile", ""]
        for table in tables(profile):
            lines += markdown_of(table)
        return "\n".join(lines)
    if form == "jsonl":
        return "".join(
            json.dumps({"about": profile.about, **condition.to_dict()}) + "\n"
            for condition in profile.conditions
        )
    trades = break_even(profile.conditions)
    content = {
        **profile.to_dict(),
        "break_even": [trade.to_dict() for trade in trades],
        "shortest_that_pays_s": shortest_that_pays(trades),
    }
    return json.dumps(content, indent=1) + "\n"


def render_pair(
    profiles: Sequence[Profile], changes: Sequence[Change], worse: Sequence[Change], form: str
) -> str:
    """Two profiles of one run and what differs, as text.

    Args:
        profiles: the first and the second.
        changes: how their figures changed.
        worse: those of them that count as failures.
        form: ``md``, or ``json`` (with all samples).
    """
    if form == "md":
        return "\n".join(["# Two profiles", "", *markdown_of(changes_table(changes, worse))])
    before, after = (profile.to_dict() for profile in profiles)
    found = {"before": before, "after": after, "changes": [c.to_dict() for c in changes]}
    return json.dumps(found, indent=1) + "\n"


def changes_table(changes: Sequence[Change], worse: Sequence[Change]) -> Table:
    """Two profiles side by side; what became worse is marked."""
    paired = any(change.probability is not None for change in changes)
    how = (
        f"measured in turns: ratios round by round; verdicts at {100 * FALSE_ALARMS:g} % for all "
        "figures together (Holm)"
        if paired
        else "measured in two runs: what changed on the machine between them counts as well"
    )
    table = Table(title="after / before, medians", caption=f"95 % intervals by bootstrap; {how}.")
    for place, title in enumerate(("condition", "figure", "before", "after", "ratio", "")):
        table.add_column(title, justify="left" if place in (0, 1, 5) else "right")
    for change in changes:
        ratio = change.ratio
        table.add_row(
            printable(change.condition),
            change.figure,
            _number(change.before),
            _number(change.after),
            f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]",
            "WORSE" if change in worse else change.verdict,
        )
    return table
