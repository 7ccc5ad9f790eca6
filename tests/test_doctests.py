"""The worked examples in docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import speechprune_ort.runtime

import speechprune_ort

PACKAGES = (speechprune_ort, speechprune_ort.runtime)
MODULES = sorted(
    {
        found.name
        for package in PACKAGES
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")
        if found.name.split(".")[-1] not in ("__main__", "export")
    }
)
WITH_EXAMPLES = {"options", "manifest", "results", "pruning", "audio", "sampling"}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
    if name.rsplit(".", 1)[-1] in WITH_EXAMPLES:
        assert result.attempted > 0
