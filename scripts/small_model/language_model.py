"""Qwen2.5-Coder-0.5B-Instruct from its GGUF file: weights, configuration and tokenizer.

The ``gguf`` package reads the file and expands the quantized tensors to float32; this module gives
them the names of transformers' ``Qwen2Model``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

# Names inside one layer ("blk.7.") and outside of the layers. The output matrix (8 bits) stands for
# both tied matrices; the embedding's own has fewer bits and is left out.
LAYER_NAMES: Mapping[str, str] = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
TOP_NAMES: Mapping[str, str] = {
    "output.weight": "embed_tokens.weight",
    "output_norm.weight": "norm.weight",
}
LEFT_OUT = "token_embd.weight"

FIELDS = {
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
}


@dataclass(frozen=True)
class LanguageModel:
    """The language model of the checkpoint."""

    weights: dict[str, Floats]  # by names of ``Qwen2Model`` (``layers.0.self_attn.q_proj.weight``)
    config: dict[str, Any]  # keyword arguments of ``Qwen2Config``
    tokenizer: dict[str, Any]  # the content of ``tokenizer.json``


class _Reader(gguf.GGUFReader):
    """Its file as a plain array: a vocabulary is 600,000 slices, and those of a memmap are slow."""

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, np.asarray(value) if name == "data" else value)


def read_gguf(path: Path) -> LanguageModel:
    """Read a Qwen2 model with its tokenizer from a GGUF file, which is pinned by sha256."""
    from transformers import AutoTokenizer

    reader = _Reader(path)

    def field(name: str) -> Any:
        return reader.fields[name].contents()

    weights: dict[str, Floats] = {
        transformers_name(tensor.name): gguf.dequantize(tensor.data, tensor.tensor_type).astype(
            np.float32, copy=False
        )
        for tensor in reader.tensors
        if tensor.name != LEFT_OUT
    }
    vocabulary, hidden = weights["embed_tokens.weight"].shape
    eos, pad = (int(field(f"tokenizer.ggml.{name}_token_id")) for name in ("eos", "bos"))
    config = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        **{name: int(field(f"qwen2.{theirs}")) for name, theirs in FIELDS.items()},
        # The file holds the nearest float32; six digits give the number meant.
        "rms_norm_eps": float(f"{field('qwen2.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": float(field("qwen2.rope.freq_base")),
        "bos_token_id": pad,
        "eos_token_id": eos,
        "pad_token_id": pad,
    }
    # Without its type transformers would look for one in the model's configuration, slowly.
    tokenizer: Any = AutoTokenizer.from_pretrained(
        path.parent, gguf_file=path.name, tokenizer_type="qwen2"
    )
    return LanguageModel(weights, config, json.loads(tokenizer.backend_tokenizer.to_str()))


def transformers_name(name: str) -> str:
    """The ``Qwen2Model`` name of a GGUF tensor.

    >>> transformers_name("blk.12.attn_q.bias")
    'layers.12.self_attn.q_proj.bias'
    >>> transformers_name("output.weight")
    'embed_tokens.weight'
    """
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    return f"layers.{layer[1]}.{LAYER_NAMES[layer[2]]}.{layer[3]}" if layer else TOP_NAMES[name]
