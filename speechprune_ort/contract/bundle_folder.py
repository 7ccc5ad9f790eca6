"""Telling a bundle's folder from any other, whatever version wrote it, and without opening it."""

from __future__ import annotations

import json
from pathlib import Path

from speechprune_ort.contract.manifest import MANIFEST_FILE

__all__ = ["bundle_around", "listed_files"]


def listed_files(folder: Path) -> set[str]:
    """Names of the files that the manifest in a folder lists; none where it is not ours."""
    path = folder / MANIFEST_FILE
    try:
        if not path.is_file():
            return set()
        content = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return set()
    if not isinstance(content, dict) or not isinstance(content.get("schema_version"), int):
        return set()
    files, graphs = content.get("files"), content.get("graphs")
    return set(files) if isinstance(files, dict) and isinstance(graphs, dict) else set()


def bundle_around(place: Path) -> Path | None:
    """The bundle that a place lies in, if it lies in one: a bundle holds no other files.

    Args:
        place: a path without links, whether something stands there or not.
    """
    return next((above for above in place.parents if listed_files(above)), None)
