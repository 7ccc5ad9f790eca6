"""Writes the JSON schemas of ``docs/reference/`` from the types that they describe."""

from __future__ import annotations

from pathlib import Path

from speechprune_ort.answer_record import answer_schema, line_schema
from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.files import write_json

SCHEMAS = {
    "answer": answer_schema(),
    "line": line_schema(),
    "manifest": Manifest.schema(),
}

folder = Path(__file__).parents[1] / "docs" / "reference"
for name, schema in SCHEMAS.items():
    path = folder / f"{name}.schema.json"
    write_json(path, schema)
