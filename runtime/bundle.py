"""Trusting a bundle: every file is the one that export wrote, hashed once and remembered."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import platformdirs

from speechprune_ort.errors import BundleError, IntegrityError
from speechprune_ort.files import whole_file
from speechprune_ort.manifest import Manifest

__all__ = ["verify_files"]


def _memory_path() -> Path:
    return Path(platformdirs.user_cache_dir("speechprune-ort")) / "verified.json"


def _stamp(status: os.stat_result) -> list[int]:
    # The change time moves even when a tool restores the modification time.
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _recall() -> dict[str, Any]:
    try:
        remembered = json.loads(_memory_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return remembered if isinstance(remembered, dict) else {}


def _remember(entries: dict[str, Any]) -> None:
    path = _memory_path()
    # Hashing again next time is the only loss where the cache cannot be written.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        there = {name: stamp for name, stamp in entries.items() if Path(name).exists()}
        with whole_file(path) as partial:
            partial.write_text(json.dumps(there), encoding="utf-8")


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Check size and sha256 of every file that the manifest lists.

    A file whose hash was right is not hashed again until its size or times change; what was
    verified is remembered in the user's cache folder.

    Args:
        folder: the bundle.
        manifest: its manifest.

    Raises:
        BundleError: a file is missing or cannot be read.
        IntegrityError: a file is not the one that export wrote.
    """
    remembered = _recall()
    learned = False
    for name, entry in manifest.files.items():
        path = (folder / name).resolve()
        try:
            stamp = _stamp(path.stat())
            if stamp[0] != entry.size:
                raise IntegrityError(
                    f"{path} has {stamp[0]} bytes and export wrote {entry.size}: "
                    "copy or export the bundle again."
                )
            if remembered.get(str(path)) == [*stamp, entry.sha256]:
                continue
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except FileNotFoundError:
            raise BundleError(
                f"{path} is missing from the bundle: copy or export it again."
            ) from None
        except OSError as error:
            raise BundleError(
                f"{path} cannot be read ({error.strerror}): check its permissions."
            ) from None
        if digest != entry.sha256:
            raise IntegrityError(
                f"{path} was changed after export: copy or export the bundle again."
            )
        remembered[str(path)] = [*stamp, entry.sha256]
        learned = True
    if learned:
        _remember(remembered)
