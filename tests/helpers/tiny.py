"""Tiny random Qwen2-Audio checkpoints: every shape of text model, seconds to export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from bench.byte_tokenizer import byte_tokenizer
from transformers import (
    LlamaConfig,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    WhisperFeatureExtractor,
)

CONTROLS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|AUDIO|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
)


@dataclass(frozen=True)
class Tiny:
    """What varies between the tiny checkpoints."""

    text: str = "llama"
    kv_heads: int = 2
    tied: bool = False
    mel_bins: int = 80
    heads: int = 4
    head_dim: int = 16
    seed: int = 0
    negative_gains: bool = False
    spread: float = 0.3  # of the weights: a narrow random model repeats one token
    between: int = 96  # width between the two products of a layer
    vocab: int | None = None  # rows of embedding and head, where they are more than tokens

    @property
    def name(self) -> str:
        grouped = "gqa" if self.kv_heads < self.heads else "mha"
        return f"{self.text}-{grouped}-{'tied' if self.tied else 'untied'}-{self.mel_bins}"


def write_checkpoint(folder: Path, tiny: Tiny) -> Path:
    """Write a random checkpoint whose answers vary from token to token."""
    torch.manual_seed(tiny.seed)
    fast = byte_tokenizer(CONTROLS, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    text = {
        "hidden_size": tiny.heads * tiny.head_dim,
        "intermediate_size": tiny.between,
        "num_hidden_layers": 2,
        "num_attention_heads": tiny.heads,
        "num_key_value_heads": tiny.kv_heads,
        "vocab_size": tiny.vocab or len(fast),
        "max_position_embeddings": 8192,
        "tie_word_embeddings": tiny.tied,
        "eos_token_id": fast.convert_tokens_to_ids("<|im_end|>"),
        "bos_token_id": None,
        "initializer_range": tiny.spread,
    }
    config = Qwen2AudioConfig(
        audio_config=Qwen2AudioEncoderConfig(
            d_model=32,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=64,
            num_mel_bins=tiny.mel_bins,
        ),
        text_config={"llama": LlamaConfig, "qwen2": Qwen2Config}[tiny.text](**text),
        audio_token_index=fast.convert_tokens_to_ids("<|AUDIO|>"),
    )
    model = Qwen2AudioForConditionalGeneration(config).eval()
    inner = model.model.language_model
    with torch.no_grad():
        for parameter in model.model.multi_modal_projector.parameters():
            parameter.normal_(std=0.3)
        for name, parameter in inner.named_parameters():
            if name.endswith("bias"):  # qwen2's biases start at zero, where a slip would hide
                parameter.normal_(std=0.3)
        if tiny.tied:
            model.lm_head.weight.copy_(inner.embed_tokens.weight)
        if tiny.negative_gains:
            inner.layers[0].input_layernorm.weight[::3] *= -1
    model.generation_config.eos_token_id = fast.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = fast.convert_tokens_to_ids("<|endoftext|>")
    model.save_pretrained(folder)
    Qwen2AudioProcessor(
        feature_extractor=WhisperFeatureExtractor(feature_size=tiny.mel_bins), tokenizer=fast
    ).save_pretrained(folder)
    return folder


TINY = tuple(
    Tiny(
        text=text,
        kv_heads=kv_heads,
        tied=tied,
        mel_bins=128 if (text == "qwen2") != tied else 80,
        seed=number,
        negative_gains=number % 3 == 0,
    )
    for number, (text, kv_heads, tied) in enumerate(
        (text, kv_heads, tied)
        for text in ("llama", "qwen2")
        for kv_heads in (2, 4)
        for tied in (False, True)
    )
)
