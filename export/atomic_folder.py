"""A bundle is whole or absent: written beside its place, put there in one step at the very end.

While an export to ``OUT`` runs, two names lie beside it. ``.OUT.lock`` is held (``flock``), so that
a second export to ``OUT`` is refused, and its holder knows that every other owner of what lies
there is dead, whatever has become of its process number. ``.OUT.partial-XXXXXXXX`` holds a mark,
the new bundle in ``bundle``, and for a moment the old one.

Replacing is one system call where the file system can exchange two names (ext4, xfs, btrfs, tmpfs).
Elsewhere the old bundle is set aside first, and if a kill falls into that moment the next export
puts it back before it does anything else.

Nothing here imports torch: an impossible place is refused before anything heavy is loaded.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from speechprune_ort.cancel import UNFINISHED
from speechprune_ort.contract.bundle_folder import bundle_around, listed_files
from speechprune_ort.contract.manifest import MANIFEST_FILE
from speechprune_ort.errors import ExportError
from speechprune_ort.files import (
    cannot_write,
    hidden_name,
    locked,
    put_folder,
    sync,
    uninterrupted,
)

__all__ = ["atomic_folder", "check_place"]

MARK = "speechprune-ort-export"
"""File that marks a folder beside ``OUT`` as an export's."""

BUILT, KEPT = "bundle", "previous"


@contextlib.contextmanager
def atomic_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside ``out`` that becomes ``out`` if the block succeeds.

    Args:
        out: bundle folder to write; its parents are created if missing.
        overwrite: whether to replace a bundle, or an empty folder, that is there.

    Yields:
        The folder to fill.

    Raises:
        ExportError: ``out`` is there and must stay, another export is writing it, or the disk or
            its permissions do not allow it. ``out`` is then what it was before, and nothing is
            left beside it.
    """
    with _sentences(out):
        place = _place(out)
        _folder_above(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        with _locked(place):
            _clear_up_after_the_dead(place)
            _require_free(place, overwrite)
            work: Path | None = None
            try:
                with uninterrupted():
                    work = _begin(place)
                built = work / BUILT
                UNFINISHED.add(built)
                yield built
                for path in built.iterdir():
                    sync(path)
                sync(built)
                # It took minutes: what stands there now decides.
                _require_free(place, overwrite)
                # From here on it is no longer for the signals' thread to remove.
                UNFINISHED.discard(built)
                with uninterrupted():
                    put_folder(built, place, work / KEPT)  # _discard puts back what it keeps
            finally:
                if work is not None:
                    UNFINISHED.discard(work / BUILT)
                    with uninterrupted():
                        _discard(work, place)


def check_place(out: Path, overwrite: bool, checkpoint: Path | None = None) -> None:
    """Refuse a place that ``atomic_folder`` would refuse, at once and without making anything.

    A bundle that a killed export left aside is put back first.

    Args:
        out: bundle folder to write.
        overwrite: whether a bundle that is there may be replaced.
        checkpoint: folder that is exported, or None where it is on the hub.

    Raises:
        ExportError: as ``atomic_folder``; or one of ``out`` and the checkpoint lies in the other.
    """
    with _sentences(out):
        place = _place(out)
        if checkpoint is not None:
            source = checkpoint.resolve()
            if source == place or source in place.parents:
                raise ExportError(
                    f"{out} lies in the checkpoint {checkpoint}: give a folder outside it."
                )
            if place in source.parents:
                raise ExportError(
                    f"The checkpoint {checkpoint} lies in {out}: give another folder to write."
                )
        if _folder_above(place) != place.parent:
            return
        with _locked(place):
            _clear_up_after_the_dead(place)
            _require_free(place, overwrite)


def _place(out: Path) -> Path:
    """``out`` without links and dots in its parents; a link at its end is not followed."""
    if "\0" in str(out):
        raise ExportError(f"{str(out)!r} is not a path: leave out the zero byte.")
    if out.is_symlink():
        raise ExportError(f"{out} is a link to {out.readlink()}: give the folder itself.")
    place = out.resolve() if out.name in ("", "..") else out.parent.resolve() / out.name
    if place == place.parent:
        raise ExportError(f"{out} is the root of the file system: give a folder in it.")
    if bundle := bundle_around(place):
        raise ExportError(f"{out} lies in the bundle {bundle}: give a folder outside it.")
    return place


def _folder_above(place: Path) -> Path:
    """The nearest folder above a place that is there already, and may be written."""
    there = next(p for p in place.parents if os.path.lexists(p))
    if not there.is_dir():
        raise ExportError(f"{there} is not a folder: give another place.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return there


def _require_free(place: Path, overwrite: bool) -> None:
    """Refuse a place where something stands that must stay."""
    if not os.path.lexists(place):
        return
    if not place.is_dir() or place.is_symlink():
        raise ExportError(f"{place} is not a folder: give another name, or remove it.")
    if not overwrite:
        raise ExportError(f"{place} is already there: give another folder, or --overwrite.")
    if not any(place.iterdir()):
        return
    listed = listed_files(place)
    if not listed:
        raise ExportError(
            f"{place} is not a bundle, so --overwrite will not replace it: give another folder."
        )
    strange = sorted({path.name for path in place.iterdir()} - listed - {MANIFEST_FILE})
    if strange:
        raise ExportError(
            f"{place} holds {strange[0]}, which does not belong to the bundle, so --overwrite will "
            "not replace it: move it elsewhere, or give another folder."
        )


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Hold the lock of a place.

    Raises:
        ExportError: another export holds it.
    """
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(place, wait=False))
        except BlockingIOError:
            raise ExportError(
                f"Another export is writing {place}: wait until it is done, or give another folder."
            ) from None
        yield


def _begin(place: Path) -> Path:
    """A marked folder beside a place, with an empty one for the bundle in it."""
    prefix = hidden_name(place.name, "partial-")
    work = Path(tempfile.mkdtemp(prefix=prefix, dir=place.parent))
    (work / MARK).touch()
    (work / BUILT).mkdir()
    return work


def _clear_up_after_the_dead(place: Path) -> None:
    """Put back what a killed export set aside, and remove what it left; the lock is ours."""
    known = re.compile(re.escape(hidden_name(place.name, "partial-")) + "[a-z0-9_]{8}")
    for work in sorted(place.parent.iterdir()):
        if not known.fullmatch(work.name) or work.is_symlink() or not work.is_dir():
            continue
        if (work / MARK).is_file() or not any(work.iterdir()):
            with uninterrupted():
                _discard(work, place)


def _discard(work: Path, place: Path) -> None:
    """Remove a marked folder, after putting back what it keeps if that is all there is.

    The mark goes last, so that whatever a kill leaves can be recognized.
    """
    kept = work / KEPT
    with contextlib.suppress(OSError):
        if kept.exists() and not os.path.lexists(place):
            kept.rename(place)
            sync(place.parent)
        if kept.exists() and not listed_files(place):
            return  # the only copy of a bundle
        for path in work.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
        (work / MARK).unlink(missing_ok=True)
        work.rmdir()


@contextlib.contextmanager
def _sentences(out: Path) -> Iterator[None]:
    """Errors of the operating system as one sentence, also where exporters wrap them."""
    try:
        yield
    except OSError as error:
        raise ExportError(_explained(error, out)) from error
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, OSError):
            raise ExportError(_explained(cause, out)) from error
        raise


def _explained(error: OSError, out: Path) -> str:
    return f"{cannot_write(out, error).rstrip('.')}; nothing was left behind."
