"""Tiny random Qwen3-ASR checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from bench.byte_tokenizer import byte_tokenizer
from references import Family, Reference, Samples, spread
from transformers import (
    Qwen3ASRConfig,
    Qwen3ASREncoderConfig,
    Qwen3ASRFeatureExtractor,
    Qwen3ASRForConditionalGeneration,
    Qwen3ASRProcessor,
    Qwen3Config,
)

CONTROLS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|audio_pad|>",
    "<|audio_start|>",
    "<|audio_end|>",
    "<asr_text>",
)
AUDIO = "<|audio_start|><|audio_pad|><|audio_end|>"
CONTEXT = (
    "{% set ns = namespace(text='') %}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{% for part in m['content'] %}{% set ns.text = ns.text + part['text'] %}{% endfor %}"
    "{% endif %}{% endfor %}<|im_start|>system\n{{ ns.text }}<|im_end|>\n<|im_start|>user\n"
    "{% for m in messages %}{% if m['role'] == 'user' %}{% for part in m['content'] %}"
    "{% if part['type'] == 'audio' %}" + AUDIO + "{% endif %}{% endfor %}{% endif %}{% endfor %}"
    "<|im_end|>\n{% for m in messages %}{% if m['role'] == 'assistant' %}<|im_start|>assistant\n"
    "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}<|im_end|>\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As published: text of the user's is left out, the system's is the context."""
QUESTIONS = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for part in m['content'] %}"
    "{% if part['type'] == 'audio' %}" + AUDIO + "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As a fine-tune that answers questions would have it."""


def write(folder: Path, template: str = CONTEXT, seconds: int = 30, **encoder: Any) -> Path:
    """A checkpoint of the family's own class.

    Args:
        folder: to write.
        template: of its chats.
        seconds: ``chunk_length`` of its feature extractor.
        **encoder: settings of its audio encoder.
    """
    torch.manual_seed(5)
    tokenizer = byte_tokenizer(
        CONTROLS,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens={
            "audio_token": "<|audio_pad|>",
            "audio_bos_token": "<|audio_start|>",
            "audio_eos_token": "<|audio_end|>",
        },
    )
    config = Qwen3ASRConfig(
        audio_config=Qwen3ASREncoderConfig(
            **{
                "num_mel_bins": 128,
                "encoder_layers": 2,
                "encoder_attention_heads": 2,
                "encoder_ffn_dim": 64,
                "d_model": 32,
                "output_dim": 64,
                "downsample_hidden_size": 8,
                "initializer_range": 0.2,
            }
            | encoder
        ),
        text_config=Qwen3Config(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=32,
            vocab_size=len(tokenizer),
            max_position_embeddings=8192,
            tie_word_embeddings=True,
            initializer_range=0.3,
            eos_token_id=tokenizer.eos_token_id,
        ),
        audio_token_id=tokenizer.convert_tokens_to_ids("<|audio_pad|>"),
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen3ASRForConditionalGeneration(config).eval()
    spread(model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    Qwen3ASRProcessor(
        Qwen3ASRFeatureExtractor(chunk_length=seconds), tokenizer, chat_template=template
    ).save_pretrained(folder)
    return folder


class Opened:
    """The checkpoint by its own class and processor."""

    def __init__(self, folder: Path) -> None:
        self.processor = Qwen3ASRProcessor.from_pretrained(folder)
        cls = Qwen3ASRForConditionalGeneration
        self.model = cls.from_pretrained(folder, dtype=torch.float32).eval()
        self.audio_token: int = self.model.config.audio_token_id

    def inputs(self, samples: Samples, question: str) -> dict[str, torch.Tensor]:
        """What ``generate`` takes."""
        audio, text = {"type": "audio", "audio": samples}, {"type": "text", "text": question}
        turns = [{"role": "user", "content": [audio, text]}]
        if self.processor.chat_template == CONTEXT:
            turns = [{"role": "system", "content": [text]}, {"role": "user", "content": [audio]}]
        prompt = self.processor.apply_chat_template(
            turns, tokenize=False, add_generation_prompt=True
        )
        return dict(self.processor(text=[prompt], audio=[samples]))

    def audio(self, samples: Samples) -> torch.Tensor:
        """(tokens, hidden) audio embeddings."""
        given = self.inputs(samples, "?")
        with torch.no_grad():
            found = self.model.get_audio_features(
                given["input_features"], given["input_features_mask"]
            )
        heard: torch.Tensor = found.pooler_output
        return heard


def tokens(samples: int) -> int:
    """Audio tokens of so many samples: 13 a second, and of half a second at least."""
    whole, rest = divmod(max(samples, 8000) // 160, 100)
    return 13 * whole + -(-rest // 8)


def opened(folder: Path) -> Reference:
    """The checkpoint by its own class."""
    return Opened(folder)


STATES = (
    Family("qwen3-asr", "qwen3_asr", write, opened, tokens, seconds=24.0, frame_tokens=13),
    Family(
        "qwen3-asr-questions",
        "qwen3_asr",
        lambda folder: write(folder, QUESTIONS, 10, n_window_infer=200),
        opened,
        tokens,
        seconds=10.0,
        frame_tokens=13,
    ),
)
