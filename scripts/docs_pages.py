"""The parts of the site that are made from the code: a hook of mkdocs, named in mkdocs.yml.

A page of docs/ has ``<!-- from the code: NAME -->`` where such a part goes; ``PARTS`` has the
names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import typer
from typer.cli import get_docs_for_click

from speechprune_ort.cli.app import app
from speechprune_ort.markdown import markdown_table
from speechprune_ort.methods import METHODS

__all__ = ["PARTS", "on_page_markdown"]

MARK = re.compile(r"<!-- from the code: (\w+) -->")
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
ROOT = Path(__file__).resolve().parent.parent
CARD = ROOT / "scripts" / "small_model" / "trained" / "README.md"
PAPER = re.compile(r"arXiv:(\d{4}\.\d{5})")


def command_line() -> str:
    """Every command with its arguments and options, as ``--help`` tells them."""
    root = typer.main.get_command(app)
    context = typer.Context(root, info_name="speechprune-ort")
    with context:
        text = get_docs_for_click(obj=root, ctx=context, name="speechprune-ort")
    # The page has a title of its own.
    return text.split("\n", 1)[1].strip()


def methods() -> str:
    """The registered methods as a table."""
    rows = []
    for found in METHODS.values():
        source = PAPER.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", found.source)
        attention = "needed" if found.encoder_attention else ""
        options = ", ".join(f"`{name}`" for name in found.options.names())
        rows.append((f"`{found.name}`", found.summary, options, attention, source))
    heads = ("name", "what is kept", "options", "encoder's attention", "source")
    return "\n".join(markdown_table(heads, rows))


def model_card() -> str:
    """The default model's card, without the lines that only the hub reads."""
    return FRONT_MATTER.sub("", CARD.read_text(encoding="utf-8"))


def beside_docs(name: str) -> str:
    """A page that lies beside docs/, with its links as they are within docs/."""
    return (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")


PARTS: Mapping[str, Callable[[], str]] = {
    "changelog": lambda: beside_docs("CHANGELOG.md"),
    "command_line": command_line,
    "contributing": lambda: beside_docs("CONTRIBUTING.md"),
    "methods": methods,
    "model_card": model_card,
    "security": lambda: beside_docs("SECURITY.md"),
}
"""Makers of the parts, by the name that a page has for them."""


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the marks of a page; mkdocs calls it for each.

    Args:
        markdown: the page as it is written.

    Raises:
        KeyError: a mark names no part.
    """
    return MARK.sub(lambda mark: PARTS[mark[1]](), markdown)
