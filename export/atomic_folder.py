"""A bundle is whole or not there: written beside its place, renamed at the very end."""

from __future__ import annotations

import contextlib
import errno
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from speechprune_ort.cancel import UNFINISHED
from speechprune_ort.errors import ExportError
from speechprune_ort.manifest import MANIFEST_FILE

__all__ = ["atomic_folder"]


@contextlib.contextmanager
def atomic_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside ``out`` that becomes ``out`` if the block succeeds.

    Args:
        out: bundle folder to write; its parents are made where missing.
        overwrite: replace a bundle, or an empty folder, that is there.

    Raises:
        ExportError: ``out`` is there and must stay, or the disk or its permissions do not allow
            it. ``out`` is then what it was before, and nothing is left beside it.
    """
    if out.exists() and not overwrite:
        raise ExportError(f"{out} is already there: give another folder, or --overwrite.")
    if out.exists() and not (out / MANIFEST_FILE).is_file() and not _empty_folder(out):
        raise ExportError(
            f"{out} is not a bundle, so --overwrite will not replace it: give another folder."
        )
    partial: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
        # mkdtemp is for the owner alone; a bundle is read by whoever may read the folder.
        partial.chmod(0o755)
        UNFINISHED.add(partial)
        yield partial
        previous = None
        if out.exists():
            previous = Path(tempfile.mkdtemp(prefix=f".{out.name}.previous-", dir=out.parent))
            out.rename(previous / out.name)
        try:
            partial.rename(out)
        except OSError:
            if previous is not None:
                (previous / out.name).rename(out)
            raise
        finally:
            if previous is not None:
                shutil.rmtree(previous)
    except OSError as error:
        raise _explained(error, out) from error
    except RuntimeError as error:
        # Exporters wrap the operating system's errors in their own.
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__ or cause.__context__
        if isinstance(cause, OSError):
            raise _explained(cause, out) from error
        raise
    finally:
        if partial is not None and partial.exists():
            shutil.rmtree(partial, ignore_errors=True)
        if partial is not None:
            UNFINISHED.discard(partial)


def _empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _explained(error: OSError, out: Path) -> ExportError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = shutil.disk_usage(out.parent if out.parent.exists() else Path.cwd()).free
        return ExportError(
            f"The disk under {out.parent} is full ({free / 2**30:.1f} GiB free): free some "
            "space or give a folder on another disk; nothing was left behind."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        return ExportError(
            f"Cannot write to {out.parent} ({error.strerror}): give a folder that you may write."
        )
    return ExportError(f"Export to {out} failed ({error}): nothing was left behind.")
