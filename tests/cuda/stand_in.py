"""Builds the stand-in for CUDA's libraries: the names are those the provider asks for."""

from __future__ import annotations

import mmap
import re
import shutil
import subprocess
from pathlib import Path

STUBS = Path(__file__).with_name("stubs")
PROVIDER = "onnxruntime/capi/libonnxruntime_providers_cuda.so"
FLAGS = ("-O1", "-fPIC", "-shared", "-Wall", "-Wextra", "-Wno-builtin-declaration-mismatch")

VERSIONED = ("libcudart.so.13", "libcublas.so.13", "libcublasLt.so.13")
LIBRARIES = {
    "libcublas.so.13": r"cublas(?!Lt)[A-Z]\w+",
    "libcublasLt.so.13": r"cublasLt[A-Z]\w+",
    "libcudnn.so.9": r"cudnn[A-Z]\w+",
    "libcurand.so.10": r"curand[A-Z]\w+",
}
SPECIAL = set(
    re.findall(r"#ifdef SPECIAL_(\w+)", (STUBS / "special.h").read_text(encoding="utf-8"))
)
TOLD = re.compile(r"cublas.*[gG]emm|cublasLtMatmul$|cudnn.*Forward$|cudnnBackendExecute")
MAKES = re.compile(r"(cublas|cublasLt|cudnn)(\w*Create\w*)")


def compiler() -> str | None:
    """The system's C compiler, or None."""
    return shutil.which("cc") or shutil.which("gcc")


def build(site: Path, folder: Path) -> None:
    """Compile every library into a folder.

    Args:
        site: where onnxruntime-gpu is installed.
        folder: to write.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _compile(folder, "libcuda.so.1", STUBS / "driver.c")
    _compile(folder, "libcudart.so.13", STUBS / "runtime.c", "-pthread")
    names = _names(site / PROVIDER)
    for library, pattern in LIBRARIES.items():
        source = folder / f"{library.split('.')[0]}.c"
        wanted = sorted(name for name in names if re.fullmatch(pattern, name))
        source.write_text(_stubs(wanted), encoding="utf-8")
        _compile(folder, library, source)


def _names(provider: Path) -> set[str]:
    """Names of functions in the provider: cuDNN's are looked up when they are needed."""
    with provider.open("rb") as stream:
        content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        found = re.findall(rb"\x00((?:cublas|cudnn|curand)[A-Z][A-Za-z0-9_]+)(?=\x00)", content)
    return {name.decode() for name in found if not name.endswith(b"_t")}


def _stubs(names: list[str]) -> str:
    lines = [f"#define SPECIAL_{name}" for name in names if name in SPECIAL]
    lines += ['#include "library.h"', '#include "special.h"']
    for name in names:
        if name in SPECIAL:
            continue
        makes = MAKES.fullmatch(name)
        lines.append(f"{'MAKES' if makes else 'TOLD' if TOLD.match(name) else 'QUIET'}({name})")
    return "\n".join(lines) + "\n"


def _compile(folder: Path, library: str, source: Path, *flags: str) -> None:
    command = [str(compiler()), *FLAGS, *flags, f"-I{STUBS}", f"-Wl,-soname,{library}"]
    if library in VERSIONED:
        script = folder / f"{library}.map"
        script.write_text(f"{library} {{ global: *; }};\n", encoding="utf-8")
        command.append(f"-Wl,--version-script={script}")
    subprocess.run([*command, "-o", str(folder / library), str(source)], check=True)
