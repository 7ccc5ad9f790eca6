"""Sets whose keys have other names than ours: ``audio=audio_path,choices=options``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from speechprune_ort.errors import OptionError

__all__ = ["KEYS", "OWN", "Layout", "parse_map"]

KEYS = ("audio", "question", "choices", "answer", "id", "kind", "transcript", "key", "group")
"""What a sample is read from; see ``docs/guide/evaluate.md``."""
OPTIONAL = KEYS[4:]
NAMES = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where in an entry each part of a sample stands.

    Attributes:
        sources: for keys in ``KEYS`` that have another name in the entry: that name; several names
            joined by ``+``, whose texts become a list without those that are missing or empty; or a
            text with names in braces, which stand for their values.
        adjust: for entries that need more than that, returns the entry to read instead.

    >>> layout = Layout({"audio": "{task}/{path}", "choices": "choice_a+choice_b+choice_c"})
    >>> found = layout({"task": "t", "path": "1.wav", "choice_a": "Yes", "choice_b": "No"})
    >>> found["audio"], found["choices"]
    ('t/1.wav', ['Yes', 'No'])
    """

    sources: Mapping[str, str] = field(default_factory=dict)
    adjust: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None

    def __call__(self, entry: Mapping[str, Any]) -> Mapping[str, Any]:
        """The entry with our names.

        Raises:
            KeyError: a key that every sample needs is missing.
        """
        given = self.adjust(entry) if self.adjust else entry
        if not self.sources:
            return given
        found = {**given}
        for key, source in self.sources.items():
            value = _value(given, source)
            if value is not None:
                found[key] = value
            elif key in OPTIONAL:
                found.pop(key, None)
            else:
                raise KeyError(source)
        return found


OWN = Layout()
"""The names of our own format."""


def _value(entry: Mapping[str, Any], source: str) -> Any:
    """What a source gives; None if it is not there."""
    if names := NAMES.findall(source):
        if any(entry.get(name) is None for name in names):
            return None
        return NAMES.sub(lambda match: str(entry[match[1]]), source)
    if "+" in source:
        values = [entry.get(name) for name in source.split("+")]
        return [value for value in values if value not in (None, "")] or None
    return entry.get(source)


def parse_map(text: str) -> Layout:
    """The layout that ``--map`` names.

    Raises:
        OptionError: a part is not KEY=SOURCE, KEY is not a part of a sample, or is given twice.

    >>> parse_map("audio=audio_path,choices=options").sources
    {'audio': 'audio_path', 'choices': 'options'}
    """
    sources: dict[str, str] = {}
    for part in text.split(","):
        key, equals, source = (side.strip() for side in part.partition("="))
        if not equals or not source:
            raise OptionError(
                f"--map takes KEY=SOURCE, separated by commas, such as audio=audio_path, "
                f"not {part!a:.60}."
            )
        if key not in KEYS:
            raise OptionError(f"--map knows the keys {', '.join(KEYS)}, not {key!a:.60}.")
        if key in sources:
            raise OptionError(f"--map names {key} twice: give it once.")
        sources[key] = source
    return Layout(sources)
