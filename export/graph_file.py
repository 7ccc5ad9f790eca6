"""From a torch module or a hand-made graph to an ONNX file: axes, weights, saving."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from speechprune_ort.contract.specs import GraphSpec, TensorSpec
from speechprune_ort.export.course import Advance
from speechprune_ort.export.initializers import fixed
from speechprune_ort.export.precision import Weights
from speechprune_ort.export.quantize import quantize_matmuls, quantize_with_activations

__all__ = [
    "GraphMaker",
    "described",
    "in_float32_throughout",
    "quiet",
    "save",
    "store_half",
    "torch_to_ir",
    "with_weights",
]

OPSET = 20
BLOCK = 32
HEAD = ("/lm_head/MatMul",)  # one row per run, and it ranks the answers: weights alone
# Tables and scalars below this stay as they are: nothing is saved, and shapes must be exact.
SMALL = 1024


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep third-party exporters from writing to the terminal; errors still raise."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


_operators = functools.cache(ONNXRegistry.from_torchlib)


@contextlib.contextmanager
def _operators_made_once() -> Iterator[None]:
    """Keep torch's table of ONNX operators from one graph to the next.

    ``torch.onnx.export`` parses the source of hundreds of functions for it, every time, and only
    reads it unless it is given a translation table.
    """
    own = ONNXRegistry.__dict__["from_torchlib"]
    ONNXRegistry.from_torchlib = staticmethod(_operators)  # type: ignore[method-assign]
    try:
        yield
    finally:
        ONNXRegistry.from_torchlib = own  # type: ignore[method-assign]


def torch_to_ir(
    module: nn.Module, example: tuple[Tensor, ...], spec: GraphSpec, opset: int = OPSET
) -> ir.Model:
    """Trace a module into a graph with the spec's names and dynamic axes.

    Args:
        module: in eval mode.
        example: one tensor per input of the spec, dynamic axes of size 2 or more (a size of 1
            would be taken as fixed).
        spec: names, and which axes are dynamic.
        opset: version of ONNX's operators.
    """
    # By name, without bounds: with torch.export.Dim the tracer would find that an encoder has a
    # shortest window, refuse, and trace it again with that bound.
    shapes = tuple(
        {i: tensor.axes[i] for i, size in enumerate(tensor.shape) if size is None}
        for tensor in spec.inputs
    )
    with quiet(), _operators_made_once(), torch.no_grad():
        program = torch.onnx.export(
            module,
            example,
            dynamo=True,
            opset_version=opset,
            input_names=[t.name for t in spec.inputs],
            output_names=[t.name for t in spec.outputs],
            dynamic_shapes=shapes,
            verbose=False,
        )
    if program is None:
        raise RuntimeError(f"torch.onnx.export returned nothing for {spec.name}.")
    model: ir.Model = program.model
    for node in model.graph.all_nodes():
        # torch notes the line that each came from, with the path of the file on this machine.
        node.metadata_props.clear()
    return model


def store_half(model: ir.Model, advance: Advance = lambda _: None) -> ir.Model:
    """Store large float32 weights as float16, with a Cast back to float32 before their use.

    ONNX Runtime folds the Cast when it loads the graph: the file halves, arithmetic and memory
    stay float32. Weights beyond float16's range are left alone.

    Args:
        model: changed in place; its weights may be lazy.
        advance: told how much is done.
    """
    graph = model.graph
    whole, done = bytes_of(model), 0
    for name, value in list(graph.initializers.items()):
        done += 0 if value.const_value is None else value.const_value.nbytes
        advance(done / max(1, whole))
        constant = value.const_value
        if constant is None or constant.dtype != ir.DataType.FLOAT or constant.size < SMALL:
            continue
        weights = constant.numpy()
        if np.abs(weights).max() > np.finfo(np.float16).max:
            continue
        half = ir.Value(
            name=f"{name}.float16",
            type=ir.TensorType(ir.DataType.FLOAT16),
            shape=ir.Shape(weights.shape),
            const_value=ir.tensor(weights.astype(np.float16), name=f"{name}.float16"),
        )
        cast = ir.node("Cast", [half], {"to": ir.DataType.FLOAT.value}, name=f"{name}.widen")
        cast.outputs[0].name = f"{name}.float32"
        ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        del graph.initializers[name]
        graph.register_initializer(half)
        graph.insert_before(graph[0], cast)
    return model


def in_float32_throughout(model: ir.Model) -> ir.Model:
    """Turn what is bfloat16 in a graph into float32, in place; weights are widened when read."""
    narrow, wide = ir.DataType.BFLOAT16, ir.DataType.FLOAT
    graph = model.graph
    made = (value for node in graph for value in node.outputs)
    for value in (*graph.inputs, *graph.outputs, *graph.initializers.values(), *made):
        if value.dtype == narrow:
            value.type = ir.TensorType(wide)
        if value.const_value is not None and value.const_value.dtype == narrow:
            value.const_value = _wide(value.const_value)
    for node in graph:
        to = node.attributes.get("to")
        if node.op_type == "Cast" and to is not None and to.value == narrow.value:
            node.attributes["to"] = ir.AttrInt64("to", wide.value)
        constant = node.attributes.get("value")
        if node.op_type == "Constant" and constant is not None:
            tensor = constant.as_tensor()
            if tensor.dtype == narrow:
                node.attributes["value"] = ir.AttrTensor("value", _wide(tensor))
    return model


def _wide(tensor: ir.TensorProtocol) -> ir.LazyTensor:
    def read() -> ir.TensorProtocol:
        return ir.tensor(tensor.numpy().astype(np.float32), name=tensor.name)

    return ir.LazyTensor(
        read, dtype=ir.DataType.FLOAT, shape=ir.Shape(tensor.shape.numpy()), name=tensor.name
    )


def with_weights(model: ir.Model, weights: Weights, advance: Advance = lambda _: None) -> ir.Model:
    """Apply a plan's weight storage to a float32 graph.

    ``float16`` (arithmetic in half precision) is not made here: it is traced that way.

    Args:
        model: changed in place.
        weights: how they are stored.
        advance: told how much is done.
    """
    if weights == "half_stored":
        return store_half(model, advance)
    if weights == "w8a8":
        quantize_with_activations(model, leave=HEAD, after_each=advance)
    if weights in ("int8", "w8a8"):
        return quantize_matmuls(model, 8, block_size=BLOCK, accuracy_level=4, after_each=advance)
    return model


def bytes_of(model: ir.Model) -> int:
    """Bytes of a graph's weights."""
    values = (value.const_value for value in model.graph.initializers.values())
    return sum(constant.nbytes for constant in values if constant is not None)


def save(model: ir.Model, path: Path, advance: Advance = lambda _: None) -> None:
    """Write ``path`` and its weights beside it in ``<path>.data``.

    Args:
        model: its weights may be lazy.
        path: graph file.
        advance: told how much is written.
    """
    whole = max(1, bytes_of(model))
    ir.save(
        model,
        path,
        external_data=f"{path.name}.data",
        size_threshold_bytes=SMALL,
        callback=lambda _, at: advance(min(1.0, at.offset / whole)),
    )


class GraphMaker:
    """Builds a graph node by node, between the inputs and outputs of its spec.

    Args:
        spec: names, dtypes, axes.

    Attributes:
        inputs: the inputs, by name.
    """

    def __init__(self, spec: GraphSpec) -> None:
        self._spec = spec
        self.inputs = {tensor.name: described(tensor) for tensor in spec.inputs}
        self._nodes: list[ir.Node] = []
        self._initializers: list[ir.Value] = []

    def constant(self, name: str, array: NDArray[np.generic] | ir.TensorProtocol) -> ir.Value:
        """A weight or a fixed operand; a tensor in another graph's file stays there."""
        value = fixed(name, array)
        self._initializers.append(value)
        return value

    def add(self, op: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        """A node with one output."""
        node = ir.node(op, list(inputs), attributes)
        self._nodes.append(node)
        return node.outputs[0]

    def widen(self, value: ir.Value) -> ir.Value:
        """The value as float32; the value itself if it already is."""
        if value.dtype == ir.DataType.FLOAT:
            return value
        return self.add("Cast", [value], to=ir.DataType.FLOAT.value)

    def save(self, path: Path, outputs: Sequence[ir.Value]) -> None:
        """Write the graph with ``outputs`` in the spec's order, and its weights beside it."""
        save(self.model(outputs), path)

    def model(self, outputs: Sequence[ir.Value]) -> ir.Model:
        """The graph with ``outputs`` in the spec's order."""
        for value, tensor in zip(outputs, self._spec.outputs, strict=True):
            wanted = described(tensor)
            value.name, value.type, value.shape = wanted.name, wanted.type, wanted.shape
        graph = ir.Graph(
            list(self.inputs.values()),
            list(outputs),
            nodes=self._nodes,
            initializers=self._initializers,
            opset_imports={"": OPSET},
            name=self._spec.name,
        )
        return ir.Model(graph, ir_version=10)


def described(tensor: TensorSpec) -> ir.Value:
    """A value with the name, dtype and axes of a spec."""
    dtype = ir.DataType.from_numpy(np.dtype(tensor.dtype))
    sizes = [
        axis if size is None else size for axis, size in zip(tensor.axes, tensor.shape, strict=True)
    ]
    return ir.Value(name=tensor.name, type=ir.TensorType(dtype), shape=ir.Shape(sizes))
