"""What Python is given as a recording, and as numbers: taken where it is clear, else named."""

from __future__ import annotations

import io
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from speechprune_ort import (
    AudioError,
    AudioOptions,
    GenerationOptions,
    OptionError,
    PruningOptions,
)
from speechprune_ort.numbers import plain
from speechprune_ort.runtime.hearing.audio import load_audio

WAVE: NDArray[np.float32] = (0.5 * np.sin(np.arange(16_000))).astype(np.float32)
PCM = np.round(WAVE * 32_767).astype(np.int16)


class Tensor:
    """Of another library: an array by its protocol alone."""

    def __init__(self, array: NDArray[Any] | None) -> None:
        self.array = array

    def __array__(self, dtype: Any = None, copy: Any = None) -> NDArray[Any]:
        if self.array is None:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return self.array


class Torn:
    """Of a library whose errors are several lines."""

    def __array__(self, *_: Any, **__: Any) -> NDArray[Any]:
        raise RuntimeError("no\nway")


class Lost(io.BytesIO):
    """A file that does not say where it is."""

    def seek(self, *_: Any) -> Any:
        return None

    def tell(self) -> Any:
        return None


def released() -> memoryview:
    view = memoryview(b"RIFF")
    view.release()
    return view


def content() -> bytes:
    out = io.BytesIO()
    soundfile.write(out, WAVE, 16_000, format="WAV", subtype="FLOAT")
    return out.getvalue()


@pytest.mark.parametrize(
    ("source", "rate"),
    [
        (Tensor(WAVE), 16_000),
        (WAVE.tolist(), 16_000),
        (tuple(WAVE.tolist()), 16_000),
        ((WAVE, 16_000), None),
        ((16_000, WAVE), None),
        ([np.int32(16_000), Tensor(WAVE)], None),
        ((16_000, WAVE), 16_000.0),
        ({"array": WAVE, "sampling_rate": 16_000, "path": None}, None),
        ({"bytes": content(), "path": "a.wav"}, None),
        (content(), None),
        (bytearray(content()), None),
        (memoryview(content()), None),
        (memoryview(bytes(twice for byte in content() for twice in (byte, 0)))[::2], None),
        (WAVE, np.float16(16_000)),
        (WAVE.astype(np.longdouble), np.uint64(16_000)),
        (WAVE.astype(">f4"), 16_000),
    ],
)
def test_what_is_clear_is_taken(source: Any, rate: Any) -> None:
    np.testing.assert_array_equal(load_audio(source, rate), WAVE)


def test_a_tensor_of_torch_is_an_array() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    np.testing.assert_array_equal(load_audio(torch.from_numpy(WAVE), 16_000), WAVE)
    with pytest.raises(AudioError, match="detach"):
        load_audio(torch.from_numpy(WAVE).requires_grad_(), 16_000)


@pytest.mark.parametrize(
    ("source", "rate", "words"),
    [
        (None, None, "None is not a recording: give a path"),
        (5, None, "type int is not a recording"),
        (0.5, 16_000, "type float is not a recording"),
        (object(), None, "type object is not a recording"),
        ((value for value in WAVE), 16_000, "type generator is not a recording"),
        ({"x": 1}, None, "'array' and 'sampling_rate'"),
        ({}, None, "A mapping with nothing"),
        ({"array": WAVE, "sampling_rate": 16_000}, 8_000, "two sampling rates"),
        ({"array": WAVE}, None, "give sampling_rate"),
        ((WAVE, 16_000), 8_000, "two sampling rates"),
        ([1, 2, 3], 16_000, "np.int16"),
        (["a.wav", "b.wav"], None, "ask about each by itself"),
        ([Path("a.wav"), 3], None, "ask about each by itself"),
        ([[0.1], [0.1, 0.2]], 16_000, "differ in shape"),
        ([None, 0.1], 16_000, "these objects"),
        (Tensor(None), 16_000, r"\.detach\(\)\.cpu\(\)"),
        (socket.socketpair()[0], None, "makefile"),
        (b"", None, "bytes are empty"),
        (memoryview(b"RIFF")[:0], None, "bytes are empty"),
        (memoryview(b"no wav")[::2], None, "cannot be decoded"),
        (released(), None, "bytes cannot be read"),
        (Lost(), None, "does not say where it is"),
        (Torn(), 16_000, r"\(no\\nway\)"),
        (io.StringIO("RIFF"), None, "binary mode"),
        (WAVE + 1j, 16_000, "must be numbers, not complex"),
        (WAVE > 0, 16_000, "must be numbers, not bool"),
        (np.array([1, None], object), 16_000, "must be numbers, not object"),
        (np.array(5.0), 16_000, "has shape"),
        (np.ma.array(WAVE, mask=WAVE > 0), 16_000, "Masked samples"),
        (np.full(16_000, 1e300), 16_000, "infinite"),
        ("a.wav", 16_000, "leave sampling_rate out"),
    ],
)
def test_what_is_not_is_named(source: Any, rate: Any, words: str) -> None:
    with pytest.raises(AudioError, match=words):
        load_audio(source, rate)


def test_a_closed_file_and_a_text_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_bytes(content())
    with path.open("rb") as file:
        pass
    with pytest.raises(AudioError, match="closed"):
        load_audio(file)
    with path.open(encoding="latin-1") as text, pytest.raises(AudioError, match="binary mode"):
        load_audio(text)


NUMBERS = (np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint64)
FLOATS = (np.float16, np.float32, np.float64, np.longdouble)


@pytest.mark.parametrize("kind", NUMBERS)
def test_whole_numbers_of_any_width_are_numbers(kind: Any) -> None:
    pruning = PruningOptions(budget=kind(100), seed=kind(3), pruning_rate=kind(0))
    assert pruning == PruningOptions(budget=100, seed=3, pruning_rate=0)
    assert type(pruning.budget) is int
    generation = GenerationOptions(max_new_tokens=kind(7), seed=kind(0), temperature=kind(1))
    assert (generation.max_new_tokens, type(generation.temperature)) == (7, int)
    assert AudioOptions(channel=kind(1), max_seconds=kind(9)).max_seconds == 9.0


@pytest.mark.parametrize("kind", FLOATS)
def test_fractions_of_any_width_are_numbers(kind: Any) -> None:
    pruning = PruningOptions(
        method="speechprune", pruning_rate=kind(0.2), frame_temperature=kind(0.5)
    )
    assert pruning == PruningOptions(method="speechprune", pruning_rate=0.2, frame_temperature=0.5)
    assert type(pruning.pruning_rate) is float
    assert GenerationOptions(temperature=kind(0.5), top_p=kind(1)).temperature == 0.5
    assert plain(np.array(kind(0.25))) == 0.25
    for value in (np.nan, np.inf, 1):
        with pytest.raises(OptionError, match="pruning_rate"):
            PruningOptions(pruning_rate=kind(value))
    with pytest.raises(OptionError, match="whole number"):
        PruningOptions(budget=kind(10))


@pytest.mark.parametrize(
    ("name", "value"),
    [("channel", -1), ("channel", 0.5), ("channel", True), ("max_channels", 0),
     ("max_seconds", 0), ("max_seconds", float("nan")), ("max_seconds", float("inf")),
     ("max_seconds", "9"), ("max_decoded_mb", -1), ("max_stream_mb", None),
     ("silence_dbfs", 1), ("silence_dbfs", float("nan")), ("silence_dbfs", True),
     ("allow_silence", "no")],
)  # fmt: skip
def test_audio_options_are_checked(name: str, value: Any) -> None:
    with pytest.raises(OptionError, match=name):
        AudioOptions(**{name: value})
