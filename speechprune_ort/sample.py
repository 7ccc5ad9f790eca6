"""The sample of speech that comes with the package."""

from __future__ import annotations

from pathlib import Path

__all__ = ["SPEECH"]

SPEECH = Path(__file__).with_name("speech.flac")
"""Eight seconds of a synthetic voice, mono: graphs are compared on it, and profiled with it."""
