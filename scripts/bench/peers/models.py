"""The same weights in the format of each contender."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from speechprune_ort.export.families import load_checkpoint
from speechprune_ort.export.pipeline import export_bundle
from speechprune_ort.files import whole_file, whole_folder

__all__ = ["GGUF_TYPES", "ct2_folder", "genai_folder", "gguf_file", "language_model", "our_bundle"]

GGUF_TYPES: Mapping[str, str] = {"fp32": "F32", "int8": "Q8_0", "int4": "Q4_0"}
"""llama.cpp's type at each precision."""

KINDS_OF_MODEL = ("llama", "qwen2")
"""``model_type`` of the language models that are written for llama.cpp."""

OF_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def quietly(command: Sequence[object]) -> None:
    """Run a command whose output matters only if it fails.

    Raises:
        RuntimeError: it failed; the message has the end of what it said.
    """
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[1]} failed: {done.stderr.strip()[-400:]}")


def our_bundle(checkpoint: Path, precision: str, work: Path) -> Path:
    """What ``speechprune-ort export`` makes of it."""
    bundle = work / f"ours-{precision}"
    if not bundle.exists():
        export_bundle(str(checkpoint), bundle, precision=precision)
    return bundle


def language_model(checkpoint: Path, work: Path) -> Path:
    """The language model as a checkpoint of its own."""
    folder = work / "language_model"
    if not folder.exists():
        loaded = load_checkpoint(str(checkpoint), None, trust_remote_code=False)
        with whole_folder(folder) as half:
            loaded.language_model.save_pretrained(half)
            loaded.tokenizer.save_pretrained(half)
    return folder


def genai_folder(checkpoint: Path, precision: str, work: Path) -> Path:
    """What onnxruntime-genai's builder makes of it, by its own defaults and the last logits."""
    folder = work / f"genai-{precision}"
    if not folder.exists():
        with whole_folder(folder) as half:
            command = [
                sys.executable, "-m", "onnxruntime_genai.models.builder",
                "-i", language_model(checkpoint, work), "-o", half,
                "-p", precision, "-e", "cpu", "-c", work / "cache",
                "--extra_options", "prune_lm_head=true",
            ]  # fmt: skip
            if precision == "int4":  # as ours
                command.append("matmul_mixed_precision=last_matmul:int8")
            quietly(command)
    return folder


def interleaved(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Rows of a Llama's query or key projection as llama.cpp turns them: neighbouring pairs.

    >>> interleaved(np.arange(4)[:, None], 1).ravel().tolist()
    [0, 2, 1, 3]
    """
    rows, width = weight.shape
    halves = weight.reshape(heads, 2, rows // heads // 2, width)
    return halves.swapaxes(1, 2).reshape(rows, width)


def gguf_name(name: str) -> str:
    """llama.cpp's name of a weight of a Llama or Qwen2.

    >>> gguf_name("model.layers.3.mlp.up_proj.weight")
    'blk.3.ffn_up.weight'
    >>> gguf_name("model.layers.0.self_attn.q_proj.bias")
    'blk.0.attn_q.bias'
    """
    plain, _, kind = name.removeprefix("model.").rpartition(".")
    whole = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
    if plain in whole:
        return f"{whole[plain]}.{kind}"
    _, number, part = plain.split(".", 2)
    return f"blk.{number}.{OF_LAYER[part]}.{kind}"


def gguf_file(checkpoint: Path, precision: str, work: Path) -> Path:
    """The language model as llama.cpp reads it, without vocabulary: it is given token ids."""
    path = work / f"llama-{precision}.gguf"
    if path.exists():
        return path
    folder = language_model(checkpoint, work)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    architecture = config["model_type"]
    if architecture not in KINDS_OF_MODEL:
        known = " and ".join(KINDS_OF_MODEL)
        raise SystemExit(f"{folder} is a {architecture} model: only {known} are written here.")
    kind = gguf.GGMLQuantizationType[GGUF_TYPES[precision]]
    head = gguf.GGMLQuantizationType.Q8_0
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    with whole_file(path) as half:
        writer = gguf.GGUFWriter(half, architecture)
        writer.add_context_length(config["max_position_embeddings"])
        writer.add_embedding_length(config["hidden_size"])
        writer.add_block_count(config["num_hidden_layers"])
        writer.add_feed_forward_length(config["intermediate_size"])
        writer.add_head_count(heads)
        writer.add_head_count_kv(kv_heads)
        writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
        writer.add_rope_freq_base(rope_theta(config))
        writer.add_rope_dimension_count(config["hidden_size"] // heads)
        writer.add_vocab_size(config["vocab_size"])
        writer.add_tokenizer_model("no_vocab")
        for name, weight in weights_of(folder):
            if architecture == "llama" and name.endswith("q_proj.weight"):
                weight = interleaved(weight, heads)
            elif architecture == "llama" and name.endswith("k_proj.weight"):
                weight = interleaved(weight, kv_heads)
            matrix = weight.ndim == 2 and kind != gguf.GGMLQuantizationType.F32
            if matrix:
                # The output head has 8 bits in ours, too.
                narrow = head if name == "lm_head.weight" else kind
                stored = gguf.quants.quantize(weight, narrow)
                writer.add_tensor(gguf_name(name), stored, raw_dtype=narrow)
            else:
                writer.add_tensor(gguf_name(name), weight)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    return path


def rope_theta(config: Mapping[str, Any]) -> float:
    """Base of the rotary embedding, wherever this version of transformers writes it."""
    return float((config.get("rope_parameters") or config)["rope_theta"])


def weights_of(folder: Path) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Names and values of a checkpoint's weights."""
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                yield name, file.get_tensor(name).astype(np.float32)


def ct2_folder(checkpoint: Path, python: Path, work: Path) -> Path:
    """The audio encoder as faster-whisper's engine reads it."""
    folder = work / "faster-whisper"
    if not folder.exists():
        with whole_folder(folder) as half:
            script = Path(__file__).with_name("to_ctranslate2.py")
            quietly([python, script, checkpoint, half])
    return folder
