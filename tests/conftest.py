"""Fixtures: tiny random checkpoints and their bundles, made once a run."""

from __future__ import annotations

import importlib.util
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
        "speechprune_ort/test_arguments.py",
        "runtime/choosing/test_backends.py",
        "speechprune_ort/cli/test_cli.py",
        "runtime/answering/test_decoder.py",
        "export/test_equality.py",
        "speechprune_ort/test_explain.py",
        "export/test_families.py",
        "export/test_family_checkpoints.py",
        "export/test_fine_tunes.py",
        "speechprune_ort/contract/test_hostile_bundle.py",
        "speechprune_ort/models/test_recipe.py",
        "export/test_lean_export.py",
        "export/test_parity.py",
        "scripts/test_random_checkpoint.py",
        "scripts/test_small_model.py",
        "scripts/test_small_model_parts.py",
        "scripts/test_small_model_sources.py",
        "export/test_text_models.py",
        "scripts/test_training_parts.py",
        "export/test_transformers_families.py",
    ]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a bundle need torch and transformers to make one."""
    for item in items:
        if {"bundle", "bundles", "checkpoints"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.export)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what tests remember about bundles out of the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Folder of a tiny checkpoint, written on first use."""
    from tiny import Tiny, write_checkpoint

    folder = tmp_path_factory.mktemp("checkpoints")
    made: dict[Tiny, Path] = {}

    def get(tiny: Tiny) -> Path:
        if tiny not in made:
            made[tiny] = write_checkpoint(folder / str(len(made)), tiny)
        return made[tiny]

    return get


@pytest.fixture(scope="session")
def bundles(checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Bundle of a tiny checkpoint at a precision, exported on first use."""
    from speechprune_ort.export.pipeline import export_bundle

    folder = tmp_path_factory.mktemp("bundles")
    made: dict[Any, Path] = {}

    def get(tiny: Any, precision: str = "fp32") -> Path:
        key = (tiny, precision)
        if key not in made:
            out = folder / str(len(made))
            export_bundle(str(checkpoints(tiny)), out, precision=precision)
            made[key] = out
        return made[key]

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
