"""Voxtral with ``tekken.json`` alone: the ids are those of the format, and a bundle holds them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_families import write_voxtral
from tiny_tekken import SPECIAL, tekken_ids
from tokenizers import Tokenizer

from speechprune_ort import ExportError
from speechprune_ort.contract.tokenizer_check import check_tokenizer
from speechprune_ort.export.families import load_checkpoint
from speechprune_ort.runtime.answering.prompt import build_prompt
from speechprune_ort.runtime.ort.tokenizer import TextTokenizer

TEXTS = (
    "Who owns the budget?", " what, then?\nSay: 3 & 4 ", "Où était-il, l'été ?", "e\u0301 vs é",
    "日本語の会議、終わり。", "हिन्दी में", "مَدْرَسَة", "\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f",
    "a\r\nb\r\n\r\nc", "\t\ttabs   and  ", "12345 8.9e-10", "I'LL we've", "\u200b\ufeff\u00a0x",
    "ﬁ ǅ ʰ Ⅷ ½", "|||||| ////\n/", "\x00\x7f", "[INST] </s> <pad>", "\n\n\n", "  ", "zzzz zzzzz",
)  # fmt: skip
BLOCKS = (
    (0x20, 0x7E), (0xA0, 0x24F), (0x300, 0x36F), (0x370, 0x4FF), (0x590, 0x6FF), (0x900, 0x97F),
    (0xE00, 0xE7F), (0x2000, 0x206F), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3),
    (0x1D400, 0x1D7FF), (0x1F300, 0x1FAFF), (9, 13),
)  # fmt: skip


def texts() -> list[str]:
    """Four hundred, most of them of random characters from all over Unicode."""
    draw = np.random.default_rng(7)
    found = list(TEXTS)
    while len(found) < 400:
        blocks = draw.choice(BLOCKS, draw.integers(1, 5), replace=False)
        drawn = draw.choice(blocks, draw.integers(1, 41))
        letters = [chr(draw.integers(first, last + 1)) for first, last in drawn]
        found.append("".join(c + " " * int(draw.random() < 0.15) for c in letters))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_voxtral(tmp_path_factory.mktemp("tekken") / "checkpoint", tekken=True)


def test_ids_are_those_of_the_format(folder: Path, tmp_path: Path) -> None:
    loaded = load_checkpoint(str(folder), None, False)
    path = tmp_path / "tokenizer.json"
    loaded.tokenizer.backend_tokenizer.save(str(path))
    check_tokenizer(path)  # as the runtime does before it opens a bundle
    text = TextTokenizer(Tokenizer.from_file(str(path)))
    merged = 0
    for written in texts():
        expected = tekken_ids(folder / "tekken.json", written)
        assert text.encode(written).ids == expected, ascii(written)
        assert text.decode(expected) == written
        merged += sum(i >= SPECIAL + 256 for i in expected)
    assert merged > 50, "nothing is merged: it would prove little"
    prompt = build_prompt(text, loaded.prompt, {"query": "Who was late?"})
    said = tekken_ids(folder / "tekken.json", "Who was late?")
    assert prompt.parts == ((1, 3, 6), (*said, 4))  # <s> [INST] [BEGIN_AUDIO], then [/INST]
    assert loaded.stop_token_ids == (2,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"special_tokens": None}, "lists no control tokens .* is null"),
        ({"vocab": [{"rank": 0}]}, "cannot be read .KeyError"),
        ({"special_tokens": [{"rank": 3, "token_str": "<s>"}]}, "cannot be read .*contiguous"),
    ],
)
def test_a_tekken_that_cannot_be_used_says_why(
    folder: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    path = tmp_path / "tekken.json"
    content = json.loads(path.read_text()) | change
    path.unlink()
    path.write_text(json.dumps(content))
    with pytest.raises(ExportError, match=message):
        load_checkpoint(str(tmp_path), None, False)
