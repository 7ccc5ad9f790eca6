"""Every kind of recording arrives as 16 kHz mono float32, or as one clear sentence."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from speechprune_ort import AudioError, OptionError
from speechprune_ort.runtime.hearing.audio import (
    SAMPLING_RATE,
    load_audio,
    stream_audio,
    stream_windows,
)


def sine(rate: int, seconds: float = 1.0, hertz: float = 440.0) -> NDArray[np.float32]:
    at = np.arange(int(rate * seconds)) / rate
    return (0.5 * np.sin(2 * np.pi * hertz * at)).astype(np.float32)


def loudest_hertz(samples: NDArray[np.float32]) -> float:
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(spectrum.argmax() * SAMPLING_RATE / len(samples))


@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize(
    ("extension", "subtype"),
    [("wav", "PCM_16"), ("wav", "PCM_24"), ("wav", "FLOAT"), ("flac", "PCM_16"),
     ("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III")],
)  # fmt: skip
def test_formats_and_rates(rate: int, extension: str, subtype: str, tmp_path: Path) -> None:
    path = tmp_path / f"sound.{extension}"
    soundfile.write(path, np.stack([sine(rate), sine(rate)], axis=1), rate, subtype=subtype)
    samples = load_audio(path)
    assert samples.dtype == np.float32
    assert samples.ndim == 1
    # mp3 pads its blocks; everything else keeps its length to a sample.
    assert len(samples) == pytest.approx(SAMPLING_RATE, abs=2500 if extension == "mp3" else 2)
    assert loudest_hertz(samples) == pytest.approx(440, abs=2)
    middle = samples[4000:12000]
    assert np.sqrt(np.mean(middle**2)) == pytest.approx(0.5 / np.sqrt(2), rel=0.03)


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = sine(16_000, hertz=300), sine(16_000, hertz=700)
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(path), (left + right) / 2, atol=1e-7)
    silent = np.stack([left, -left], axis=1)
    np.testing.assert_allclose(load_audio(silent, 16_000), 0, atol=1e-7)


def test_a_long_file_is_read_in_blocks(tmp_path: Path) -> None:
    long = np.random.default_rng(0).uniform(-0.5, 0.5, 600_000).astype(np.float32)
    path = tmp_path / "long.wav"
    soundfile.write(path, long, 16_000, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(path), long)


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_a_stream_is_the_whole_in_pieces(rate: int, tmp_path: Path) -> None:
    long = np.random.default_rng(0).uniform(-0.5, 0.5, 700_000).astype(np.float32)
    path = tmp_path / "long.wav"
    soundfile.write(path, long, rate, subtype="FLOAT")
    blocks = list(stream_audio(path))
    assert len(blocks) > 2
    np.testing.assert_array_equal(np.concatenate(blocks), load_audio(long, rate))


def test_paths_strings_and_file_objects_are_the_same(tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, sine(16_000), 16_000)
    wanted = load_audio(path)
    np.testing.assert_array_equal(load_audio(str(path)), wanted)
    np.testing.assert_array_equal(load_audio(io.BytesIO(path.read_bytes())), wanted)
    with path.open("rb") as stream:
        np.testing.assert_array_equal(load_audio(stream), wanted)


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint8, np.float64, np.float16])
def test_arrays_are_scaled_by_their_full_range(dtype: Any) -> None:
    wave = sine(16_000)
    if np.dtype(dtype).kind == "f":
        array, tolerance = wave.astype(dtype), 1e-3
    else:
        limits = np.iinfo(dtype)
        middle = 0 if limits.min else 128
        array = (wave * (limits.max - middle) + middle).astype(dtype)
        tolerance = 2 / (limits.max - middle)
    np.testing.assert_allclose(load_audio(array, 16_000), wave, atol=max(tolerance, 1e-6))


def test_an_array_is_never_changed() -> None:
    array = sine(16_000)
    before = array.copy()
    load_audio(array, 16_000)[:] = 0
    loaded = load_audio(np.stack([array, array], axis=1), 16_000)
    assert loaded is not array
    np.testing.assert_array_equal(before, sine(16_000))


@pytest.mark.parametrize("rate", [None, 0, -1, 16_000.5, True, np.nan, np.inf, "16000"])
def test_an_array_needs_its_rate(rate: Any) -> None:
    with pytest.raises(AudioError, match="sampling_rate"):
        load_audio(sine(16_000), rate)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(0, np.float32), "no samples"),
        (np.array([0.1, np.nan]), "NaN"),
        (np.array([0.1, np.inf]), "infinite"),
        (np.zeros((2, 3, 4)), "shape"),
        (np.zeros((2, 16_000)), "transpose"),
        (np.zeros((16_000, 0)), "no samples"),
        (np.array(["a", "b"]), "numbers"),
    ],
)
def test_arrays_that_are_no_sound(array: NDArray[Any], words: str) -> None:
    with pytest.raises(AudioError, match=words):
        load_audio(array, 16_000)


def test_too_short_to_resample_is_an_error_not_an_empty_array() -> None:
    with pytest.raises(AudioError, match="shorter than one sample"):
        load_audio(np.array([0.1], np.float32), 48_000)


@pytest.mark.parametrize("rate", [16_000, np.int64(16_000), 16_000.0])
def test_a_rate_may_be_any_whole_number(rate: Any) -> None:
    np.testing.assert_array_equal(load_audio(sine(16_000), rate), sine(16_000))


def test_files_that_are_no_sound(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not sound at all " * 100)
    empty = tmp_path / "empty.wav"
    empty.touch()
    silent = tmp_path / "zero.wav"
    soundfile.write(silent, np.zeros(0, np.float32), 16_000)
    nan = tmp_path / "nan.wav"
    soundfile.write(nan, np.array([0, np.nan], np.float32), 16_000, subtype="FLOAT")
    cut = tmp_path / "cut.flac"
    soundfile.write(cut, sine(16_000), 16_000)
    cut.write_bytes(cut.read_bytes()[:20])
    for path, words in (
        (text, "cannot be decoded"),
        (empty, "empty file"),
        (silent, "no samples"),
        (nan, "NaN"),
        (cut, "cannot be decoded"),
        (tmp_path, "is a folder"),
        (tmp_path / "gone.wav", "No recording at"),
    ):
        with pytest.raises(AudioError, match=words) as caught:
            load_audio(path)
        assert str(path) in str(caught.value)
    with pytest.raises(AudioError, match="cannot be decoded"):
        load_audio(io.BytesIO(b"not sound"))
    with pytest.raises(AudioError, match="leave sampling_rate out"):
        load_audio(silent, 16_000)


@given(st.integers(1, 500), st.integers(1, 60))
def test_windows_hold_every_sample_once(total: int, size: int) -> None:
    samples = np.arange(total, dtype=np.float32)
    windows = list(stream_windows(np.split(samples, [total // 3, total // 2]), size))
    np.testing.assert_array_equal(np.concatenate(windows), samples)
    assert all(len(window) == size for window in windows[:-1])
    assert 1 <= len(windows[-1]) <= size


@pytest.mark.parametrize("size", [0, -5])
def test_a_window_has_a_length(size: int) -> None:
    with pytest.raises(OptionError, match="window_samples"):
        list(stream_windows([sine(16_000)], size))
