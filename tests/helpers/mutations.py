"""Random changes to a JSON document, each likely to be one that its reader never thought of."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

__all__ = ["mutated"]


def _deep(depth: int) -> Any:
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


VALUES = (
    None, True, False, -1, 0, 1, 2, 7, 1 << 15, 1 << 31, 1 << 63, 10**30, -(10**30), 0.5, -0.0,
    1e308, float("nan"), float("inf"), "", "x", "../../etc/passwd", "/etc/passwd", "a\x00b",
    "\ud800", "é" * 300, "manifest.json", "float64", [], {}, [None], [[0, 1, 10**9]], [[0, 0, 0]],
    {"": {}}, _deep(200),
)  # fmt: skip


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything within a document."""
    keys = list(node) if isinstance(node, dict) else range(len(node))
    for key in keys:
        yield node, key
        if isinstance(node[key], dict | list):
            yield from _places(node[key])


def mutated(document: Any, seed: int) -> Any:
    """A copy with one to three changes.

    Args:
        document: of dicts, lists and scalars.
        seed: of the choice.
    """
    choose = random.Random(seed)  # noqa: S311 - not a secret
    document = copy.deepcopy(document)
    for _ in range(choose.choice((1, 1, 2, 3))):
        places = list(_places(document))
        # Deep lists have most of the places: each name of the top gets its share.
        if choose.random() < 0.5:
            places = [p for p in places if p[0] is document or isinstance(p[1], str)]
        node, key = choose.choice(places)
        change = choose.randrange(4)
        if change == 0 and isinstance(node, dict):
            del node[key]
        elif change == 1 and isinstance(node, dict):
            node[choose.choice(("extra", "../x", key.upper()))] = copy.deepcopy(node[key])
        elif change == 2:
            other, name = choose.choice(places)
            node[key] = copy.deepcopy(other[name])
        elif change == 3 and isinstance(node[key], int) and not isinstance(node[key], bool):
            node[key] += choose.choice((-1, 1, 1000))
        else:
            node[key] = copy.deepcopy(choose.choice(VALUES))
    return document
