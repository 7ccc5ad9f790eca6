"""The layers of ``[tool.importlinter]``: no circle of imports, and ``ask`` only goes down."""

from __future__ import annotations

import graphlib
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import grimp
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from paths import ROOT

PACKAGE = "speechprune_ort"


@pytest.fixture
def graph() -> grimp.ImportGraph:
    """Every module and its imports, within functions and under TYPE_CHECKING, too."""
    return grimp.build_graph(PACKAGE, cache_dir=None)


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
    for room in ("cli", "export", "runtime.ort"):
        assert len(graph.find_descendants(f"{PACKAGE}.{room}")) > 5
    assert circle(graph) is None


def test_circles_are_found(graph: grimp.ImportGraph) -> None:
    graph.add_import(importer=f"{PACKAGE}.results", imported=f"{PACKAGE}.model")
    assert f"{PACKAGE}.results" in (circle(graph) or [])


def ranks() -> list[dict[str, int]]:
    """Of each contract, how deep the modules that it names lie."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return [
        {
            f"{contract['containers'][0]}.{name}": depth
            for depth, layer in enumerate(contract["layers"])
            for name in re.split(r" [|:] ", layer)
        }
        for contract in settings["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    ]


def depths(module: str) -> list[int | None]:
    """How deep a module lies, by each contract; None for those that do not name it."""
    names = [".".join(module.split(".")[:n]) for n in range(1, module.count(".") + 2)]
    return [next((rank[n] for n in names if n in rank), None) for rank in ranks()]


def climbs(work: Callable[[], object]) -> set[tuple[str, str]]:
    """Modules of the package that called into a layer above them, or resumed a generator there."""
    calls: set[tuple[str, str]] = set()

    def called(frame: FrameType, event: str, _: Any) -> None:
        callee = frame.f_globals.get("__name__", "")
        # A lambda is an argument that was handed down, such as the range of a number.
        passed = frame.f_code.co_name in ("<module>", "<lambda>")
        if event != "call" or not callee.startswith(PACKAGE) or passed:
            return
        before = frame.f_back
        while before is not None:
            caller = before.f_globals.get("__name__", "")
            if caller.startswith(PACKAGE):
                calls.add((caller, callee))
                return
            before = before.f_back

    sys.setprofile(called)
    try:
        work()
    finally:
        sys.setprofile(None)
    assert calls
    return {
        (caller, callee)
        for caller, callee in calls
        for from_, to in zip(depths(caller), depths(callee), strict=True)
        if from_ is not None and to is not None and to < from_
    }


@pytest.mark.parametrize("method", ["passages", "speechprune", "none"])
@pytest.mark.parametrize("backend", ["numpy", "ort"])
def test_a_question_and_its_recording_only_go_down(
    method: str, backend: str, bundle: Path, tone: NDArray[np.float32], tmp_path: Path
) -> None:
    from speechprune_ort import SpeechLLM

    model, file = SpeechLLM(bundle, "cpu"), tmp_path / "tone.wav"
    soundfile.write(file, tone, 16_000)
    options: Any = {"method": method, "backend": backend, "max_new_tokens": 3}
    assert climbs(lambda: model.ask(file, "Who?", **options)) == set()
    recording = model.listen(file)
    assert climbs(lambda: recording.ask("Who?", **options)) == set()


def test_other_ways_to_ask_only_go_down(bundle: Path, tone: NDArray[np.float32]) -> None:
    from speechprune_ort import SpeechLLM

    recording = SpeechLLM(bundle, "cpu").listen(tone, sampling_rate=16_000)
    answer = recording.ask("Who?", max_new_tokens=3)
    assert climbs(lambda: recording.sample("Who?", 2, max_new_tokens=3)) == set()
    assert climbs(lambda: recording.score("Who?", ["Ann", "Bo"])) == set()
    assert climbs(lambda: recording.prune("Who?")) == set()
    assert climbs(lambda: recording.with_evidence(answer)) == set()


def test_climbs_are_found(bundle: Path) -> None:
    from speechprune_ort import SpeechLLM

    below: dict[str, Any] = {"__name__": f"{PACKAGE}.errors"}
    exec("def call(f):\n    return f()", below)  # noqa: S102 - as if it stood there
    model = SpeechLLM(bundle, "cpu")
    assert climbs(lambda: below["call"](model.close)) == {(f"{PACKAGE}.errors", f"{PACKAGE}.model")}
