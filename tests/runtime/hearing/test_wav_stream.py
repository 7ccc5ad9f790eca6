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


def heard(content: bytes) -> Any:
    blocks = list(wav_blocks(io.BytesIO(content), "It"))
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
