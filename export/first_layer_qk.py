"""``first_layer_qk.onnx``: audio embeddings to first-layer Q' and K', binarized or float.

arXiv:2412.12009, eq. 9-10: W_Q and W_K of the language model's first decoder layer and the
embeddings are binarized by sign; their product stands in for the real projections.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from speechprune_ort.contract.specs import (
    FIRST_LAYER_QK,
    FIRST_LAYER_QK_FLOAT,
    Dimensions,
    GraphSpec,
)
from speechprune_ort.export.graph_file import GraphMaker, save, store_half, torch_to_ir
from speechprune_ort.export.parity import EXACT, Cases, Checked, verify_graph
from speechprune_ort.export.precision import WORDS, Plan, Target
from speechprune_ort.export.work import Graph, Work

__all__ = [
    "BINARIZED",
    "FLOAT",
    "BinaryProjection",
    "FloatProjection",
    "binarized_cases",
    "export_binarized",
    "export_float",
]


def signs(x: Tensor) -> Tensor:
    """+1 where x >= 0, else -1: sign(0) is +1, so that values stay binary."""
    return torch.where(x >= 0, 1.0, -1.0)


class FloatProjection(nn.Module):
    """The layer's own norms, W_Q, W_K and biases, without rotary embedding: the ablation.

    Norms of the heads (Qwen3) are applied, and a model that scales its products by another number
    than 1 / sqrt(head_dim) (Granite) has the difference in its query.
    """

    def __init__(self, language_model: PreTrainedModel, dims: Dimensions) -> None:
        super().__init__()
        layer = language_model.model.layers[0]
        attention = layer.self_attn
        parts = [layer.input_layernorm, attention.q_proj, attention.k_proj]
        parts += [getattr(attention, name, nn.Identity()) for name in ("q_norm", "k_norm")]
        # Copies where they are stored narrower: arithmetic is float32 in every precision.
        self.norm, self.q_proj, self.k_proj, self.q_norm, self.k_norm = (
            copy.deepcopy(part).float()
            if any(weight.dtype != torch.float32 for weight in part.parameters())
            else part
            for part in parts
        )
        self.head_dim = dims.head_dim
        self.scale = float(attention.scaling) * dims.head_dim**0.5

    def forward(self, audio_embeds: Tensor) -> tuple[Tensor, Tensor]:
        """(tokens, hidden) -> (tokens, heads, head_dim), (tokens, kv_heads, head_dim)."""
        hidden = self.norm(audio_embeds.to(self.norm.weight.dtype))
        query = self.q_norm(self.q_proj(hidden).unflatten(-1, (-1, self.head_dim)))
        key = self.k_norm(self.k_proj(hidden).unflatten(-1, (-1, self.head_dim)))
        if abs(self.scale - 1) > 1e-6:
            query = query * self.scale
        return query.float(), key.float()


@dataclass(frozen=True)
class BinaryProjection:
    """Sign-binarized W_Q and W_K.

    RMSNorm with positive gains does not change signs, so it can be left out; where a gain is
    negative, its sign is folded into that input's row here, and that of a norm of the heads into
    the outputs' columns.

    Attributes:
        query: (hidden, heads * head_dim) int8, +1 or -1.
        key: (hidden, kv_heads * head_dim) int8, +1 or -1.
    """

    query: NDArray[np.int8]
    key: NDArray[np.int8]

    @classmethod
    def of(cls, language_model: PreTrainedModel) -> BinaryProjection:
        """Binarize the first decoder layer of a language model."""
        layer = language_model.model.layers[0]
        attention = layer.self_attn
        gains = signs(layer.input_layernorm.weight.detach().float())

        def binary(linear: nn.Linear, norm: nn.Module | None) -> NDArray[np.int8]:
            rows = signs(linear.weight.detach().float()).T * gains[:, None]
            if norm is not None:
                of_head = signs(norm.get_parameter("weight").detach().float())
                rows = rows * of_head.repeat(rows.shape[1] // len(of_head))
            packed: NDArray[np.int8] = rows.to(torch.int8).contiguous().numpy()
            return packed

        return cls(
            binary(attention.q_proj, getattr(attention, "q_norm", None)),
            binary(attention.k_proj, getattr(attention, "k_norm", None)),
        )

    def torch_reference(self, embeds: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
        """Q' and K' in float64 torch: (tokens, hidden) -> (tokens, heads, head_dim), ..."""
        binary = signs(embeds).double()
        query = binary @ torch.from_numpy(self.query).double()
        key = binary @ torch.from_numpy(self.key).double()
        return query.reshape(len(query), -1, head_dim), key.reshape(len(key), -1, head_dim)


def export_binarized(
    projection: BinaryProjection, dims: Dimensions, target: Target, spec: GraphSpec, path: Path
) -> None:
    """Write sign(S) W^b as 8-bit products with int32 sums: exact at any width.

    On the CPU the signs of S are 2 and 0 around a zero point of 1: its kernels for unsigned by
    signed bytes are eight times as fast as those for signed by signed ones
    (``docs/results/pruning-cost.md``).
    For CUDA both stay signed, and are chosen in the embeddings' own dtype: there is no ``Where``
    for bytes there, and a node on the CPU would send every embedding down and its signs up.

    Args:
        projection: binarized weights.
        dims: sizes of the axes.
        target: ``cpu`` or ``cuda``.
        spec: ``first_layer_qk``.
        path: graph file to write.
    """
    make = GraphMaker(spec)
    (source,) = spec.inputs
    zero = make.constant("zero", np.zeros((), np.dtype(source.dtype)))
    on_cpu = target == "cpu"
    middle, dtype = (1, np.dtype(np.uint8)) if on_cpu else (0, np.dtype(source.dtype))
    plus = make.constant("plus", np.array([middle + 1], dtype))
    minus = make.constant("minus", np.array([middle - 1], dtype))
    zero_point = [make.constant("middle", np.array(middle, dtype))] if on_cpu else []
    positive = make.add("GreaterOrEqual", [make.inputs[source.name], zero])
    binary = make.add("Where", [positive, plus, minus])
    if not on_cpu:
        binary = make.add("Cast", [binary], to=ir.DataType.INT8.value)
    outputs = []
    for out, weights in zip(spec.outputs, (projection.query, projection.key), strict=True):
        signed = make.constant(f"{out.name}.signs", weights)
        product = make.add("MatMulInteger", [binary, signed, *zero_point])
        wide = make.add("Cast", [product], to=ir.DataType.FLOAT.value)
        heads = weights.shape[1] // dims.head_dim
        sizes = np.array([-1, heads, dims.head_dim], np.int64)
        outputs.append(make.add("Reshape", [wide, make.constant(f"{out.name}.shape", sizes)]))
    make.save(path, outputs)


def export_float(
    projection: FloatProjection, plan: Plan, dims: Dimensions, spec: GraphSpec, path: Path
) -> None:
    """Trace the float form; its arithmetic is float32 in every precision.

    Args:
        projection: module over the layer's own weights.
        plan: how weights are stored.
        dims: sizes of the axes.
        spec: ``first_layer_qk_float``.
        path: graph file to write.
    """
    dtype = torch.float16 if plan.float_dtype == "float16" else torch.float32
    model = torch_to_ir(projection, (torch.zeros(3, dims.hidden, dtype=dtype),), spec)
    save(model if plan.embedding == "float32" else store_half(model), path)


def _cases(work: Work, reference: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Cases:
    """The audio embeddings and what a projection makes of them in torch."""
    cases = {}
    for case, embeds in work.rounded().items():
        with torch.no_grad():
            query, key = reference(torch.from_numpy(embeds.astype(np.float32)))
        cases[case] = ({"audio_embeds": embeds}, {"query": query.numpy(), "key": key.numpy()})
    return cases


def binarized_cases(work: Work) -> Cases:
    """The audio embeddings and their binarized projections in torch, by case."""
    projection = BinaryProjection.of(work.checkpoint.language_model)
    head_dim = work.checkpoint.dimensions.head_dim
    return _cases(work, lambda embeds: projection.torch_reference(embeds, head_dim))


def _write_binarized(work: Work, spec: GraphSpec, path: Path) -> None:
    projection = BinaryProjection.of(work.checkpoint.language_model)
    export_binarized(projection, work.checkpoint.dimensions, work.target, spec, path)


def _verify_binarized(work: Work, spec: GraphSpec, path: Path) -> Checked:
    return verify_graph(path, spec, work.target, binarized_cases(work), EXACT)


def _float_projection(work: Work) -> FloatProjection:
    return FloatProjection(work.checkpoint.language_model, work.checkpoint.dimensions).eval()


def _write_float(work: Work, spec: GraphSpec, path: Path) -> None:
    export_float(_float_projection(work), work.plan, work.checkpoint.dimensions, spec, path)


def _verify_float(work: Work, spec: GraphSpec, path: Path) -> Checked:
    least = 0.999999 if work.plan.embedding == "float32" else 0.9999
    return verify_graph(path, spec, work.target, _cases(work, _float_projection(work)), least)


BINARIZED = Graph(FIRST_LAYER_QK, lambda _: "signs in int8", _write_binarized, _verify_binarized)
FLOAT = Graph(
    FIRST_LAYER_QK_FLOAT,
    lambda work: WORDS["float32" if work.plan.embedding == "float32" else "half_stored"],
    _write_float,
    _verify_float,
)
