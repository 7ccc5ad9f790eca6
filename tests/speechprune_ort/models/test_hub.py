"""Bundles by their names on the hub, from a stand-in for it on this machine."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hub_server import Hub, hub, reach
from numpy.typing import NDArray
from typer.testing import CliRunner

from speechprune_ort import BundleError, IntegrityError, OptionError, OutputError, SpeechLLM
from speechprune_ort.cli.app import app
from speechprune_ort.models.names import bundle_folder, get

huggingface_hub = pytest.importorskip("huggingface_hub")
NAME = "someone/meetings"


@pytest.fixture
def served(
    bundle: Path, checkpoints: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Hub]:
    """A hub with a bundle and a checkpoint; the cache is empty."""
    from tiny import TINY

    monkeypatch.setenv("SPEECHPRUNE_ORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bundle, tmp_path / "served")
    folders = {NAME: tmp_path / "served", "someone/weights": checkpoints(TINY[0])}
    with hub(folders) as found:
        reach(found, monkeypatch)
        yield found


def test_a_name_is_fetched_once_and_then_needs_no_network(
    served: Hub, bundle: Path, tone: NDArray[np.float32], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    soundfile.write(tmp_path / "a.wav", tone[:32_000], 16_000)
    options = ("--device", "cpu", "--max-new-tokens", "4")
    result = CliRunner().invoke(app, ["ask", NAME, str(tmp_path / "a.wav"), "Who?", *options])
    assert result.exit_code == 0, result.output
    assert f"getting {NAME}, once" in result.stderr
    for address in ("ENDPOINT", "HUGGINGFACE_CO_URL_TEMPLATE"):
        monkeypatch.setattr(huggingface_hub.constants, address, "http://127.0.0.1:9")
    model = SpeechLLM(NAME, "cpu")
    assert model.manifest.digest == SpeechLLM(bundle, "cpu").manifest.digest
    assert model.ask(tmp_path / "a.wav", "Who?", max_new_tokens=4).text == result.stdout.rstrip(
        "\n"
    )
    assert model.engine.folder == tmp_path / "cache" / "models" / NAME
    assert sorted(p.name for p in model.engine.folder.iterdir()) == sorted(
        p.name for p in bundle.iterdir()
    )


def test_get_prints_the_folder_and_makes_another_where_wanted(served: Hub, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["get", NAME, "--to", str(tmp_path / "mine")])
    assert result.stdout.strip() == str(tmp_path / "mine")
    SpeechLLM(tmp_path / "mine", "cpu")
    assert not (tmp_path / "cache" / "models").exists()
    assert not list(tmp_path.glob(".mine*")), "nothing is left beside it"
    (tmp_path / ".mine.lock").touch()  # as a kill right after the last step leaves it
    with pytest.raises(OptionError, match="already there"):
        get(NAME, tmp_path / "mine")
    assert not list(tmp_path.glob(".mine*"))
    with pytest.raises(OptionError, match="is not the name of a model"):
        get("meetings")


class Terminal(io.StringIO):
    """A terminal, by its word."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_is_told_how_far_a_model_is_in_one_line_and_nobody_else(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TERM", raising=False)
    for number, (stream, shown) in enumerate(((Terminal(), True), (io.StringIO(), False))):
        monkeypatch.setattr("sys.stderr", stream)
        get(NAME, tmp_path / str(number))
        said = stream.getvalue()
        assert ("Downloading manifest.json, 0 MB" in said) is shown, said
        assert ("Checking every file" in said) is shown
        assert "100%" not in said, "no bar of the library's"
        assert said.count("\n") <= 1, "one line, which goes"
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    result = CliRunner().invoke(app, ["get", NAME, "--quiet", "--to", str(tmp_path / "quiet")])
    assert (result.exit_code, result.stderr, stream.getvalue()) == (0, "", "")


def test_what_was_cut_off_goes_on_where_it_stood(
    served: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The library writes what came in pieces of this size, and waits a second between its tries.
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1 << 12)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    served.left = sum(path.stat().st_size for path in served.folders[NAME].iterdir()) // 2
    with pytest.raises(BundleError, match="what came so far is kept"):
        get(NAME)
    cut, served.left, begun = served.cut, None, len(served.asked)
    get(NAME)
    fetched = [(file, asked) for method, file, asked in served.asked[begun:] if method == "GET"]
    assert cut in [file for file, _ in fetched]
    starts = [int(asked.removeprefix("bytes=").split("-")[0]) for _, asked in fetched if asked]
    assert min(starts) > 0
    assert len(fetched) < len(list(served.folders[NAME].iterdir())), (
        "what is whole is not asked for"
    )


def test_what_fails_leaves_nothing_unless_it_can_go_on(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    for name in ("someone/weights", "someone/nothing"):
        with pytest.raises(BundleError):
            get(name, tmp_path / "new" / "mine")
        with pytest.raises(BundleError):
            get(name)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1 << 12)
    before = set(tmp_path.iterdir())
    served.left = 0
    with pytest.raises(BundleError, match=r"and try again\.$"):
        get(NAME, tmp_path / "mine")
    assert set(tmp_path.iterdir()) == before == {tmp_path / "served"}
    served.left = sum(path.stat().st_size for path in served.folders[NAME].iterdir()) // 2
    with pytest.raises(BundleError, match=r"what came so far is kept in .*/\.mine\.partial\.$"):
        get(NAME, tmp_path / "mine")
    served.left = None
    get(NAME, tmp_path / "mine")
    assert set(tmp_path.iterdir()) == {*before, tmp_path / "mine"}


def test_what_was_cut_off_of_another_version_is_in_nobodys_way(served: Hub, tmp_path: Path) -> None:
    left = tmp_path / ".mine.partial"
    left.mkdir()
    (left / "manifest.json").write_text("{")
    for name in ("graph_of_another_version.onnx", "decoder.onnx", "other.onnx.data.part"):
        (left / name).write_text("another version's")
    get(NAME, tmp_path / "mine")
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == sorted(
        path.name for path in served.folders[NAME].iterdir()
    )
    assert not list(tmp_path.glob(".mine*"))


def test_another_file_than_the_manifest_lists_is_no_bundle(served: Hub, tmp_path: Path) -> None:
    path = served.folders[NAME] / "decoder.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match=r"decoder\.onnx was changed"):
        get(NAME)
    assert not (tmp_path / "cache" / "models" / NAME).exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("someone/weights", "not a bundle: .* speechprune-ort export someone/weights weights/"),
        ("someone/nothing", "the hub shows no such model"),
        ("no/folder/here", "No bundle at no/folder/here"),
        ("someone/else/", "No bundle at someone/else"),
    ],
)  # fmt: skip
def test_what_is_no_bundle_is_one_sentence(served: Hub, name: str, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        SpeechLLM(name, "cpu")


def test_no_connection_is_one_sentence(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(BundleError, match=r"the hub could not be used .*check the connection"):
        get(NAME)


@pytest.mark.parametrize(
    "name",
    ["a/b--c", "a..b/c", "a/b.git", "a/b.git@v1", "a-/b", "a/b.", f"{'a' * 97}/b", f"a/{'b' * 97}",
     f"a/b@{'c' * 129}", "a/b@.."],
)  # fmt: skip
def test_a_name_that_the_hub_cannot_have_is_none(name: str, served: Hub) -> None:
    with pytest.raises(OptionError, match="is not the name of a model"):
        get(name)
    with pytest.raises(BundleError, match="No bundle at"):
        SpeechLLM(name, "cpu")


@pytest.mark.parametrize("setting", ["HF_TOKEN", "ENDPOINT"])
def test_settings_that_cannot_be_used_are_one_sentence(
    setting: str, served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if setting == "ENDPOINT":
        monkeypatch.setattr(huggingface_hub.constants, setting, "http://\udcff")
    else:
        monkeypatch.setenv(setting, "hf_a\udcff")
    with pytest.raises(
        BundleError, match=r"could not be used \(.*\): correct HF_ENDPOINT, HF_TOKEN"
    ):
        get(NAME, tmp_path / "mine")
    assert not list(tmp_path.glob(".mine*"))


def test_a_place_that_nothing_can_have_is_one_sentence(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nowhere").symlink_to("/nowhere/at/all")
    for place in (Path("/"), tmp_path / "nowhere"):
        with pytest.raises(OptionError, match="is already there"):
            get(NAME, place)
    with pytest.raises(BundleError, match="there is no home folder of that name"):
        bundle_folder("~no-user-has-this-name/x")
    for cache, words in (
        ("~no-user-has-this-name/x", "SPEECHPRUNE_ORT_CACHE begins with .* no home folder"),
        ("x" * 300, "SPEECHPRUNE_ORT_CACHE is too long"),
        ("/".join(["x" * 250] * 16 + ["y" * 50]), "File name too long"),
    ):
        monkeypatch.setenv("SPEECHPRUNE_ORT_CACHE", cache)
        with pytest.raises(OutputError, match=words):
            get(NAME)


def test_a_folder_of_that_name_comes_first(served: Hub, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "someone").mkdir()
    (tmp_path / NAME).symlink_to(bundle)
    assert bundle_folder(NAME) == Path(NAME)
    assert not served.asked
