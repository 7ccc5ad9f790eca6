"""Encoder and language model of a checkpoint, written by optimum (transformers 4)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from speechprune_ort.contract.specs import Dimensions
from speechprune_ort.errors import ExportError

__all__ = ["export_with_optimum", "load_with_transformers_4"]

OPSET = 18
# Keys of a checkpoint as transformers 5 has its modules, and where transformers 4 has them.
KEYS_OF_4 = (
    ("model.language_model.", "language_model.model."),
    ("model.audio_tower.", "audio_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)


def load_with_transformers_4(checkpoint: Path) -> Any:
    """Load a Qwen2-Audio folder that transformers 4 or 5 saved, in float32.

    Raises:
        ExportError: it is missing, of another architecture, or incomplete.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file
    from transformers import Qwen2AudioConfig, Qwen2AudioForConditionalGeneration

    content = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    text = content.get("text_config", {})
    # transformers 4 ignores the key of transformers 5 and would rotate by its own default.
    rope = text.pop("rope_parameters", None) or {}
    if "rope_theta" in rope:
        text["rope_theta"] = rope.pop("rope_theta")
    if rope.get("rope_type", "default") != "default":
        text["rope_scaling"] = rope
    weights = {}
    try:
        for file in sorted(checkpoint.glob("*.safetensors")):
            weights.update({_key_of_4(key): value for key, value in load_file(file).items()})
        model, info = Qwen2AudioForConditionalGeneration.from_pretrained(
            None,
            config=Qwen2AudioConfig.from_dict(content),
            state_dict=weights,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ExportError(
            f"transformers 4 cannot load {checkpoint} ({str(error).strip().splitlines()[0]}): "
            "check that config.json and the weights are whole."
        ) from error
    wrong = sorted({*info["missing_keys"], *info["unexpected_keys"]})
    if wrong:
        raise ExportError(
            f"{len(wrong)} weights of {checkpoint} have no place in transformers 4 or are "
            f"missing (first: {wrong[0]}): give a complete checkpoint."
        )
    return model.eval().requires_grad_(False)


def _key_of_4(key: str) -> str:
    for of_5, of_4 in KEYS_OF_4:
        if key.startswith(of_5):
            return of_4 + key.removeprefix(of_5)
    return key


def export_with_optimum(model: Any, dims: Dimensions, folder: Path) -> tuple[Path, Path]:
    """Write encoder and language model with optimum; returns (encoder, language model)."""
    import torch
    from optimum.exporters.onnx import OnnxConfig, export, onnx_export_from_model
    from optimum.utils import NormalizedConfig

    class AudioEncoder(torch.nn.Module):
        """Tower and projector, the mask as Qwen2AudioForConditionalGeneration makes it."""

        def __init__(self) -> None:
            super().__init__()
            self.config = model.config
            self.tower = model.audio_tower
            self.projector = model.multi_modal_projector

        def forward(self, input_features: Any, feature_lengths: Any) -> Any:
            """(windows, mel_bins, frames), (windows,) -> (windows, window_tokens, hidden)."""
            frames = (input_features.shape[-1] - 2) // 2 + 1
            lengths = (feature_lengths - 1) // 2 + 1
            padding = torch.arange(frames)[None] >= lengths[:, None]
            square = padding[:, None, None, :].expand(-1, 1, frames, frames)
            mask = torch.zeros_like(square, dtype=torch.float32).masked_fill(square, -torch.inf)
            return self.projector(self.tower(input_features, mask).last_hidden_state)

    class AudioEncoderConfig(OnnxConfig):  # type: ignore[misc]
        """Names and axes as our ``audio_encoder`` has them."""

        NORMALIZED_CONFIG_CLASS = NormalizedConfig
        inputs = {"input_features": {0: "windows"}, "feature_lengths": {0: "windows"}}  # noqa: RUF012
        outputs = {"audio_embeds": {0: "windows"}}  # noqa: RUF012

        def generate_dummy_inputs(self, framework: str = "pt", **_: Any) -> dict[str, Any]:
            """Two windows: a trace would take one for a constant."""
            dummy = {
                "input_features": torch.zeros(2, dims.mel_bins, dims.frames),
                "feature_lengths": torch.tensor([dims.frames, dims.frames // 2]),
            }
            return dummy if framework == "pt" else {k: v.numpy() for k, v in dummy.items()}

    encoder, language_model = folder / "audio_encoder.onnx", folder / "language_model"
    export(AudioEncoder().eval(), AudioEncoderConfig(model.config), encoder, opset=OPSET)
    onnx_export_from_model(
        model.language_model,
        language_model,
        opset=OPSET,
        task="text-generation-with-past",
        do_validation=False,  # compared here, with more than its two dummy inputs
    )
    return encoder, language_model / "model.onnx"
