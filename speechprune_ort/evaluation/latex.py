"""Tables of an evaluation in LaTeX, for a paper: ``booktabs`` and ``xcolor`` are all they need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from speechprune_ort.evaluation.costs import Cost
from speechprune_ort.evaluation.summary import Line, Subset, Summary
from speechprune_ort.statistics import FEW, LEVEL, Estimate
from speechprune_ort.text import counted, printable

__all__ = ["latex"]

ESCAPED = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_",
    "{": r"\{", "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
}  # fmt: skip


def _escaped(text: str) -> str:
    r"""Text as LaTeX shows it.

    >>> _escaped("100 % of a_b")
    '100 \\% of a\\_b'
    """
    return "".join(ESCAPED.get(letter, letter) for letter in printable(text))


def _accuracy(found: Estimate) -> str:
    return f"{100 * found.mean:.1f} [{100 * found.low:.0f}, {100 * found.high:.0f}]"


def _difference(found: Estimate | None) -> str:
    if found is None:
        return ""
    sure = r"\rlap{*}" if found.p is not None and found.p < 1 - LEVEL else ""
    ends = f"[{100 * found.low:+.0f}, {100 * found.high:+.0f}]"
    return f"{100 * found.mean:+.1f}{sure} {ends}"


def _row(line: Line, every: str, costs: Mapping[str, Cost]) -> list[str]:
    cost = costs.get(line.name)
    return [
        _escaped(line.name),
        "" if line.kept is None else f"{line.kept:.0f}",
        _accuracy(line.accuracy),
        _difference(line.versus.get(every)),
        "" if cost is None or cost.selection_ms is None else f"{cost.selection_ms:.1f}",
        "" if cost is None else f"{cost.prefill_ms:.0f}",
        "" if cost is None or cost.memory_gb is None else f"{cost.memory_gb:.2f}",
    ]


HEADS = (
    "setting", "tokens", r"right, \%", "minus every token", "choosing, ms", "reading, ms",
    "memory, GB",
)  # fmt: skip


def _table(perturbation: str, subset: Subset, every: str, costs: Mapping[str, Cost]) -> str:
    rows = [_row(line, every, costs) for line in (*subset.settings, *subset.controls)]
    wanted = [index for index in range(len(HEADS)) if index == 0 or any(row[index] for row in rows)]
    few = subset.groups < FEW

    def line(cells: Sequence[str]) -> str:
        shown = [cells[index] for index in wanted]
        if few:
            shown = [rf"\textcolor{{gray}}{{{cell}}}" if cell else "" for cell in shown]
        return " & ".join(shown) + r" \\"

    n = subset.settings[0].accuracy.n
    caption = (
        f"{perturbation} recordings, {subset.name}: n = {n} in {counted(subset.groups, 'group')}, "
        "intervals of 95 %, differences in percentage points"
    )
    if subset.comparisons:
        pairs = counted(subset.comparisons, "comparison")
        caption += f"; * holds at 5 % for all {pairs} together (Holm)"
    if few:
        caption += "; in grey: too few groups for more than a description"
    body = [line(row) for row in rows[: len(subset.settings)]]
    controls = [line(row) for row in rows[len(subset.settings) :]]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering\small",
            rf"\caption{{{_escaped(caption)}.}}",
            rf"\begin{{tabular}}{{l{'r' * (len(wanted) - 1)}}}",
            r"\toprule",
            " & ".join(HEADS[index] for index in wanted) + r" \\",
            r"\midrule",
            *body,
            *([r"\midrule", *controls] if controls else []),
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def latex(summary: Summary, costs: Mapping[str, Cost], every: str) -> str:
    """One table for each perturbation and subset.

    Args:
        summary: what was found.
        costs: costs by setting; they are of the whole set, so only its own table has them.
        every: name of the setting that keeps every token.
    """
    tables = [
        _table(perturbation, subset, every, costs if subset is subsets[0] else {})
        for perturbation, subsets in summary.subsets.items()
        for subset in subsets
    ]
    note = r"% Needs \usepackage{booktabs} and \usepackage{xcolor}."
    return "\n\n".join([note, *tables]) + "\n"
