"""A tiny ``tekken.json``, and the ids that its format defines, written out."""

from __future__ import annotations

import base64
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import regex

PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""As published."""
CONTROLS = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AUDIO]", "[BEGIN_AUDIO]", "<pad>")
SPECIAL = 40
LEARNED = (
    "the meeting when they decided the budget, thereafter it was whether or not \n\n    nothing"
    " Où était l'été, où était-il ? été naïve 日本語の日本 会議は日本語 ||| /// ... ..."
)


def write_tekken(path: Path, merges: int = 80) -> Path:
    """A file of all bytes, and of ``merges`` longer tokens."""
    words = [[bytes([b]) for b in w.encode()] for w in regex.findall(PATTERN, LEARNED)]
    vocab = [bytes([b]) for b in range(256)]
    for _ in range(merges):
        pairs = Counter(pair for word in words for pair in pairwise(word))
        first, second = max(pairs, key=lambda pair: (pairs[pair], pair))
        vocab.append(first + second)
        words = [_joined(word, first, second) for word in words]
    size = SPECIAL + len(vocab)
    entries = [
        {"rank": i, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for i, token in enumerate(vocab)
    ]
    # Published files hold more of a vocabulary than a model has rows for.
    entries.append({"rank": len(vocab), "token_bytes": "enp6eg==", "token_str": "zzzz"})
    content = {
        "config": {
            "pattern": PATTERN,
            "num_vocab_tokens": len(entries),
            "default_vocab_size": size,
            "default_num_special_tokens": SPECIAL,
            "version": "v7",
        },
        "vocab": entries,
        "special_tokens": [
            {"rank": i, "token_str": token, "is_control": True} for i, token in enumerate(CONTROLS)
        ],
    }
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def _joined(word: list[bytes], first: bytes, second: bytes) -> list[bytes]:
    out: list[bytes] = []
    for part in word:
        if out and out[-1] == first and part == second:
            out[-1] = first + second
        else:
            out.append(part)
    return out


def tekken_ids(path: Path, text: str) -> list[int]:
    """Ids of a text without control tokens: the pair of the least rank is merged first."""
    content = json.loads(path.read_text(encoding="utf-8"))
    size = content["config"]["default_vocab_size"] - SPECIAL
    entries = content["vocab"][:size]
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in entries}
    found: list[int] = []
    for piece in regex.findall(content["config"]["pattern"], text):
        whole = piece.encode()
        parts = [whole] if whole in ranks else [bytes([b]) for b in whole]
        while len(parts) > 1:
            pairs = [
                (ranks[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in ranks
            ]
            if not pairs:
                break
            _, at = min(pairs)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        found += [SPECIAL + ranks[part] for part in parts]
    return found
