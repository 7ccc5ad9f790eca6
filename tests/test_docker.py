"""The images' recipes, as far as they can be looked at without building them."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from paths import ROOT

from speechprune_ort.cli.app import app
from speechprune_ort.models import names

RECIPES = sorted((ROOT / "docker").glob("*.Dockerfile"))
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_what_a_recipe_names_is_there(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = recipe.read_text(encoding="utf-8")
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.M) for word in line.split()[:-1]]
    assert {"pyproject.toml", "constraints.txt", "speechprune_ort", "export"} <= set(copied)
    assert not [name for name in copied if not (ROOT / name).exists()]
    extras = re.findall(r"'\.\[([\w,-]+)\]'", text)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(extras) == 1
    assert set(extras[0].split(",")) <= set(project["optional-dependencies"])
    assert f"FROM python:{project['requires-python'].removeprefix('>=')}" in text
    monkeypatch.setattr(names, "bundle_folder", Path)
    (command,) = re.findall(r"^CMD (\[.*\])$", text, re.M)
    name, *words = json.loads(command)
    COMMANDS[name].make_context(name, words)


def test_both_flavours_have_a_recipe() -> None:
    assert [path.stem for path in RECIPES] == ["cpu", "cuda"]
