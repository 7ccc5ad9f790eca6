"""Fixtures: tiny random checkpoints and their bundles, made once a run."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from numpy.typing import NDArray

# How fast a busy machine draws an input says nothing of the code.
settings.register_profile(
    "any-machine", suppress_health_check=[HealthCheck.too_slow], deadline=None
)
settings.load_profile("any-machine")


if importlib.util.find_spec("torch") is None:
    # Where the runtime alone is installed, what makes checkpoints cannot even be imported.
    collect_ignore = [
        "runtime/ort/test_bundle.py",
        "export/test_checkpoints.py",
        "export/test_cut_bundle.py",
        "speechprune_ort/test_arguments.py",
        "runtime/choosing/test_backends.py",
        "speechprune_ort/cli/test_cli.py",
        "runtime/answering/test_cut_decoder.py",
        "runtime/answering/test_decoder.py",
        "export/test_equality.py",
        "speechprune_ort/explain/test_explain.py",
        "speechprune_ort/test_results.py",
        "export/families/test_families.py",
        "export/families/test_family_checkpoints.py",
        "export/test_fine_tunes.py",
        "export/test_graph_file.py",
        "speechprune_ort/contract/test_hostile_bundle.py",
        "speechprune_ort/models/test_recipe.py",
        "export/test_last_position.py",
        "export/test_lean_export.py",
        "export/test_sliding_windows.py",
        "export/test_parity.py",
        "scripts/bench/test_random_checkpoint.py",
        "scripts/research/test_precision_table.py",
        "scripts/research/test_tune_pruned.py",
        "scripts/small_model/test_small_model.py",
        "scripts/small_model/test_second_architecture.py",
        "scripts/small_model/test_training_loops.py",
        "scripts/small_model/test_small_model_parts.py",
        "export/families/test_text_models.py",
        "scripts/small_model/test_evaluate.py",
        "scripts/small_model/test_training_parts.py",
        "export/families/test_transformers_families.py",
    ]


# Files of half a minute and more: none is begun by one process when the others end.
LONGEST = (
    "scripts/small_model/test_small_model.py",
    "export/families/test_transformers_families.py",
    "export/test_equality.py",
    "speechprune_ort/test_ray.py",
    "export/test_fine_tunes.py",
    "speechprune_ort/evaluation/test_evaluation.py",
    "runtime/ort/test_bundle.py",
    "export/test_sliding_windows.py",
    "export/families/test_text_models.py",
    "test_readme.py",
    "export/families/test_families.py",
    "scripts/bench/test_random_checkpoint.py",
    "export/test_lean_export.py",
    "speechprune_ort/cli/test_cli.py",
    "export/test_estimate.py",
)


def _place(item: pytest.Item) -> int:
    """Where a test's file comes in the order of files: long ones first."""
    name = item.nodeid.split("::")[0].removeprefix("tests/")
    return LONGEST.index(name) if name in LONGEST else len(LONGEST)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files come first; tests that need a bundle need torch and transformers to make one."""
    items.sort(key=_place)
    for item in items:
        if {"bundle", "bundles", "checkpoints"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.export)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what tests remember about bundles out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the whole run: the same in all of its processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


def _once(place: Path, make: Callable[[Path], object]) -> Path:
    """A folder that the first process to need it makes, while the others wait."""
    with place.with_name(f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not place.exists():
            partial = place.with_name(f"{place.name}.partial")
            make(partial)
            partial.rename(place)
    return place


@pytest.fixture(scope="session")
def checkpoints(shared: Path) -> Any:
    """Folder of a tiny checkpoint, written on first use."""
    from tiny import Tiny, write_checkpoint

    def get(tiny: Tiny) -> Path:
        name = hashlib.sha256(repr(tiny).encode()).hexdigest()[:8]
        return _once(shared / name, lambda folder: write_checkpoint(folder, tiny))

    return get


@pytest.fixture(scope="session")
def bundles(checkpoints: Any, shared: Path) -> Any:
    """Bundle of a tiny checkpoint at a precision, exported on first use."""
    from speechprune_ort.export.pipeline import export_bundle

    def get(tiny: Any, precision: str = "fp32") -> Path:
        checkpoint = checkpoints(tiny)
        return _once(
            shared / f"{checkpoint.name}-{precision}",
            lambda out: export_bundle(str(checkpoint), out, precision=precision),
        )

    return get


@pytest.fixture(scope="session")
def bundle(bundles: Any) -> Path:
    """The fp32 bundle of the first tiny checkpoint."""
    from tiny import TINY

    folder: Path = bundles(TINY[0])
    return folder


@pytest.fixture(scope="session")
def tone() -> NDArray[np.float32]:
    """75 s of a signal that changes all the time, (samples,) float32 at 16 kHz."""
    from signals import speech_like

    return speech_like(75.0)
