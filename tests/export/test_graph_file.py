"""Graphs that torch traces: each of its own weights, and what all need is made once."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor, nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from speechprune_ort.contract.specs import GraphSpec, TensorSpec
from speechprune_ort.export import graph_file
from speechprune_ort.export.graph_file import torch_to_ir

SPEC = GraphSpec(
    "pooled",
    (TensorSpec("values", "float32", ("windows", "frames"), (None, None)),),
    (TensorSpec("means", "float32", ("windows", "tokens"), (None, None)),),
)
VALUES = torch.arange(12, dtype=torch.float32).reshape(2, 6)


class Pooled(nn.Module):
    """(windows, frames) -> (windows, (frames + 1) // 4), means of pairs of sums of three.

    A convolution with a stride and pooling, as encoders have them: of fewer than 3 frames they
    make nothing, which the tracer sees.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, 1, 3), weight))

    def forward(self, values: Tensor) -> Tensor:
        sums = nn.functional.conv1d(values[:, None], self.weight, stride=2, padding=1)
        return nn.functional.avg_pool1d(sums, 2, stride=2)[:, 0]


def traced(weight: float) -> ir.Model:
    return torch_to_ir(Pooled(weight).eval(), (VALUES,), SPEC)


def test_a_graph_has_the_axes_of_its_spec_and_the_weights_of_its_module() -> None:
    for weight in (2.0, 3.0):
        model = traced(weight)
        assert [axis.value for axis in model.graph.inputs[0].shape or ()] == ["windows", "frames"]
        session = ort.InferenceSession(
            ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
        )
        for windows, frames in ((1, 3), (2, 6), (5, 9)):
            values = np.random.default_rng(0).normal(size=(windows, frames)).astype(np.float32)
            (found,) = session.run(None, {"values": values})
            padded = np.pad(values, ((0, 0), (1, 1)))
            sums = weight * sliding_window_view(padded, 3, 1)[:, ::2].sum(2)
            expected = sums[:, : sums.shape[1] // 2 * 2].reshape(windows, -1, 2).mean(2)
            np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_table_of_operators_is_made_once_and_stays_as_it_was() -> None:
    graph_file._operators.cache_clear()  # another test may have traced for another opset
    traced(1.0)
    made = graph_file._operators.cache_info().misses
    table = graph_file._operators(opset_version=graph_file.OPSET).functions
    before = {target: list(found) for target, found in table.items()}
    assert len(before) > 100
    traced(2.0)
    assert graph_file._operators.cache_info().misses == made == 1
    assert table == before
    # Only while a graph is traced: others may register operators of their own in theirs.
    assert ONNXRegistry.from_torchlib is not graph_file._operators


def test_a_module_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    traces: list[Any] = []
    export = torch.export.export

    def counted(*arguments: Any, **options: Any) -> Any:
        traces.append(options)
        return export(*arguments, **options)

    monkeypatch.setattr(torch.export, "export", counted)
    traced(1.0)
    assert len(traces) == 1


def test_a_graph_in_bfloat16_is_widened_with_the_constants_in_it() -> None:
    narrow = ir.DataType.BFLOAT16
    given = ir.Value(name="given", type=ir.TensorType(narrow), shape=ir.Shape(["n"]))
    scale = ir.node("Constant", [], {"value": ir.tensor(0.7, dtype=narrow, name="scale")})
    scaled = ir.node("Mul", [given, scale.outputs[0]])
    for value, name in ((scale.outputs[0], "scale"), (scaled.outputs[0], "scaled")):
        value.name, value.type = name, ir.TensorType(narrow)
    graph = ir.Graph([given], scaled.outputs, nodes=[scale, scaled], opset_imports={"": 21})
    model = graph_file.in_float32_throughout(ir.Model(graph, ir_version=10))
    session = ort.InferenceSession(
        ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"given": np.array([2, -4], np.float32)})
    np.testing.assert_array_equal(found, np.array([2, -4], np.float32) * np.float32(0.69921875))
