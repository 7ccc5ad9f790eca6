"""What is installed here, what works, and what to install."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from speechprune_ort import __version__
from speechprune_ort.machine import machine_words
from speechprune_ort.wheels import installed_version, installed_wheels

__all__ = ["Finding", "examine"]

EXPORT_PACKAGES = ("torch", "transformers", "onnx", "onnxscript")
GENAI_WHEELS = ("onnxruntime-genai", "onnxruntime-genai-cuda")
EXTRAS = {
    "media": (("av",), "for m4a, mp4, webm, video and damaged files"),
    "serve": (("starlette", "uvicorn", "prometheus_client", "python-multipart"), "for serve"),
    "hub": (("huggingface-hub",), "for models from the hub"),
    "eval": (
        ("matplotlib", "pyarrow", "scikit-learn"),
        "for the pictures of eval and of --explain",
    ),
    "profile": (
        ("matplotlib", "nvidia-ml-py", "nvtx"),
        "for the pictures of profile, GPU memory and energy",
    ),
    "lora": (("peft",), "for exporting LoRA folders"),
    "ray": (("ray",), "for --engine ray"),
}
"""The packages of each extra, and what they are for."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report.

    Attributes:
        what: the thing that was looked at.
        found: what is there.
        cure: what to do if something is wrong or missing; None where all is well.
        broken: whether nothing can run until it is cured, rather than something optional missing.
    """

    what: str
    found: str
    cure: str | None = None
    broken: bool = False


def examine() -> list[Finding]:
    """Look at this environment, importing ONNX Runtime only if exactly one wheel is there."""
    findings = [
        Finding("speechprune-ort", __version__),
        Finding("python", platform.python_version()),
        Finding("machine", machine_words()),
        *_runtime(),
        *(
            Finding(name, installed_version(name) or "not installed")
            for name in ("numpy", "tokenizers", "soundfile", "soxr")
        ),
        *(_extra(name, *about) for name, about in EXTRAS.items()),
        _default(),
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


def _extra(name: str, packages: tuple[str, ...], purpose: str) -> Finding:
    versions = {package: installed_version(package) for package in packages}
    if None in versions.values():
        cure = f"only {purpose}: pip install 'speechprune-ort[{name}]'"
        return Finding(f"[{name}]", "not installed", cure)
    return Finding(f"[{name}]", ", ".join(f"{p} {version}" for p, version in versions.items()))


def _default() -> Finding:
    """Whether ``default`` can be asked."""
    from speechprune_ort.models.names import DEFAULT, kept
    from speechprune_ort.models.recipe import installed_kit

    place = kept(DEFAULT)
    if place is not None:
        return Finding("model default", f"in {place}")
    if installed_kit() is None:
        wheel = "only for the default model: install its wheel, speechprune-ort-default"
        return Finding("model default", "not installed", wheel)
    return Finding("model default", "built on first use, or by get default")


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
    if CUDA_PROVIDER not in onnxruntime.get_available_providers():
        # On a machine with the CPU wheel that is no fault, so the cure is for users who want CUDA.
        cure = (
            f"only for an NVIDIA GPU: pip uninstall -y {next(iter(wheels))}, then "
            "pip install 'speechprune-ort[gpu]'"
        )
        findings.append(Finding("cuda", "not in this wheel", cure))
    else:
        problem = cuda_problem()
        findings.append(
            Finding("cuda", "ready") if problem is None else Finding("cuda", "not usable", problem)
        )
        known = driver_version()
        told = "none" if known is None else f"supports CUDA {known[0]}.{known[1]}"
        findings.append(Finding("driver", told))
        findings += [
            Finding(library, "loads" if reason is None else reason)
            for library, reason in cuda_libraries().items()
        ]
    return findings
