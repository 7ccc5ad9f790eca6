"""The machine that figures were measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any

__all__ = ["machine", "machine_words"]


def machine() -> dict[str, Any]:
    """Name of the processor, number of cores and operating system of this machine.

    Returns:
        ``processor``, ``cores`` and ``system``.
    """
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").split("\n"):
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                model = value.strip()
                break
    except OSError:
        pass  # not Linux: the platform's own word for it stands
    return {"processor": model, "cores": os.cpu_count(), "system": platform.platform(terse=True)}


def machine_words() -> str:
    """The same in one line: "PROCESSOR, 2 cores, SYSTEM"."""
    found = machine()
    return f"{found['processor']}, {found['cores']} cores, {found['system']}"
