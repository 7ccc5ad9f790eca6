"""``embed_tokens.onnx``: token ids to embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from speechprune_ort.contract.specs import EMBED_TOKENS, GraphSpec
from speechprune_ort.export.families.base import Checkpoint
from speechprune_ort.export.graph_file import OPSET, save
from speechprune_ort.export.parity import EXACT, Checked, verify_graph
from speechprune_ort.export.precision import WORDS, Plan
from speechprune_ort.export.work import Graph, Work

__all__ = ["GRAPH", "export_embed_tokens"]


def export_embed_tokens(table: Tensor, plan: Plan, spec: GraphSpec, path: Path) -> None:
    """Write a Gather over the embedding table, widened after the look-up.

    Written by hand, not traced: the table is stored in its narrow dtype and only the rows
    that were looked up are cast, so memory stays that of the narrow table.

    Args:
        table: (vocab, hidden), as stored.
        plan: how weights are stored.
        spec: ``embed_tokens``.
        path: graph file to write.
    """
    stored = torch.float32 if plan.embedding == "float32" else torch.float16
    weights = table.detach().to(stored).numpy()
    (ids,), (out,) = spec.inputs, spec.outputs
    wanted = ir.DataType.from_numpy(np.dtype(out.dtype))

    token_ids = ir.Value(
        name=ids.name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape(["tokens"])
    )
    initializer = ir.Value(
        name="table",
        type=ir.TensorType(ir.DataType.from_numpy(weights.dtype)),
        shape=ir.Shape(weights.shape),
        const_value=ir.tensor(weights, name="table"),
    )
    nodes = [ir.node("Gather", [initializer, token_ids], {"axis": 0})]
    if initializer.dtype != wanted:
        nodes.append(ir.node("Cast", [nodes[0].outputs[0]], {"to": wanted.value}))
    embeds = nodes[-1].outputs[0]
    embeds.name = out.name
    embeds.type = ir.TensorType(wanted)
    embeds.shape = ir.Shape(["tokens", weights.shape[1]])
    graph = ir.Graph(
        [token_ids],
        [embeds],
        nodes=nodes,
        initializers=[initializer],
        opset_imports={"": OPSET},
        name=spec.name,
    )
    save(ir.Model(graph, ir_version=10), path)


def _table(checkpoint: Checkpoint) -> Tensor:
    table: Tensor = checkpoint.language_model.get_input_embeddings().weight
    return table


def _verify(work: Work, spec: GraphSpec, path: Path) -> Checked:
    ids = work.random.integers(0, len(_table(work.checkpoint)), 64)
    case = {"random ids": ({"token_ids": ids}, {"embeds": work.rows(ids)})}
    # A look-up is exact up to the width of what is stored.
    least = EXACT if work.plan.embedding == "float32" else min(work.plan.min_cosine, 0.9999)
    return verify_graph(path, spec, work.target, case, least)


GRAPH = Graph(
    EMBED_TOKENS,
    lambda plan: WORDS[plan.embedding],
    lambda work, spec, path: export_embed_tokens(_table(work.checkpoint), work.plan, spec, path),
    _verify,
    parameters=lambda checkpoint: _table(checkpoint).numel(),
)
