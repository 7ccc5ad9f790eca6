"""The trained parts as one checkpoint folder of class ``Qwen2AudioForConditionalGeneration``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from small_model.text import AUDIO_BOS, AUDIO_EOS, AUDIO_TOKEN, CHAT_TEMPLATE, rename_tokens

from small_model_next import reader
from small_model_next.encoder import library
from speechprune_ort.files import write_json

# Qwen2.5 reserves tokens for images, which its Coder has never read.
RENAMED_TOKENS = {
    "<|vision_pad|>": AUDIO_TOKEN,
    reader.AUDIO_BOS: AUDIO_BOS,
    reader.AUDIO_EOS: AUDIO_EOS,
}
FACTOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.default\.weight")
SCALE = 2.0  # of the products of LoRA's factors


def factors_of(
    state: Mapping[str, torch.Tensor],
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """LoRA's factors, A (rank, in) and B (out, rank), by the name of the matrix they change."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, values in state.items():
        match = FACTOR.fullmatch(name)
        assert match is not None, name  # noqa: S101 - peft's own names
        found.setdefault(f"{match[1]}.weight", {})[match[2]] = values
    return {name: (pair["A"], pair["B"]) for name, pair in found.items()}


def write_folder(
    out: Path,
    language_model: Path,
    encoder: Any,
    trained: Path,
    factors: Mapping[str, torch.Tensor],
) -> None:
    """Write a folder that transformers loads, in bfloat16.

    Args:
        out: Made where missing.
        language_model: Folder of Qwen2.5-Coder.
        encoder: From :func:`small_model_next.encoder.whisper_encoder`.
        trained: What training changed of encoder and projector.
        factors: LoRA's, from :meth:`small_model_next.reader.Reader.state`.
    """
    out.mkdir(parents=True, exist_ok=True)
    text = library.AutoModelForCausalLM.from_pretrained(language_model, dtype=torch.float32)
    weights = dict(text.state_dict())
    for name, (first, second) in factors_of(factors).items():
        weights[name] = weights[name] + SCALE * second.float() @ first.float()
    state = {
        name.replace("model.", "model.language_model.", 1): values
        for name, values in weights.items()
        if name != "lm_head.weight"
    }
    state["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    state |= {f"model.audio_tower.{n}": v.float() for n, v in encoder.state_dict().items()}
    state |= {
        f"model.{name}": values.float()
        for name, values in load_file(trained).items()
        if not name.startswith("speller.")
    }
    tokenizer = rename_tokens(
        json.loads((language_model / "tokenizer.json").read_text(encoding="utf-8")), RENAMED_TOKENS
    )
    audio_token = tokenizer["model"]["vocab"][AUDIO_TOKEN]
    config = library.Qwen2AudioConfig(
        audio_config=encoder.config.to_dict(),
        text_config=text.config.to_dict(),
        audio_token_index=audio_token,
        tie_word_embeddings=False,
        architectures=["Qwen2AudioForConditionalGeneration"],
        bos_token_id=text.config.bos_token_id,
        eos_token_id=text.config.eos_token_id,
        pad_token_id=text.config.pad_token_id,
    )
    with torch.device("meta"):
        model = library.Qwen2AudioForConditionalGeneration(config)
    model.load_state_dict(state, strict=True, assign=True)
    model.generation_config = library.GenerationConfig(
        do_sample=False,
        eos_token_id=text.config.eos_token_id,
        pad_token_id=text.config.pad_token_id,
    )
    write_tokenizer(out, tokenizer, text.config.max_position_embeddings)
    extractor = library.WhisperFeatureExtractor(
        feature_size=config.audio_config.num_mel_bins, return_attention_mask=True
    )
    library.Qwen2AudioProcessor(
        feature_extractor=extractor,
        tokenizer=library.AutoTokenizer.from_pretrained(out),
        chat_template=CHAT_TEMPLATE,
    ).save_pretrained(out)
    extractor.save_pretrained(out)
    write_tokenizer(out, tokenizer, text.config.max_position_embeddings)
    model.to(torch.bfloat16).save_pretrained(out)


def write_tokenizer(folder: Path, tokenizer: dict[str, Any], context: int) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``."""
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "Qwen2AudioProcessor",
            "eos_token": reader.END,
            "pad_token": "<|endoftext|>",
            "padding_side": "left",
            "model_input_names": ["input_ids", "attention_mask"],
            "model_max_length": context,
            "clean_up_tokenization_spaces": False,
            "add_prefix_space": False,
        },
    )
