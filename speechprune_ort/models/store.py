"""The folder that keeps the bundles that were asked for by name."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import platformdirs

from speechprune_ort.contract.manifest import MANIFEST_FILE, Manifest
from speechprune_ort.errors import OutputError
from speechprune_ort.files import cannot_write, hidden_name, locked, sync
from speechprune_ort.models.packages import Report
from speechprune_ort.runtime.ort.bundle import verify_files

__all__ = ["CACHE_VARIABLE", "Fill", "cache_folder", "forget_lock", "is_kept", "keep"]

Fill = Callable[[Path, Report], None]
"""Brings the files of a bundle into a folder, and reports what it does."""

CACHE_VARIABLE = "SPEECHPRUNE_ORT_CACHE"


def cache_folder(chosen: Path | None = None) -> Path:
    """The folder of downloads: ``chosen``, else ``$SPEECHPRUNE_ORT_CACHE``, else the user's own.

    It is not created here.
    """
    if chosen is not None:
        return chosen
    own = os.environ.get(CACHE_VARIABLE)
    return Path(own).expanduser() if own else Path(platformdirs.user_cache_dir("speechprune-ort"))


def is_kept(place: Path) -> bool:
    """Whether a bundle lies at a place; what is in it is checked when it is opened."""
    return (place / MANIFEST_FILE).is_file()


def keep(place: Path, fill: Fill, report: Report) -> Path:
    """Return the folder of a bundle, which is brought there if it is not there yet.

    It is built in a folder beside its place, whose name stays the same, so that an interrupted
    download is resumed. It is checked, and then renamed in one step.

    Args:
        place: folder of the bundle.
        fill: brings the bundle's files into a folder that may hold some of them, or files of
            another version, and reports what it does.
        report: called with a few words before each step.

    Returns:
        ``place``.

    Raises:
        BundleError: what ``fill`` brought is not a bundle.
        IntegrityError: a file is not the one that the manifest lists.
        OutputError: the folder cannot be written.
    """
    if is_kept(place):
        forget_lock(place)
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with locked(place, wait=True):  # for another process that brings the same bundle
            if not is_kept(place):  # another process may have brought it meanwhile
                work = place.with_name(hidden_name(place.name, "partial"))
                work.mkdir(exist_ok=True)
                fill(work, report)
                report("Checking every file")
                manifest = Manifest.read(work)
                for path in work.iterdir():  # of an earlier version that was cut off
                    if path.name not in {MANIFEST_FILE, *manifest.files}:
                        path.unlink()
                verify_files(work, manifest)
                work.rename(place)
                sync(place.parent)
    except OSError as error:
        raise OutputError(cannot_write(place, error)) from None
    return place


def forget_lock(place: Path) -> None:
    """Remove the lock of a place if the process that held it was killed.

    It has no effect on others; it would lie there for ever.
    """
    if place.with_name(hidden_name(place.name, "lock")).exists():
        with contextlib.suppress(OSError), locked(place, wait=False):
            pass
