#!/usr/bin/env python3
"""Write a checkpoint of Qwen2-Audio-7B's true dimensions with random weights.

    python scripts/bench/make_random_checkpoint.py OUT [--layers 32] [--encoder-layers 32]
    python scripts/bench/make_random_checkpoint.py OUT --remove

About 17 GB of bfloat16 in shards of 1 GB, one tensor in memory at a time: for measuring what
export and runtime cost at full size. Its answers are noise. ``--remove`` deletes OUT, if this
script made it.

Needs ``pip install -e '.[export]'``.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioEncoderConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    Qwen2Config,
    WhisperFeatureExtractor,
)

USER_ERROR = 2
MARK = "random_checkpoint.json"  # says that this script made the folder
SHARD_BYTES = 1_000_000_000
STD = 0.02
RESIDUAL = ("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")
RESIDUAL_STD = STD / 64**0.5  # two blocks a layer, 32 layers
CONTROLS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>",
)  # fmt: skip
VOCAB = 156_032

console = Console(stderr=True)


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte and the control tokens: a table of 156,032 rows has room for more."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {character: number for number, character in enumerate(alphabet)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(c, special=True, normalized=False) for c in CONTROLS])
    end, pad = CONTROLS[2], CONTROLS[0]
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, pad_token=pad)


def config_of(layers: int, encoder_layers: int, fast: PreTrainedTokenizerFast) -> Qwen2AudioConfig:
    """Qwen2-Audio-7B's, with as many layers as asked for."""
    return Qwen2AudioConfig(
        audio_config=Qwen2AudioEncoderConfig(
            d_model=1280,
            encoder_layers=encoder_layers,
            encoder_attention_heads=20,
            encoder_ffn_dim=5120,
            num_mel_bins=128,
        ),
        text_config=Qwen2Config(
            hidden_size=4096,
            intermediate_size=11_008,
            num_hidden_layers=layers,
            num_attention_heads=32,
            num_key_value_heads=32,
            vocab_size=VOCAB,
            max_position_embeddings=8192,
            tie_word_embeddings=False,
            eos_token_id=fast.convert_tokens_to_ids("<|im_end|>"),
            bos_token_id=None,
        ),
        audio_token_index=fast.convert_tokens_to_ids("<|AUDIO|>"),
        dtype="bfloat16",
    )


def random_tensor(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """Normal weights; gains of norms 1 and their biases 0.

    What a block adds to the residual stream is kept small beside token embeddings of unit size, as
    training makes it: where every layer overwrites the stream, rounding to 4 bits is amplified
    until nothing can be compared.
    """
    if "norm" in name:
        return torch.full(shape, float(name.endswith("weight")), dtype=torch.bfloat16)
    std = 1.0 if "embed_tokens" in name else STD
    if name.endswith(RESIDUAL):
        std = RESIDUAL_STD
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, std, generator=generator)


def write_weights(out: Path, shapes: dict[str, torch.Size], seed: int) -> int:
    """All tensors in shards with their index; bytes written."""
    generator = torch.Generator().manual_seed(seed)
    shards: list[list[str]] = [[]]
    filled = total = 0
    for name, shape in shapes.items():
        size = 2 * shape.numel()
        if filled + size > SHARD_BYTES and shards[-1]:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled, total = filled + size, total + size
    weight_map: dict[str, str] = {}
    for number, names in enumerate(track(shards, "shards", console=console), 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors = {name: random_tensor(name, shapes[name], generator) for name in names}
        save_file(tensors, out / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    index: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    return total


def main(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    layers: Annotated[int, typer.Option(min=1, help="Of the language model.")] = 32,
    encoder_layers: Annotated[int, typer.Option(min=1, help="Of the audio encoder.")] = 32,
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
    remove: Annotated[bool, typer.Option("--remove", help="Delete what was made.")] = False,
) -> None:
    """Write or remove the checkpoint."""
    if remove:
        if not (out / MARK).exists():
            console.print(f"error: {out} was not made by this script: remove it yourself.")
            raise typer.Exit(USER_ERROR)
        shutil.rmtree(out)
        return
    if out.exists() and any(out.iterdir()):
        console.print(f"error: {out} is not empty: give another folder.")
        raise typer.Exit(USER_ERROR)
    out.mkdir(parents=True, exist_ok=True)
    # From the first byte on, so that an interrupted run can be removed, too.
    (out / MARK).write_text(json.dumps({"layers": layers, "seed": seed}) + "\n")
    fast = tokenizer()
    config = config_of(layers, encoder_layers, fast)
    with torch.device("meta"):
        model = Qwen2AudioForConditionalGeneration(config)
    shapes = {name: values.shape for name, values in model.state_dict().items()}
    config.architectures = ["Qwen2AudioForConditionalGeneration"]
    config.save_pretrained(out)
    model.generation_config.eos_token_id = fast.convert_tokens_to_ids("<|im_end|>")
    model.generation_config.pad_token_id = fast.convert_tokens_to_ids("<|endoftext|>")
    model.generation_config.save_pretrained(out)
    Qwen2AudioProcessor(
        feature_extractor=WhisperFeatureExtractor(feature_size=128), tokenizer=fast
    ).save_pretrained(out)
    total = write_weights(out, shapes, seed)
    print(f"{out}: {len(shapes)} tensors, {total / 1e9:.1f} GB")


if __name__ == "__main__":
    typer.run(main)
