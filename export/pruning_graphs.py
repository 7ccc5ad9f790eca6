"""The pruning stage as graphs, so that embeddings can stay on the device that made them.

``similarity.onnx``: eq. 3-4 of arXiv:2412.12009; ``received_attention.onnx``: eq. 11-12;
``assemble.onnx``: the kept tokens between the prompt's own. None has weights of the checkpoint.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from speechprune_ort.contract.specs import (
    ASSEMBLE,
    RECEIVED_ATTENTION,
    SIMILARITY,
    Dimensions,
    GraphSpec,
)
from speechprune_ort.export.first_layer_qk import binarized_cases
from speechprune_ort.export.graph_file import GraphMaker
from speechprune_ort.export.parity import EXACT, Checked, verify_graph
from speechprune_ort.export.precision import WORDS
from speechprune_ort.export.work import Graph, Work

__all__ = [
    "ASSEMBLED",
    "RECEIVED",
    "SIMILAR",
    "attention_reference",
    "export_assemble",
    "export_received_attention",
    "export_similarity",
    "similarity_reference",
]


def export_similarity(spec: GraphSpec, path: Path) -> None:
    """Dot product of each audio token's unit vector with the question's mean unit vector.

    An embedding of zeros has similarity 0.
    """
    make = GraphMaker(spec)
    audio = make.widen(make.inputs["audio_embeds"])
    products = make.add("MatMul", [audio, make.inputs["direction"]])
    axes = make.constant("axes", np.array([1], np.int64))
    norms = make.add("ReduceL2", [audio, axes], keepdims=0)
    zero = make.constant("zero", np.zeros((), np.float32))
    one = make.constant("one", np.ones((), np.float32))
    # NaN is not equal to zero: it reaches the caller, who refuses it.
    safe = make.add("Where", [make.add("Equal", [norms, zero]), one, norms])
    scores = make.add("Div", [products, safe])
    make.save(path, [scores])


def similarity_reference(audio: Tensor, direction: Tensor) -> Tensor:
    """The same in torch, float32."""
    norms = audio.float().norm(dim=1)
    return (audio.float() @ direction) / torch.where(norms == 0, 1.0, norms)


def export_received_attention(dims: Dimensions, spec: GraphSpec, path: Path) -> None:
    """Attention that each token receives from some rows of queries, summed over rows and heads.

    The sums of all rows, divided by their number and that of the heads, are the mean that ranks
    the tokens. Rows come in blocks, so that the matrix of attention has a bounded size.
    """
    make = GraphMaker(spec)
    group = dims.heads // dims.kv_heads
    query = make.add("Transpose", [make.inputs["query"]], perm=[1, 0, 2])
    key = make.add("Transpose", [make.inputs["key"]], perm=[1, 2, 0])
    if group > 1:
        serves = make.constant("serves", np.repeat(np.arange(dims.kv_heads), group))
        key = make.add("Gather", [key, serves], axis=0)
    scale = make.constant("scale", np.array(1 / np.sqrt(dims.head_dim), np.float32))
    products = make.add("MatMul", [query, key])
    # Binarized products are whole numbers: scaled after they are summed, they are exact.
    attention = make.add("Softmax", [make.add("Mul", [products, scale])], axis=-1)
    axes = make.constant("axes", np.array([0, 1], np.int64))
    make.save(path, [make.add("ReduceSum", [attention, axes], keepdims=0)])


def attention_reference(query: Tensor, key: Tensor) -> Tensor:
    """The same in torch, float32."""
    group = query.shape[1] // key.shape[1]
    wide = key.repeat_interleave(group, dim=1)
    products = torch.einsum("rhd,thd->hrt", query, wide) / query.shape[2] ** 0.5
    received: Tensor = products.softmax(-1).sum(dim=(0, 1))
    return received


def export_assemble(spec: GraphSpec, path: Path) -> None:
    """Prompt before, kept audio tokens, prompt after, as one batch of one."""
    make = GraphMaker(spec)
    kept = make.add("Gather", [make.inputs["audio_embeds"], make.inputs["indices"]], axis=0)
    parts = [make.inputs["before_embeds"], kept, make.inputs["after_embeds"]]
    rows = make.add("Concat", parts, axis=0)
    axes = make.constant("axes", np.array([0], np.int64))
    make.save(path, [make.add("Unsqueeze", [rows, axes])])


def _verify_similarity(work: Work, spec: GraphSpec, path: Path) -> Checked:
    cases = {}
    for case, embeds in work.rounded().items():
        direction = work.random.standard_normal((embeds.shape[1],)).astype(np.float32)
        scores = similarity_reference(torch.from_numpy(embeds), torch.from_numpy(direction))
        inputs = {"audio_embeds": embeds, "direction": direction}
        cases[case] = (inputs, {"scores": scores.numpy()})
    return verify_graph(path, spec, work.target, cases, EXACT)


def _verify_received_attention(work: Work, spec: GraphSpec, path: Path) -> Checked:
    cases = {}
    for case, (_, outputs) in binarized_cases(work).items():
        query, key = (torch.from_numpy(outputs[n][:300]).float() for n in ("query", "key"))
        rows = query[:200]
        given = {"query": rows.numpy(), "key": key.numpy()}
        cases[case] = (given, {"received": attention_reference(rows, key).numpy()})
    return verify_graph(path, spec, work.target, cases, EXACT)


def _verify_assemble(work: Work, spec: GraphSpec, path: Path) -> Checked:
    cases = {}
    for case, embeds in work.rounded().items():
        indices = np.sort(work.random.choice(len(embeds), len(embeds) // 2, replace=False))
        inputs = {
            "before_embeds": embeds[:3],
            "audio_embeds": embeds,
            "indices": indices,
            "after_embeds": embeds[5:7],
        }
        expected = np.concatenate([embeds[:3], embeds[indices], embeds[5:7]])[None]
        cases[case] = (inputs, {"inputs_embeds": expected})
    return verify_graph(path, spec, work.target, cases, EXACT)


def _words(_: Work) -> str:
    return WORDS["float32"]


SIMILAR = Graph(
    SIMILARITY, _words, lambda _, spec, path: export_similarity(spec, path), _verify_similarity
)
RECEIVED = Graph(
    RECEIVED_ATTENTION,
    _words,
    lambda work, spec, path: export_received_attention(work.checkpoint.dimensions, spec, path),
    _verify_received_attention,
)
ASSEMBLED = Graph(
    ASSEMBLE, _words, lambda _, spec, path: export_assemble(spec, path), _verify_assemble
)
