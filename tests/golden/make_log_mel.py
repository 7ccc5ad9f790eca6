"""Writes ``log_mel.npz``: what transformers' Whisper extractor gives for the test signals.

Run it after a change of the signals or of transformers:

    .venv/bin/python tests/golden/make_log_mel.py

Every 30 s window goes through the extractor on its own, as the encoder hears it. Kept of each
window: every 7th bin of every 13th frame, the sum over all values, and the audio's frames.
"""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent

SECONDS = (1.0, 29.9, 30.0, 30.1, 75.0)
WINDOW = 480_000


def main() -> None:
    from transformers import WhisperFeatureExtractor

    speech_like = runpy.run_path(str(HERE.parent / "signals.py"))["speech_like"]
    golden = {}
    for mel_bins in (80, 128):
        extractor = WhisperFeatureExtractor(feature_size=mel_bins)
        for seconds in SECONDS:
            samples = speech_like(seconds)
            windows = [samples[at : at + WINDOW] for at in range(0, len(samples), WINDOW)]
            for number, window in enumerate(windows):
                out = extractor(
                    window, sampling_rate=16_000, return_tensors="np", return_attention_mask=True
                )
                features = out["input_features"][0]
                key = f"{mel_bins}/{seconds}/{number}"
                golden[f"{key}/values"] = features[::7, ::13].astype(np.float32)
                golden[f"{key}/sum"] = np.float64(features.sum(dtype=np.float64))
                golden[f"{key}/frames"] = np.int64(out["attention_mask"].sum())
    np.savez_compressed(HERE / "log_mel.npz", **golden)


if __name__ == "__main__":
    main()
