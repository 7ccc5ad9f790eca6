"""The exception of the small model's scripts."""

from __future__ import annotations

from speechprune_ort.errors import PartError

__all__ = ["SmallModelError"]

SmallModelError = PartError
"""Something the user can act on; its text is one sentence naming the thing and the cure."""
