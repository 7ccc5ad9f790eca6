"""What training changed, as half-precision tensors under the names of Qwen2-Audio's checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save

from small_model.assemble import ENCODER
from small_model.training.encoder import LOWER_LAYERS, WHISPER_LAYERS
from small_model.training.letters import Speller
from small_model.training.writer import Writer
from speechprune_ort.files import whole_file

PROJECTOR, SPELLER = "multi_modal_projector.linear.", "speller."


def modules(writer: Writer, speller: Speller) -> dict[str, torch.nn.Module]:
    """The trained modules by the beginning of their tensors' names.

    The head of letters and its LayerNorm are in no Qwen2-Audio: they are for training to go on.
    """
    return {
        **{f"{ENCODER}layers.{LOWER_LAYERS + i}.": m for i, m in enumerate(writer.below.layers)},
        **{f"{ENCODER}layers.{WHISPER_LAYERS + i}.": m for i, m in enumerate(writer.above.layers)},
        f"{ENCODER}layer_norm.": writer.norm,
        PROJECTOR: writer.linear,
        f"{SPELLER}norm.": speller.norm,
        f"{SPELLER}head.": speller.head,
    }


def write(path: Path, writer: Writer, speller: Speller) -> None:
    """Write all trained tensors; the file appears at once."""
    tensors = {
        begin + name: values.to(torch.float16).contiguous()
        for begin, module in modules(writer, speller).items()
        for name, values in module.state_dict().items()
    }
    with whole_file(path) as partial:
        partial.write_bytes(save(tensors, metadata={"format": "pt"}))


def read(path: Path, writer: Writer, speller: Speller) -> None:
    """Load what :func:`write` wrote into the same modules."""
    tensors = load_file(path)
    for begin, module in modules(writer, speller).items():
        state = {
            n.removeprefix(begin): t.float() for n, t in tensors.items() if n.startswith(begin)
        }
        module.load_state_dict(state)
