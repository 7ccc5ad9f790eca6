"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table

from speechprune_ort.text import printable

__all__ = ["markdown_of", "markdown_table"]


def markdown_table(heads: Sequence[object], rows: Iterable[Sequence[object]]) -> list[str]:
    r"""A table as lines of Markdown.

    Args:
        heads: headings of the columns.
        rows: cells of each row, as many as there are headings. What would end a cell or a line is
            escaped.

    Raises:
        ValueError: a row has more or fewer cells than there are headings.

    >>> print("\n".join(markdown_table(["method", "rate"], [["a|b", 0.2]])))
    | method | rate |
    |---|---|
    | a\|b | 0.2 |
    """

    def line(cells: Sequence[object]) -> str:
        if len(cells) != len(heads):
            raise ValueError(f"{len(cells)} cells stand under {len(heads)} headings.")
        texts = (printable(str(cell)).replace("|", "\\|") for cell in cells)
        return f"| {' | '.join(texts)} |"

    return [line(heads), f"|{'---|' * len(heads)}", *map(line, rows)]


def markdown_of(table: Table) -> list[str]:
    """A table of the terminal as lines of Markdown, with its title and caption."""
    columns = [list(column.cells) for column in table.columns]
    heads = [str(column.header) for column in table.columns]
    caption = ["", str(table.caption)] if table.caption else []
    rows = zip(*columns, strict=True)
    return [f"## {table.title}", "", *markdown_table(heads, list(rows)), *caption, ""]
