"""The audio encoder's attention as one operator, for each kind of device its own.

Traced into products and a softmax, it would go through a matrix of all frames by all frames, for
each head of each window. torch writes ``Attention`` instead, whose masks are changed here.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from speechprune_ort.export.initializers import initializer

__all__ = ["OPSET", "with_cut_keys", "with_full_masks"]

OPSET = 23  # the first version of ONNX's operators that has attention
MASK = 3  # its input
MICROSOFT = "com.microsoft"
HEADS_FIRST = (0, 2, 1, 3)


def with_full_masks(model: ir.Model) -> ir.Model:
    """Give every query a row of its own in the masks of ``Attention``, in place.

    The operator does not broadcast there.
    """
    graph, full = model.graph, dict[ir.Value, ir.Value]()
    for node in list(graph):
        if node.op_type != "Attention" or len(node.inputs) <= MASK:
            continue
        query, mask = node.inputs[0], node.inputs[MASK]
        if mask is None or mask.shape is None or mask.shape[-2] != 1:
            continue
        if mask not in full:
            rows = ir.node("Shape", [query], {"start": 2, "end": 3})
            ones = [_whole(graph, f"{mask.name}.{count}", [1] * count) for count in (2, 1)]
            shape = ir.node("Concat", [ones[0], rows.outputs[0], ones[1]], {"axis": 0})
            expand = ir.node("Expand", [mask, shape.outputs[0]])
            graph.insert_before(node, [rows, shape, expand])
            full[mask] = expand.outputs[0]
        node.replace_input_with(MASK, full[mask])
    return model


def with_cut_keys(model: ir.Model) -> ir.Model:
    """Let attention take the keys and values that are sound, and no mask, in place.

    Where a mask tells no more than where each window of a run ends, ``MultiHeadAttention`` takes
    the place of ``Attention``: without a mask ONNX Runtime computes it in blocks that stay in the
    processor's cache (arXiv:2205.14135), in about half of the time. All windows of a run must have
    one length then. Other attention is left as it is.
    """
    graph, ends = model.graph, dict[ir.Value, ir.Value]()
    for node in list(graph):
        if node.op_type != "Attention":
            continue
        mask = node.inputs[MASK] if len(node.inputs) > MASK else None
        parts = [_before_heads(value) for value in node.inputs[:MASK]]
        after, heads = _behind_heads(node.outputs[0]), _heads(node.inputs[0])
        plain = not (
            node.attributes.get_int("is_causal", 0) or node.attributes.get_float("softcap", 0)
        )
        if (
            None in parts or after is None or heads is None or not plain
            or len(node.inputs) > MASK + 1 or not _tells_ends(graph, mask)
        ):  # fmt: skip
            continue
        made: list[ir.Node] = []
        if mask is not None:
            if mask not in ends:
                ends[mask] = _end(graph, mask, made)
            first, axis = (
                _whole(graph, f"{mask.name}.{name}", [number])
                for name, number in (("first", 0), ("axis", 1))
            )
            for place in (1, 2):
                cut = ir.node("Slice", [parts[place], first, ends[mask], axis])
                made.append(cut)
                parts[place] = cut.outputs[0]
        given = {"num_heads": heads}
        scale = node.attributes.get("scale")
        attributes = given if scale is None else {**given, "scale": scale.as_float()}
        attention = ir.node("MultiHeadAttention", parts, attributes, domain=MICROSOFT)
        graph.insert_before(node, [*made, attention])
        after.replace_all_uses_with(attention.outputs[0])
        model.opset_imports[MICROSOFT] = 1
    RemoveUnusedNodesPass()(model)
    return model


def _heads(query: ir.Value | None) -> int | None:
    """How many heads (windows, heads, frames, size) have, where that is known."""
    if query is None or query.shape is None or len(query.shape) != len(HEADS_FIRST):
        return None
    heads = query.shape[1]
    return heads if isinstance(heads, int) else None


def _before_heads(value: ir.Value | None) -> ir.Value | None:
    """The (windows, frames, heads x size) that were split into heads, if that is all there was."""
    split = None if value is None else value.producer()
    if split is None or not _puts_heads_first(split) or split.inputs[0] is None:
        return None
    shaped = split.inputs[0].producer()
    if shaped is None or shaped.op_type != "Reshape":
        return None
    return _of_three(shaped.inputs[0])


def _behind_heads(value: ir.Value) -> ir.Value | None:
    """The (windows, frames, heads x size) that attention becomes, if it becomes nothing else."""
    joined = False
    while True:
        users = [use.node for use in value.uses()]
        if len(users) != 1:
            return None
        value = users[0].outputs[0]
        if _puts_heads_first(users[0]) and not joined:
            joined = True
        elif users[0].op_type != "Reshape":
            return None
        elif joined:
            return _of_three(value)


def _puts_heads_first(node: ir.Node) -> bool:
    """Whether a node exchanges heads and frames."""
    return node.op_type == "Transpose" and (
        tuple(node.attributes.get_ints("perm", ())) == HEADS_FIRST
    )


def _of_three(value: ir.Value | None) -> ir.Value | None:
    """The value, if it is known to have three axes."""
    known = value is not None and value.shape is not None and len(value.shape) == 3
    return value if known else None


def _tells_ends(graph: ir.Graph, mask: ir.Value | None) -> bool:
    """Whether there is no mask, or one for all heads and queries of a window alike.

    Encoders that cut a window into chunks have a mask of each chunk, and those differ in length.
    """
    if mask is None:
        return True
    windows = graph.inputs[0].shape
    if mask.shape is None or windows is None or list(mask.shape[1:3]) != [1, 1]:
        return False
    return mask.shape[0] == windows[0]


def _end(graph: ir.Graph, mask: ir.Value, made: list[ir.Node]) -> ir.Value:
    """Frames of sound, (1,) int64, of a mask (windows, 1, 1, frames); its nodes join ``made``."""

    def add(name: str, *inputs: ir.Value | None, **attributes: int) -> ir.Value:
        made.append(ir.node(name, list(inputs), attributes))
        return made[-1].outputs[0]

    heard: ir.Value = mask
    if mask.dtype != ir.DataType.BOOL:  # what is added to scores: 0, or far below
        floor = initializer(graph, f"{mask.name}.floor", np.array(-1.0, np.float32))
        heard = add("Greater", mask, floor)
    counted = add("Cast", heard, to=int(ir.DataType.INT64))
    last = _whole(graph, f"{mask.name}.last", [3])
    longest = add("ReduceMax", add("ReduceSum", counted, last, keepdims=0), keepdims=0)
    return add("Unsqueeze", longest, _whole(graph, f"{mask.name}.one", [0]))


def _whole(graph: ir.Graph, name: str, numbers: list[int]) -> ir.Value:
    return initializer(graph, name, np.array(numbers, np.int64))
