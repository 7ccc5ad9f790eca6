"""``embed_tokens.onnx``: token ids to embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor
from torch import Tensor

from speechprune_ort.contract.specs import DECODER, EMBED_TOKENS, GraphSpec
from speechprune_ort.export.families.base import Checkpoint
from speechprune_ort.export.graph_file import BLOCK, HEAD, GraphMaker
from speechprune_ort.export.parity import EXACT, Checked, verify_graph
from speechprune_ort.export.precision import WORDS, Plan
from speechprune_ort.export.work import Graph, Work

__all__ = ["GRAPH", "export_embed_tokens", "export_head_rows"]

ZERO = 128  # of MatMulNBits in 8 bits


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
    wide = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    stored = table.detach().to(wide.get(plan.embedding, torch.float16))
    maker = GraphMaker(spec)
    weights = maker.constant("table", TorchTensor(stored, name="table"))
    rows = maker.add("Gather", [weights, maker.inputs["token_ids"]], axis=0)
    maker.save(path, [maker.widen(rows) if spec.outputs[0].dtype == "float32" else rows])


def export_head_rows(spec: GraphSpec, path: Path) -> None:
    """Write a look-up in the decoder's output head; the graph has no weights of its own.

    Args:
        spec: ``embed_tokens``, float32.
        path: graph file to write; ``decoder.onnx`` is beside it already.
    """
    packed, scales = _head(path.with_name(f"{DECODER}.onnx"))
    maker = GraphMaker(spec)
    ids = maker.inputs["token_ids"]
    found = maker.add("Gather", [maker.constant("head", packed), ids], axis=0)
    signed = maker.add(
        "Sub", [maker.widen(found), maker.constant("zero", np.array([ZERO], np.float32))]
    )
    scale = maker.add("Gather", [maker.constant("scales", scales), ids], axis=0)
    last = maker.constant("last", np.array([-1]))
    blocks = maker.add("Mul", [signed, maker.add("Unsqueeze", [scale, last])])
    _, count, size = packed.shape.numpy()
    shape = maker.constant("shape", np.array([-1, count * size]))
    ir.save(maker.model([maker.add("Reshape", [blocks, shape])]), path)


def _write(work: Work, spec: GraphSpec, path: Path) -> None:
    if _is_head(work):
        export_head_rows(spec, path)
    else:
        export_embed_tokens(_table(work.checkpoint), work.plan, spec, path)


def _table(checkpoint: Checkpoint) -> Tensor:
    table: Tensor = checkpoint.language_model.get_input_embeddings().weight
    return table


def _is_head(work: Work) -> bool:
    """Whether the table is the output head, too, and the plan reads it there."""
    table = _table(work.checkpoint)
    head = work.checkpoint.language_model.get_output_embeddings().weight
    if not work.plan.one_table or head.shape != table.shape or table.shape[1] % BLOCK:
        return False
    return head is table or torch.equal(head, table)


def _head(decoder: Path) -> tuple[ir.TensorProtocol, ir.TensorProtocol]:
    """The decoder's output head in its file: bytes (vocab, blocks, block), scales (vocab, blocks).

    ``MatMulNBits`` has no zero points in the plans that read one table twice.
    """
    (node,) = (n for n in ir.load(decoder).graph if (n.name or "").startswith(HEAD))
    packed, scales = (value.const_value for value in node.inputs[1:] if value is not None)
    if packed is None or scales is None:
        raise ValueError(f"{node.name} has no weights")
    shape = ir.Shape(packed.shape.numpy()[:2])
    if isinstance(scales, ir.ExternalTensor):  # flat in the decoder
        where = scales.location, scales.offset, scales.length
        return packed, ir.ExternalTensor(
            *where, scales.dtype, shape=shape, name=scales.name, base_dir=scales.base_dir
        )
    return packed, ir.tensor(scales.numpy().reshape(shape.numpy()))


def _verify(work: Work, spec: GraphSpec, path: Path) -> Checked:
    ids = work.random.integers(0, len(_table(work.checkpoint)), 64)
    case = {"random ids": ({"token_ids": ids}, {"embeds": work.rows(ids)})}
    # A look-up is exact up to the width of what is stored.
    least = EXACT if work.plan.embedding == "float32" else min(work.plan.min_cosine, 0.9999)
    return verify_graph(path, spec, work.target, case, least)


GRAPH = Graph(
    EMBED_TOKENS,
    lambda work: "the output head's" if _is_head(work) else WORDS[work.plan.embedding],
    _write,
    _verify,
    parameters=lambda checkpoint: _table(checkpoint).numel(),
)
