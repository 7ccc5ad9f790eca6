"""The site's parts that are made from the code, and that every page can be reached."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import typer
import yaml
from paths import ROOT

from speechprune_ort.cli.app import app
from speechprune_ort.methods import METHODS

DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    """``scripts/docs_pages.py``, as mkdocs loads it."""
    spec = importlib.util.spec_from_file_location("docs_pages", ROOT / "scripts" / "docs_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_option_is_in_the_reference_of_the_command_line(hook: ModuleType) -> None:
    page = hook.on_page_markdown((DOCS / "reference" / "cli.md").read_text(encoding="utf-8"))
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert len(commands) >= 6
    for name, command in commands.items():
        section = page.split(f"## `speechprune-ort {name}`")[1].split("\n## ")[0]
        for parameter in command.params:
            for flag in (*parameter.opts, *parameter.secondary_opts):
                wanted = flag if flag.startswith("-") else parameter.metavar or flag
                assert wanted in section, (name, wanted)


def test_what_pages_hold_of_the_code_is_up_to_date(hook: ModuleType) -> None:
    for page in DOCS.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert hook.written(text) == text, "run scripts/docs_pages.py"
    outdated = "<!-- from the code: methods -->\nof 1984\n<!-- to here -->"
    assert "| `passages` |" in hook.written(outdated)
    assert "of 1984" not in hook.written(outdated)


def test_every_method_is_in_the_reference() -> None:
    page = (DOCS / "reference" / "methods.md").read_text(encoding="utf-8")
    ours = {n: m for n, m in METHODS.items() if m.select.__module__.startswith("speechprune_ort.")}
    assert len(ours) > 10
    for name, found in ours.items():
        assert f"| `{name}` | {found.summary} |" in page
        for paper in re.findall(r"\d{4}\.\d{5}", found.source):
            assert f"https://arxiv.org/abs/{paper}" in page


def test_every_mark_names_a_part_and_every_part_is_used(hook: ModuleType) -> None:
    pages = [page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md")]
    names = [name for page in pages for _, name, _ in hook.MARK.findall(page)]
    assert set(names) == set(hook.PARTS)
    assert len(names) == sum(page.count("<!-- from the code") for page in pages)
    with pytest.raises(ValueError, match="There is no part nothing: name one of changelog, "):
        hook.on_page_markdown("<!-- from the code: nothing -->\n\n<!-- to here -->")
    assert "license:" not in hook.PARTS["model_card"]().split("# The embedded")[0]
    assert "](docs/" not in hook.PARTS["contributing"]()


def pages_of(nav: Any) -> Iterator[str]:
    """Paths that a ``nav`` of mkdocs.yml names."""
    if isinstance(nav, str):
        yield nav
    for entry in nav if isinstance(nav, list) else nav.values() if isinstance(nav, dict) else ():
        yield from pages_of(entry)


def test_every_page_is_in_the_navigation_once() -> None:
    content = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert content["strict"] is True
    named = list(pages_of(content["nav"]))
    there = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert sorted(named) == sorted(there)


def test_every_page_that_code_names_is_there() -> None:
    named = {
        (path.relative_to(ROOT).as_posix(), page)
        for folder in ("speechprune_ort", "export", "runtime", "scripts", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in ("", ".py", ".sh")
        for page in re.findall(r"docs/[\w./-]+\.(?:md|json)", path.read_text(encoding="utf-8"))
    }
    assert len(named) > 8
    assert not sorted((path, page) for path, page in named if not (ROOT / page).is_file())


def test_every_test_that_reliability_names_is_there() -> None:
    page = (DOCS / "explanation" / "reliability.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| `(tests/[\w./]+)`: (.*) \|", page)
    assert len(rows) > 40
    for path, names in rows:
        code = (ROOT / path).read_text(encoding="utf-8")
        for name in re.findall(r"`(\w+)`", names):
            assert f"def {name}(" in code, (path, name)
