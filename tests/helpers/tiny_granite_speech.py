"""Tiny random Granite Speech checkpoints, with their LoRA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from bench.byte_tokenizer import byte_tokenizer
from peft import LoraConfig, get_peft_model
from references import RATE, Family, Reference, Samples, spread
from transformers import (
    Blip2QFormerConfig,
    GraniteConfig,
    GraniteSpeechConfig,
    GraniteSpeechEncoderConfig,
    GraniteSpeechForConditionalGeneration,
    PreTrainedTokenizerFast,
)
from transformers.audio_utils import mel_filter_bank

CONTROLS = (
    "<|end_of_text|>",
    "<|start_of_role|>",
    "<|end_of_role|>",
    "<|audio|>",
    "<|pad|>",
)
TEMPLATE = (
    "{% for m in messages %}<|start_of_role|>{{ m['role'] }}<|end_of_role|>{{ m['content'] }}"
    "<|end_of_text|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start_of_role|>assistant<|end_of_role|>{% endif %}"
)
SECONDS = 24


def write(folder: Path, *, lora: bool = False, window: int = 15, **encoder: Any) -> Path:
    """A checkpoint of the family's own class.

    Args:
        folder: to write.
        lora: whether a LoRA of its own lies beside the weights, as in published ones.
        window: frames under the Q-Former.
        **encoder: settings of its audio encoder.
    """
    torch.manual_seed(7)
    tokenizer = byte_tokenizer(CONTROLS, eos_token="<|end_of_text|>", pad_token="<|pad|>")
    tokenizer.chat_template = TEMPLATE
    settings = {
        "num_layers": 3,
        "hidden_dim": 32,
        "num_heads": 2,
        "output_dim": 11,
        "context_size": 40,
        "max_pos_emb": 64,
        "conv_kernel_size": 15,
        "initializer_range": 0.2,
    }
    config = GraniteSpeechConfig(
        encoder_config=GraniteSpeechEncoderConfig(**settings | encoder),
        projector_config=Blip2QFormerConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            encoder_hidden_size=32,
            cross_attention_frequency=1,
            initializer_range=0.3,
        ),
        text_config=GraniteConfig(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=len(tokenizer),
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            initializer_range=0.3,
            embedding_multiplier=3.0,
            attention_multiplier=0.3,
            residual_multiplier=0.7,
            logits_scaling=2.0,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
        ),
        audio_token_index=tokenizer.convert_tokens_to_ids("<|audio|>"),
        has_lora_adapter=lora,
        window_size=window,
        bundle_window_seconds=SECONDS,
    )
    model = GraniteSpeechForConditionalGeneration(config).eval()
    spread(model)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.3)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2.0)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    features = {
        "sampling_rate": RATE,
        "melspec_kwargs": {"n_fft": 512, "win_length": 400, "hop_length": 160, "n_mels": 80},
        "projector_window_size": window,
        "projector_downsample_rate": 5,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(features))
    if lora:
        wrapped = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
        with torch.no_grad():
            for name, parameter in wrapped.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.2)
        wrapped.save_pretrained(folder)
    return folder


def log_mel(samples: Samples) -> torch.Tensor:
    """(1, frames, 160), as GraniteSpeechFeatureExtractor makes them with torchaudio."""
    taper = torch.hann_window(400)
    wave = torch.from_numpy(samples)
    found = torch.stft(wave, 512, 160, 400, taper, return_complex=True, pad_mode="reflect")
    filters = mel_filter_bank(257, 80, 0.0, 8000.0, RATE, norm=None, mel_scale="htk")
    mel = torch.from_numpy(filters).float().T @ found.abs() ** 2
    decades = mel.T.clip(min=1e-10).log10()
    features = torch.maximum(decades, decades.max() - 8.0) / 4 + 1
    return features[: len(features) // 2 * 2].reshape(1, -1, 160)


class Opened:
    """The checkpoint by its own class; its encoder hears one window after the other."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        cls = GraniteSpeechForConditionalGeneration
        self.model = cls.from_pretrained(folder, dtype=torch.float32).eval()
        self.audio_token: int = self.model.config.audio_token_index
        whole = self.model.model.get_audio_features

        def by_windows(features: torch.Tensor, **options: Any) -> Any:
            found = [whole(part, **options) for part in features.split(SECONDS * 50, dim=1)]
            found[0].pooler_output = torch.cat([part.pooler_output for part in found], dim=1)
            return found[0]

        self.model.model.get_audio_features = by_windows

    def inputs(self, samples: Samples, question: str) -> dict[str, torch.Tensor]:
        """What ``generate`` takes."""
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": f"<|audio|>{question}"}],
            tokenize=False,
            add_generation_prompt=True,
        )
        text = text.replace("<|audio|>", "<|audio|>" * tokens(len(samples)))
        ids = self.tokenizer(text, return_tensors="pt")
        return {
            "input_ids": ids["input_ids"],
            "attention_mask": ids["attention_mask"],
            "input_features": log_mel(samples),
        }

    def audio(self, samples: Samples) -> torch.Tensor:
        """(tokens, hidden) audio embeddings."""
        with torch.no_grad():
            found = self.model.model.get_audio_features(log_mel(samples), return_dict=True)
        heard: torch.Tensor = found.pooler_output[0]
        return heard


def tokens(samples: int) -> int:
    """Audio tokens of so many samples, by GraniteSpeechFeatureExtractor's own formula."""
    return 3 * -(-((samples // 160 + 1) // 2) // 15)


def opened(folder: Path) -> Reference:
    """The checkpoint by its own class."""
    return Opened(folder)


STATES = (
    Family(
        "granite-speech",
        "granite_speech",
        lambda folder: write(folder, lora=True),
        opened,
        tokens,
        seconds=float(SECONDS),
        span_tokens=3,
        frame_tokens=9,
    ),
)
