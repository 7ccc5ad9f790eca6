"""``speechprune-ort doctor``: what is installed, what works, what to install."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from speechprune_ort import __version__
from speechprune_ort.wheels import installed_version, installed_wheels

__all__ = ["Finding", "doctor", "examine"]

EXPORT_PACKAGES = ("torch", "transformers", "onnx", "onnxscript")
GENAI_WHEELS = ("onnxruntime-genai", "onnxruntime-genai-cuda")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        what: was looked at.
        found: what is there.
        cure: what to do, where something is wrong; None where all is well.
        broken: nothing can run until it is cured, not a mere absence.
    """

    what: str
    found: str
    cure: str | None = None
    broken: bool = False


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Print wheel, providers, versions and devices, and what to install; exit 1 if broken."""
    findings = examine()
    if as_json:
        rows = [
            {"what": f.what, "found": f.found, "cure": f.cure, "broken": f.broken} for f in findings
        ]
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        table = Table("", "found", "what to do")
        for finding in findings:
            table.add_row(finding.what, finding.found, finding.cure or "")
        # Markup would take the extras in square brackets for styles.
        console = Console(markup=False)
        console.print(table)
        if not any(finding.broken for finding in findings):
            console.print("All well: questions can be answered.")
    if any(finding.broken for finding in findings):
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """Look at this environment, importing ONNX Runtime only if exactly one wheel is there."""
    findings = [
        Finding("speechprune-ort", __version__),
        Finding("python", platform.python_version()),
        Finding("machine", f"{platform.platform()}, {os.cpu_count()} cores"),
        *_runtime(),
        *(
            Finding(name, installed_version(name) or "not installed")
            for name in ("numpy", "tokenizers", "soundfile", "soxr")
        ),
    ]
    missing = [name for name in EXPORT_PACKAGES if installed_version(name) is None]
    genai = [name for name in GENAI_WHEELS if installed_version(name)]
    if missing or not genai:
        lacking = ", ".join([*missing, *([] if genai else ["onnxruntime-genai"])])
        findings.append(
            Finding(
                "export",
                f"not available (no {lacking})",
                "only to export: pip install 'speechprune-ort[export-cpu]'",
            )
        )
    else:
        found = ", ".join(
            f"{name} {installed_version(name)}" for name in (*EXPORT_PACKAGES, *genai)
        )
        findings.append(Finding("export", found))
    return findings


def _runtime() -> list[Finding]:
    wheels = installed_wheels()
    listed = ", ".join(f"{name} {version}" for name, version in wheels.items())
    if not wheels:
        return [
            Finding(
                "wheel",
                "no ONNX Runtime",
                "pip install 'speechprune-ort[cpu]' or 'speechprune-ort[gpu]'",
                broken=True,
            )
        ]
    if len(wheels) > 1:
        return [
            Finding(
                "wheel",
                f"{listed}: two wheels in one folder break each other",
                "pip uninstall -y onnxruntime onnxruntime-gpu, then install [cpu] or [gpu] alone",
                broken=True,
            )
        ]
    try:
        import onnxruntime

        from speechprune_ort.providers import (
            CUDA_PROVIDER,
            cuda_libraries,
            cuda_problem,
            driver_version,
        )
    except ImportError as error:
        return [
            Finding(
                "wheel",
                f"{listed} does not import ({error})",
                f"pip install --force-reinstall {next(iter(wheels))}",
                broken=True,
            )
        ]
    findings = [
        Finding("wheel", listed),
        Finding("providers", ", ".join(onnxruntime.get_available_providers())),
    ]
    problem = cuda_problem()
    if problem is None:
        findings.append(Finding("cuda", "ready"))
    else:
        # On a machine for the CPU flavour that is no fault, so the cure is for who wants CUDA.
        findings.append(Finding("cuda", "not usable", problem))
    if CUDA_PROVIDER in onnxruntime.get_available_providers():
        known = driver_version()
        told = "none" if known is None else f"knows CUDA {known[0]}.{known[1]}"
        findings.append(Finding("driver", told))
        findings += [
            Finding(library, "loads" if reason is None else reason)
            for library, reason in cuda_libraries().items()
        ]
    return findings
