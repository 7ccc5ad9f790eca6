"""What a caller names by one of a few words, and every layer must know."""

from __future__ import annotations

from typing import Literal

__all__ = ["DeviceName", "LongAudio"]

DeviceName = Literal["auto", "cuda", "cpu"]
LongAudio = Literal["prune", "truncate", "error"]
"""What is done with a recording longer than the model's window: all of it is heard and pruned, it
is cut to the window, or it is refused."""
