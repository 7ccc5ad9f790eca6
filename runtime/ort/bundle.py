"""Trusting a bundle: a closed folder whose files are what the manifest says, checked once.

A bundle may come from anywhere. Nothing of it is opened before the folder holds exactly what the
manifest lists, as regular files, with the hashes that it states; graphs use only operators that
export writes and read only the listed files; the tokenizer keeps to what export writes.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any

import platformdirs

from speechprune_ort.choices import Verify
from speechprune_ort.contract.manifest import MANIFEST_FILE, TOKENIZER_FILE, FileEntry, Manifest
from speechprune_ort.contract.onnx_file import foreign_operators, read_graph
from speechprune_ort.contract.tokenizer_check import check_tokenizer
from speechprune_ort.errors import BundleError, IntegrityError
from speechprune_ort.files import sha256_of, whole_file

__all__ = ["verify_files"]

CHECKS = 1
"""Increased when a check is added: what passed the earlier checks is then checked again."""


def _memory_path() -> Path:
    return Path(platformdirs.user_cache_dir("speechprune-ort")) / "verified.json"


def _stamp(status: os.stat_result) -> list[int]:
    # The change time moves even when a tool restores the modification time.
    return [CHECKS, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _recall() -> dict[str, Any]:
    try:
        remembered = json.loads(_memory_path().read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
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


def verify_files(folder: Path, manifest: Manifest, verify: Verify = "once") -> None:
    """Check that the folder holds the files that the manifest lists, and no others.

    A file that passed is not read again until its size or times change; what was verified is
    remembered in the user's cache folder.

    Args:
        folder: the bundle.
        manifest: its manifest.
        verify: ``always`` reads all files, whatever is remembered of them.

    Raises:
        BundleError: a file is missing, not listed, not a regular file or cannot be read; a link
            leads out; a graph uses an operator or a file that it must not use; the tokenizer has
            parts that export does not write.
        IntegrityError: a file is not the one that export wrote.
    """
    remembered = _recall()
    learned = False
    root = folder.resolve()
    if TOKENIZER_FILE not in manifest.files:
        raise BundleError(f"The bundle {folder} lists no {TOKENIZER_FILE}: export it again.")
    _check_names(folder, manifest)
    graphs = {entry.file for entry in manifest.graphs.values()}
    for name, entry in manifest.files.items():
        path = root / name
        with _reading(path):
            status = path.lstat()
            if stat.S_ISLNK(status.st_mode):
                status = path.stat()  # first: a link that leads to itself has no end to resolve
                path = path.resolve()
                if path.parent != root:
                    raise BundleError(
                        f"{folder / name} is a link that leads out of the bundle: put the file "
                        "itself there (cp -L)."
                    )
            if not stat.S_ISREG(status.st_mode):
                raise BundleError(f"{path} is not a regular file: copy or export the bundle again.")
            stamp = _stamp(status)
            seen = remembered.get(str(path)) if verify == "once" else None
            # What a graph reads is checked against this manifest's list even if it is remembered.
            if not (isinstance(seen, list) and seen[:-1] == [*stamp, entry.sha256]):
                _check_hash(path, status.st_size, entry)
                found = _locations(path) if name in graphs else []
                if name == TOKENIZER_FILE:
                    check_tokenizer(path)
                seen = remembered[str(path)] = [*stamp, entry.sha256, found]
                learned = True
            _check_locations(path, seen[-1], manifest)
    if learned:
        _remember(remembered)


@contextlib.contextmanager
def _reading(path: Path) -> Any:
    try:
        yield
    except FileNotFoundError:
        raise BundleError(f"{path} is missing from the bundle: copy or export it again.") from None
    except OSError as error:
        cure = "copy or export the bundle again, or check its permissions"
        raise BundleError(f"{path} cannot be read ({error.strerror}): {cure}.") from None


def _check_names(folder: Path, manifest: Manifest) -> None:
    with _reading(folder), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name not in manifest.files and entry.name != MANIFEST_FILE:
                raise BundleError(
                    f"{folder} holds {entry.name!r}, which its {MANIFEST_FILE} does not list: "
                    "remove it, or copy or export the bundle again."
                )


def _check_hash(path: Path, size: int, entry: FileEntry) -> None:
    if size != entry.size:
        raise IntegrityError(
            f"{path} has {size} bytes and export wrote {entry.size}: "
            "copy or export the bundle again."
        )
    if sha256_of(path) != entry.sha256:
        raise IntegrityError(f"{path} was changed after export: copy or export the bundle again.")


def _locations(path: Path) -> list[str]:
    """Files that a graph reads its weights from, once its operators are checked."""
    try:
        graph = read_graph(path)
    except ValueError as error:
        raise BundleError(
            f"{path} is not a graph that export wrote ({error}): export the bundle again."
        ) from None
    foreign = foreign_operators(graph)
    if foreign:
        raise BundleError(
            f"{path} uses the operator {foreign[0][:80]!r}, which export never writes: export the "
            "bundle again."
        )
    return sorted(graph.locations)


def _check_locations(path: Path, locations: list[str], manifest: Manifest) -> None:
    for location in locations:
        if location not in manifest.files:
            raise BundleError(
                f"{path} reads its weights from {location[:80]!r}, which the {MANIFEST_FILE} does "
                "not list: export the bundle again."
            )
