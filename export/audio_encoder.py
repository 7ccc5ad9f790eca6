"""``audio_encoder.onnx``: log-mel windows to audio embeddings in the language model's space."""

from __future__ import annotations

from pathlib import Path

import torch

from speechprune_ort.contract.specs import GraphSpec
from speechprune_ort.export.families.base import Checkpoint
from speechprune_ort.export.graph_file import save, torch_to_ir, with_weights
from speechprune_ort.export.precision import Plan

__all__ = ["export_audio_encoder"]


def export_audio_encoder(checkpoint: Checkpoint, plan: Plan, spec: GraphSpec, path: Path) -> None:
    """Trace encoder, pooling and projector; every window of a batch on its own.

    Args:
        checkpoint: the loaded checkpoint.
        plan: how weights are stored.
        spec: ``audio_encoder``.
        path: graph file to write.
    """
    dims = checkpoint.dimensions
    example = (
        torch.zeros(2, dims.mel_bins, dims.frames),
        torch.tensor([dims.frames, dims.frames // 2]),
    )
    module = checkpoint.audio_encoder
    if plan.encoder == "float16":
        # In place and back: a second copy of a large encoder need not fit in memory.
        module.half()
    try:
        model = torch_to_ir(module, example, spec)
        save(with_weights(model, plan.encoder), path)
    finally:
        module.float()
