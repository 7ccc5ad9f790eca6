"""The modules' imports: no circle among them, and each has a layer (``[tool.importlinter]``)."""

from __future__ import annotations

import ast
import graphlib
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from paths import ROOT

FOLDERS = {
    "speechprune_ort": "speechprune_ort",
    "export": "speechprune_ort.export",
    "runtime": "speechprune_ort.runtime",
}


@cache
def files() -> dict[str, Path]:
    """Every module of the package by its name."""
    found = {}
    for folder, package in FOLDERS.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT / folder).with_suffix("").parts
            found[".".join((package, *parts)).removesuffix(".__init__")] = path
    return found


def imports(name: str) -> Iterator[str]:
    """Modules that a module imports, within functions and under TYPE_CHECKING, too."""
    for node in ast.walk(ast.parse(files()[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in files())
        elif isinstance(node, ast.ImportFrom) and node.module in files():
            inner = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (full if full in files() else str(node.module) for full in inner)


def circle() -> list[str] | None:
    """Modules of a circle; None where there is none."""
    graph = {name: {m for m in imports(name) if m != name} for name in files()}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        found: list[str] = error.args[1]
        return found
    return None


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert len(files()) > 100
    assert circle() is None


def test_circles_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("def f():\n    from speechprune_ort.model import SpeechLLM\n")
    monkeypatch.setitem(files(), "speechprune_ort.results", tmp_path / "a.py")
    assert "speechprune_ort.results" in (circle() or [])


def test_every_module_has_a_layer() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    layers = next(
        contract["layers"]
        for contract in settings["tool"]["importlinter"]["contracts"]
        if contract["id"] == "layers"
    )
    named = [name for layer in layers for name in layer.replace("|", ":").split(" : ")]
    assert len(set(named)) == len(named)
    packages = {name for name, path in files().items() if path.name == "__init__.py"}
    packages |= {"speechprune_ort.__main__"}
    homeless = {
        name
        for name in files().keys() - packages
        if not any(f"{name}.".startswith(f"{layer.strip()}.") for layer in named)
    }
    assert not homeless
    assert not {layer.strip() for layer in named} - files().keys()
