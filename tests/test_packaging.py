"""What is installed, what is imported, and what must never be."""

from __future__ import annotations

import ast
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from paths import ROOT, TESTS

# Files of the npm package uplot, 1.6.32, by their sha256.
UPLOT = {
    "uplot/LICENSE": "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    "uplot/uPlot.iife.min.js": "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    "uplot/uPlot.min.css": "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
}

IMPORT_EVERYTHING = """
import importlib, pkgutil, sys

BANNED = ("torch", "transformers", "onnx", "onnxscript")

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BANNED:
            raise ImportError(f"the runtime tried to import {name}")

sys.meta_path.insert(0, Refuse())
import speechprune_ort
names = [m.name for m in pkgutil.walk_packages(speechprune_ort.__path__, "speechprune_ort.")
         if not m.name.startswith("speechprune_ort.export") and not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
speechprune_ort.SpeechLLM
assert len(names) > 100, names
assert "speechprune_ort.runtime.ort.engine" in names
print(sorted(set(BANNED) & set(sys.modules)))
"""


def test_the_runtime_never_imports_torch_or_transformers() -> None:
    result = subprocess.run(
        [sys.executable, "-c", IMPORT_EVERYTHING], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


def test_asking_never_imports_torch_and_onnxruntime_keeps_nothing_of_it(
    bundle: Path, tmp_path: Path
) -> None:
    code = (
        "import sys, numpy as np\n"
        "from speechprune_ort import SpeechLLM\n"
        "model = SpeechLLM(sys.argv[1], 'cpu')\n"
        "sound = np.sin(np.arange(16000, dtype=np.float32))\n"
        "model.ask(sound, 'Who?', sampling_rate=16000, max_new_tokens=2)\n"
        "print([m for m in ('torch', 'transformers', 'onnx') if m in sys.modules])\n"
    )
    environment = os.environ | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    for name in ("ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME"):
        environment.pop(name, None)
    result = subprocess.run(
        [sys.executable, "-c", code, str(bundle)],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.stdout.strip() == "[]", result.stderr
    written = [path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file()]
    assert written == [Path(".cache/speechprune-ort/verified.json")]


def test_without_onnxruntime_the_message_is_the_install_line() -> None:
    code = (
        "import sys\n"
        "sys.modules['onnxruntime'] = None\n"
        "import speechprune_ort\n"
        "try:\n"
        "    speechprune_ort.SpeechLLM\n"
        "except speechprune_ort.DeviceError as error:\n"
        "    print(error)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert "speechprune-ort[cpu]" in result.stdout, result.stderr


def pins(name: str) -> dict[str, tuple[str, str]]:
    """By package, in the index's spelling: its version, and all that the file says after it."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("\\\n", " ")
    found = re.findall(r"^([\w.-]+)==(\S+)(.*)$", text, re.MULTILINE)
    return {canonicalize_name(package): (version, rest) for package, version, rest in found}


def needed(package: str, extras: tuple[str, ...], seen: set[tuple[str, str]]) -> None:
    """Add a package's requirements, of itself and of its extras, and theirs in turn."""
    for extra in ("", *extras):
        if (package, extra) in seen:
            continue
        seen.add((package, extra))
        for line in importlib.metadata.requires(package) or ():
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                name = canonicalize_name(requirement.name)
                needed(name, tuple(requirement.extras), seen)


@pytest.mark.export
def test_all_that_is_installed_is_locked_by_its_hashes_but_torch() -> None:
    locked, versions = pins("locked.txt"), pins("constraints.txt")
    assert {name: found[0] for name, found in locked.items()} == {
        name: versions[name][0] for name in locked
    }
    assert [name for name, (_, rest) in locked.items() if "--hash=sha256:" not in rest] == []
    seen: set[tuple[str, str]] = set()
    needed("speechprune-ort", ("export-cpu", "test"), seen)
    packages = {name for name, _ in seen}
    assert len(packages) > 80
    of_cuda = {name for name in packages if name.startswith(("nvidia-", "cuda-", "triton"))}
    assert packages - of_cuda - set(locked) == {"speechprune-ort", "torch"}


def imported_by(module: str, seen: set[str]) -> set[str]:
    """Modules from elsewhere that a module of scripts/ imports, and those of scripts/ that it does.

    Args:
        module: its name.
        seen: modules of scripts/ that were read already; those that are read now are added.
    """
    place = ROOT / "scripts" / module.replace(".", "/")
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    if module in seen or not file.is_file():
        return set()
    seen.add(module)
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            top = name.split(".")[0]
            if (ROOT / "scripts" / top).is_dir() or (ROOT / "scripts" / f"{top}.py").is_file():
                found |= imported_by(name, seen)
            elif top not in sys.stdlib_module_names:
                found.add(top)
    return found


@pytest.mark.export
def test_a_release_is_checked_with_all_that_its_demo_imports() -> None:
    script = (ROOT / "scripts" / "check_release").read_text(encoding="utf-8")
    extras = re.findall(r'"\$file\[([\w,-]+)\]"', script)
    assert len(extras) == 1
    seen: set[tuple[str, str]] = set()
    needed("speechprune-ort", tuple(extras[0].split(",")), seen)
    there = {name for name, _ in seen}
    read: set[str] = set()
    modules = imported_by("build_small_model", read) | imported_by("demo_answers", read)
    assert {"gguf", "torch"} <= modules
    sources = importlib.metadata.packages_distributions()
    lacking = [m for m in modules if not there & {canonicalize_name(d) for d in sources[m]}]
    assert not lacking


def test_tests_lie_in_the_folders_of_what_they_test() -> None:
    folders = {
        path.parent.relative_to(TESTS)
        for room in ("export", "runtime", "scripts", "speechprune_ort")
        for path in (TESTS / room).rglob("test_*.py")
    }
    assert len(folders) > 15
    assert [folder for folder in folders if not (ROOT / folder).is_dir()] == []


def test_export_and_runtime_never_import_each_other() -> None:
    for folder, other in (("export", "runtime"), ("runtime", "export")):
        for path in (ROOT / folder).rglob("*.py"):
            assert f"speechprune_ort.{other}" not in path.read_text(), path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    # Without isolation: setuptools of this environment, nothing fetched.
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)],
        check=True, capture_output=True,
    )  # fmt: skip
    return out


def test_the_wheel_holds_one_package(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"speechprune_ort", "speechprune_ort-0.1.0.dist-info"}
    for wanted in (
        "py.typed",
        "speech.flac",
        "export/families/qwen2_audio.py",
        "runtime/choosing/pruning.py",
        "cli/ask.py",
        *(f"explain/{name}" for name in ("layout.html", "page.css", "page.js", *UPLOT)),
    ):
        assert f"speechprune_ort/{wanted}" in names
    licences = {f"licenses/{name}" for name in ("LICENSE", "speechprune_ort/explain/uplot/LICENSE")}
    assert {f"speechprune_ort-0.1.0.dist-info/{name}" for name in licences} <= set(names)
    size = wheel.stat().st_size
    assert size < 1_500_000, f"the wheel has {size} bytes: something large has come in"
    folders = ("tests/", "scripts/", "docs/")
    assert not [name for name in names if name.startswith(folders)]
    modules = {
        f"speechprune_ort/{p.relative_to(ROOT)}"
        for folder in ("export", "runtime")
        for p in (ROOT / folder).rglob("*.py")
    }
    modules |= {str(p.relative_to(ROOT)) for p in (ROOT / "speechprune_ort").rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}


def test_uplot_is_as_it_was_published() -> None:
    for name, digest in UPLOT.items():
        found = hashlib.sha256((ROOT / "speechprune_ort" / "explain" / name).read_bytes())
        assert found.hexdigest() == digest, name


def test_what_the_wheel_holds_answers_without_the_repository(
    built: Path, bundle: Path, tone: NDArray[np.float32], tmp_path: Path
) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")  # noqa: S202 - built here
    soundfile.write(tmp_path / "meeting.wav", tone[:80_000], 16_000)

    def python(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", *map(str, arguments)], cwd=tmp_path, capture_output=True,
            text=True, check=False, env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        )  # fmt: skip

    where = python("-c", "import speechprune_ort as s; print(s.__file__)").stdout
    assert where.startswith(str(tmp_path)), "the wheel, not the folder beside the tests"
    asked = ("ask", bundle, "meeting.wav", "Who?", "--device", "cpu", "--max-new-tokens", "4")
    answered = python("-m", "speechprune_ort", *asked)
    assert (answered.returncode, bool(answered.stdout.strip())) == (0, True), answered.stderr
    examined = python("-m", "speechprune_ort", "doctor")
    assert (examined.returncode, "All well" in examined.stdout) == (0, True), examined.stderr


def test_the_sdist_builds_what_the_wheel_holds(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = archive.getnames()
    for wanted in (
        "speechprune_ort/export/pipeline.py",
        "speechprune_ort/runtime/answering/decoder.py",
        "LICENSE",
        "README.md",
    ):
        assert f"speechprune_ort-0.1.0/{wanted}" in names


def test_public_names_are_there_and_sorted() -> None:
    import speechprune_ort
    from speechprune_ort import errors

    for module in (speechprune_ort, errors):
        assert sorted(module.__all__) == list(module.__all__)
        assert all(getattr(module, name) for name in module.__all__)
    raised = {
        c.__name__
        for c in vars(errors).values()
        if isinstance(c, type) and issubclass(c, errors.SpeechPruneError)
    }
    assert raised == set(errors.__all__)
    assert all(name in str(errors.__doc__) for name in errors.__all__)
