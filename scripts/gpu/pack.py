"""Everything that a check of a GPU needs, in pieces with checksums: no network is needed there.

Called by ``scripts/gpu/check pack``; the folder it writes holds ``run.py``, ``SHA256SUMS`` and
pieces of one archive: bundles, wheels and the stages' sources.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import typer

from speechprune_ort.files import whole_folder

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
ARCHIVE = "check.tar"
BUNDLES = {
    "cuda": ("cpu-fp32", "cuda-fp16", "cuda-bf16", "cuda-int8", "cuda-int4"),
    "cpu": ("cpu-fp32", "cpu-fp16", "cpu-int8", "cpu-int4"),
}
EXTRA = {"cuda": "gpu,profile", "cpu": "cpu,profile"}
BLOCK = 1 << 20


def run(*command: str | Path) -> None:
    """Run, and end with its exit code where it fails."""
    done = subprocess.run([str(part) for part in command], check=False, cwd=ROOT)
    if done.returncode:
        sys.stderr.write(f"error: {' '.join(map(str, command))} failed.\n")
        raise typer.Exit(2)


def collect_wheels(target: str, python: str, folder: Path) -> None:
    """The project, the runtime and pip itself, as wheels for Linux on x86-64."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    # Built beside the checkout: a folder that an earlier build left in it would come along.
    with tempfile.TemporaryDirectory(prefix="speechprune-source-") as source:
        shutil.copytree(
            ROOT / "speechprune_ort",
            Path(source) / "speechprune_ort",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(ROOT / name, source)
        run(*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source)
    (wheel,) = folder.glob("speechprune_ort-*.whl")
    platforms = [
        flag for number in (28, 27, 26, 24, 17)
        for flag in ("--platform", f"manylinux_2_{number}_x86_64")
    ]  # fmt: skip
    run(
        *pip, "download", "--quiet", "--dest", folder, "--only-binary", ":all:",
        "--python-version", python, "--implementation", "cp", *platforms,
        "--platform", "manylinux2014_x86_64", "--constraint", ROOT / "constraints.txt",
        f"{wheel}[{EXTRA[target]}]", "pip",
    )  # fmt: skip


def split(archive: Path, out: Path, limit: int) -> None:
    """The archive in pieces of at most ``limit`` bytes, and the sha256 of every file."""
    sums = []
    with archive.open("rb") as stream:
        number = 0
        while content := stream.read(limit):
            piece = out / f"{ARCHIVE}.{number:03d}"
            piece.write_bytes(content)
            sums.append(f"{hashlib.sha256(content).hexdigest()}  {piece.name}\n")
            number += 1
    shutil.copy(HERE / "run.py", out / "run.py")
    digest = hashlib.sha256((out / "run.py").read_bytes()).hexdigest()
    sums.append(f"{digest}  run.py\n")
    (out / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")


def main(
    out: Annotated[Path, typer.Argument(help="Folder to write; it must not be there.")],
    target: Annotated[Literal["cuda", "cpu"], typer.Option(help="cpu is a rehearsal.")] = "cuda",
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint to pack; by default the embedded model.")
    ] = None,
    python: Annotated[str, typer.Option(help="Python of the machine.")] = (
        f"{sys.version_info.major}.{sys.version_info.minor}"
    ),
    piece_mb: Annotated[int, typer.Option(min=1, help="Largest piece, in 1e6 bytes.")] = 1000,
) -> None:
    """Pack."""
    if out.exists():
        sys.stderr.write(f"error: {out} is there already: give a folder that is not.\n")
        raise typer.Exit(2)
    with (
        whole_folder(out) as finished,
        tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder,
    ):
        work = Path(folder)
        content = work / "check"
        if checkpoint is None:
            checkpoint = work / "checkpoint"
            run(sys.executable, ROOT / "scripts" / "build_small_model.py", checkpoint)
        for bundle in BUNDLES[target]:
            device, precision = bundle.split("-")
            run(
                sys.executable, "-m", "speechprune_ort", "export", checkpoint,
                content / "bundles" / bundle, "--target", device, "--precision", precision,
            )  # fmt: skip
        wheels = content / "wheels"
        wheels.mkdir()
        collect_wheels(target, python, wheels)
        shutil.copy(HERE / "stages.py", content / "stages.py")
        shutil.copytree(ROOT / "scripts" / "research" / "recording", content / "recording")
        shutil.copy(ROOT / "constraints.txt", content / "constraints.txt")
        about = {"target": target, "python": python, "bundles": BUNDLES[target]}
        (content / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        archive = work / ARCHIVE
        with tarfile.open(archive, "w") as tar:
            tar.add(content, "check")
        split(archive, finished, piece_mb * 1_000_000)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    print(f"{out}: {size:.0f} MB. There: python3 {out.name}/run.py RESULTS")


if __name__ == "__main__":
    typer.run(main)
