"""Tiny random Qwen2.5-Omni thinkers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from bench.byte_tokenizer import byte_tokenizer
from references import RATE, Family, Reference, Samples, by_windows, spread
from safetensors.torch import load_file, save_file
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5OmniThinkerConfig,
    Qwen2_5OmniThinkerForConditionalGeneration,
    WhisperFeatureExtractor,
)

CONTROLS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|AUDIO|>",
    "<|audio_bos|>",
    "<|audio_eos|>",
    "<|IMAGE|>",
    "<|VIDEO|>",
    "<|vision_bos|>",
)
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}"
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'audio' %}"
    "<|audio_bos|><|AUDIO|><|audio_eos|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WIDTH, HIDDEN, MEL_BINS = 32, 64, 128


def write(
    folder: Path,
    *,
    seconds: int = 30,
    n_window: int = 100,
    text: dict[str, Any] | None = None,
    **encoder: int,
) -> Path:
    """A checkpoint of the thinker's own class.

    Args:
        folder: to write.
        seconds: that the feature extractor pads to: 300 in published ones.
        n_window: half a chunk, in log-mel frames.
        text: other settings of the text model.
        **encoder: other settings of the audio encoder.
    """
    torch.manual_seed(33)
    tokenizer = byte_tokenizer(CONTROLS, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    tokenizer.chat_template = TEMPLATE
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in CONTROLS}
    audio = {
        "num_mel_bins": MEL_BINS,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "d_model": WIDTH,
        "output_dim": HIDDEN,
        "n_window": n_window,
        "initializer_range": 0.2,
    }
    config = Qwen2_5OmniThinkerConfig(
        audio_config=audio | encoder,
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [0],
        },
        text_config={
            "hidden_size": HIDDEN,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 8192,
            "tie_word_embeddings": False,
            "eos_token_id": tokenizer.eos_token_id,
            "initializer_range": 0.3,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                "mrope_section": [2, 3, 3],
            },
        }
        | (text or {}),
        audio_token_index=ids["<|AUDIO|>"],
        image_token_index=ids["<|IMAGE|>"],
        video_token_index=ids["<|VIDEO|>"],
        audio_start_token_id=ids["<|audio_bos|>"],
        audio_end_token_id=ids["<|audio_eos|>"],
        vision_start_token_id=ids["<|vision_bos|>"],
    )
    model = Qwen2_5OmniThinkerForConditionalGeneration(config).eval()
    spread(model)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=MEL_BINS, chunk_length=seconds).save_pretrained(folder)
    return folder


def write_whole(folder: Path) -> Path:
    """The layout of a whole Omni checkpoint as published: the thinker inside, and what speaks."""
    write(folder)
    weights = load_file(folder / "model.safetensors")
    weights = {f"thinker.{name}": value for name, value in weights.items()}
    weights["talker.codec_head.weight"] = torch.zeros(2, 2)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    path = folder / "config.json"
    thinker = json.loads(path.read_text())
    whole = {
        "architectures": ["Qwen2_5OmniModel"],
        "model_type": "qwen2_5_omni",
        "thinker_config": thinker,
    }
    path.write_text(json.dumps(whole))
    return folder


class Opened:
    """The checkpoint by its own class; its processor wants what reads pictures, so by its parts."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        self.extract = WhisperFeatureExtractor.from_pretrained(folder)
        cls = Qwen2_5OmniThinkerForConditionalGeneration
        self.model = cls.from_pretrained(folder, dtype=torch.float32).eval()
        self.audio_token: int = self.model.config.audio_token_id

    def inputs(self, samples: Samples, question: str) -> dict[str, torch.Tensor]:
        """What ``generate`` takes; log-mel features window by window, as the runtime makes them."""
        turn = [{"type": "audio"}, {"type": "text", "text": question}]
        text = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": turn}], tokenize=False, add_generation_prompt=True
        )
        found = self.extract(
            by_windows(samples, self.extract.chunk_length),
            sampling_rate=RATE,
            return_tensors="pt",
            return_attention_mask=True,
        )
        # One recording, its windows end to end.
        mask = found["attention_mask"].bool()
        features = found["input_features"].permute(0, 2, 1)[mask].T[None]
        # Qwen2_5OmniProcessor's own number of placeholders.
        count = (((features.shape[2] - 1) // 2 + 1) - 2) // 2 + 1
        ids = self.tokenizer.encode(
            text.replace("<|AUDIO|>", "<|AUDIO|>" * count), add_special_tokens=False
        )
        return {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
            "input_features": features,
            "feature_attention_mask": torch.ones(1, features.shape[2], dtype=torch.long),
        }

    def audio(self, samples: Samples) -> torch.Tensor:
        """(tokens, hidden) audio embeddings."""
        given = self.inputs(samples, "?")
        with torch.no_grad():
            found = self.model.get_audio_features(
                given["input_features"], given["feature_attention_mask"]
            )
        heard: torch.Tensor = found.last_hidden_state
        return heard


def tokens(samples: int) -> int:
    """Audio tokens of so many samples, 25 a second."""
    frames = -(-samples // 160)
    return max(0, ((frames - 1) // 2 - 1) // 2 + 1)


def opened(folder: Path) -> Reference:
    """The checkpoint by its own class."""
    return Opened(folder)


STATES = (
    Family("qwen2.5-omni", "qwen2_5_omni", write, opened, tokens),
    Family(
        "qwen2.5-omni-chunks",
        "qwen2_5_omni",
        lambda folder: write(folder, seconds=20, n_window=50),
        opened,
        tokens,
        seconds=20.0,
    ),
)
