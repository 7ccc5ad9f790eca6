"""The frozen lower half of the encoder: what it makes of the audio is stored once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - its customary name

from small_model.assemble import library
from small_model.training.encoder import LOWER_LAYERS
from small_model.training.voices import RATE, Samples

Half = npt.NDArray[np.float16]

FRAME_RATE = 50  # encoder frames a second, after the second convolution's stride of 2
WINDOW_S = 30
WINDOW_FRAMES = WINDOW_S * FRAME_RATE


class Lower:
    """Convolutions and the lower layers of a ``Qwen2AudioEncoder``."""

    def __init__(self, tower: Any) -> None:
        self._tower, self._log_mel = tower, library.WhisperFeatureExtractor()

    @torch.inference_mode()
    def __call__(self, samples: Samples) -> Half:
        """At most 30 s of audio, (n,), to (frames, width) float16 at 50 frames a second."""
        mel = self._log_mel(
            samples, sampling_rate=RATE, padding="longest", truncation=False, return_tensors="pt"
        )["input_features"]
        mel = mel[..., : 2 * WINDOW_FRAMES]
        mel = mel[..., : mel.shape[-1] // 4 * 4]
        tower = self._tower
        with torch.autocast("cpu", torch.bfloat16):
            hidden = F.gelu(tower.conv1(mel))
            hidden = F.gelu(tower.conv2(hidden)).permute(0, 2, 1).float()
            hidden = hidden + tower.embed_positions.weight[: hidden.shape[1]]
            for layer in tower.layers[:LOWER_LAYERS]:
                hidden = layer(hidden, attention_mask=None)
        stored: Half = hidden[0].to(torch.float16).numpy()
        return stored
