"""What ``bench_peers`` measured as tables: times in groups, then ours beside the best peer.

    python -m bench.peers.tables FIGURES.json

FIGURES.json is what ``bench_peers --json`` wrote. Times are medians of the rounds in milliseconds,
decoding of one step.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechprune_ort.markdown import markdown_table

__all__ = ["tables_of"]

REFERENCE = "transformers sdpa fp32"
OURS = "speechprune-ort"
FIGURES: Mapping[str, str] = {
    "prefill_s": "prefill",
    "decode_s": "decode, a step",
    "whole_s": "prompt and answer",
    "encode_s": "encoder",
    "answer_s": "answer",
    "answers_s": "answers",
}
"""Of the workers, in the order of the tables."""

BITS: Mapping[str, str] = {"w8a8": "8", "int8": "8", "int4": "4", "fp32": "32", "bf16": "16"}
"""Bits of the weights: who has as many is a peer."""


@dataclass(frozen=True)
class Column:
    """One figure of one case.

    Attributes:
        name: the case's.
        figure: the worker's name of it.
        rounds: milliseconds by contender, of the same rounds where it took part in all.
    """

    name: str
    figure: str
    rounds: Mapping[str, Sequence[float]]

    def median(self, contender: str) -> float | None:
        """Milliseconds of a contender; None where it has none."""
        return statistics.median(self.rounds[contender]) if contender in self.rounds else None


def columns_of(case: Mapping[str, Any]) -> Iterator[Column]:
    """The figures of a case; whole times of a single prompt are left to its parts."""
    several = "sequences" in case["name"]
    for figure in FIGURES:
        if figure == "whole_s" and not several:
            continue
        steps = case["steps"] - 1 if figure == "decode_s" else 1
        found = {
            name: [1000 * value / steps for value in seconds[figure]]
            for name, seconds in case["seconds"].items()
            if figure in seconds
        }
        if found:
            yield Column(case["name"], figure, found)


def precision_of(contender: str) -> str:
    """The last word of its name.

    >>> precision_of("onnxruntime-genai int4")
    'int4'
    """
    return contender.rsplit(" ", 1)[1]


def written(milliseconds: float) -> str:
    """Three or four digits.

    >>> written(38.512), written(1042.3)
    ('38.5', '1,042')
    """
    return f"{milliseconds:,.1f}" if milliseconds < 100 else f"{milliseconds:,.0f}"


def group(title: str, columns: Sequence[Column], contenders: Sequence[str]) -> list[str]:
    """A table: contenders down, cases across, each with how many times as fast as torch."""
    heads = [title]
    for column in columns:
        heads += [column.name, "x torch"]
    rows = []
    for contender in contenders:
        cells = [contender]
        for column in columns:
            mine, torch = column.median(contender), column.median(REFERENCE)
            cells.append("" if mine is None else written(mine))
            cells.append("" if mine is None or torch is None else f"{torch / mine:.2f}")
        if any(cells[1:]):
            rows.append(cells)
    return markdown_table(heads, rows)


def beside_the_best(columns: Sequence[Column], contenders: Sequence[str]) -> list[str]:
    """Ours over the peer with the least median and weights of as many bits.

    Median of the rounds' ratios, and the least and the most of them. 16 bits have only torch.
    """
    ours = [name for name in contenders if name.startswith(OURS)]
    rows = []
    for column in columns:
        cells = []
        for name in ours:
            bits = BITS[precision_of(name)]
            peers = [
                peer
                for peer in column.rounds
                if not peer.startswith(OURS) and BITS[precision_of(peer)] == bits
            ]
            if not peers or name not in column.rounds:
                cells.append("")
                continue
            best = min(peers, key=lambda peer: statistics.median(column.rounds[peer]))
            ratios = [a / b for a, b in zip(column.rounds[name], column.rounds[best], strict=False)]
            few, many = min(ratios), max(ratios)
            middle = statistics.median(ratios)
            cells.append(f"{middle:.2f} [{few:.2f}, {many:.2f}] {best.split()[0]}")
        if any(cells):
            rows.append([f"{FIGURES[column.figure]}: {column.name}", *cells])
    heads = ["our time over the fastest peer's", *map(precision_of, ours)]
    return markdown_table(heads, rows)


def tables_of(content: Mapping[str, Any]) -> str:
    """All tables.

    Args:
        content: what ``bench_peers --json`` writes.
    """
    contenders = list(content["versions"])
    columns = [column for case in content["cases"] for column in columns_of(case)]
    blocks = []
    for figure in FIGURES:
        of_text = [c for c in columns if c.figure == figure and c.name.startswith("text")]
        others = [c for c in columns if c.figure == figure and not c.name.startswith("text")]
        for part in (of_text, others):
            if part:
                blocks.append(group(f"{FIGURES[figure]}, ms", part, contenders))
    blocks.append(beside_the_best(columns, contenders))
    return "\n\n".join("\n".join(block) for block in blocks) + "\n"


if __name__ == "__main__":
    sys.stdout.write(tables_of(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
