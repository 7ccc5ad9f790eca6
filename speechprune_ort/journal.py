"""Rows of results on disk, one line each, so that an interrupted run can resume."""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Callable, Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from speechprune_ort.errors import DataError, OptionError
from speechprune_ort.files import make_folder
from speechprune_ort.text import check_path, parse_json

__all__ = ["Journal"]


class Journal:
    """A file whose first line says what it is about, followed by one row per line.

    A line counts once its end is written; half a line, left by a kill or a full disk, is cut off.
    Lines with the same key are merged, the later value winning where both have one; an ``error`` is
    dropped when another line of its key follows. One process at a time holds a journal; leaving
    ``with`` releases it.

    Args:
        path: the file; created if missing. A file that is not a journal of this run is never
            changed.
        about: what the rows depend on. Rows of another run are never mixed in.
        cure: what a user can do if the file belongs to another run.
        check: called with each row that the file has and its key; raises ValueError where it is
            not a row that this run could have written.

    Attributes:
        rows: the rows, by key.

    Raises:
        OptionError: the file holds rows of other options, data or bundle, or is not a journal.
        DataError: it is damaged, cannot be read or written, or another process has it.
    """

    def __init__(
        self,
        path: Path,
        about: Mapping[str, Any],
        cure: str,
        check: Callable[[str, Mapping[str, Any]], object] = lambda _key, _row: None,
    ) -> None:
        check_path(path, "The path of results", OptionError)
        self.path, self._about, self._cure, self._check = path, about, cure, check
        self.rows: dict[str, dict[str, Any]] = {}
        self._stream: FileIO | None = None
        try:
            make_folder(path.parent)
            if path.exists() and not stat.S_ISREG(path.stat().st_mode):
                raise OptionError(f"{path} is not a file of results: {cure}.")
            # Unbuffered: what a full disk did not take is not tried again on closing.
            self._stream = path.open("a+b", buffering=0)
            fcntl.flock(self._stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._read(self._stream)
        except BlockingIOError:
            self.close()
            raise DataError(
                f"{path} is being written by another run: wait for it, or {cure}."
            ) from None
        except OSError as error:
            self.close()
            raise self._unwritten(error) from None
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """The journal."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the file back."""
        self.close()

    def close(self) -> None:
        """Release the file; rows can still be read."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.close()

    def discard(self) -> None:
        """Release the file and remove it."""
        self.path.unlink(missing_ok=True)
        self.close()

    def add(self, key: str, row: Mapping[str, Any]) -> None:
        """Write a row; it is on disk when this returns.

        Raises:
            DataError: it cannot be written; the rows before it are kept.
        """
        try:
            self._append(json.dumps({"row": key, **row}))
        except OSError as error:
            raise self._unwritten(error) from None
        self._complete(key, row)

    def _complete(self, key: str, row: Mapping[str, Any]) -> None:
        old = self.rows.get(key, {})
        old.pop("error", None)
        self.rows[key] = _merged(old, row)

    def _append(self, line: str) -> None:
        if self._stream is None:
            raise ValueError("the journal was closed")
        left = memoryview(line.encode() + b"\n")
        while left:
            left = left[self._stream.write(left) :]
        os.fsync(self._stream.fileno())

    def _read(self, stream: FileIO) -> None:
        stream.seek(0)
        content, header = stream.read(), _sorted(self._about)
        end = content.rfind(b"\n") + 1
        first, *lines = content[:end].split(b"\n")[:-1] or [b""]
        if not end and header.encode().startswith(content):  # begun and killed at once, or new
            os.truncate(self.path, 0)
            self._append(header)
            return
        if first != header.encode():
            raise OptionError(self._difference(first))
        try:
            for line in lines:
                row = parse_json(line)
                key = row.pop("row")
                if not isinstance(key, str):
                    raise ValueError(f"a row is called {key!a:.60}")
                self._complete(key, row)
            for key, row in self.rows.items():
                self._check(key, row)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{self.path} is damaged ({error}): remove it to start again."
            ) from None
        if end < len(content):
            os.truncate(self.path, end)

    def _difference(self, first: bytes) -> str:
        try:
            old = parse_json(first)
        except ValueError:
            old = None
        if not isinstance(old, dict) or old.keys().isdisjoint(self._about):
            return f"{self.path} holds something other than results of this run: {self._cure}."
        changed = sorted(
            name
            for name in {*old, *self._about}
            if _sorted(old.get(name)) != _sorted(self._about.get(name))
        )
        begun = f"{self.path} was begun with other {', '.join(changed)}"
        return f"{begun}: use the same, or {self._cure}."

    def _unwritten(self, error: OSError) -> DataError:
        reason = error.strerror or error
        if not self.rows:
            return DataError(f"{self.path} cannot be written ({reason}): {self._cure}.")
        return DataError(
            f"{self.path} cannot be written ({reason}): the results in it are kept, and the same "
            "command goes on from there."
        )


def _sorted(value: object) -> str:
    return json.dumps(value, sort_keys=True)


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
