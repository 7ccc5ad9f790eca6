"""``embed_tokens.onnx``: token ids to embeddings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from speechprune_ort.contract.specs import DECODER, EMBED_TOKENS, GraphSpec
from speechprune_ort.export.families.base import Checkpoint
from speechprune_ort.export.graph_file import BLOCK, HEAD, GraphMaker
from speechprune_ort.export.parity import EXACT, Checked, verify_graph
from speechprune_ort.export.precision import WORDS
from speechprune_ort.export.work import Graph, Work

__all__ = ["GRAPH", "export_embed_tokens"]

ZERO = 128  # of MatMulNBits in 8 bits


def export_embed_tokens(work: Work, spec: GraphSpec, path: Path) -> None:
    """Write a look-up in the embedding table; only the rows that are found are widened.

    Written by hand, not traced, so that the table stays in its narrow dtype in memory. Where the
    decoder's output head is the same matrix, in 8-bit blocks, its rows are looked up there: the
    graph has no weights of its own then.

    Args:
        work: checkpoint and plan.
        spec: ``embed_tokens``.
        path: graph file to write; ``decoder.onnx`` is beside it already.
    """
    maker = GraphMaker(spec)
    ids = maker.inputs["token_ids"]
    if _is_head(work):
        packed, scales = _head(path.with_name(f"{DECODER}.onnx"))
        blocks = maker.add("Gather", [maker.constant("head", packed), ids], axis=0)
        whole = maker.add("Sub", [maker.widen(blocks), maker.constant("zero", np.float32([ZERO]))])
        scale = maker.add("Gather", [maker.constant("scales", scales), ids], axis=0)
        each = maker.add("Unsqueeze", [scale, maker.constant("last", np.int64([-1]))])
        rows = maker.add("Mul", [whole, each])
        shape = maker.constant("shape", np.int64([-1, packed.shape[1] * packed.shape[2]]))
        ir.save(maker.model([maker.add("Reshape", [rows, shape])]), path)
        return
    stored = torch.float32 if work.plan.embedding == "float32" else torch.float16
    table = maker.constant("table", _table(work.checkpoint).detach().to(stored).numpy())
    rows = maker.add("Gather", [table, ids], axis=0)
    maker.save(path, [maker.widen(rows) if spec.outputs[0].dtype == "float32" else rows])


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

    ``MatMulNBits`` has them without zero points in every plan with one table.
    """
    (node,) = (n for n in ir.load(decoder).graph if (n.name or "").startswith(HEAD))
    packed, scales = (value.const_value for value in node.inputs[1:] if value is not None)
    assert packed is not None and scales is not None  # noqa: S101, PT018 - weights are constants
    vocab = packed.shape[0]
    return packed, ir.ExternalTensor(
        scales.location,
        scales.offset,
        scales.length,
        scales.dtype,
        shape=ir.Shape((vocab, packed.shape[1])),
        name=scales.name,
        base_dir=scales.base_dir,
    ) if isinstance(scales, ir.ExternalTensor) else ir.tensor(scales.numpy().reshape(vocab, -1))


def _verify(work: Work, spec: GraphSpec, path: Path) -> Checked:
    ids = work.random.integers(0, len(_table(work.checkpoint)), 64)
    case = {"random ids": ({"token_ids": ids}, {"embeds": work.rows(ids)})}
    # A look-up is exact up to the width of what is stored.
    least = EXACT if work.plan.embedding == "float32" else min(work.plan.min_cosine, 0.9999)
    return verify_graph(path, spec, work.target, case, least)


GRAPH = Graph(
    EMBED_TOKENS,
    lambda work: "the output head's" if _is_head(work) else WORDS[work.plan.embedding],
    export_embed_tokens,
    _verify,
    parameters=lambda checkpoint: _table(checkpoint).numel(),
)
