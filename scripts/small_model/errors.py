"""The exceptions of the small model's scripts."""

from __future__ import annotations

from speechprune_ort.errors import PartError

__all__ = ["SmallModelError", "UntimedError"]

SmallModelError = PartError
"""Something the user can act on; its text is one sentence naming the thing and the cure."""


class UntimedError(SmallModelError):
    """An engine spoke a word that cannot be found in the text: it has no times for labels."""
