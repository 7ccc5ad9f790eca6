"""The worked examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import speechprune_ort
from speechprune_ort.methods import METHODS

MODULES = sorted(
    found.name
    for found in pkgutil.walk_packages(speechprune_ort.__path__, "speechprune_ort.")
    if found.name.split(".")[1] not in ("__main__", "export")
)
WITH_EXAMPLES = {
    f"speechprune_ort.{name}"
    for name in (
        "evaluation.drawing", "evaluation.latex", "evaluation.layout",
        "evaluation.perturbation", "evaluation.samples", "evaluation.scoring",
        "evaluation.settings", "contract.manifest_entries", "markdown", "numbers", "options",
        "pool", "statistics", "cli.grouped",
        "profiling.break_even", "profiling.distribution", "profiling.operations",
        "profiling.workload", "results",
        "runtime.hearing.audio", "runtime.answering.budget", "runtime.hearing.features",
        "runtime.hearing.intake", "runtime.hearing.loudness",
        "runtime.choosing.methods.coverage",
        "runtime.choosing.methods.merging", "runtime.choosing.methods.segments",
        "runtime.choosing.pruning", "runtime.answering.sampling",
        "contract.tokenizer_check",
    )
}  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    module = importlib.import_module(name)
    methods = dict(METHODS)
    result = doctest.testmod(module)
    METHODS.clear()  # examples register methods of their own
    METHODS.update(methods)
    assert result.failed == 0
    if name in WITH_EXAMPLES:
        assert result.attempted > 0


def test_no_module_with_examples_is_missed() -> None:
    assert set(MODULES) >= WITH_EXAMPLES
    assert "speechprune_ort.cli.ask" in MODULES
