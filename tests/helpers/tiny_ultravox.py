"""Tiny random Ultravox checkpoints in their published layout, put together from transformers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from bench.byte_tokenizer import byte_tokenizer
from references import RATE, Family, Reference, Samples, by_windows, spread
from safetensors.torch import load_file, save_file
from tiny_families import LLAMA, TEMPLATE, llama
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

WIDTH, PROJECTED, HIDDEN, MEL_BINS = 32, 48, 64, 80


def write(folder: Path, *, stack: int = 8, norm_inside: bool = True, whole: bool = True) -> Path:
    """A checkpoint.

    Args:
        folder: to write.
        stack: encoder frames that make a token.
        norm_inside: of the projector: version 0.5 and later, or before.
        whole: whether the checkpoint holds encoder and language model, or names them.
    """
    torch.manual_seed(21)
    tokenizer = byte_tokenizer(
        LLAMA, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", pad_token="<pad>"
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    text = LlamaForCausalLM(LlamaConfig(**llama(tokenizer))).eval()
    text.generation_config.eos_token_id = tokenizer.eos_token_id
    whisper = WhisperModel(
        WhisperConfig(
            d_model=WIDTH,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=64,
            decoder_layers=1,
            decoder_attention_heads=2,
            decoder_ffn_dim=64,
            num_mel_bins=MEL_BINS,
            vocab_size=50,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
            decoder_start_token_id=1,
            init_std=0.2,
        )
    )
    spread(whisper)
    spread(text)
    last = {"ln_mid": PROJECTED // 2} if norm_inside else {"ln_post": HIDDEN}
    weights = {
        "ln_pre.weight": 0.4 + 0.1 * torch.randn(WIDTH * stack),
        "linear_1.weight": torch.randn(PROJECTED, WIDTH * stack) * 0.2,
        "linear_2.weight": torch.randn(HIDDEN, PROJECTED // 2) * 0.4,
        **{f"{name}.weight": 0.8 + 0.2 * torch.randn(size) for name, size in last.items()},
    }
    weights = {f"multi_modal_projector.{name}": value for name, value in weights.items()}
    config: dict[str, Any] = {
        "architectures": ["UltravoxModel"],
        "model_type": "ultravox",
        "stack_factor": stack,
        "hidden_size": PROJECTED,
        "projector_act": "swiglu",
        "projector_ln_mid": norm_inside,
    }
    whisper.save_pretrained(folder / "encoder")
    text.save_pretrained(folder / "language_model")
    if whole:
        config |= {
            "audio_config": whisper.config.to_dict(),
            "text_config": text.config.to_dict(),
        }
        weights |= {f"audio_tower.{n}": v for n, v in whisper.encoder.state_dict().items()}
        weights |= {f"language_model.{n}": v for n, v in text.state_dict().items()}
    else:
        config |= {
            "audio_model_id": str(folder / "encoder"),
            "text_model_id": str(folder / "language_model"),
        }
    save_file({n: v.contiguous() for n, v in weights.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


class Opened:
    """Whisper and Llama by transformers, and what stands between them written out."""

    audio_token = -1

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        self.extract = WhisperFeatureExtractor(feature_size=MEL_BINS)
        self.tower = WhisperModel.from_pretrained(folder / "encoder").encoder.eval()
        self.model = LlamaForCausalLM.from_pretrained(folder / "language_model").eval()
        weights = load_file(folder / "model.safetensors")
        self.weights = {name.split(".", 1)[1]: value for name, value in weights.items()}

    def inputs(self, samples: Samples, question: str) -> dict[str, torch.Tensor]:
        """Prompt ids, the audio's as -1."""
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": f"{question} <|audio|>"}],
            tokenize=False,
            add_generation_prompt=True,
        )
        ahead, behind = (
            self.tokenizer.encode(part, add_special_tokens=False)
            for part in text.split("<|audio|>")
        )
        audio = [self.audio_token] * len(self.audio(samples))
        return {"input_ids": torch.tensor([[*ahead, *audio, *behind]])}

    def audio(self, samples: Samples) -> torch.Tensor:
        """(tokens, hidden), every window by itself and without padding."""
        with torch.no_grad():
            return torch.cat([self._window(window) for window in by_windows(samples, 30)])

    def _window(self, samples: Samples) -> torch.Tensor:
        found = self.extract(samples, sampling_rate=RATE, return_tensors="pt")
        features = found["input_features"][:, :, : -(-len(samples) // 160)]
        tower = self.tower
        hidden = nn.functional.gelu(tower.conv1(features))
        hidden = nn.functional.gelu(tower.conv2(hidden)).transpose(1, 2)
        hidden = hidden + tower.embed_positions.weight[: hidden.shape[1]]
        for layer in tower.layers:
            hidden = layer(hidden, None)
        hidden = tower.layer_norm(hidden)[0]
        stack = self.config["stack_factor"]
        fill = torch.zeros(-len(hidden) % stack, WIDTH)
        stacked = torch.cat([hidden, fill]).reshape(-1, stack * WIDTH)
        value, gate = (self._norm(stacked, "ln_pre") @ self.weights["linear_1.weight"].T).chunk(
            2, -1
        )
        mixed = nn.functional.silu(gate) * value
        if self.config["projector_ln_mid"]:
            return self._norm(mixed, "ln_mid") @ self.weights["linear_2.weight"].T
        return self._norm(mixed @ self.weights["linear_2.weight"].T, "ln_post")

    def _norm(self, rows: torch.Tensor, name: str) -> torch.Tensor:
        scale = (rows.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt()
        return rows * scale * self.weights[f"{name}.weight"]


def tokens(stack: int, samples: int) -> int:
    """Audio tokens of so many samples."""
    windows, rest = divmod(samples, 30 * RATE)
    of_window = math.ceil(1500 / stack)
    return windows * of_window + math.ceil(math.ceil(rest / 160) / (2 * stack))


def opened(folder: Path) -> Reference:
    """The checkpoint, put together."""
    return Opened(folder)


STATES = (
    Family("ultravox", "ultravox", write, opened, lambda n: tokens(8, n)),
    Family(
        "ultravox-0.4",
        "ultravox",
        lambda folder: write(folder, stack=5, norm_inside=False, whole=False),
        opened,
        lambda n: tokens(5, n),
        frame_tokens=10,
    ),
)
