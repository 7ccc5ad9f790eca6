"""``export/encoder_attention.py``: attention without masks where they only tell windows' ends."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from speechprune_ort.contract.specs import GraphSpec, TensorSpec
from speechprune_ort.export.encoder_attention import OPSET, with_cut_keys, with_full_masks
from speechprune_ort.export.graph_file import torch_to_ir

WIDTH, HEADS, FRAMES = 16, 2, 12


class Attention(nn.Module):
    """A layer's attention, with a mask that is made of lengths as an encoder makes it.

    Args:
        kind: ``added`` or ``bool`` masks of keys, ``causal``, or ``none``.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.parts = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.kind = kind

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        query, key, value = (
            part.view(x.shape[0], -1, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in self.parts(x).chunk(3, -1)
        )
        heard = torch.arange(x.shape[1])[None] < lengths[:, None]
        mask: Tensor | None = heard[:, None, None]
        if self.kind == "added":
            mask = torch.where(heard[:, None, None], 0.0, torch.finfo(torch.float32).min)
        elif self.kind == "causal":
            mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()[None, None]
        elif self.kind == "none":
            mask = None
        said = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        joined: Tensor = self.out(said.transpose(1, 2).flatten(2))
        return joined + 0.0 * lengths[:, None, None]


def graph(kind: str) -> tuple[nn.Module, ir.Model]:
    module = Attention(kind).eval()
    spec = GraphSpec(
        "attention",
        (
            TensorSpec("x", "float32", ("windows", "frames", "width"), (None, None, WIDTH)),
            TensorSpec("lengths", "int64", ("windows",), (None,)),
        ),
        (TensorSpec("y", "float32", ("windows", "frames", "width"), (None, None, WIDTH)),),
    )
    example = (torch.zeros(2, FRAMES, WIDTH), torch.tensor([FRAMES, FRAMES - 3]))
    return module, torch_to_ir(module, example, spec, OPSET)


def computed(model: ir.Model, x: NDArray[Any], length: int) -> NDArray[Any]:
    model.ir_version = 10
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    session = ort.InferenceSession(proto.SerializeToString())
    given = {"x": x, "lengths": np.full(len(x), length, np.int64)}
    names = {value.name for value in session.get_inputs()}
    found: NDArray[Any] = session.run(None, {n: v for n, v in given.items() if n in names})[0]
    return found


@pytest.mark.parametrize("length", [FRAMES, 5, 1])
@pytest.mark.parametrize("kind", ["added", "bool", "none"])
def test_keys_are_cut_where_the_mask_ends(kind: str, length: int) -> None:
    module, model = graph(kind)
    model = with_cut_keys(model)
    operators = Counter(node.op_type for node in model.graph)
    assert operators["MultiHeadAttention"] == 1
    assert not operators.keys() & {"Attention", "Softmax", "Transpose"}
    x = np.random.default_rng(length).standard_normal((3, FRAMES, WIDTH)).astype(np.float32)
    with torch.no_grad():
        wanted = module(torch.from_numpy(x), torch.full((3,), length)).numpy()
    np.testing.assert_allclose(computed(model, x, length), wanted, atol=1e-5)


def test_another_mask_is_left_as_it_is() -> None:
    module, model = graph("causal")
    model = with_full_masks(with_cut_keys(model))
    operators = Counter(node.op_type for node in model.graph)
    assert (operators["Attention"], operators["MultiHeadAttention"]) == (1, 0)
    x = np.random.default_rng(0).standard_normal((2, FRAMES, WIDTH)).astype(np.float32)
    with torch.no_grad():
        wanted = module(torch.from_numpy(x), torch.full((2,), FRAMES)).numpy()
    np.testing.assert_allclose(computed(model, x, FRAMES), wanted, atol=1e-5)


def test_every_layer_of_an_exported_encoder_is_one_operator(bundle: Path) -> None:
    nodes = onnx.load(bundle / "audio_encoder.onnx", load_external_data=False).graph.node
    operators = Counter(node.op_type for node in nodes)
    assert operators["MultiHeadAttention"] == 2
    assert not operators.keys() & {"Attention", "Softmax"}
