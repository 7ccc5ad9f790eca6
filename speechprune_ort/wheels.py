"""Which ONNX Runtime wheels are installed, without importing any."""

from __future__ import annotations

import importlib.metadata

__all__ = ["installed_version", "installed_wheels"]


def installed_version(package: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def installed_wheels() -> dict[str, str]:
    """ONNX Runtime wheels and their versions; two at once share a folder and break it."""
    found = {name: installed_version(name) for name in ("onnxruntime", "onnxruntime-gpu")}
    return {name: version for name, version in found.items() if version is not None}
