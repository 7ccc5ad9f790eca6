"""Silence, cancelling channels, clipping and wrong scales are noticed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from signals import speech_like

from speechprune_ort import AudioError, AudioOptions
from speechprune_ort.runtime.hearing.audio import AudioStream

SPEECH = speech_like(5.0)


def heard(samples: NDArray[Any], **options: Any) -> AudioStream:
    stream = AudioStream(samples, 16_000, options=AudioOptions(**options))
    for _ in stream:
        pass
    return stream


def at_level(dbfs: float) -> NDArray[np.float32]:
    """A sine of this level, with silence around it."""
    sine = np.sin(2 * np.pi * 400 * np.arange(3200) / 16_000) * np.sqrt(2) * 10 ** (dbfs / 20)
    return np.concatenate([np.zeros(16_000), sine, np.zeros(16_000)]).astype(np.float32)


@pytest.mark.parametrize(
    "samples",
    [np.zeros(80_000, np.float32), np.zeros((80_000, 2), np.int16), np.full(80_000, 0.5),
     at_level(-61.0), np.zeros(200, np.float32)],
    ids=["zeros", "int16", "constant", "-61 dBFS", "short"],
)  # fmt: skip
def test_silence_is_refused_unless_allowed(samples: NDArray[Any]) -> None:
    with pytest.raises(AudioError, match="--allow-silence"):
        heard(samples).refuse_silence()
    stream = heard(samples, allow_silence=True)
    stream.refuse_silence()
    assert any("is silent: any answer about it is made up" in n for n in stream.notes)


def test_what_counts_as_silence_is_an_option() -> None:
    heard(at_level(-59.0)).refuse_silence()
    heard(at_level(-61.0), silence_dbfs=-70).refuse_silence()
    with pytest.raises(AudioError, match="-30 dBFS counts as silence"):
        heard(at_level(-40.0), silence_dbfs=-30).refuse_silence()


def test_good_recordings_have_no_notes() -> None:
    for samples in (
        SPEECH,
        np.stack([SPEECH, speech_like(5.0, 1)], axis=1),
        np.stack([SPEECH, 0 * SPEECH], axis=1),
        np.stack([SPEECH] + [0 * SPEECH] * 7, axis=1),
        np.round(SPEECH * 32_767).astype(np.int16),
        np.sin(np.arange(16_000, dtype=np.float32)) * 0.9995 * (np.arange(16_000) > 15_900),
    ):
        stream = heard(samples)
        assert stream.notes == (), samples.shape
        stream.refuse_silence()


def test_a_quiet_recording_is_noted() -> None:
    (note,) = heard(at_level(-50.0)).notes
    assert "very quiet: its loudest 20 ms are at -50 dBFS" in note


@pytest.mark.parametrize("other", [-1.0, -0.9])
def test_channels_that_cancel_are_noted_and_one_can_be_heard(other: float) -> None:
    both = np.stack([SPEECH, other * SPEECH], axis=1)
    stream = heard(both)
    assert "cancel each other" in stream.notes[0]
    assert "--channel 0" in stream.notes[0]
    if other == -1.0:
        with pytest.raises(AudioError, match="--channel 0"):
            stream.refuse_silence()
    one = AudioStream(both, 16_000, options=AudioOptions(channel=0))
    np.testing.assert_array_equal(np.concatenate(list(one)), SPEECH)
    assert one.notes == ()
    with pytest.raises(AudioError, match="and no channel 2: give a smaller one"):
        heard(both, channel=2)


def test_clipping_is_noted() -> None:
    (note,) = heard(np.clip(SPEECH * 20, -1, 1)).notes
    assert "clipped" in note
    pcm = np.clip(SPEECH * 20 * 32_767, -32_768, 32_767).astype(np.int16)
    assert "clipped" in heard(pcm).notes[0]


def test_integers_in_floats_and_in_wide_types_are_noticed() -> None:
    (note,) = heard(np.round(SPEECH * 32_767)).notes
    assert "times full scale" in note
    assert "32768" in note
    wide = np.round(SPEECH * 32_767).astype(np.int64)
    with pytest.raises(AudioError, match=r"array of int64 is silent: .* its scale"):
        heard(wide).refuse_silence()
