"""Log-mel equals transformers' Whisper extractor: on golden files, and value by value."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from paths import GOLDEN
from signals import speech_like

from speechprune_ort import AudioError, OptionError
from speechprune_ort.runtime.hearing.audio import stream_windows
from speechprune_ort.runtime.hearing.features import LogMel

LOG_MEL = GOLDEN / "log_mel.npz"
TOLERANCE = 1e-4


@pytest.mark.parametrize("mel_bins", [80, 128])
@pytest.mark.parametrize(
    ("seconds", "windows"), [(1.0, 1), (29.9, 1), (30.0, 1), (30.1, 2), (75.0, 3)]
)
def test_golden_recordings(seconds: float, windows: int, mel_bins: int) -> None:
    extract = LogMel(mel_bins=mel_bins)
    features, lengths = extract.windows(list(stream_windows([speech_like(seconds)], 480_000)))
    assert features.shape == (windows, mel_bins, 3000)
    assert features.dtype == np.float32
    with np.load(LOG_MEL) as golden:
        for number in range(windows):
            key = f"{mel_bins}/{seconds}/{number}"
            np.testing.assert_allclose(
                features[number, ::7, ::13], golden[f"{key}/values"], rtol=0, atol=TOLERANCE
            )
            total = features[number].sum(dtype=np.float64)
            assert total == pytest.approx(float(golden[f"{key}/sum"]), rel=1e-6, abs=0.5)
            assert lengths[number] == golden[f"{key}/frames"]


@pytest.mark.export
@pytest.mark.parametrize("mel_bins", [80, 128])
@pytest.mark.parametrize(
    "samples", [1, 2, 159, 160, 161, 199, 200, 201, 400, 401, 16_001, 479_599, 479_799, 479_800,
                479_801, 479_999, 480_000],
)  # fmt: skip
def test_every_value_of_awkward_lengths(samples: int, mel_bins: int) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is the reference")
    window = speech_like(30.0)[-samples:] + np.float32(0.01)
    out = transformers.WhisperFeatureExtractor(feature_size=mel_bins)(
        window, sampling_rate=16_000, return_tensors="np", return_attention_mask=True
    )
    features, valid = LogMel(mel_bins=mel_bins)(window)
    np.testing.assert_allclose(features, out["input_features"][0], rtol=0, atol=TOLERANCE)
    assert valid == out["attention_mask"].sum()


@pytest.mark.export
@pytest.mark.parametrize("hertz", [50.0, 437.3, 7_900.0])
def test_a_loud_tone_leaks_nowhere(hertz: float) -> None:
    # 8 decades below a pure tone is where single precision shows first. Measured against the
    # extractor's own double precision form: its torch form is the less exact of the two.
    transformers = pytest.importorskip("transformers", reason="transformers is the reference")
    at = np.arange(480_000) / 16_000
    tone = (0.9 * np.sin(2 * np.pi * hertz * at)).astype(np.float32)
    extractor = transformers.WhisperFeatureExtractor(feature_size=128)
    expected = extractor._np_extract_fbank_features(tone[None], "cpu")[0]
    np.testing.assert_allclose(LogMel(mel_bins=128)(tone)[0], expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(
    "window",
    [
        np.zeros(0, np.float32),
        np.zeros(480_001, np.float32),
        np.zeros((2, 16_000), np.float32),
        np.array([0.1, np.nan], np.float32),
        np.array([0.1, -np.inf], np.float32),
    ],
    ids=["empty", "too long", "two channels", "NaN", "infinite"],
)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_windows_that_are_none(window: NDArray[np.float32]) -> None:
    with pytest.raises(AudioError, match="window"):
        LogMel()(window)


@pytest.mark.parametrize("name", ["sampling_rate", "n_fft", "hop_length", "mel_bins"])
def test_an_extractor_needs_positive_sizes(name: str) -> None:
    with pytest.raises(OptionError, match=name):
        LogMel(**{name: 0})


def test_windows_are_scaled_each_by_its_own_loudest() -> None:
    loud, quiet = speech_like(2.0, seed=1), speech_like(1.0, seed=2) * np.float32(0.01)
    together, lengths = LogMel().windows([loud, quiet])
    assert lengths.tolist() == [200, 100]
    for features, window in zip(together, (loud, quiet), strict=True):
        np.testing.assert_array_equal(features, LogMel()(window)[0])


def test_silence_and_padding_are_the_same_floor() -> None:
    silence: NDArray[np.float32] = np.zeros(16_000, np.float32)
    features, valid = LogMel()(silence)
    assert valid == 100
    np.testing.assert_array_equal(features, features[0, 0])
