"""Tiny random Audio Flamingo 3 checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from bench.byte_tokenizer import byte_tokenizer
from qwen2_audio_reference import tokens
from references import Family, Reference, Samples, spread
from transformers import (
    AudioFlamingo3Config,
    AudioFlamingo3EncoderConfig,
    AudioFlamingo3ForConditionalGeneration,
    AudioFlamingo3Processor,
    PreTrainedConfig,
    Qwen2Config,
    WhisperFeatureExtractor,
)

CONTROLS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<sound>")
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'audio' %}<sound>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def write(folder: Path, text: type[PreTrainedConfig] = Qwen2Config, **changes: Any) -> Path:
    """A checkpoint of the family's own class.

    Args:
        folder: to write.
        text: class of the text model's config.
        **changes: of the text model's settings.
    """
    torch.manual_seed(11)
    tokenizer = byte_tokenizer(CONTROLS, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    settings: dict[str, Any] = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "initializer_range": 0.3,
    } | changes
    config = AudioFlamingo3Config(
        audio_config=AudioFlamingo3EncoderConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            num_mel_bins=128,
            initializer_range=0.2,
        ),
        text_config=text(**settings),
        audio_token_id=tokenizer.convert_tokens_to_ids("<sound>"),
    )
    model = AudioFlamingo3ForConditionalGeneration(config).eval()
    spread(model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    AudioFlamingo3Processor(
        WhisperFeatureExtractor(feature_size=128), tokenizer, chat_template=TEMPLATE
    ).save_pretrained(folder)
    return folder


class Opened:
    """The checkpoint by its own class and processor."""

    def __init__(self, folder: Path) -> None:
        self.processor = AudioFlamingo3Processor.from_pretrained(folder)
        cls = AudioFlamingo3ForConditionalGeneration
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


def opened(folder: Path) -> Reference:
    """The checkpoint by its own class."""
    return Opened(folder)


STATES = (Family("audio-flamingo-3", "audio_flamingo3", write, opened, tokens),)
