"""Let the decoder's last layer compute what becomes logits, and nothing else.

Logits are of the last position alone. Behind its attention a layer treats each position by itself,
and no layer follows that would attend to the others: what leaves the attention, and what passes it
by, is cut to the last position there, instead of behind the final norm. That saves the last layer's
output projection and feed-forward network at all other positions of a prompt.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from speechprune_ort.errors import ExportError
from speechprune_ort.export.initializers import initializer

__all__ = ["for_last_position"]

ROW_BY_ROW = frozenset(
    {
        "Add",
        "Cast",
        "DynamicQuantizeMatMul",
        "FastGelu",
        "Gelu",
        "MatMul",
        "MatMulNBits",
        "Mul",
        "QuickGelu",
        "Sigmoid",
        "SimplifiedLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)
"""Operators that treat each position by itself."""
LAST = "last_position"


def for_last_position(model: ir.Model) -> ir.Model:
    """Cut to the last position in front of what treats each position by itself, in place.

    Args:
        model: a decoder as the builder writes it with logits of the last position alone.

    Raises:
        ExportError: it is written in another way.
    """
    graph, nodes = model.graph, list(model.graph)
    attended = [at for at, node in enumerate(nodes) if node.op_type == "GroupQueryAttention"]
    cuts = [node for node in nodes if node.op_type == "Gather" and _takes_last(node)]
    if not attended or len(cuts) != 1:
        raise _unknown("no attention, or no single place where the last position is taken")
    attention, before, [cut] = nodes[attended[-1]], set(nodes[: attended[-1] + 1]), cuts
    behind: set[ir.Node] = set()
    entering: dict[str, tuple[ir.Value, list[tuple[ir.Node, int]]]] = {}
    open_nodes = [cut]
    while open_nodes:
        node = open_nodes.pop()
        for index, value in _computed(node):
            source = value.producer()
            if source is None or source in before:
                _, uses = entering.setdefault(str(value.name), (value, []))
                uses.append((node, index))
            elif source not in behind:
                if source.op_type not in ROW_BY_ROW:
                    raise _unknown(f"a {source.op_type} behind the last attention")
                behind.add(source)
                open_nodes.append(source)
    if not behind or attention.outputs[0].name not in entering:
        raise _unknown("the last attention leads nowhere")
    place = initializer(graph, f"{LAST}.index", np.array([-1], np.int64))
    for number, (value, uses) in enumerate(entering.values()):
        taken = ir.node("Gather", [value, place], {"axis": 1}, name=f"{LAST}.{number}")
        made = taken.outputs[0]
        made.name, made.type = f"{LAST}.{number}.output", value.type
        made.shape = _of_one(value.shape)
        graph.insert_after(attention, taken)
        for node, operand in uses:
            node.replace_input_with(operand, made)
    for node in behind:
        for output in node.outputs:
            output.shape = _of_one(output.shape)
    return model


def _computed(node: ir.Node) -> Iterator[tuple[int, ir.Value]]:
    """Inputs that are computed from the graph's own, by their place."""
    for index, value in enumerate(node.inputs):
        if value is not None and ir.convenience.get_const_tensor(value) is None:
            yield index, value


def _takes_last(node: ir.Node) -> bool:
    index = ir.convenience.get_const_tensor(node.inputs[1]) if node.inputs[1] else None
    return index is not None and index.size == 1 and index.numpy().item() == -1


def _of_one(shape: ir.Shape | None) -> ir.Shape | None:
    """The shape with one position."""
    if shape is None or len(shape) != 3:
        return shape
    return ir.Shape([shape[0], 1, shape[2]])


def _unknown(what: str) -> ExportError:
    return ExportError(
        f"onnxruntime-genai's builder wrote the decoder's last layer in another way ({what}): this "
        "is a defect of export, report the checkpoint."
    )
