"""The default model's recipe in tiny: a language model, its tokenizer, a benchmark."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from small_model.text import IMAGE_TOKENS
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM

HIDDEN = 64
CONTROL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *IMAGE_TOKENS)


def byte_level(merges: Sequence[tuple[str, str]] = ()) -> dict[str, Any]:
    """A ``tokenizer.json`` of single bytes, what is merged, and the used control tokens."""
    texts = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *CONTROL, *map("".join, merges)]
    backend = Tokenizer(
        models.BPE(vocab={text: i for i, text in enumerate(texts)}, merges=list(merges))
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL])
    content: dict[str, Any] = json.loads(backend.to_str())
    return content


def settings(merged: int = 0) -> dict[str, Any]:
    """Of a tiny Qwen2 for those tokens."""
    return {
        "vocab_size": 256 + len(CONTROL) + merged, "hidden_size": HIDDEN, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "bos_token_id": 256, "eos_token_id": 258, "pad_token_id": 256,
    }  # fmt: skip


def tiny_qwen(merged: int = 0) -> Any:
    """Random weights, its biases, too."""
    torch.manual_seed(5)
    model = Qwen2ForCausalLM(Qwen2Config(**settings(merged), tie_word_embeddings=True)).eval()
    with torch.no_grad():
        for name, values in model.named_parameters():
            if name.endswith("bias"):
                values.normal_(std=0.5)
    return model


def text_weights(model: Any) -> dict[str, Any]:
    """Weights of a tiny Qwen2 as the GGUF file gives those of the real one."""
    state = {n.removeprefix("model."): v.numpy() for n, v in model.state_dict().items()}
    del state["lm_head.weight"]
    return state


def write_spiral(folder: Path, names: Iterable[str]) -> Path:
    """SPIRAL's two files, with a dialogue for each name."""
    folder.mkdir()
    lines = []
    for number, name in enumerate(names):
        key = f"The so of number {number} is sob today."
        said = ["Good morning to you all here.", key, f"Then {name} went home."]
        lines.append(json.dumps({
            "metadata": {"id": name},
            "audio_data": {"combined": {"sentences": said}},
            "original_key_sentence": key,
            "test_question": {
                "question": f"What is number {number}?",
                "choices": ["A. sob", "B. tea", "C. red", "D. old"],
                "correct_answer": "A. sob",
            },
        }))  # fmt: skip
    (folder / "data.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "data_h.jsonl").write_text("", encoding="utf-8")
    return folder
