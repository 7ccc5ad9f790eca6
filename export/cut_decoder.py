"""``decoder_lower.onnx`` and ``decoder_upper.onnx``: the decoder, cut behind its first layers.

Methods that prune inside the language model, as FastV (arXiv:2403.06764) does, let the lower half
read every token and the upper half what is kept of them. The lower half also gives the attention
that they go by: of the prompt's last position, in the half's last layer, the mean over its heads.

Both are made from ``decoder.onnx``, in whatever precision that is, and read its weights where they
are: a bundle holds none twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from speechprune_ort.contract.manifest import Parity
from speechprune_ort.contract.specs import (
    DECODER,
    DECODER_LOWER,
    DECODER_UPPER,
    HIDDEN_STATES,
    LAST_ATTENTION,
    GraphSpec,
    cached_layers,
    graph_specs,
    present_name,
)
from speechprune_ort.errors import ExportError
from speechprune_ort.export.decoder import (
    Logits,
    Part,
    empty_cache,
    logits_of,
    prompt_cases,
    run_parts,
    runnable,
    verify_logits,
)
from speechprune_ort.export.graph_file import described
from speechprune_ort.export.initializers import initializer
from speechprune_ort.export.memory import in_float32
from speechprune_ort.export.parity import Checked, checked, compare, open_graph
from speechprune_ort.export.precision import WORDS
from speechprune_ort.export.rotary import rotary_rows
from speechprune_ort.export.work import Graph, Work

__all__ = ["LOWER", "UPPER", "lower_half", "upper_half"]

END = np.iinfo(np.int64).max
PLAIN = {
    "local_window_size": -1,
    "rotary_interleaved": 0,
    "rotary_embedding_dim": 0,
    "smooth_softmax": 0,
}
"""Attributes of the attention as the lower half computes it again."""


class _Added:
    """Nodes that are added to a graph.

    Args:
        graph: the graph.
        before: node that they stand before; None puts them at the end.
    """

    def __init__(self, graph: ir.Graph, before: ir.Node | None = None) -> None:
        self._graph, self._before, self._count = graph, before, 0

    def constant(self, array: Sequence[int] | float) -> ir.Value:
        """A fixed operand: int64 of a sequence, float32 of a number."""
        dtype = np.float32 if isinstance(array, float) else np.int64
        return initializer(self._graph, self._name(), np.array(array, dtype))

    def node(self, op: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        """A node with one output of the first input's dtype."""
        name = self._name()
        node = ir.node(op, list(inputs), attributes, name=name)
        made = node.outputs[0]
        made.name, made.type = f"{name}.output", inputs[0].type
        if self._before is None:
            self._graph.append(node)
        else:
            self._graph.insert_before(self._before, node)
        return made

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value in a dtype; the value itself if it has that."""
        if value.dtype == dtype:
            return value
        made = self.node("Cast", [value], to=dtype.value)
        made.type = ir.TensorType(dtype)
        return made

    def part(
        self, value: ir.Value, axis: int, start: ir.Value | int, end: ir.Value | int
    ) -> ir.Value:
        """A slice along an axis."""
        bounds = [b if isinstance(b, ir.Value) else self.constant([b]) for b in (start, end)]
        return self.node("Slice", [value, *bounds, self.constant([axis])])

    def _name(self) -> str:
        self._count += 1
        return f"cut.{self._count}"


def lower_half(graph: ir.Graph, spec: GraphSpec) -> ir.Graph:
    """The decoder's layers below the cut.

    Args:
        graph: the whole decoder; nodes are added to it.
        spec: ``decoder_lower``.

    Raises:
        ExportError: the layer below the cut attends in a way that cannot be computed again.
    """
    after = cached_layers(spec)
    root, skipped = _norm(graph, after).inputs[:2]
    attention = _attention(graph, after - 1)
    if root is None or skipped is None:
        raise _unknown(f"the norm of layer {after}")
    added = _Added(graph)
    hidden, received = spec.outputs[:2]
    outputs = [
        added.cast(added.node("Add", [root, skipped]), _dtype(hidden.dtype)),
        _received(added, graph, attention, spec),
    ]
    for value, tensor in zip(outputs, (hidden, received), strict=True):
        wanted = described(tensor)
        value.name, value.type, value.shape = wanted.name, wanted.type, wanted.shape
    caches = [tensor.name for tensor in spec.outputs[2:]]
    return ir.convenience.extract(graph, [t.name for t in spec.inputs], [*outputs, *caches])


def upper_half(graph: ir.Graph, spec: GraphSpec, layers: int) -> ir.Graph:
    """The decoder's layers above the cut, and its output head.

    Args:
        graph: the whole decoder; nodes are added to it.
        spec: ``decoder_upper``.
        layers: layers of the whole decoder.
    """
    norm = _norm(graph, layers - cached_layers(spec))
    inside, weight = norm.inputs[0], norm.inputs[2]
    if inside is None or inside.dtype is None or weight is None:
        raise _unknown(f"the norm {norm.name}")
    hidden = described(spec.inputs[0])
    graph.inputs.append(hidden)
    added = _Added(graph, norm)
    # The sum that the lower half gives goes to the norm and past it.
    wide = added.cast(hidden, inside.dtype)
    epsilon = norm.attributes.get_float("epsilon", 1e-5)
    normed = added.node(
        "SimplifiedLayerNormalization", [wide, weight], axis=-1, epsilon=epsilon, stash_type=1
    )
    ir.convenience.replace_all_uses_with(norm.outputs[0], normed)
    if len(norm.outputs) > 3:
        ir.convenience.replace_all_uses_with(norm.outputs[3], wide)
    return ir.convenience.extract(
        graph, [t.name for t in spec.inputs], [t.name for t in spec.outputs]
    )


def _received(added: _Added, graph: ir.Graph, attention: ir.Node, spec: GraphSpec) -> ir.Value:
    """Attention of the last position to each one, (1, total) float32, the mean over heads.

    Queries are turned here as the attention turns them; keys lie in its cache, turned already.
    """
    heads, kv_heads = (attention.attributes.get_int(n, 0) for n in ("num_heads", "kv_num_heads"))
    size = spec.outputs[-1].shape[-1]
    keys = attention.outputs[1]
    packed = attention.inputs[0]
    inputs = {value.name: value for value in graph.inputs}
    if not heads or not kv_heads or size is None or packed is None:
        raise _unknown(f"the attention {attention.name}")
    others = [name for name, plain in PLAIN.items() if _of(attention, name, plain) != plain]
    others += ["softcap"] if attention.attributes.get_float("softcap", 0.0) else []
    # Biases, sinks, and norms of the heads that are fused into it.
    others += ["an input of its own"] if any(v is not None for v in attention.inputs[9:]) else []
    if others or not attention.attributes.get_int("do_rotary", 0):
        raise ExportError(
            "The decoder's last layer below the cut attends in a way that --cut-after does not "
            f"know ({', '.join(others) or 'no rotary embedding'}): give another number of layers, "
            "or leave it out."
        )
    scale = attention.attributes.get_float("scale", 0.0) or float(size) ** -0.5
    total = added.node("Shape", [inputs["attention_mask"]], start=1, end=2)
    last = added.node("Sub", [total, added.constant([1])])
    turned = [
        added.cast(added.part(inputs[name], 0, last, total), ir.DataType.FLOAT)
        for name in ("cos", "sin")
    ]
    query = added.part(added.part(packed, 1, -1, END), 2, 0, heads * size)
    shape = added.constant([1, kv_heads, heads // kv_heads, size])
    query = added.node("Reshape", [added.cast(query, ir.DataType.FLOAT), shape])
    first, second = added.part(query, 3, 0, size // 2), added.part(query, 3, size // 2, size)
    cos, sin = turned
    here = added.node("Sub", [added.node("Mul", [first, cos]), added.node("Mul", [second, sin])])
    there = added.node("Add", [added.node("Mul", [second, cos]), added.node("Mul", [first, sin])])
    query = added.node("Concat", [here, there], axis=-1)
    # A cache may have room behind the last position.
    key = added.cast(added.part(keys, 2, 0, total), ir.DataType.FLOAT)
    key = added.node("Transpose", [key], perm=[0, 1, 3, 2])
    scaled = added.node("Mul", [added.node("MatMul", [query, key]), added.constant(scale)])
    shares = added.node("Softmax", [scaled], axis=-1)
    return added.node("ReduceMean", [shares, added.constant([1, 2])], keepdims=0)


def _of(node: ir.Node, name: str, default: int) -> int:
    found: int = node.attributes.get_int(name, default)
    return found


def _dtype(name: str) -> ir.DataType:
    return ir.DataType.from_numpy(np.dtype(name))


def _norm(graph: ir.Graph, layer: int) -> ir.Node:
    """The norm that a layer begins with, which also adds up the layers before it."""
    name = f"/model/layers.{layer}/input_layernorm/SkipLayerNorm"
    for node in graph:
        if node.name == name and node.op_type == "SkipSimplifiedLayerNormalization":
            return node
    raise _unknown(f"no norm {name}")


def _attention(graph: ir.Graph, layer: int) -> ir.Node:
    name = present_name(layer, "key")
    for node in graph:
        if node.op_type == "GroupQueryAttention" and node.outputs[1].name == name:
            return node
    raise _unknown(f"no attention of layer {layer}")


def _unknown(what: str) -> ExportError:
    return ExportError(
        f"The decoder cannot be cut, as onnxruntime-genai's builder wrote it in another way "
        f"({what}): leave out --cut-after, and report the checkpoint."
    )


def _write_lower(work: Work, spec: GraphSpec, path: Path) -> None:  # noqa: ARG001 - its weights are there
    model = ir.load(path.with_name(f"{DECODER}.onnx"))
    half = lower_half(model.graph, spec)
    ir.save(ir.Model(half, ir_version=model.ir_version), path)


def _write_upper(work: Work, spec: GraphSpec, path: Path) -> None:
    model = ir.load(path.with_name(f"{DECODER}.onnx"))
    half = upper_half(model.graph, spec, work.checkpoint.dimensions.layers)
    ir.save(ir.Model(half, ir_version=model.ir_version), path)


def _verify_lower(work: Work, spec: GraphSpec, path: Path) -> Checked:
    """Prompts as the decoder is verified on: what passes on, and the attention."""
    language_model, after = work.checkpoint.language_model, cached_layers(spec)
    cases = prompt_cases(work, 0)
    expected = [torch_lower(language_model, *case, after) for case in cases.values()]
    dtype = next(t.dtype for t in spec.inputs if t.name == "cos")
    with runnable(path, spec, work) as (file, shown):
        session, problem = open_graph(file, shown, work.target)

        def figures() -> list[Parity]:
            found: list[Parity] = []
            for (name, (embeds, positions)), wanted in zip(cases.items(), expected, strict=True):
                part = Part(session, shown)
                turned = rotary_rows(language_model, positions, dtype)
                made = run_parts([part], embeds, len(embeds), turned, empty_cache([part]))
                for tensor, values in zip((HIDDEN_STATES, LAST_ATTENTION), wanted, strict=True):
                    given = made[tensor].numpy()[0].astype(np.float32)
                    least = work.plan.min_cosine
                    found += compare(path.stem, name, tensor, values, given, least)
            return found

        return checked(path.name, problem, figures)


def torch_lower(
    language_model: PreTrainedModel,
    embeds: NDArray[np.float32],
    positions: NDArray[np.int64],
    after: int,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the lower half gives, in float32 torch.

    Args:
        language_model: the model.
        embeds: (tokens, hidden) of a prompt.
        positions: (tokens,) of each.
        after: layers below the cut.

    Returns:
        (tokens, hidden) behind these layers; (tokens,) attention of the last position in the last
        of them, the mean over its heads.
    """
    inner: Any = language_model.get_decoder()
    layers = inner.layers
    found: dict[str, Tensor] = {}

    def attended(module: nn.Module, _: Any, given: dict[str, Any]) -> None:
        turns = given["position_embeddings"]
        found[LAST_ATTENTION] = _attended(module, given["hidden_states"], turns)

    def passed(_: nn.Module, __: Any, out: Any) -> None:
        found[HIDDEN_STATES] = (out if isinstance(out, Tensor) else out[0])[0]

    top: Any = layers[after - 1]
    hooks = [
        top.self_attn.register_forward_pre_hook(attended, with_kwargs=True),
        top.register_forward_hook(passed),
    ]
    inner.layers = layers[:after]
    try:
        with torch.no_grad(), in_float32(language_model):
            inner(
                inputs_embeds=torch.from_numpy(embeds)[None],
                # As for the whole decoder: positions with a gap are one text.
                attention_mask=torch.ones((1, len(embeds)), dtype=torch.long),
                position_ids=torch.from_numpy(positions)[None],
                use_cache=False,
            )
    finally:
        inner.layers = layers
        for hook in hooks:
            hook.remove()
    hidden, received = (found[name].float().numpy() for name in (HIDDEN_STATES, LAST_ATTENTION))
    return hidden, received


def _attended(attention: Any, hidden: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    """Mean over heads of the last position's attention, (tokens,)."""
    size = attention.head_dim

    def heads(linear: nn.Module, norm: nn.Module | None, rows: slice) -> Tensor:
        parts = linear(hidden[0, rows]).unflatten(-1, (-1, size))
        parts = parts if norm is None else norm(parts)
        cos, sin = (turn[0, rows, None] for turn in turns)
        swapped = torch.cat([-parts[..., size // 2 :], parts[..., : size // 2]], -1)
        turned: Tensor = parts * cos + swapped * sin
        return turned

    query = heads(attention.q_proj, getattr(attention, "q_norm", None), slice(-1, None))[0]
    key = heads(attention.k_proj, getattr(attention, "k_norm", None), slice(None))
    key = key.repeat_interleave(len(query) // key.shape[1], dim=1)
    products = torch.einsum("hd,thd->ht", query, key) * attention.scaling
    received: Tensor = products.softmax(-1).mean(0)
    return received


def _verify_upper(work: Work, spec: GraphSpec, path: Path) -> Checked:
    """Both halves, one behind the other with nothing dropped, as the decoder is verified."""
    lower = path.with_name(f"{DECODER_LOWER}.onnx")
    dims, plan = work.checkpoint.dimensions, work.plan
    after = dims.layers - cached_layers(spec)
    below = graph_specs(dims, plan.float_dtype, cache_dtype=plan.cache_dtype, cut_after=after)

    def opened(stack: ExitStack) -> tuple[Logits, str | None]:
        parts: list[Part] = []
        problem: str | None = None
        for file, half in ((lower, below[DECODER_LOWER]), (path, spec)):
            shown = stack.enter_context(runnable(file, half, work))
            session, problem = open_graph(*shown, work.target)
            parts.append(Part(session, shown[1]))
        return partial(logits_of, parts), problem

    return verify_logits(work, path, spec, opened)


LOWER = Graph(
    DECODER_LOWER, lambda work: WORDS[work.plan.decoder], _write_lower, _verify_lower, slow=True
)
UPPER = Graph(
    DECODER_UPPER, lambda work: WORDS[work.plan.decoder], _write_upper, _verify_upper, slow=True
)
