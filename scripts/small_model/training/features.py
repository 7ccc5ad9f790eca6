"""The frozen lower half of the encoder: what it makes of the audio is stored once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - its customary name
from transformers.audio_utils import mel_filter_bank

from small_model.training.voices import RATE, Samples

Half = npt.NDArray[np.float16]

HOP = 160  # samples a mel frame: 10 ms
FRAME_RATE = 50  # encoder frames a second, after the second convolution's stride of 2
WINDOW_S = 30
WINDOW_FRAMES = WINDOW_S * FRAME_RATE


class LogMel:
    """Whisper's log-mel spectrogram in torch: equal to its feature extractor."""

    def __init__(self, bins: int = 80) -> None:
        filters = mel_filter_bank(201, bins, 0.0, 8000.0, RATE, norm="slaney", mel_scale="slaney")
        self._filters = torch.from_numpy(filters.T.astype(np.float32))
        self._window = torch.hann_window(400)

    def __call__(self, samples: Samples) -> torch.Tensor:
        """(n,) samples at 16 kHz to (1, bins, n // 160)."""
        wave = torch.from_numpy(samples)
        spectrum = torch.stft(wave, 400, HOP, window=self._window, return_complex=True)
        power = spectrum[..., :-1].abs().square()
        mel = (self._filters @ power).clamp(min=1e-10).log10()
        mel = torch.maximum(mel, mel.max() - 8.0)
        return ((mel + 4.0) / 4.0)[None]


class Lower:
    """Convolutions and the lower encoder layers.

    Args:
        tower: ``Qwen2AudioEncoder``.
        layers: Number of layers that belong to the lower half.
    """

    def __init__(self, tower: Any, layers: int) -> None:
        self._tower, self._layers, self._mel = tower, layers, LogMel()

    @torch.inference_mode()
    def __call__(self, samples: Samples) -> Half:
        """At most 30 s of audio, (n,), to (frames, width) float16 at 50 frames a second."""
        mel = self._mel(samples)[..., : 2 * WINDOW_FRAMES]
        mel = mel[..., : mel.shape[-1] // 4 * 4]
        tower = self._tower
        with torch.autocast("cpu", torch.bfloat16):
            hidden = F.gelu(tower.conv1(mel))
            hidden = F.gelu(tower.conv2(hidden)).permute(0, 2, 1).float()
            hidden = hidden + tower.embed_positions.weight[: hidden.shape[1]]
            for layer in tower.layers[: self._layers]:
                hidden = layer(hidden, attention_mask=None)
        stored: Half = hidden[0].to(torch.float16).numpy()
        return stored
