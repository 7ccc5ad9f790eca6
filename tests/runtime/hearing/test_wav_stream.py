"""A WAV from a pipe: every kind of sample as soundfile reads it, and each block as it comes."""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from speechprune_ort import AudioError
from speechprune_ort.runtime.hearing.wav_stream import wav_blocks


def wav(subtype: str = "PCM_16", channels: int = 2, form: str = "WAV") -> bytes:
    rng, file = np.random.default_rng(0), io.BytesIO()
    soundfile.write(
        file, rng.uniform(-1, 1, (5000, channels)), 8000, subtype=subtype, format=form
    )  # fmt: skip
    return file.getvalue()


def heard(content: bytes, notes: list[str] | None = None) -> Any:
    blocks = list(wav_blocks(io.BytesIO(content), "It", notes))
    assert {rate for rate, _ in blocks} == {8000}
    assert all(0 < len(block) <= 2000 for _, block in blocks)
    return np.concatenate([block for _, block in blocks])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE"])
@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
def test_samples_are_those_of_the_file(subtype: str, channels: int, form: str) -> None:
    content = wav(subtype, channels, form)
    expected, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    np.testing.assert_array_equal(heard(content), expected)


@pytest.mark.parametrize("size", [0, 0x7FFFFFFF, 0xFFFFFFFF])
def test_a_length_that_nobody_knew_is_not_believed(size: int) -> None:
    content = wav()
    at = content.index(b"data") + 4
    streamed = content[:at] + struct.pack("<I", size) + content[at + 4 :]
    np.testing.assert_array_equal(heard(streamed), heard(content))
    np.testing.assert_array_equal(heard(content + b"LIST\4\0\0\0abcd"), heard(content))


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24"])
def test_what_follows_the_stated_end_is_heard_as_in_a_file(subtype: str) -> None:
    content, notes = wav(subtype, 1), list[str]()
    sound, at = heard(content), content.index(b"data")
    twice, frame = np.concatenate([sound, sound]), int(subtype[4:]) // 8
    for more in (content, content[at:], b"LIST\4\0\0\0abcd" + content[at:], content[12:]):
        np.testing.assert_array_equal(heard(content + more, notes), twice)
    for tags in (b"LIST\4\0\0\0abcd", b"id3 " + b"\0\0\x20\0" * 9, b"TAG" * 9, bytes(99), b"ab"):
        np.testing.assert_array_equal(heard(content + tags, notes), sound)
    assert not notes
    for stated in (1, 300 * frame, 300 * frame + 1):  # the pad byte of an odd size is sound, too
        short = content[: at + 4] + struct.pack("<I", stated) + content[at + 8 :]
        np.testing.assert_array_equal(heard(short, notes), sound)
        assert (
            notes.pop() == f"It states {stated} bytes of sound and more came: all of it was heard."
        )
    silent = content[: at + 4] + struct.pack("<I", 40 * frame) + bytes(400_000) + content[at + 8 :]
    assert len(heard(silent, notes)) == 400_000 // frame + len(sound)
    np.testing.assert_array_equal(heard(content + b"fLaC\0\0\0\x22" + bytes(99), notes), sound)
    assert "goes on with a recording that is no WAV" in notes[-1]


def test_a_block_is_given_before_the_pipe_ends() -> None:
    content, (out, into) = wav(), os.pipe()
    with os.fdopen(out, "rb") as file, os.fdopen(into, "wb", buffering=0) as pipe:
        pipe.write(content[:3001])
        blocks = wav_blocks(file, "It")
        first = next(blocks)[1]
        assert 0 < len(first) < 750
        pipe.write(content[3001:6000])
        assert len(next(blocks)[1]) > 0


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "ends before its sound"),
        (b"fLaC" + bytes(40), "is not a WAV"),
        (wav()[:30], "ends before its sound"),
        (wav("ULAW"), "of a kind that is not known"),
        (b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd", "does not say what its samples are"),
        (b"RIFF\0\0\0\0WAVEfmt \2\0\0\0ab", "damaged header"),
        (b"RIFF\0\0\0\0WAVEfmt \xff\xff\xff\x7f", "damaged header"),
    ],
)
def test_what_is_no_wav_is_one_sentence(content: bytes, words: str) -> None:
    with pytest.raises(AudioError, match=words) as caught:
        list(wav_blocks(io.BytesIO(content), "It"))
    assert "ffmpeg" in str(caught.value)


def test_a_file_of_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("RIFF")
    with (tmp_path / "a").open() as file, pytest.raises(AudioError, match="binary"):
        list(wav_blocks(file, "It"))  # type: ignore[arg-type]
