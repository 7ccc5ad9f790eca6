"""The parts of the pages that are made from the code: a hook of mkdocs, named in mkdocs.yml.

A page of docs/ has ``<!-- from the code: NAME -->`` and ``<!-- to here -->`` around such a part;
``PARTS`` has the names. Long parts are filled in while the site is built, and the page itself says
between the marks where else to look. Those in ``WRITTEN`` stand in the page, too: this command
brings them up to date, and a test fails until they are.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import typer
from typer.cli import get_docs_for_click

import speechprune_ort
import speechprune_ort.methods
from speechprune_ort.cli.app import app
from speechprune_ort.files import write_whole
from speechprune_ort.markdown import markdown_table
from speechprune_ort.methods import METHODS

__all__ = ["PARTS", "WRITTEN", "on_page_markdown", "written"]

MARK = re.compile(r"(<!-- from the code: (\w+) -->\n).*?(\n<!-- to here -->)", re.DOTALL)
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


def commands() -> str:
    """The commands as a table, with the first sentence of each one's help."""
    root = typer.main.get_command(app)
    rows = []
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        summary = " ".join(str(command.help).split("\n\n")[0].split())
        rows.append((f"`speechprune-ort {name}`", summary))
    return "\n".join(markdown_table(("command", "what it does"), rows))


def methods() -> str:
    """The package's methods as a table: a plugin may have registered others."""
    rows = []
    for found in METHODS.values():
        if not found.select.__module__.startswith("speechprune_ort."):
            continue
        source = PAPER.sub(r"[arXiv:\1](https://arxiv.org/abs/\1)", found.source)
        flags = (
            ("`--encoder-attention`", found.encoder_attention),
            ("`--cut-after`", found.decoder_attention),
        )
        needs = ", ".join(flag for flag, needed in flags if needed)
        options = ", ".join(f"`{name}`" for name in found.options.names())
        rows.append((f"`{found.name}`", found.summary, options, needs, source))
    heads = ("name", "what is kept", "options", "bundle exported with", "source")
    return "\n".join(markdown_table(heads, rows))


def names_of(module: ModuleType) -> str:
    """The names that a module offers, as a table with the first sentence about each."""
    rows = []
    for name in module.__all__:
        found = getattr(module, name)
        kind = inspect.isclass(found) or inspect.isfunction(found)
        said = inspect.getdoc(found) if kind else CONSTANTS[name]
        text = " ".join(str(said).split("\n\n")[0].split()).replace("``", "`")
        rows.append((f"`{name}`", text))
    return "\n".join(markdown_table(("name", "what it is"), rows))


CONSTANTS = {
    "METHODS": "Every registered method by its name.",
    "__version__": "The version of the package, a text.",
}
"""What names are that have no docstring."""


def model_card() -> str:
    """The default model's card, without the lines that only the hub reads."""
    return FRONT_MATTER.sub("", CARD.read_text(encoding="utf-8"))


def beside_docs(name: str) -> str:
    """A page that lies beside docs/, with its links as they are within docs/."""
    return (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")


PARTS: Mapping[str, Callable[[], str]] = {
    "changelog": lambda: beside_docs("CHANGELOG.md"),
    "command_line": command_line,
    "commands": commands,
    "contributing": lambda: beside_docs("CONTRIBUTING.md"),
    "methods": methods,
    "model_card": model_card,
    "names": lambda: names_of(speechprune_ort),
    "names_of_methods": lambda: names_of(speechprune_ort.methods),
    "security": lambda: beside_docs("SECURITY.md"),
}
"""Makers of the parts, by the name that a page has for them."""

WRITTEN = frozenset({"commands", "methods", "names", "names_of_methods"})
"""Parts that stand in the pages themselves."""


def _filled(markdown: str, names: Iterable[str]) -> str:
    def fill(mark: re.Match[str]) -> str:
        return f"{mark[1]}\n{PARTS[mark[2]]()}\n{mark[3]}" if mark[2] in names else mark[0]

    return MARK.sub(fill, markdown)


def written(markdown: str) -> str:
    """A page of docs/ as it must be: the parts in ``WRITTEN`` up to date, the others untouched.

    Args:
        markdown: the page as it is.
    """
    return _filled(markdown, WRITTEN)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in every part of a page; mkdocs calls it for each.

    Args:
        markdown: the page as it is written.

    Raises:
        ValueError: a mark names no part.
    """
    unknown = {name for _, name, _ in MARK.findall(markdown)} - set(PARTS)
    if unknown:
        raise ValueError(
            f"There is no part {', '.join(sorted(unknown))}: name one of {', '.join(PARTS)}."
        )
    return _filled(markdown, PARTS)


if __name__ == "__main__":
    for path in sorted((ROOT / "docs").rglob("*.md")):
        before = path.read_text(encoding="utf-8")
        if (now := written(before)) != before:
            write_whole(path, now)
            sys.stdout.write(f"wrote {path.relative_to(ROOT)}\n")
