"""What people write is looked at before anything else sees it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speechprune_ort import DataError, OptionError, PromptError
from speechprune_ort.explain import read_transcript
from speechprune_ort.files import write_whole
from speechprune_ort.text import check_path, check_text, parse_json, read_json


@given(st.text())
def test_every_whole_text_is_taken_as_it_is(text: str) -> None:
    assert check_text(text) == text


@given(st.none() | st.integers() | st.floats() | st.binary() | st.lists(st.text()) | st.booleans())
def test_what_is_no_text_or_path_is_a_short_sentence(value: Any) -> None:
    for check, kind in ((check_text, PromptError), (check_path, DataError)):
        with pytest.raises(kind) as raised:
            check(value)
        assert len(str(raised.value)) < 200


@given(st.text(st.characters(categories=["Cs"]), min_size=1))
def test_half_a_character_is_none(text: str) -> None:
    with pytest.raises(PromptError, match="The question holds half a character") as raised:
        check_text(text)
    assert str(raised.value).isascii()


@pytest.mark.parametrize("name", [b"caf\xe9.wav", "é你😀.wav".encode(), b"x" * 255, b"a/" * 2000])
def test_every_path_that_a_file_system_can_have_is_taken(name: bytes) -> None:
    assert check_path(os.fsdecode(name)) == Path(os.fsdecode(name))
    assert check_path(Path(os.fsdecode(name))) == Path(os.fsdecode(name))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "is empty"), ("a\0b", "NUL"), ("x" * 256, "too long"), ("é" * 128, "too long"),
        ("a/" * 2049, "too long"), ("\ud83d.wav", "half a character"), (b"a.wav", "not b'a.wav'"),
    ],
)  # fmt: skip
def test_a_path_that_no_file_system_can_have_is_one_sentence(path: Any, message: str) -> None:
    if isinstance(path, bytes):
        message = "must be a path, not bytes"
    with pytest.raises(OptionError, match=message) as raised:
        check_path(path, "OUT", OptionError)
    assert str(raised.value).isascii()


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b"NaN", b'{"a": -Infinity}', b'{"a": 1, "a": 2}', b"\xff", b"", b"{"],
)
def test_what_is_no_json_is_a_short_sentence(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^.{5,100}$"):
        parse_json(content)
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not JSON"):
        read_json(path)
    with pytest.raises(OptionError, match="is not a transcript"):
        read_transcript(path)


def test_many_doubled_names_are_found_at_once() -> None:
    names = ",".join(f'"{number}":0' for number in range(300_000))
    begun = time.process_time()
    with pytest.raises(ValueError, match="'299999' more than once"):
        parse_json(f'{{{names},"299999":1}}'.encode())
    assert time.process_time() - begun < 20, "it would take hours, name by name"


@pytest.mark.parametrize(
    "text", ["5", "null", "[5]", '[{"start": 0, "end": 1, "text": 5}]', '[{"start": 0}]',
             '[{"start": 0, "end": 1, "text": "\\ud83d"}]', '{"turns": 5}',
             '[{"start": 0, "end": 1' + "0" * 400 + ', "text": "a"}]'],
)  # fmt: skip
def test_a_transcript_of_another_form_is_one_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(OptionError, match="is not a transcript"):
        read_transcript(path)
    path.write_text('\ufeff[{"start": 0, "end": 1.5, "text": "Hello\u2028"}]')
    assert read_transcript(path)[0].text == "Hello\u2028"


def test_a_file_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.md"
    write_whole(path, "one caf\udce9")  # a name that is not UTF-8, in a list of failures
    assert path.read_text() == "one caf\\udce9"

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match="No space left"):
        write_whole(path, "two")
    assert path.read_text() == "one caf\\udce9"
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.md"]
    with pytest.raises(DataError, match="cannot be written"):
        write_whole(path / "x", "two")
