"""The folder that keeps the bundles that were asked for by name."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import platformdirs

from speechprune_ort.contract.manifest import MANIFEST_FILE, Manifest
from speechprune_ort.errors import BundleError, OutputError
from speechprune_ort.files import cannot_write, hidden_name, locked, sync
from speechprune_ort.models.packages import Report
from speechprune_ort.runtime.ort.bundle import verify_files
from speechprune_ort.text import check_path, expand_home

__all__ = [
    "CACHE_VARIABLE",
    "CutOffError",
    "Fill",
    "cache_folder",
    "forget_lock",
    "is_kept",
    "keep",
]

Fill = Callable[[Path, Report], None]
"""Brings the files of a bundle into a folder, and reports what it does."""


class CutOffError(BundleError):
    """A download broke off, and can go on where it stood; the message has no full stop."""


CACHE_VARIABLE = "SPEECHPRUNE_ORT_CACHE"


def cache_folder(chosen: Path | None = None) -> Path:
    """The folder of downloads: ``chosen``, else ``$SPEECHPRUNE_ORT_CACHE``, else the user's own.

    It is not created here.

    Raises:
        OutputError: the variable does not hold a path that a folder can have.
    """
    if chosen is not None:
        return chosen
    own = os.environ.get(CACHE_VARIABLE)
    if not own:
        return Path(platformdirs.user_cache_dir("speechprune-ort"))
    path = check_path(own, CACHE_VARIABLE, OutputError)
    return expand_home(path, CACHE_VARIABLE, OutputError)


def is_kept(place: Path) -> bool:
    """Whether a bundle lies at a place; what is in it is checked when it is opened.

    Raises:
        OutputError: the place cannot be looked at.
    """
    try:
        return (place / MANIFEST_FILE).is_file()
    except OSError as error:
        raise OutputError(
            f"{place} cannot be read ({error.strerror}): give another folder, or set "
            f"{CACHE_VARIABLE} to another."
        ) from None


def keep(place: Path, fill: Fill, report: Report) -> Path:
    """Return the folder of a bundle, which is brought there if it is not there yet.

    It is built in a folder beside its place, whose name stays the same, so that an interrupted
    download is resumed. It is checked, and then renamed in one step. Whatever else fails leaves
    nothing.

    Args:
        place: folder of the bundle.
        fill: brings the bundle's files into a folder that may hold some of them, or files of
            another version, and reports what it does.
        report: called with a few words before each step.

    Returns:
        ``place``.

    Raises:
        BundleError: what ``fill`` brought is not a bundle, or its download broke off: the message
            then says where what came is kept.
        IntegrityError: a file is not the one that the manifest lists.
        OutputError: the folder cannot be written.
    """
    if is_kept(place):
        forget_lock(place)
        return place
    missing = [folder for folder in place.parents if not os.path.lexists(folder)]
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with locked(place, wait=True):  # for another process that brings the same bundle
            if not is_kept(place):  # another process may have brought it meanwhile
                _build(place, fill, report)
    except OSError as error:
        raise OutputError(cannot_write(place, error)) from None
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):  # something lies in it
                folder.rmdir()
    return place


def _build(place: Path, fill: Fill, report: Report) -> None:
    """Bring a bundle to a place whose lock is held; what fails for good is removed."""
    work = place.with_name(hidden_name(place.name, "partial"))
    work.mkdir(exist_ok=True)
    try:
        fill(work, report)
        report("Checking every file")
        manifest = Manifest.read(work)
        for path in work.iterdir():  # of an earlier version that was cut off
            if path.name not in {MANIFEST_FILE, *manifest.files}:
                path.unlink()
        verify_files(work, manifest)
        work.rename(place)
        sync(place.parent)
    except BaseException as error:
        # Ctrl-C, too, can be followed by another try.
        resumed = isinstance(error, CutOffError) or not isinstance(error, Exception)
        came = resumed and any(path.lstat().st_size for path in work.glob("*"))
        if not came:
            shutil.rmtree(work, ignore_errors=True)
        if isinstance(error, CutOffError):
            kept = f"; what came so far is kept in {work}" if came else ""
            raise BundleError(f"{error}{kept}.") from error
        raise


def forget_lock(place: Path) -> None:
    """Remove the lock of a place if the process that held it was killed.

    It has no effect on others; it would lie there for ever.
    """
    if place.name and place.with_name(hidden_name(place.name, "lock")).exists():
        with contextlib.suppress(OSError), locked(place, wait=False):
            pass
