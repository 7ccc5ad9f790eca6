"""Where the tests find the repository and their data."""

from __future__ import annotations

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
ROOT = TESTS.parent
SCRIPTS = ROOT / "scripts"
TROUBLE = TESTS / "data" / "trouble"
"""Small damaged and joined recordings."""
GOLDEN = TESTS / "golden"
