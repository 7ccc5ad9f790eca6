"""The modules' imports: no circle among them; their layers are checked by ``lint-imports``."""

from __future__ import annotations

import graphlib

import grimp
import pytest


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Every module and its imports, within functions and under TYPE_CHECKING, too."""
    return grimp.build_graph("speechprune_ort", cache_dir=None)


def circle(graph: grimp.ImportGraph) -> list[str] | None:
    """Modules of a circle; None where there is none."""
    imports = {name: graph.find_modules_directly_imported_by(name) for name in graph.modules}
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as error:
        found: list[str] = error.args[1]
        return found
    return None


def test_no_module_imports_itself_by_way_of_others(graph: grimp.ImportGraph) -> None:
    for room in ("speechprune_ort.cli", "speechprune_ort.export", "speechprune_ort.runtime.ort"):
        assert len(graph.find_descendants(room)) > 5
    assert circle(graph) is None


def test_circles_are_found() -> None:
    graph = grimp.build_graph("speechprune_ort", cache_dir=None)
    graph.add_import(importer="speechprune_ort.results", imported="speechprune_ort.model")
    assert "speechprune_ort.results" in (circle(graph) or [])
