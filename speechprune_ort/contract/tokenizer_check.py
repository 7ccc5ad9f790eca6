"""Whether a ``tokenizer.json`` keeps within bounds: its parts, and how far it can blow up a text.

The file is a small program: steps that rewrite a text, patterns that split it, a vocabulary. What
is checked here is what lets a small file take all memory or never end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from speechprune_ort.errors import BundleError

__all__ = ["check_tokenizer"]

TOKENIZER_BYTES = 1 << 26
"""Largest file; one of 260,000 tokens has some 35 MB."""
GROWTH = 1000.0
"""Characters that the steps together may make of one: NFKC alone makes up to 18."""
STEPS = 64
"""Steps of one kind, those within sequences counted."""
PATTERN = 4000
"""Characters of one pattern."""

NORMALIZERS = {
    "Sequence": 1.0,
    "NFC": 1.0,
    "NFD": 4.0,
    "NFKC": 18.0,
    "NFKD": 18.0,
    "Lowercase": 3.0,
    "Strip": 1.0,
    "StripAccents": 1.0,
    "Nmt": 1.0,
    "BertNormalizer": 4.0,
    "ByteLevel": 2.0,
    "Precompiled": 18.0,
    "Prepend": 2.0,
    "Replace": 1.0,
}
"""Steps that rewrite a text, and how many characters they make of one."""
SPLITTERS = frozenset(
    [
        "Sequence",
        "ByteLevel",
        "Split",
        "Metaspace",
        "Whitespace",
        "WhitespaceSplit",
        "Punctuation",
        "Digits",
        "BertPreTokenizer",
        "UnicodeScripts",
        "CharDelimiterSplit",
        "Delimiter",
        "FixedLength",
    ]
)
FINISHERS = frozenset(
    ["Sequence", "ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing"]
)
DECODERS = frozenset(
    [
        "Sequence",
        "ByteLevel",
        "ByteFallback",
        "Fuse",
        "Strip",
        "Replace",
        "Metaspace",
        "WordPiece",
        "BPEDecoder",
        "CTC",
    ]
)
CHILDREN = ("normalizers", "pretokenizers", "processors", "decoders")


class _Tokenizer(msgspec.Struct):
    """The parts of the file that are steps; the vocabulary is passed over."""

    model: msgspec.Raw
    normalizer: dict[str, Any] | None = None
    pre_tokenizer: dict[str, Any] | None = None
    post_processor: dict[str, Any] | None = None
    decoder: dict[str, Any] | None = None


def check_tokenizer(path: Path) -> None:
    """Check the steps of a tokenizer before the library builds them.

    Args:
        path: ``tokenizer.json``.

    Raises:
        BundleError: it is too large, is not a tokenizer, or has a step that is unknown or blows up
            texts.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    try:
        if size > TOKENIZER_BYTES:
            raise ValueError(f"{size} bytes are too many")
        content = msgspec.json.decode(path.read_bytes(), type=_Tokenizer)
        growth = 1.0
        for step in _steps(content.normalizer, frozenset(NORMALIZERS)):
            growth *= NORMALIZERS[step["type"]] * _growth(step)
        _bounded("normalizer", growth)
        for step in _steps(content.pre_tokenizer, SPLITTERS):
            _check_pattern(step)
        growth = 1.0
        for step in _steps(content.decoder, DECODERS):
            growth *= _growth(step)
            # The library counts back beyond the beginning of a short token, and panics.
            if step["type"] == "Strip" and step.get("stop"):
                raise ValueError("its decoder takes letters off the ends of tokens")
        _bounded("decoder", growth)
        for step in _steps(content.post_processor, FINISHERS):
            _check_template(step)
    except (ValueError, RecursionError) as error:
        raise BundleError(
            f"{path} is not a tokenizer that this version reads ({error}): export the bundle again."
        ) from None


def _steps(part: dict[str, Any] | None, known: frozenset[str]) -> list[dict[str, Any]]:
    """All steps of a part, those within sequences in their place."""
    found: list[dict[str, Any]] = []
    waiting = [] if part is None else [part]
    while waiting:
        step = waiting.pop()
        kind = step.get("type") if isinstance(step, dict) else None
        if not isinstance(kind, str) or kind not in known:
            raise ValueError(f"it has the unknown step {str(kind)[:40]!r}")
        found.append(step)
        for name in CHILDREN:
            children = step.get(name, [])
            if not isinstance(children, list):
                raise ValueError(f"{name} is not a list")
            waiting += children
        if len(found) + len(waiting) > STEPS:
            raise ValueError(f"it has more than {STEPS} steps of one kind")
    return found


def _bounded(part: str, growth: float) -> None:
    if growth > GROWTH:
        raise ValueError(f"its {part} can make a text {growth:.0f} times as long")


def _growth(step: dict[str, Any]) -> float:
    """Characters that a step with texts of its own makes of one, at most."""
    if step["type"] == "Prepend" and len(str(step.get("prepend", ""))) > PATTERN:
        raise ValueError("it prepends a text that is too long")
    if step["type"] != "Replace":
        return 1.0
    content = str(step.get("content", ""))
    literal = _check_pattern(step)
    # A pattern may match where nothing is: the text then goes in beside every character.
    return max(1.0, len(content) / len(literal)) if literal else 1.0 + len(content)


def _check_pattern(step: dict[str, Any]) -> str | None:
    """The literal text of a step's pattern; None where it has none or it is an expression."""
    pattern = step.get("pattern")
    if pattern is None:
        return None
    if not isinstance(pattern, dict) or len(pattern) != 1:
        raise ValueError("it has a pattern of an unknown kind")
    kind, text = next(iter(pattern.items()))
    if kind not in ("String", "Regex") or not isinstance(text, str) or len(text) > PATTERN:
        raise ValueError("it has a pattern of an unknown kind or more than 4000 characters")
    if kind == "String":
        return text
    if _repeats_a_repetition(text):
        raise ValueError("it has a pattern that repeats a repetition, which may never end")
    return None


def _repeats_a_repetition(pattern: str) -> bool:
    r"""Whether a group with a repetition in it is repeated itself, such as ``(a+)+``.

    >>> _repeats_a_repetition(r"(?i:'s|'t)| ?[^\s(+]+|\s+(?!\S)")
    False
    >>> _repeats_a_repetition("(a|b+)*c")
    True
    """
    inside = [False]  # per open group: whether it holds a repetition
    closed = False  # whether the group that was just closed does
    bracket, at = 0, 0
    while at < len(pattern):
        sign = pattern[at]
        at += 2 if sign == "\\" else 1
        if sign == "\\":
            closed = False
        elif bracket or sign == "[":
            bracket += (sign == "[") - (sign == "]")
            closed = False
        elif sign == "(":
            inside.append(False)
            # The ? of (?: and its like is no repetition.
            at += pattern.startswith("?", at)
            closed = False
        elif sign == ")":
            closed = inside.pop() if len(inside) > 1 else False
            inside[-1] |= closed
        elif sign in "*+{":
            if closed:
                return True
            inside[-1] = True
            closed = False
        else:
            closed = False
    return False


def _check_template(step: dict[str, Any]) -> None:
    if step["type"] != "TemplateProcessing":
        return
    for name in ("single", "pair"):
        pieces = step.get(name, [])
        if not isinstance(pieces, list) or len(pieces) > STEPS:
            raise ValueError(f"its template {name!r} has more than {STEPS} pieces")
        texts = [p for p in pieces if isinstance(p, dict) and "Sequence" in p]
        if len(texts) > (1 if name == "single" else 2):
            raise ValueError(f"its template {name!r} takes a text several times")
