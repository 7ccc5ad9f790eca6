"""The audio encoder of a checkpoint as CTranslate2 reads it, for faster-whisper.

    python to_ctranslate2.py CHECKPOINT FOLDER

Runs where CTranslate2 is installed. Its Whisper needs a decoder, too: one layer of zeros, which
nobody runs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.specs import WhisperSpec
from numpy.typing import NDArray
from safetensors import safe_open

TOWER = "audio_tower."

Weights = dict[str, NDArray[np.float32]]


def tower_weights(checkpoint: Path) -> Weights:
    """Weights of the audio tower, by their names within it."""
    found: Weights = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                if TOWER in name:
                    values = file.get_tensor(name).astype(np.float32)
                    found[name.partition(TOWER)[2]] = values
    if not found:
        raise SystemExit(f"{checkpoint} holds no audio tower: give a Qwen2-Audio folder.")
    return found


def linear(spec: Any, weights: Weights, *names: str) -> None:
    """One matrix, or several that CTranslate2 keeps as one."""
    parts = [weights[f"{name}.weight"] for name in names]
    spec.weight = np.concatenate(parts)
    # Whisper's keys have no bias.
    biases = [
        weights.get(f"{n}.bias", np.zeros(len(p), np.float32))
        for n, p in zip(names, parts, strict=True)
    ]
    spec.bias = np.concatenate(biases)


def norm(spec: Any, weights: Weights, name: str) -> None:
    """Scale and shift."""
    spec.gamma, spec.beta = weights[f"{name}.weight"], weights[f"{name}.bias"]


def fill_encoder(spec: Any, weights: Weights, layers: int) -> None:
    """All of the encoder."""
    for name in ("conv1", "conv2"):
        convolution = getattr(spec, name)
        convolution.weight, convolution.bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
    spec.position_encodings.encodings = weights["embed_positions.weight"]
    norm(spec.layer_norm, weights, "layer_norm")
    for number in range(layers):
        layer, name = spec.layer[number], f"layers.{number}"
        attention = layer.self_attention
        norm(attention.layer_norm, weights, f"{name}.self_attn_layer_norm")
        projections = (f"{name}.self_attn.{which}_proj" for which in "qkv")
        linear(attention.linear[0], weights, *projections)
        linear(attention.linear[1], weights, f"{name}.self_attn.out_proj")
        norm(layer.ffn.layer_norm, weights, f"{name}.final_layer_norm")
        linear(layer.ffn.linear_0, weights, f"{name}.fc1")
        linear(layer.ffn.linear_1, weights, f"{name}.fc2")


def fill_decoder(spec: Any, width: int, vocabulary: int) -> None:
    """Zeros of the right shapes."""

    def zeros(*shape: int) -> NDArray[np.float32]:
        return np.zeros(shape, np.float32)

    spec.embeddings.weight = zeros(vocabulary, width)
    spec.projection.weight = zeros(vocabulary, width)
    spec.position_encodings.encodings = zeros(448, width)
    layer = spec.layer[0]
    norms = (spec.layer_norm, layer.self_attention.layer_norm, layer.attention.layer_norm,
             layer.ffn.layer_norm)  # fmt: skip
    for one in norms:
        one.gamma, one.beta = zeros(width), zeros(width)
    shapes = (
        (layer.self_attention.linear[0], 3), (layer.self_attention.linear[1], 1),
        (layer.attention.linear[0], 1), (layer.attention.linear[1], 2),
        (layer.attention.linear[2], 1), (layer.ffn.linear_0, 1), (layer.ffn.linear_1, 1),
    )  # fmt: skip
    for one, times in shapes:
        one.weight, one.bias = zeros(times * width, width), zeros(times * width)


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    config = json.loads((arguments.checkpoint / "config.json").read_text(encoding="utf-8"))
    audio = config["audio_config"]
    weights = tower_weights(arguments.checkpoint)
    layers, heads = audio["encoder_layers"], audio["encoder_attention_heads"]
    spec = WhisperSpec(layers, heads, 1, heads)
    fill_encoder(spec.encoder, weights, layers)
    # The special tokens by which CTranslate2 knows a multilingual Whisper.
    tokens = ["<|endoftext|>", "<|startoftranscript|>", "<|nospeech|>", "<|notimestamps|>"]
    fill_decoder(spec.decoder, audio["d_model"], len(tokens))
    spec.register_vocabulary(tokens)
    spec.config.alignment_heads, spec.config.lang_ids = [(0, 0)], [1]
    spec.config.suppress_ids, spec.config.suppress_ids_begin = [], []
    spec.validate()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(arguments.folder))


if __name__ == "__main__":
    main()
