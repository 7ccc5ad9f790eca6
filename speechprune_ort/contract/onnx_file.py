"""What an ONNX file is made of, read without the ``onnx`` package: operators and weight files.

An ONNX file is a protocol buffer. Only the few fields that say which operators run and which
other files are opened are looked at; everything else is skipped by its length. Tensors of
weights lie in files of their own, so a graph is small, and reading it takes milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ALLOWED_OPERATORS", "GRAPH_BYTES", "GraphFile", "foreign_operators", "read_graph"]

GRAPH_BYTES = 1 << 26
"""Largest graph without its weights; one of 64 layers has some megabytes."""

_STANDARD = """
Abs Add And Attention AveragePool Cast CastLike Ceil Clip Concat Constant ConstantOfShape Conv Cos
CumSum
DequantizeLinear Div DynamicQuantizeLinear Equal Erf Exp Expand Flatten Floor Gather GatherElements
GatherND Gelu Gemm Greater GreaterOrEqual Identity IsNaN LayerNormalization Less LessOrEqual Log
MatMul MatMulInteger Max Min Mod Mul Neg Not Or Pad Pow Range Reciprocal ReduceL2 ReduceMax
ReduceMean ReduceMin ReduceSum Relu Reshape RMSNormalization Round ScatterElements ScatterND Shape
Sigmoid Sign SimplifiedLayerNormalization Sin Slice Softmax Softplus Split Sqrt Squeeze Sub Tanh
Tile TopK Transpose Trilu Unsqueeze Where
"""
_MICROSOFT = """
DynamicQuantizeMatMul FastGelu FusedMatMul Gelu GroupQueryAttention MatMulIntegerToFloat
MatMulNBits MultiHeadAttention RotaryEmbedding SkipLayerNormalization
SkipSimplifiedLayerNormalization
"""
ALLOWED_OPERATORS = frozenset(
    [("", name) for name in _STANDARD.split()]
    + [("com.microsoft", name) for name in _MICROSOFT.split()]
)
"""(domain, operator) that a graph may use: what export writes, and arithmetic that its exporters
may come to write. Others can open files, such as ``EPContext``, or run code of their own."""

# Numbers of the fields, from onnx.proto.
MODEL_GRAPH, MODEL_TRAINING, MODEL_FUNCTIONS = 7, 20, 25
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_SPARSE = 1, 5, 15
NODE_OPERATOR, NODE_ATTRIBUTE, NODE_DOMAIN = 4, 5, 7
ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS = 5, 10
ATTRIBUTE_NESTED = frozenset([6, 11, 22, 23])  # graphs and sparse tensors
TENSOR_EXTERNAL = 13
ENTRY_KEY, ENTRY_VALUE = 1, 2
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True, slots=True)
class GraphFile:
    """What a graph uses.

    Attributes:
        operators: (domain, operator) of its nodes; ``""`` is ONNX's own domain.
        locations: files that its weights lie in, as it names them.
    """

    operators: frozenset[tuple[str, str]]
    locations: frozenset[str]


def foreign_operators(graph: GraphFile) -> list[str]:
    """Operators of a graph that are not allowed, such as ``com.microsoft.EPContext``."""
    return [f"{d}.{o}".lstrip(".") for d, o in sorted(graph.operators - ALLOWED_OPERATORS)]


def read_graph(path: Path) -> GraphFile:
    """Read which operators and which other files a graph uses.

    Args:
        path: the ``.onnx`` file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is too large, is not an ONNX graph, or is made of parts that export never
            writes (functions, graphs within graphs, sparse weights); the message is a phrase.
    """
    size = path.stat().st_size
    if size > GRAPH_BYTES:
        raise ValueError(f"{size} bytes are too many for a graph without its weights")
    content = path.read_bytes()
    operators: set[tuple[str, str]] = set()
    locations: set[str] = set()
    graphs = 0
    for field, start, end in _fields(content, 0, len(content)):
        if field in (MODEL_FUNCTIONS, MODEL_TRAINING):
            raise ValueError("it has functions or training of its own")
        if field == MODEL_GRAPH:
            graphs += 1
            _read_nodes(content, start, end, operators, locations)
    if graphs != 1:
        raise ValueError("it is not an ONNX graph")
    return GraphFile(frozenset(operators), frozenset(locations))


def _read_nodes(
    content: bytes, start: int, end: int, operators: set[tuple[str, str]], locations: set[str]
) -> None:
    for field, first, last in _fields(content, start, end):
        if field == GRAPH_NODE:
            operators.add(_operator(content, first, last, locations))
        elif field == GRAPH_INITIALIZER:
            _add_locations(content, first, last, locations)
        elif field == GRAPH_SPARSE:
            raise ValueError("it has sparse weights")


def _operator(content: bytes, start: int, end: int, locations: set[str]) -> tuple[str, str]:
    operator = domain = ""
    for field, first, last in _fields(content, start, end):
        if field == NODE_OPERATOR:
            operator = _text(content, first, last)
        elif field == NODE_DOMAIN:
            domain = _text(content, first, last)
        elif field == NODE_ATTRIBUTE:
            for inner, a, b in _fields(content, first, last):
                if inner in ATTRIBUTE_NESTED:
                    raise ValueError("it has graphs within a node")
                if inner in (ATTRIBUTE_TENSOR, ATTRIBUTE_TENSORS):
                    _add_locations(content, a, b, locations)
    return "" if domain == "ai.onnx" else domain, operator


def _add_locations(content: bytes, start: int, end: int, locations: set[str]) -> None:
    for field, first, last in _fields(content, start, end):
        if field == TENSOR_EXTERNAL:
            entry = {f: _text(content, a, b) for f, a, b in _fields(content, first, last)}
            if entry.get(ENTRY_KEY) == "location":
                locations.add(entry.get(ENTRY_VALUE, ""))


def _text(content: bytes, start: int, end: int) -> str:
    return content[start:end].decode("utf-8")  # UnicodeDecodeError is a ValueError


def _fields(content: bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Fields of a message in ``content[start:end]``: number, and where its value lies.

    A number has an empty place.
    """
    at = start
    while at < end:
        tag = content[at]
        at += 1
        if tag > 127:
            tag, at = _varint(content, at - 1, end)
            if tag >> 32:  # other readers would cut it short, and see another field
                raise ValueError("it is not an ONNX graph")
        kind = tag & 7
        if kind == BYTES:
            size, at = _varint(content, at, end)
            stop = at + size
            if stop > end:
                raise ValueError("it ends early")
            yield tag >> 3, at, stop
            at = stop
        elif kind == VARINT:
            _, at = _varint(content, at, end)
            yield tag >> 3, at, at
        elif kind in (FIXED32, FIXED64):
            at += 4 if kind == FIXED32 else 8
            yield tag >> 3, at, at
        else:
            raise ValueError("it is not an ONNX graph")
    if at != end:
        raise ValueError("it ends early")


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("it ends early")
