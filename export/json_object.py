"""Reading a JSON object of a checkpoint, and naming what stands in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from speechprune_ort.errors import ExportError

__all__ = ["brief", "read_object"]

LARGEST = 16 * 2**20
"""Bytes of a JSON file that are read; the largest tokenizers' own are not read here."""


def read_object(path: Path, location: str) -> dict[str, Any]:
    """A JSON object of a checkpoint.

    Args:
        path: the file.
        location: the checkpoint, for the message.

    Raises:
        ExportError: it is missing, cannot be read, or holds something else.
    """
    label = f"{path.name} of {location!r}"
    if not path.is_file():
        raise ExportError(f"{label} is missing: download the checkpoint again.")
    try:
        if path.stat().st_size > LARGEST:
            raise ExportError(
                f"{label} is larger than {LARGEST >> 20} MiB: download the checkpoint again."
            )
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ExportError(
            f"{label} cannot be read ({error.strerror}): check its permissions."
        ) from None
    except RecursionError:
        raise ExportError(f"{label} is nested too deeply: download the checkpoint again.") from None
    except ValueError as error:
        reason = "it is a Git LFS pointer" if _is_pointer(path) else str(error)
        raise ExportError(
            f"{label} is not JSON ({reason}): download the checkpoint again, with `git lfs "
            "pull` where it was cloned."
        ) from None
    if not isinstance(content, dict):
        raise ExportError(f"{label} holds {brief(content)}, not an object: download it again.")
    return content


def brief(value: Any) -> str:
    """What a value is, in a few words.

    >>> brief([1, 2]), brief(None), brief(-3)
    ('a list', 'null', '-3')
    """
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object" if value else "an empty object"
    return "a list" if isinstance(value, list | tuple) else repr(value)[:60]


def _is_pointer(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(40).startswith(b"version https://git-lfs")
