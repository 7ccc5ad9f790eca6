"""Rows of results on disk, one line each, so that an interrupted evaluation can go on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from speechprune_ort.errors import DataError, OptionError

__all__ = ["Journal"]


class Journal:
    """``rows.jsonl`` of a results folder: what it is about in its first line, then a row a line.

    A line counts once its end is written; half a line, left by a kill, is cut off. Lines of one
    row complete each other, the later one being right where both speak.

    Args:
        path: the file; made where missing.
        about: what the rows depend on. Rows of another run are never mixed in.

    Raises:
        OptionError: the file holds rows of other options, data or bundle.
        DataError: it cannot be read.
    """

    def __init__(self, path: Path, about: Mapping[str, Any]) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        header = json.dumps(about, sort_keys=True)
        if path.exists():
            self._read(header, about)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append(header)

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Write a row; it is on disk when this returns."""
        self._complete(key, row)
        self._append(json.dumps({"row": key, **row}))

    def _complete(self, key: str, row: Mapping[str, Any]) -> None:
        self.rows[key] = _merged(self.rows.get(key, {}), row)

    def _append(self, line: str) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _read(self, header: str, about: Mapping[str, Any]) -> None:
        content = self.path.read_text(encoding="utf-8")
        whole = content[: content.rfind("\n") + 1]
        if whole != content:
            os.truncate(self.path, len(whole.encode("utf-8")))
        first, *lines = whole.splitlines() or [""]
        if not first:
            self._append(header)
            return
        if first != header:
            raise OptionError(self._difference(first, about))
        try:
            for line in lines:
                row = json.loads(line)
                self._complete(row.pop("row"), row)
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.path} is damaged ({error}): remove it to begin anew.") from None

    def _difference(self, first: str, about: Mapping[str, Any]) -> str:
        try:
            old = json.loads(first)
            changed = sorted(
                k for k in {*old, *about} if json.dumps(old.get(k)) != json.dumps(about.get(k))
            )
        except (ValueError, TypeError, AttributeError):
            changed = ["everything"]
        return (
            f"{self.path} was begun with other {', '.join(changed)}: take the same, or another "
            "folder with --out."
        )


def _merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Both mappings in one, nested ones too.

    >>> _merged({"a": {"x": 1, "y": 2}}, {"a": {"y": 3}, "b": 4})
    {'a': {'x': 1, 'y': 3}, 'b': 4}
    """
    both = dict(old)
    for key, value in new.items():
        before = both.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping):
            value = _merged(before, value)
        both[key] = value
    return both
