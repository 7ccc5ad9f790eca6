"""Features of a recording as a whole equal those of transformers' extractors, window by window."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from signals import speech_like

from speechprune_ort import AudioError
from speechprune_ort.contract.manifest import AudioSpec, LogMelSpec
from speechprune_ort.runtime.hearing import windows
from speechprune_ort.runtime.hearing.features import LogMel
from speechprune_ort.runtime.hearing.windows import MelWindow, mel_windows
from speechprune_ort.timings import Timings

Samples = NDArray[np.float32]
TOLERANCE = 1e-4
SECONDS = 4  # of a window
FRAMES = 100 * SECONDS
SILENCE = LogMelSpec(over="recording")
MIRROR = LogMelSpec(over="recording", ending="mirror", least_samples=8000)
LENGTHS = (4_001, 16_000, 63_999, 64_000, 64_100, 64_161, 135_555, 192_000)


def spec(log_mel: LogMelSpec) -> AudioSpec:
    return AudioSpec(16_000, 400, 160, float(SECONDS), 13, ((7, 8, 0),), 1, 100, 13, log_mel)


def made(samples: Samples, log_mel: LogMelSpec, block: int = 1_000_000) -> list[MelWindow]:
    audio = spec(log_mel)
    extract = LogMel(mel_bins=128, window_seconds=SECONDS)
    blocks = np.split(samples, range(block, len(samples), block))
    return list(mel_windows(blocks, extract, audio, Timings()))


def uneven(count: int) -> Samples:
    """A recording whose first second is far louder than the rest."""
    samples = speech_like(12.0)[:count].copy()
    samples[16_000:] *= np.float32(1e-3)
    return samples


@pytest.mark.export
@pytest.mark.parametrize("count", LENGTHS)
def test_mirrored_recordings_equal_qwen3_asrs(count: int) -> None:
    from transformers import Qwen3ASRFeatureExtractor

    samples = uneven(count)
    found = Qwen3ASRFeatureExtractor()(
        samples, sampling_rate=16_000, padding=True, return_attention_mask=True
    )
    expected = found["input_features"][0].numpy()
    ours = made(samples, MIRROR)
    assert sum(w.length for w in ours) == int(found["attention_mask"].sum())
    for number, window in enumerate(ours):
        there = expected[:, number * FRAMES : number * FRAMES + window.length]
        np.testing.assert_allclose(
            window.features[:, : window.length], there, rtol=0, atol=TOLERANCE
        )


@pytest.mark.export
@pytest.mark.parametrize("count", LENGTHS)
def test_padded_recordings_equal_whispers_of_whole_windows(count: int) -> None:
    from transformers import WhisperFeatureExtractor

    samples = uneven(count)
    expected: Any = WhisperFeatureExtractor(feature_size=128)(
        samples,
        sampling_rate=16_000,
        padding=True,
        truncation=False,
        pad_to_multiple_of=SECONDS * 16_000,
        return_tensors="np",
    )["input_features"][0]
    ours = made(samples, SILENCE)
    together = np.concatenate([w.features for w in ours], axis=1)
    np.testing.assert_allclose(together, expected, rtol=0, atol=TOLERANCE)
    assert sum(w.length for w in ours) == -(-count // 160)
    assert sum(w.seconds for w in ours) == pytest.approx(count / 16_000)


def test_a_quiet_window_is_heard_in_the_recordings_range() -> None:
    samples = uneven(128_000)
    alone = made(samples, LogMelSpec())[1].features
    within = made(samples, SILENCE)[1].features
    assert within.min() > alone.min() + 0.3


@pytest.mark.parametrize("log_mel", [SILENCE, MIRROR])
@pytest.mark.parametrize("block", [161, 40_000, 64_000])
def test_blocks_and_temporary_files_change_nothing(
    log_mel: LogMelSpec, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = uneven(135_555)
    expected = made(samples, log_mel)
    monkeypatch.setattr(windows, "KEPT_BYTES", 1)
    for one, other in zip(made(samples, log_mel, block), expected, strict=True):
        np.testing.assert_array_equal(one.features, other.features)
        assert replace(one, features=other.features) == other


def test_silence_is_known_as_such() -> None:
    samples = np.concatenate([speech_like(4.0), np.zeros(128_000, np.float32)])
    assert [w.silent for w in made(samples, SILENCE)] == [False, False, True]  # its edge is heard


def test_what_cannot_be_mirrored_is_too_short() -> None:
    short = msgspec.structs.replace(MIRROR, least_samples=0)
    assert made(uneven(201), short)[0].length == 1
    with pytest.raises(AudioError, match=r"at least 0\.01 seconds"):
        made(uneven(200), short)


def test_nothing_gives_no_window() -> None:
    def nothing() -> Iterator[Samples]:
        return iter(())

    audio = spec(MIRROR)
    assert list(mel_windows(nothing(), LogMel(), audio, Timings())) == []


@pytest.mark.parametrize("log_mel", [LogMelSpec(), SILENCE, MIRROR])
def test_windows_made_side_by_side_are_the_same_and_in_order(log_mel: LogMelSpec) -> None:
    samples, audio = np.tile(uneven(192_000), 4)[:700_000], spec(log_mel)
    cut = samples[:64_000], samples[64_000:300_000], samples[300_000:]
    serial, waited = Timings(), Timings()
    expected = list(mel_windows(cut, LogMel(window_seconds=SECONDS), audio, serial))
    found = list(mel_windows(cut, LogMel(window_seconds=SECONDS), audio, waited, workers=3))
    assert len(found) == len(expected) == 11
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.features, other.features)
        assert replace(one, features=other.features) == other
    assert set(waited.seconds) == {"log_mel"}


def test_later_windows_are_made_while_the_first_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    made_by, third = set(), threading.Event()
    alone = windows._window

    def noticed(samples: Samples, *arguments: Any) -> Any:
        made_by.add(threading.current_thread().name)
        if samples[0] == 2:
            third.set()
        return alone(samples, *arguments)

    monkeypatch.setattr(windows, "_window", noticed)
    blocks = [np.full(SECONDS * 16_000, n, np.float32) for n in range(4)]
    given = mel_windows(
        blocks, LogMel(window_seconds=SECONDS), spec(LogMelSpec()), Timings(), workers=2
    )
    assert next(given).seconds == SECONDS
    assert third.wait(60), "it waits for the first to be used"
    given.close()
    assert threading.main_thread().name not in made_by
    assert not [t for t in threading.enumerate() if t.name.startswith("log-mel")]


def test_what_is_wrong_with_a_window_is_said_when_its_turn_comes() -> None:
    samples = np.tile(uneven(192_000), 2)
    samples[200_000] = np.nan
    given = mel_windows(
        [samples], LogMel(window_seconds=SECONDS), spec(LogMelSpec()), Timings(), workers=4
    )
    assert [next(given).seconds for _ in range(3)] == 3 * [SECONDS]
    with pytest.raises(AudioError, match="NaN"):
        next(given)
