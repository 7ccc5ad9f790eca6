"""A bundle under its name is the old one or the new one, whatever ends an export and when."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from speechprune_ort import ExportError, files
from speechprune_ort.export import atomic_folder as module
from speechprune_ort.export.atomic_folder import atomic_folder, check_place
from speechprune_ort.files import locked, whole_file, whole_folder

MANIFEST = {"schema_version": 1, "graphs": {}, "files": {"weights": {}}}


def fill(folder: Path, words: str) -> None:
    """What looks like a bundle from outside."""
    (folder / "weights").write_text(words)
    (folder / "manifest.json").write_text(json.dumps(MANIFEST))


def export(out: Path, words: str, overwrite: bool = False) -> None:
    with atomic_folder(out, overwrite) as folder:
        fill(folder, words)


def standing(out: Path) -> str:
    assert {path.name for path in out.iterdir()} == {"weights", "manifest.json"}
    return (out / "weights").read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(params=["exchange", "no exchange"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """One that can exchange two names, and one that cannot."""
    if request.param == "no exchange":
        monkeypatch.setattr(files, "_rename", lambda *_: False)
    return str(request.param)


STEPS = ("rename", "replace", "fsync", "unlink", "rmdir", "mkdir")


def die_at(step: int, work: object) -> int:
    """Run ``work`` in a child that is killed ahead of its ``step``-th change of the disk.

    Returns:
        The child's wait status; 0 once there are fewer steps.
    """
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        left = step

        def counted(call: object) -> object:
            def changed(*args: object, **options: object) -> object:
                nonlocal left
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left -= 1
                return call(*args, **options)  # type: ignore[operator]

            return changed

        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        files._rename = counted(files._rename)  # type: ignore[assignment]
        work()  # type: ignore[operator]
    except BaseException:
        os._exit(1)
    os._exit(0)


def test_a_kill_at_any_step_leaves_a_whole_bundle(file_system: str, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    export(out, "old")
    seen = set()
    for step in range(100):
        status = die_at(step, lambda: export(out, "new", overwrite=True))
        if out.exists():
            seen.add(standing(out))
        else:
            assert file_system == "no exchange", f"nothing stands after step {step}"
            seen.add("nothing")
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        # The next export puts back and clears up first, even where it is refused itself.
        with pytest.raises(ExportError, match="already there"):
            export(out, "refused")
        assert standing(out) in ("old", "new")
        assert names(tmp_path) == ["bundle"], f"left after step {step}"
        export(out, "old", overwrite=True)
    assert step > 10, "these kills hit nothing"
    assert seen == {"old", "new"} | ({"nothing"} if file_system == "no exchange" else set())


def test_a_kill_at_any_step_of_a_first_export_leaves_nothing_half(
    file_system: str, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    for step in range(100):
        status = die_at(step, lambda: export(out, "new"))
        assert not out.exists() or standing(out) == "new"
        if status == 0:
            break
        export(out, "next", overwrite=True)
        assert names(tmp_path) == ["bundle"]
        shutil.rmtree(out)
    assert step > 8


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_step_leaves_a_whole_bundle_and_nothing_beside_it(
    number: int, file_system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise SystemExit(number)

    before = signal.signal(number, interrupted)
    out = tmp_path / "bundle"
    export(out, "old")
    ends = set()
    try:
        for step in range(100):
            left = step

            def counted(call: object) -> object:
                def changed(*args: object, **options: object) -> object:
                    nonlocal left
                    left -= 1
                    if left == -1:
                        signal.raise_signal(number)
                    return call(*args, **options)  # type: ignore[operator]

                return changed

            with monkeypatch.context() as patch:
                for name in STEPS:
                    patch.setattr(os, name, counted(getattr(os, name)))
                patch.setattr(files, "_rename", counted(files._rename))
                try:
                    export(out, "new", overwrite=True)
                except SystemExit:
                    ends.add(standing(out))
            assert standing(out) in ("old", "new")
            assert names(tmp_path) == ["bundle"]
            if left >= 0:
                break
            export(out, "old", overwrite=True)
        assert step > 10
        assert ends == {"old", "new"}
    finally:
        signal.signal(number, before)


def test_a_failing_rename_leaves_the_old_bundle(
    file_system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    export(out, "old")
    rename = os.rename

    def fail(source: Path, target: Path, *rest: object) -> None:
        if Path(source).name == "bundle" and "partial" in str(source):
            raise OSError(errno.EACCES, "refused")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    if file_system == "exchange":
        monkeypatch.setattr(files, "_rename", fail)
    with pytest.raises(ExportError, match="refused"):
        export(out, "new", overwrite=True)
    assert standing(out) == "old"
    assert names(tmp_path) == ["bundle"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_export_to_one_place_is_refused_at_once(overwrite: bool, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with atomic_folder(out, overwrite) as folder:
        fill(folder, "first")
        for refuse in (check_place, export):
            with pytest.raises(ExportError, match="Another export is writing"):
                refuse(*((out, overwrite) if refuse is check_place else (out, "x", overwrite)))
        assert folder.exists()
        export(tmp_path / "another", "beside")
    assert standing(out) == "first"
    assert names(tmp_path) == ["another", "bundle"]


def test_those_who_wait_for_a_lock_have_it_one_after_the_other(tmp_path: Path) -> None:
    place, holding, most = tmp_path / "bundle", 0, 0

    def work(_: int) -> None:
        nonlocal holding, most
        for _ in range(20):
            with locked(place, wait=True):
                holding += 1
                most = max(most, holding)
                time.sleep(0.001)
                holding -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert most == 1
    assert names(tmp_path) == []


def test_a_living_export_of_another_process_keeps_its_folder(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    code = (
        "import sys, time; from pathlib import Path\n"
        "from speechprune_ort.export.atomic_folder import atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1]), True): print(1, flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    there = names(tmp_path)
    started = time.monotonic()
    with pytest.raises(ExportError, match="Another export"):
        export(out, "x", overwrite=True)
    assert time.monotonic() - started < 1
    assert names(tmp_path) == there
    process.kill()
    process.communicate()
    export(out, "x")
    assert names(tmp_path) == ["bundle"]


def test_nothing_that_is_no_export_is_removed(tmp_path: Path) -> None:
    mine = [".bundle.partial-thesis12", ".bundle.partial-x", ".bundle.partial-a.partial-12345678"]
    for name in mine:
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("years of work")
    (tmp_path / ".bundle.lock").write_text("mine, too")
    export(tmp_path / "bundle", "new")
    assert names(tmp_path) == sorted([*mine, ".bundle.lock", "bundle"])
    assert all((tmp_path / name / "thesis.tex").exists() for name in mine)


def test_what_is_no_bundle_of_ours_is_never_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.json").write_text('{"name": "a web page", "icons": []}')
    with pytest.raises(ExportError, match="is not a bundle"):
        export(out, "new", overwrite=True)
    (out / "manifest.json").unlink()
    export(out, "old", overwrite=True)  # an empty folder may be filled
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(ExportError, match=r"holds thesis\.tex"):
        export(out, "new", overwrite=True)
    assert names(out) == ["manifest.json", "thesis.tex", "weights"]
    assert names(tmp_path) == ["out"]


def test_what_comes_during_an_export_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"

    def late(overwrite: bool, change: Callable[[], object]) -> None:
        with atomic_folder(out, overwrite) as folder:
            fill(folder, "new")
            change()

    with pytest.raises(ExportError, match="already there"):
        late(False, out.mkdir)
    assert names(tmp_path) == ["out"]
    with pytest.raises(ExportError, match="not a bundle"):
        late(True, lambda: (out / "thesis.tex").write_text("years of work"))
    assert names(tmp_path / "out") == ["thesis.tex"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_places_that_will_not_do_are_one_sentence(overwrite: bool, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    export(tmp_path / "bundle", "old")
    (tmp_path / "link").symlink_to("bundle")
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "circle").symlink_to("circle")
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    there = names(tmp_path)
    for out, message in {
        tmp_path / "file": "is not a folder",
        tmp_path / "file" / "below": "is not a folder",
        tmp_path / "file" / "far" / "below": "is not a folder",
        tmp_path / "link": "is a link to bundle",
        tmp_path / "dangling": "is a link to nowhere",
        tmp_path / "circle": "is a link to circle",
        tmp_path / "circle" / "below": "circle",
        tmp_path / "bundle" / "below": "lies in the bundle",
        tmp_path / "link" / "below": "lies in the bundle",
        tmp_path / ("x" * 300): "File name too long",
        Path("/"): "root of the file system",
        Path("a\0b"): "zero byte",
    }.items():
        for refuse in (check_place, lambda o, w: export(o, "new", w)):
            with pytest.raises(ExportError, match=message) as caught:
                refuse(out, overwrite)
            assert "\n" not in str(caught.value)
    for out, message in {
        checkpoint: "lies in the checkpoint",
        checkpoint / "bundle": "lies in the checkpoint",
        tmp_path: "The checkpoint .* lies in",
    }.items():
        with pytest.raises(ExportError, match=message):
            check_place(out, overwrite, checkpoint)
    assert names(tmp_path) == there
    assert standing(tmp_path / "bundle") == "old"


def test_a_name_as_long_as_names_may_be_is_taken(tmp_path: Path) -> None:
    out = tmp_path / ("ü" * 127)
    export(out, "old")
    export(out, "new", overwrite=True)
    assert standing(out) == "new"
    assert names(tmp_path) == [out.name]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_a_disk_that_fails_at_the_last_step_is_one_sentence(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    export(out, "old")

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module, "sync", fail)
    with pytest.raises(ExportError) as caught:
        export(out, "new", overwrite=True)
    assert ("full" in str(caught.value)) == (code in (errno.ENOSPC, errno.EDQUOT))
    assert standing(out) == "old"
    assert names(tmp_path) == ["bundle"]


def test_the_permissions_are_those_of_any_new_folder(tmp_path: Path) -> None:
    (tmp_path / "any").mkdir()
    export(tmp_path / "bundle", "new")
    assert (tmp_path / "bundle").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_kill_at_any_step_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "page.html"

    def write(words: str) -> None:
        with whole_file(path) as partial:
            assert partial.suffix == ".html"
            partial.write_text(words * 1000)

    write("old")
    for step in range(50):
        status = die_at(step, lambda: write("new"))
        assert path.read_text() in ("old" * 1000, "new" * 1000)
        if status == 0:
            break
        write("old")
        assert names(tmp_path) == ["page.html"]
    assert step > 2


def test_a_file_that_cannot_be_finished_is_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")
    path.chmod(0o640)

    def half() -> None:
        with whole_file(path) as partial:
            partial.write_text("half")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        half()
    assert path.read_text() == "old"
    with whole_file(path) as first, whole_file(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # the outer one ends last
    assert path.stat().st_mode & 0o777 == 0o640
    (tmp_path / "link").symlink_to(path)
    with whole_file(tmp_path / "link") as partial:
        partial.write_text("through the link")
    assert path.read_text() == "through the link"
    with pytest.raises(IsADirectoryError), whole_file(tmp_path):
        pass
    with whole_file(Path(os.devnull)) as partial:
        partial.write_text("nobody")
    assert names(tmp_path) == ["link", "page.html"]


def test_a_folder_is_made_whole_or_not_at_all(file_system: str, tmp_path: Path) -> None:
    place = tmp_path / "above" / "set"

    def make(words: str, *, replace: bool = False, then: Exception | None = None) -> None:
        with whole_folder(place, replace=replace) as built:
            assert names(built) == []
            (built / words).touch()
            if then:
                raise then

    with pytest.raises(OSError, match="full"):
        make("half", then=OSError(errno.ENOSPC, "full"))
    assert names(place.parent) == []
    make("old")
    with pytest.raises(FileExistsError):
        make("new")
    with pytest.raises(OSError, match="full"):
        make("new", replace=True, then=OSError(errno.ENOSPC, "full"))
    assert names(place) == ["old"]
    make("new", replace=True)
    assert names(place) == ["new"]
    assert names(place.parent) == ["set"]
    assert place.stat().st_mode == place.parent.stat().st_mode
