"""Quantization of a graph's constant matrices, one matrix in memory at a time.

ONNX Runtime's quantizers take a whole graph with all of its weights in float32 at once; here they
are made one by one, so that a large model need not fit in memory.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnxruntime.quantization.matmul_nbits_quantizer import (
    DefaultWeightOnlyQuantConfig,
    DefaultWeightOnlyQuantizer,
)

from speechprune_ort.export.course import Advance
from speechprune_ort.export.initializers import initializer

__all__ = ["quantize_matmuls", "quantize_with_activations"]

COLUMNS = 8192  # quantized at a time


def quantize_matmuls(
    model: ir.Model,
    bits: int,
    *,
    block_size: int,
    accuracy_level: int,
    is_symmetric: bool = True,
    bits_of: Mapping[str, int] | None = None,
    leave: Container[str] = (),
    after_each: Advance = lambda _: None,
) -> ir.Model:
    """Replace products with constant matrices by ``MatMulNBits``, in place.

    Args:
        model: its weights may be lazy.
        bits: 4 or 8.
        block_size: values that share a scale, down a column.
        accuracy_level: that of ``MatMulNBits``; 4 lets it quantize activations to 8 bits, each
            block of them by a scale of its own.
        is_symmetric: whether to do without zero points.
        bits_of: other widths, by the name of the node.
        leave: names of nodes that stay.
        after_each: told after each matrix how much is done of all of them.
    """
    for node, weight, done in _products(model.graph, leave):
        width = (bits_of or {}).get(node.name or "", bits)
        config = DefaultWeightOnlyQuantConfig(
            block_size=block_size,
            is_symmetric=is_symmetric,
            accuracy_level=accuracy_level,
            bits=width,
        )
        quantizer = DefaultWeightOnlyQuantizer(config)
        # Columns are independent of each other, and an output head is gigabytes in float32.
        pieces = [
            quantizer.qbits_block_quant(np.ascontiguousarray(weight[:, start : start + COLUMNS]))
            for start in range(0, weight.shape[1], COLUMNS)
        ]
        packed, scales, zero_points = (np.concatenate(part) for part in zip(*pieces, strict=True))
        parts = {f"Q{width}": packed, "scales": scales}
        if not is_symmetric:
            parts["zero_points"] = zero_points
        rows, columns = weight.shape
        attributes = {
            "K": rows,
            "N": columns,
            "bits": width,
            "block_size": block_size,
            "accuracy_level": accuracy_level,
        }
        _replace(model.graph, node, "MatMulNBits", parts, attributes)
        after_each(done)
    return model


def quantize_with_activations(
    model: ir.Model, *, leave: Container[str] = (), after_each: Advance = lambda _: None
) -> ir.Model:
    """Replace products with constant matrices by ``DynamicQuantizeMatMul``, in place.

    Both sides of the product are integers of 8 bits: weights with a scale per column, activations
    with one scale and zero point per call, found when the graph runs.

    Args:
        model: its weights may be lazy.
        leave: names of nodes that stay.
        after_each: told after each matrix how much is done of all of them.
    """
    for node, weight, done in _products(model.graph, leave):
        scales = (np.abs(weight).max(axis=0) / 127).astype(np.float32)
        scales[scales == 0] = 1
        packed = np.empty(weight.shape, np.int8)
        for start in range(0, len(weight), COLUMNS):
            packed[start : start + COLUMNS] = np.rint(weight[start : start + COLUMNS] / scales)
        parts = {"int8": packed, "int8_scales": scales}
        _replace(model.graph, node, "DynamicQuantizeMatMul", parts, {})
        after_each(done)
    return model


def _products(
    graph: ir.Graph, leave: Container[str]
) -> Iterator[tuple[ir.Node, NDArray[np.float32], float]]:
    """Products with a constant matrix, the matrix, and the share of all weights up to it."""
    found = []
    for node in graph:
        if node.op_type != "MatMul" or node.domain not in ("", "ai.onnx") or node.name in leave:
            continue
        value = node.inputs[1]
        constant = None if value is None else value.const_value
        if constant is not None and len(constant.shape) == 2:
            found.append((node, constant))
    whole, done = sum(constant.size for _, constant in found), 0
    for node, constant in found:
        done += constant.size
        yield node, constant.numpy(), done / whole


def _replace(
    graph: ir.Graph,
    node: ir.Node,
    op_type: str,
    parts: Mapping[str, NDArray[Any]],
    attributes: Mapping[str, int],
) -> None:
    """Put a quantized product in the place of a plain one, and its weights' parts in theirs."""
    source, value = node.inputs
    if value is None or value.name is None:
        raise ValueError(f"{node.name} has no named weight")
    weights = [initializer(graph, f"{value.name}_{part}", array) for part, array in parts.items()]
    quantized = ir.node(
        op_type,
        [source, *weights],
        dict(attributes),
        domain="com.microsoft",
        name=f"{node.name}_{op_type}",
    )
    old, new = node.outputs[0], quantized.outputs[0]
    new.name, new.type, new.shape = old.name, old.type, old.shape
    ir.convenience.replace_nodes_and_values(graph, node, [node], [quantized], [old], [new])
    if not value.uses():
        del graph.initializers[value.name]
    graph.opset_imports["com.microsoft"] = 1
