"""Tiny random GLM-ASR checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from bench.byte_tokenizer import byte_tokenizer
from references import Family, Reference, Samples, spread
from transformers import (
    GlmAsrConfig,
    GlmAsrEncoderConfig,
    GlmAsrForConditionalGeneration,
    GlmAsrProcessor,
    LlamaConfig,
    WhisperFeatureExtractor,
)

CONTROLS = (
    "<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|pad|>", "<|begin_of_audio|>",
    "<|end_of_audio|>",
)  # fmt: skip
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n"
    "{% for part in message['content'] %}{% if part['type'] == 'audio' %}"
    "<|begin_of_audio|><|pad|><|end_of_audio|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}<|endoftext|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def write(folder: Path, key_heads: int = 4, frames: int = 1500, inner: int = 128) -> Path:
    """A checkpoint of the family's own class.

    Args:
        folder: to write.
        key_heads: of the audio encoder's four.
        frames: of the encoder's window, 20 ms each.
        inner: width within a layer of the encoder, and of what its frames are joined to.
    """
    torch.manual_seed(31)
    tokenizer = byte_tokenizer(CONTROLS, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    config = GlmAsrConfig(
        audio_config=GlmAsrEncoderConfig(
            hidden_size=32,
            intermediate_size=inner,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=key_heads,
            max_position_embeddings=frames,
            num_mel_bins=128,
            initializer_range=0.2,
        ),
        text_config=LlamaConfig(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            vocab_size=len(tokenizer),
            max_position_embeddings=8192,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
            initializer_range=0.3,
        ),
        audio_token_id=tokenizer.convert_tokens_to_ids("<|pad|>"),
    )
    model = GlmAsrForConditionalGeneration(config).eval()
    spread(model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    extractor = WhisperFeatureExtractor(feature_size=128, chunk_length=frames // 50)
    GlmAsrProcessor(extractor, tokenizer, chat_template=TEMPLATE).save_pretrained(folder)
    return folder


def write_narrow(folder: Path) -> Path:
    """Keys that heads share, and windows of ten seconds."""
    return write(folder, key_heads=2, frames=500)


class Opened:
    """The checkpoint by its own class and processor."""

    def __init__(self, folder: Path) -> None:
        self.processor = GlmAsrProcessor.from_pretrained(folder)
        cls = GlmAsrForConditionalGeneration
        self.model = cls.from_pretrained(folder, dtype=torch.float32).eval()
        self.audio_token: int = self.model.config.audio_token_id

    def inputs(self, samples: Samples, question: str) -> dict[str, torch.Tensor]:
        """What ``generate`` takes."""
        turn = [{"type": "audio", "audio": samples}, {"type": "text", "text": question}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": turn}], tokenize=False, add_generation_prompt=True
        )
        return dict(self.processor(text=[text], audio=[samples]))

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
    """Audio tokens of so many samples, 12.5 a second; those of whole windows are whole, too."""
    frames = -(-samples // 160)
    return ((frames - 1) // 2 + 1) // 4


def opened(folder: Path) -> Reference:
    """The checkpoint by its own class."""
    return Opened(folder)


STATES = (
    Family("glm-asr", "glm_asr", write, opened, tokens),
    Family("glm-asr-narrow", "glm_asr", write_narrow, opened, tokens, seconds=10.0),
)
