"""Imported by the process that exports are forked from: torch traces their modules here, once.

Tracing takes most of an export of a tiny checkpoint, and writes nothing. Each forked export has
these graphs as if it had just traced them, and writes and verifies them itself.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from reliability.warm import CHECKPOINT
from tqdm.std import tqdm

from speechprune_ort.contract.specs import AUDIO_ENCODER, FIRST_LAYER_QK_FLOAT, graph_specs
from speechprune_ort.export import audio_encoder, first_layer_qk
from speechprune_ort.export.families import load_checkpoint
from speechprune_ort.export.graph_file import quiet, torch_to_ir
from speechprune_ort.export.pipeline import _with_attention
from speechprune_ort.export.precision import plan

_traced: dict[str, Any] = {}


def _once(module: Any, example: tuple[Any, ...], spec: Any) -> Any:
    """``torch_to_ir``, with what was traced before."""
    if spec.name not in _traced:
        _traced[spec.name] = torch_to_ir(module, example, spec)
    return _traced[spec.name]


def _trace(folder: str) -> None:
    torch.set_num_threads(1)  # threads do not live on in a forked process
    tqdm.monitor_interval = 0  # nor does the one that may hold the lock of all progress bars
    with quiet():
        checkpoint = _with_attention(load_checkpoint(folder, None, False), False)
    dims, chosen = checkpoint.dimensions, plan("fp32", "cpu")
    specs = graph_specs(dims, chosen.float_dtype, checkpoint.short_windows, False)
    frames = torch.tensor([dims.frames, dims.frames // 2])
    features = torch.zeros(2, dims.mel_bins, dims.frames)
    _once(checkpoint.audio_encoder.float(), (features, frames), specs[AUDIO_ENCODER])
    projection = first_layer_qk.FloatProjection(checkpoint.language_model, dims).eval()
    _once(projection, (torch.zeros(3, dims.hidden),), specs[FIRST_LAYER_QK_FLOAT])
    for part in (audio_encoder, first_layer_qk):
        part.torch_to_ir = _once  # type: ignore[attr-defined]


if CHECKPOINT in os.environ:
    _trace(os.environ[CHECKPOINT])
