"""Numbers as callers give them: Python's own, and numpy's of any width."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np

from speechprune_ort.errors import OptionError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

__all__ = ["check_number", "numbers_in", "plain", "take_plain", "whole"]


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
        raise OptionError(f"{name} takes numbers separated by commas, not {text!a}.") from None


def whole(name: str, value: Any, least: int, most: int | None = None) -> int:
    """A whole number of at least ``least``, and at most ``most`` where that is given.

    Raises:
        OptionError: it is not; the message has ``name``.
    """
    number = plain(value)
    # bool is an int in Python; True as a count is a slip, not a choice.
    if isinstance(number, bool) or not isinstance(number, int) or number < least:
        raise OptionError(f"{name} must be a whole number of at least {least}, not {value!r}.")
    if most is not None and number > most:
        raise OptionError(f"{name} must be at most {most}, not {value!r}.")
    return number


def check_number(name: str, value: object, ok: bool, wanted: str) -> None:
    """Refuse what is not a number, or is out of range.

    Args:
        name: name of the option, for the message.
        value: what was given.
        ok: whether the value is in range, if it is a number.
        wanted: the numbers that are allowed, in words.

    Raises:
        OptionError: it is not such a number.
    """
    # bool is an int in Python; True as a rate or a count is a slip, not a choice.
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not ok:
        raise OptionError(f"{name} must be {wanted}, not {value!r}.")


def take_plain(options: DataclassInstance) -> None:
    """Turn numpy numbers of any width into Python's own, in every field."""
    for name in (field.name for field in fields(options)):
        object.__setattr__(options, name, plain(getattr(options, name)))
