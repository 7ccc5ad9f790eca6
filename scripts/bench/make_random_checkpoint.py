#!/usr/bin/env python3
"""Write a checkpoint of a published model's true dimensions with random weights.

    scripts/bench/make_random_checkpoint OUT [--model qwen2-audio-7b]
    scripts/bench/make_random_checkpoint OUT --remove

bfloat16 in shards of 1 GB, one of them in memory at a time: for measuring what export and runtime
cost at full size. Its answers are noise. ``--layers`` and ``--encoder-layers`` make it smaller.
``--remove`` deletes OUT, if this script made it. ``bench/true_dimensions.py`` has the models.

``scripts/bench/make_random_checkpoint`` makes the environment.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from bench.true_dimensions import MODELS, Drawn, Model, Part, shortened
from rich.console import Console
from rich.progress import track
from safetensors.torch import save_file

USER_ERROR = 2
MARK = "random_checkpoint.json"  # says that this script made the folder
SHARD_BYTES = 1_000_000_000
STD = 0.02
GAIN = re.compile(r"(norm\w*|\bln_\w+)\.(weight|bias)$", re.IGNORECASE)
UNIT = re.compile(r"(embed_tokens\.weight|query|query_tokens)$")
"""Embeddings, and what an encoder is asked with."""
RESIDUAL = re.compile(r"(o_proj|down_proj|out_proj|fc2|to_out|down_conv)\.weight$")
RESIDUAL_STD = STD / 64**0.5  # two blocks a layer, 32 layers

console = Console(stderr=True)


def random_tensor(name: str, like: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Normal weights; gains of norms and variances 1, their biases and means 0.

    What a block adds to the residual stream is kept small beside token embeddings of unit size, as
    training makes it: where every layer overwrites the stream, rounding to 4 bits is amplified
    until nothing can be compared.

    Args:
        name: name of the tensor.
        like: tensor of its shape and kind of numbers.
        generator: source of what is random.

    Returns:
        A tensor of bfloat16; of zeros, where it counts something.
    """
    shape = like.shape
    if not like.is_floating_point():
        return torch.zeros(shape, dtype=like.dtype)
    gain = GAIN.search(name)
    if gain or name.endswith(("running_mean", "running_var")):
        ones = name.endswith(("weight", "running_var"))
        return torch.full(shape, float(ones), dtype=torch.bfloat16)
    std = RESIDUAL_STD if RESIDUAL.search(name) else 1.0 if UNIT.search(name) else STD
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0, std, generator=generator)


def write_weights(out: Path, part: Part, generator: torch.Generator) -> int:
    """All tensors of a folder, in shards with their index where one is too small; bytes written."""
    shards: list[list[str]] = [[]]
    filled = total = 0
    for name, values in part.shapes.items():
        size = values.numel() * (2 if values.is_floating_point() else values.element_size())
        if filled + size > SHARD_BYTES and shards[-1]:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled, total = filled + size, total + size
    weight_map: dict[str, str] = {}
    for number, names in enumerate(track(shards, "shards", console=console), 1):
        several = f"-{number:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
        file = f"{part.file}{several}.safetensors"
        tensors = {name: random_tensor(name, part.shapes[name], generator) for name in names}
        save_file(tensors, out / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index: dict[str, Any] = {"metadata": {"total_size": total}, "weight_map": weight_map}
        path = out / f"{part.file}.safetensors.index.json"
        path.write_text(json.dumps(index, indent=1) + "\n")
    return total


def write_checkpoint(out: Path, drawn: Drawn, seed: int = 0) -> int:
    """Write a whole checkpoint into a folder that is there; bytes of its weights."""
    generator = torch.Generator().manual_seed(seed)
    total = 0
    for part in drawn.parts:
        folder = out / part.folder
        folder.mkdir(exist_ok=True)
        part.write_config(folder)
        total += write_weights(folder, part, generator)
    for save in drawn.save:
        save(out)
    return total


def make(out: Path, model: Model, seed: int = 0) -> int:
    """Make a folder with a checkpoint that ``remove`` may delete; bytes of its weights."""
    out.mkdir(parents=True, exist_ok=True)
    # From the first byte on, so that an interrupted run can be removed, too.
    (out / MARK).write_text(json.dumps({"published": model.published, "seed": seed}) + "\n")
    return write_checkpoint(out, model.drawn(), seed)


def remove(out: Path) -> bool:
    """Delete a folder that ``make`` made; whether it did."""
    if not (out / MARK).exists():
        return False
    shutil.rmtree(out)
    return True


def main(
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    model: Annotated[str, typer.Option(help=f"One of {', '.join(MODELS)}.")] = "qwen2-audio-7b",
    layers: Annotated[
        int | None, typer.Option(min=1, help="Layers of the language model; by default all.")
    ] = None,
    encoder_layers: Annotated[
        int | None, typer.Option(min=1, help="Layers of the audio encoder; by default all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the weights.")] = 0,
    remove_it: Annotated[bool, typer.Option("--remove", help="Delete what was made.")] = False,
) -> None:
    """Write or remove the checkpoint."""
    if remove_it:
        if not remove(out):
            console.print(f"error: {out} was not made by this script: remove it yourself.")
            raise typer.Exit(USER_ERROR)
        return
    if model not in MODELS:
        console.print(f"error: there is no model {model!r}: give one of {', '.join(MODELS)}.")
        raise typer.Exit(USER_ERROR)
    if out.exists() and any(out.iterdir()):
        console.print(f"error: {out} is not empty: give another folder.")
        raise typer.Exit(USER_ERROR)
    total = make(out, shortened(MODELS[model], layers, encoder_layers), seed)
    print(f"{out}: {total / 1e9:.1f} GB")


if __name__ == "__main__":
    typer.run(main)
