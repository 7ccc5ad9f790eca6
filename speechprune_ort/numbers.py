"""Numbers as callers give them: Python's own, and numpy's of any width."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from speechprune_ort.errors import OptionError
from speechprune_ort.text import shown

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = [
    "LARGEST_MB",
    "LONGEST",
    "check_number",
    "check_positive",
    "numbers_in",
    "plain",
    "take_plain",
    "whole",
]

LARGEST = (1 << 63) - 1
"""The largest whole number that every reader of our files has room for."""
LARGEST_MB = 1e12
"""Most of anything that is counted in 1e6 bytes; so many bytes fit into 64 bits."""
LONGEST = 1e9
"""Seconds that a limit of time may have: timers take few more."""


def plain(value: Any) -> Any:
    """A numpy scalar, or an array of no dimensions, as Python's own number; the rest as it is.

    >>> plain(np.int64(3)), plain(np.float32(0.5)), plain("auto")
    (3, 0.5, 'auto')
    >>> plain(np.float32(0.1))
    0.1
    """
    if isinstance(value, np.floating):
        # The shortest decimal that gives this value: float32(0.1) was meant as 0.1.
        return float(str(value))
    if isinstance(value, np.ndarray) and value.ndim == 0:
        return plain(value[()])
    return value.item() if isinstance(value, np.generic) else value


def numbers_in(name: str, text: str, kind: type[int] | type[float] = float) -> list[float]:
    """Numbers separated by commas.

    Args:
        name: of the option, for the message.
        text: what it was given.
        kind: of the numbers.

    >>> numbers_in("--rates", "0.2,0.8")
    [0.2, 0.8]

    Raises:
        OptionError: the text is not of this form.
    """
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"{name} takes numbers separated by commas, not {shown(text)}.") from None


def whole(name: str, value: Any, least: int, most: int = LARGEST) -> int:
    """A whole number from ``least`` to ``most``.

    Raises:
        OptionError: it is not; the message has ``name``.
    """
    number = plain(value)
    # bool is an int in Python; True as a count is a slip, not a choice.
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise OptionError(
            f"{name} must be a whole number of at least {least}, not {shown(number)}."
        )
    if number > most:
        raise OptionError(f"{name} must be at most {most}, not {shown(number)}.")
    return number


def check_number(name: str, value: object, ok: Callable[[float], bool], wanted: str) -> float:
    """A number within a range.

    Args:
        name: name of the option, for the message.
        value: what was given.
        ok: whether a finite number is in range.
        wanted: the numbers that are allowed, in words.

    Returns:
        The number, as Python's own.

    Raises:
        OptionError: it is no number, not finite, larger than every float, or out of range.

    >>> check_number("rate", np.float32(0.5), lambda rate: rate < 1, "below 1")
    0.5
    """
    number = plain(value)
    # bool is an int in Python; True as a rate or a count is a slip, not a choice.
    if isinstance(number, (int, float)) and not isinstance(number, bool):
        try:
            if math.isfinite(number) and ok(number):
                return number
        except OverflowError:  # a whole number that no float reaches
            pass
    raise OptionError(f"{name} must be {wanted}, not {shown(number)}.")


def check_positive(name: str, value: object, most: float | None = None) -> float:
    """A finite number above 0, and at most ``most`` where that is given.

    Raises:
        OptionError: it is not; the message has ``name``.

    >>> check_positive("timeout", 3, LONGEST)
    3
    """
    if most is None:
        return check_number(name, value, lambda number: number > 0, "positive and finite")
    return check_number(
        name, value, lambda number: 0 < number <= most, f"positive and at most {most:.15g}"
    )


def take_plain(options: DataclassInstance) -> None:
    """Turn numpy numbers of any width into Python's own, in every field."""
    for name in (field.name for field in fields(options)):
        object.__setattr__(options, name, plain(getattr(options, name)))
