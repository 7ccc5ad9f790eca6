"""Writes ``docs/reference/manifest.schema.json`` from the manifest's own types."""

from __future__ import annotations

import json
from pathlib import Path

from speechprune_ort.contract.manifest import Manifest

path = Path(__file__).parents[1] / "docs" / "reference" / "manifest.schema.json"
path.parent.mkdir(parents=True, exist_ok=True)
path.write_text(json.dumps(Manifest.schema(), indent=1) + "\n", encoding="utf-8")
