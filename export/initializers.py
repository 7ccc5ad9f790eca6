"""Weights and fixed operands of graphs."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["fixed", "initializer"]


def fixed(name: str, values: NDArray[Any] | ir.TensorProtocol) -> ir.Value:
    """A value that a graph may take for its own; a tensor in another graph's file stays there."""
    tensor = ir.tensor(values, name=name)
    return ir.Value(
        name=name,
        type=ir.TensorType(tensor.dtype),
        shape=ir.Shape(tensor.shape.numpy()),
        const_value=tensor,
    )


def initializer(graph: ir.Graph, name: str, values: NDArray[Any]) -> ir.Value:
    """A graph's initializer of that name; what is there already is used again."""
    if name not in graph.initializers:
        graph.register_initializer(fixed(name, values))
    return graph.initializers[name]
