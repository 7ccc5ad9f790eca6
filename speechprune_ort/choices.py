"""Options whose values are a few fixed words, known to every layer."""

from __future__ import annotations

from typing import Literal

from speechprune_ort.errors import OptionError
from speechprune_ort.text import shown

__all__ = [
    "DEFAULT_METHOD",
    "EVERY_TOKEN",
    "AttentionForm",
    "Backend",
    "DeviceName",
    "LongAudio",
    "Positions",
    "Verify",
    "check_choice",
    "check_flag",
]

DEFAULT_METHOD, EVERY_TOKEN = "coverage", "none"
"""The best method that was found, by a rule fixed beforehand (docs/results/methods.md), and the one
that keeps every token."""
DeviceName = Literal["auto", "cuda", "cpu"]
LongAudio = Literal["prune", "truncate", "error"]
"""What is done with a recording longer than the model's window: all of it is heard and pruned, it
is cut to the window, or it is refused."""
Positions = Literal["renumbered", "original"]
"""Positions of the kept tokens: consecutive, or those that they had before pruning."""
AttentionForm = Literal["binarized", "float"]
"""Projections that attention is computed from: their signs, or their own values."""
Backend = Literal["auto", "numpy", "ort"]
"""What scores the tokens: numpy on the host, the bundle's graphs on its device, or the faster."""

Verify = Literal["once", "always"]
"""When the files of a bundle are hashed: once until they change, or each time it is opened."""


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    """Refuse a value that is not among those allowed.

    Raises:
        OptionError: it is not; the message has ``name``.
    """
    if not isinstance(value, str) or value not in allowed:
        raise OptionError(f"{name} must be one of {', '.join(allowed)}, not {shown(value)}.")


def check_flag(name: str, value: object) -> None:
    """Refuse what is neither True nor False.

    Raises:
        OptionError: it is not; the message has ``name``.
    """
    if not isinstance(value, bool):
        raise OptionError(f"{name} must be True or False, not {shown(value)}.")
