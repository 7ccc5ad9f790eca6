"""The encoder of the small model in two halves: frozen lower layers, trained upper ones.

Training stores what the lower half makes of the audio, once, and runs the upper half only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 - its customary name
import transformers
from transformers.audio_utils import mel_filter_bank

from small_model.training.voices import RATE, Samples

library: Any = transformers

Half = npt.NDArray[np.float16]

HOP = 160  # samples a mel frame: 10 ms
FRAME_RATE = 50  # encoder frames a second, after the second convolution's stride of 2
TOKEN_RATE = 25  # audio tokens a second, after pooling by 2
WINDOW_S = 30
WINDOW_TOKENS = WINDOW_S * TOKEN_RATE
WINDOW_FRAMES = WINDOW_S * FRAME_RATE
PREFIX_TOWER = "audio_tower."


def load_model(folder: Path) -> Any:
    """The checkpoint as ``Qwen2AudioForConditionalGeneration`` in float32, not training."""
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    model = library.Qwen2AudioForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    return model.eval().requires_grad_(False)


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
                hidden = first(layer(hidden, attention_mask=None))
        return hidden[0].to(torch.float16).numpy()


class Upper(torch.nn.Module):
    """Upper encoder layers, pooling, LayerNorm and projector: what alignment trains.

    Args:
        model: ``Qwen2AudioForConditionalGeneration``; its modules are taken, not copied.
        lower: Number of layers that belong to the lower half.
    """

    def __init__(self, model: Any, lower: int) -> None:
        super().__init__()
        tower = model.model.audio_tower
        self.lower = lower
        self.layers = torch.nn.ModuleList(tower.layers[lower:])
        self.layer_norm = tower.layer_norm
        self.projector = model.model.multi_modal_projector

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Stored features to audio tokens.

        Args:
            hidden: (batch, frames, width).
            mask: (batch, 1, 1, frames), added to attention scores; None where all are full.

        Returns:
            (batch, frames // 2, hidden size of the language model), float32.
        """
        if self.training:
            # Cast once a step; autocast would cast every activation as well.
            hidden = hidden.to(torch.bfloat16)
            for layer in self.layers:
                cast = {name: p.to(torch.bfloat16) for name, p in layer.named_parameters()}
                inputs = {"attention_mask": None if mask is None else mask.to(torch.bfloat16)}
                hidden = first(torch.func.functional_call(layer, cast, (hidden,), inputs))
        else:
            with torch.autocast(hidden.device.type, torch.bfloat16):
                for layer in self.layers:
                    hidden = first(layer(hidden, attention_mask=mask))
        pooled = F.avg_pool1d(hidden.permute(0, 2, 1).float(), 2, 2).permute(0, 2, 1)
        projected: torch.Tensor = self.projector(self.layer_norm(pooled))
        return projected

    def named_tensors(self) -> dict[str, torch.Tensor]:
        """Its weights under the names of the checkpoint file."""
        names: dict[str, torch.Tensor] = {}
        for name, values in self.state_dict().items():
            head, _, rest = name.partition(".")
            if head == "layers":
                index, _, rest = rest.partition(".")
                names[f"{PREFIX_TOWER}layers.{int(index) + self.lower}.{rest}"] = values
            elif head == "layer_norm":
                names[f"{PREFIX_TOWER}layer_norm.{rest}"] = values
            else:
                names[f"multi_modal_projector.{rest}"] = values
        return names

    @torch.no_grad()
    def encode(self, windows: list[Half]) -> torch.Tensor:
        """Windows of one recording to its audio tokens, (tokens, hidden) float32."""
        device = self.layer_norm.weight.device
        tokens = [self(torch.from_numpy(w).float()[None].to(device))[0] for w in windows]
        return torch.cat(tokens)


def first(output: Any) -> torch.Tensor:
    """A layer's hidden states, alone or first of a tuple, by version of transformers."""
    hidden: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return hidden
