"""SmolLM2 from a GGUF file: Llama weights, configuration and tokenizer, without llama.cpp.

The ``gguf`` package reads the file and expands the quantized tensors to float32; this module
gives them the names of transformers' ``LlamaModel`` and undoes the one thing that llama.cpp's
converter changes: the order of rows in the query and key projections.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from small_model.errors import SmallModelError
from speechprune_ort.models.sources import unpermute_rotary

Floats = npt.NDArray[np.float32]

# Names inside one layer ("blk.7.") and outside of the layers.
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
TOP_NAMES: Mapping[str, str] = {"token_embd": "embed_tokens", "output_norm": "norm"}

CONTROL_TOKEN = 3  # GGUF's token type of tokens that text never produces


@dataclass(frozen=True)
class LanguageModel:
    """The language model of the checkpoint, independent of where it came from.

    Attributes:
        weights: ``LlamaModel`` name (``layers.0.self_attn.q_proj.weight``) to float32 array.
        config: Keyword arguments of ``LlamaConfig``.
        tokenizer: The content of ``tokenizer.json``.
    """

    weights: dict[str, Floats]
    config: dict[str, Any]
    tokenizer: dict[str, Any]


def read_gguf(path: Path) -> LanguageModel:
    """Read a Llama-family model with a GPT-2 style tokenizer from a GGUF file.

    Raises:
        SmallModelError: the file is not such a model.
    """
    import gguf

    reader = gguf.GGUFReader(path)

    def field(name: str) -> Any:
        found = reader.get_field(name)
        if found is None:
            raise SmallModelError(
                f"{path.name} has no field {name}: it is not a Llama-family GGUF file with a "
                "tokenizer, delete it and fetch it again."
            )
        return found.contents()

    if field("general.architecture") != "llama":
        raise SmallModelError(
            f"{path.name} holds a {field('general.architecture')} model where a llama one is "
            "needed: delete it and fetch it again."
        )
    heads = int(field("llama.attention.head_count"))
    key_heads = int(field("llama.attention.head_count_kv"))
    weights: dict[str, Floats] = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if tensor.name.endswith("attn_q.weight"):
            values = unpermute_rotary(values, heads)
        elif tensor.name.endswith("attn_k.weight"):
            values = unpermute_rotary(values, key_heads)
        weights[transformers_name(tensor.name)] = values
    vocabulary, hidden = weights["embed_tokens.weight"].shape
    config = {
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": int(field("llama.feed_forward_length")),
        "num_hidden_layers": int(field("llama.block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": key_heads,
        "max_position_embeddings": int(field("llama.context_length")),
        # The file holds the float32 nearest to 1e-5; six digits give the number meant.
        "rms_norm_eps": float(f"{field('llama.attention.layer_norm_rms_epsilon'):.6g}"),
        "rope_theta": float(field("llama.rope.freq_base")),
        "bos_token_id": int(field("tokenizer.ggml.bos_token_id")),
        "eos_token_id": int(field("tokenizer.ggml.eos_token_id")),
        "pad_token_id": int(field("tokenizer.ggml.padding_token_id")),
    }
    tokenizer = byte_level_tokenizer(
        tokens=field("tokenizer.ggml.tokens"),
        merges=field("tokenizer.ggml.merges"),
        control=[kind == CONTROL_TOKEN for kind in field("tokenizer.ggml.token_type")],
    )
    return LanguageModel(weights, config, tokenizer)


def transformers_name(name: str) -> str:
    """The ``LlamaModel`` name of a GGUF tensor.

    >>> transformers_name("blk.12.attn_q.weight")
    'layers.12.self_attn.q_proj.weight'
    >>> transformers_name("token_embd.weight")
    'embed_tokens.weight'

    Raises:
        SmallModelError: a tensor that a Llama model with tied embeddings does not have.
    """
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if layer is not None and layer[2] in LAYER_NAMES:
        return f"layers.{layer[1]}.{LAYER_NAMES[layer[2]]}.weight"
    stem = name.removesuffix(".weight")
    if stem in TOP_NAMES:
        return f"{TOP_NAMES[stem]}.weight"
    raise SmallModelError(
        f"The GGUF file has a tensor {name} that a Llama model with tied embeddings does not "
        "have: fetch the file named in the documentation of this script."
    )


def byte_level_tokenizer(
    tokens: list[str], merges: list[str], control: list[bool]
) -> dict[str, Any]:
    """The ``tokenizer.json`` of a byte-level BPE that splits digits, as SmolLM2's.

    Args:
        tokens: Token texts by id.
        merges: Merge rules, best first, each "left right".
        control: By id, whether the token is special: never produced from text by merging.
    """
    special = [
        {
            "id": index,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for index, (token, is_control) in enumerate(zip(tokens, control, strict=True))
        if is_control
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                byte_level | {"use_regex": True},
            ],
        },
        "post_processor": None,
        "decoder": byte_level | {"use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in merges],
        },
    }
