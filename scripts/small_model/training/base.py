"""The language model alone, as a folder that transformers loads."""

from __future__ import annotations

from pathlib import Path

import torch

from small_model.assemble import library, write_tokenizer
from small_model.language_model import LanguageModel


def write_language_model(found: LanguageModel, folder: Path) -> None:
    """Write ``Qwen2ForCausalLM`` in bfloat16, one matrix for embedding and output, and tokenizer.

    Args:
        found: From :func:`small_model.language_model.read_gguf`.
        folder: That is there.
    """
    with torch.device("meta"):
        config = library.Qwen2Config(tie_word_embeddings=True, **found.config)
        model = library.Qwen2ForCausalLM(config)
    state = {f"model.{name}": torch.from_numpy(values) for name, values in found.weights.items()}
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True, assign=True)
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(folder)
    write_tokenizer(folder, found.tokenizer, found.config["max_position_embeddings"])
