"""``rotary.onnx``: positions to the angles of rotary embedding, as cosines and sines.

The decoder's attention takes a row of both for each slot of its cache. They are looked up in a
table of torch's own values, so they are exactly its angles, whatever scaling a checkpoint has.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from speechprune_ort.contract.specs import ROTARY, GraphSpec
from speechprune_ort.export.graph_file import GraphMaker
from speechprune_ort.export.parity import EXACT, Checked, verify_graph
from speechprune_ort.export.precision import WORDS
from speechprune_ort.export.work import Graph, Work

__all__ = ["GRAPH", "export_rotary", "rotary_rows"]


def rotary_rows(
    language_model: PreTrainedModel, positions: NDArray[np.int64], dtype: str
) -> dict[str, NDArray[Any]]:
    """Cosines and sines of positions, as the language model computes them.

    Args:
        language_model: the model, with the rotary embedding that its layers share.
        positions: (tokens,) int64.
        dtype: numpy name, computed in float32 and rounded to it.

    Returns:
        ``cos`` and ``sin``, (tokens, head_dim / 2): each stands twice in torch's.
    """
    rotary: Any = language_model.get_decoder().rotary_emb
    with torch.no_grad():
        turned = rotary(torch.zeros(1), torch.from_numpy(positions)[None])
    half = turned[0].shape[-1] // 2
    named = zip(("cos", "sin"), turned, strict=True)
    return {name: values[0, :, :half].numpy().astype(dtype) for name, values in named}


def export_rotary(
    language_model: PreTrainedModel, context: int, spec: GraphSpec, path: Path
) -> None:
    """Write a Gather over each of the two tables.

    Args:
        language_model: the model whose rotary embedding it is.
        context: positions that the model has.
        spec: ``rotary``.
        path: graph file to write.
    """
    maker = GraphMaker(spec)
    tables = rotary_rows(language_model, np.arange(context), spec.outputs[0].dtype)
    positions = maker.inputs["position_ids"]
    rows = [
        maker.add("Gather", [maker.constant(f"{name}_table", table), positions], axis=0)
        for name, table in tables.items()
    ]
    maker.save(path, rows)


def _write(work: Work, spec: GraphSpec, path: Path) -> None:
    checkpoint = work.checkpoint
    export_rotary(checkpoint.language_model, checkpoint.dimensions.context, spec, path)


def _verify(work: Work, spec: GraphSpec, path: Path) -> Checked:
    context = work.checkpoint.dimensions.context
    positions = np.append(work.random.integers(0, context, 64), [0, context - 1])
    expected = rotary_rows(work.checkpoint.language_model, positions, "float32")
    least = EXACT if work.plan.float_dtype == "float32" else 0.9999
    case = {"random positions": ({"position_ids": positions}, expected)}
    return verify_graph(path, spec, work.target, case, least)


GRAPH = Graph(ROTARY, lambda work: WORDS[work.plan.float_dtype], _write, _verify)
