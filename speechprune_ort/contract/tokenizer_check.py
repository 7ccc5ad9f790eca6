"""Whether a ``tokenizer.json`` keeps within bounds: its parts, and how far it can blow up a text.

The file is a small program: steps that rewrite a text, patterns that split it, a vocabulary. What
is checked here is what lets a small file take all memory or never end.
"""

from __future__ import annotations

import base64
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

TOKEN = 1024
"""Characters of one token; the longest that published tokenizers have are some 128."""
PIECE = 128
"""Characters of a token of a Unigram model, which tries every one of them at every place."""
WORD = 1000
"""Characters of a word that a WordPiece model looks through: its time grows by their square."""
ADDED = 20_000
"""Tokens beside the vocabulary."""
NORMALIZED = 1e7
"""Characters that the normalizer may make of them together: it is run over each on loading."""
MAPPED = 72
"""Bytes that a map of characters may make of one: NFKC has 18 characters of at most four."""

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


class _Model(msgspec.Struct):
    """What the time and the memory of a model depend on."""

    type: str | None = None
    vocab: dict[str, Any] | list[Any] | None = None
    dropout: float | None = None
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    max_input_chars_per_word: int | None = None


class _Added(msgspec.Struct):
    """A token beside the vocabulary."""

    content: str
    normalized: bool = False


class _Tokenizer(msgspec.Struct):
    """The parts of the file that have bounds."""

    model: _Model
    added_tokens: list[_Added] | None = None
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
            _check_map(step)
        _bounded("normalizer", growth)
        _check_model(content.model)
        _check_added(content.added_tokens or [], growth)
        for step in _steps(content.pre_tokenizer, SPLITTERS):
            _check_pattern(step)
            if step["type"] == "FixedLength" and not step.get("length", 1):
                raise ValueError("it splits a text into pieces of no length")
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


def _check_model(model: _Model) -> None:
    vocab = model.vocab or ()
    # A Unigram model has pairs of a token and its score.
    tokens = [t[0] if isinstance(t, list) and t else t for t in vocab]
    longest = max((len(token) for token in tokens if isinstance(token, str)), default=0)
    if longest > (most := PIECE if model.type == "Unigram" else TOKEN):
        raise ValueError(f"it has a token of {longest} characters, and {most} are the most")
    for name in ("unk_token", "continuing_subword_prefix", "end_of_word_suffix"):
        if len(getattr(model, name) or "") > TOKEN:
            raise ValueError(f"its {name} has more than {TOKEN} characters")
    if (model.max_input_chars_per_word or 0) > WORD:
        raise ValueError(f"its max_input_chars_per_word is more than {WORD}")
    if model.dropout:
        raise ValueError("it drops merges at random (dropout), so that no answer repeats")


def _check_added(tokens: list[_Added], growth: float) -> None:
    if len(tokens) > ADDED:
        raise ValueError(f"it adds {len(tokens)} tokens, and {ADDED} are the most")
    if any(len(token.content) > TOKEN for token in tokens):
        raise ValueError(f"it adds a token of more than {TOKEN} characters")
    made = growth * sum(len(token.content) for token in tokens if token.normalized)
    if made > NORMALIZED:
        raise ValueError(f"its normalizer makes {made:.0f} characters of the tokens that it adds")


def _check_map(step: dict[str, Any]) -> None:
    """Check what a map of characters makes of one: texts that end with zeros, behind its trie."""
    if step["type"] != "Precompiled":
        return
    content = base64.b64decode(str(step.get("precompiled_charsmap") or ""))
    texts = content[4 + int.from_bytes(content[:4], "little") :].split(b"\0")
    if (longest := max(map(len, texts))) > MAPPED:
        raise ValueError(f"its map of characters makes {longest} bytes of one")


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
    >>> _repeats_a_repetition("(a|b+)*c"), _repeats_a_repetition("a{9}{9}")
    (True, True)
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
            if closed or (sign == "{" and pattern[at - 2] in "*+}"):
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
    special = step.get("special_tokens") or {}
    for entry in special.values() if isinstance(special, dict) else ():
        if isinstance(entry, dict) and len(entry.get("ids") or ()) > STEPS:
            raise ValueError(f"its template has a special token of more than {STEPS} ids")
