"""Named ranges around the stages of an answer, for profilers that show them (Nsight Systems)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from speechprune_ort.errors import OptionError

__all__ = ["stage_range", "use_nvtx"]

_open: Callable[[str], AbstractContextManager[object]] = nullcontext


def stage_range(stage: str) -> AbstractContextManager[object]:
    """A range with the name of a stage; it does nothing until ``use_nvtx`` is called."""
    return _open(f"speechprune-ort {stage}")


def use_nvtx() -> None:
    """Mark every stage from now on with an NVTX range.

    Raises:
        OptionError: the package ``nvtx`` is not installed.
    """
    global _open
    try:
        import nvtx
    except ModuleNotFoundError:
        raise OptionError(
            "NVTX ranges need nvtx: pip install 'speechprune-ort[profile]'."
        ) from None
    _open = nvtx.annotate
