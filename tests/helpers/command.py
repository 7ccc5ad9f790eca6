"""The command line as a process of its own."""

from __future__ import annotations

import subprocess
import sys


def run(*arguments: object, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    """Run ``speechprune-ort`` with arguments; its outputs are text."""
    return subprocess.run(
        [sys.executable, "-m", "speechprune_ort", *map(str, arguments)],
        capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
