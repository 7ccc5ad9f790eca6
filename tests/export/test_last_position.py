"""The decoder's last layer, behind its attention, computes the last position alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from speechprune_ort.errors import ExportError
from speechprune_ort.export.last_position import LAST, for_last_position

TOKENS = 7


def decoder_of(bundle: Path) -> ir.Model:
    return ir.load(bundle / "decoder.onnx")


def undone(model: ir.Model) -> ir.Model:
    """As the builder writes it: the final norm's last position alone is taken."""
    for node in list(model.graph):
        source = node.inputs[0] if node.inputs else None
        if (node.name or "").startswith(LAST) and source is not None:
            ir.convenience.replace_all_uses_with(node.outputs[0], source)
            model.graph.remove(node, safe=True)
    for value in ir.traversal.RecursiveGraphIterator(model.graph):
        for output in value.outputs:
            if output.name != "logits":
                output.shape = None
    del model.graph.initializers[f"{LAST}.index"]
    return model


def logits(model: ir.Model, folder: Path) -> NDArray[np.float32]:
    ir.save(model, folder / "decoder.onnx", external_data="decoder.onnx.data")
    session = ort.InferenceSession(folder / "decoder.onnx", providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    inputs = {value.name: value.shape for value in session.get_inputs()}
    angles = inputs["cos"][-1]
    feeds: dict[str, NDArray[Any]] = {"attention_mask": np.ones((1, TOKENS), np.int64)}
    for name, shape in inputs.items():
        if name.startswith("past"):
            feeds[name] = np.zeros((1, shape[1], 0, 2 * angles), np.float32)
        elif name != "attention_mask":
            sizes = (1, TOKENS, shape[-1]) if len(shape) == 3 else (TOKENS, angles)
            feeds[name] = random.normal(size=sizes).astype(np.float32)
    found: NDArray[np.float32] = session.run(["logits"], feeds)[0]
    return found


def test_logits_are_those_of_every_position_computed(bundle: Path, tmp_path: Path) -> None:
    model = decoder_of(bundle)
    assert sum((node.name or "").startswith(LAST) for node in model.graph) == 2
    folders = [tmp_path / name for name in ("last", "every")]
    for folder in folders:
        folder.mkdir()
    last, every = logits(model, folders[0]), logits(undone(decoder_of(bundle)), folders[1])
    assert last.shape == (1, 1, last.shape[-1])
    np.testing.assert_allclose(last, every, rtol=0, atol=1e-5 * np.abs(every).max())


def test_it_is_made_once_and_the_same_of_what_the_builder_writes(bundle: Path) -> None:
    def wired(model: ir.Model) -> list[tuple[str, list[str | None]]]:
        return sorted(
            (node.op_type, [value and value.name for value in node.inputs]) for node in model.graph
        )

    again = for_last_position(undone(decoder_of(bundle)))
    assert wired(again) == wired(decoder_of(bundle))


def test_what_attends_or_is_unknown_behind_it_is_refused(bundle: Path) -> None:
    model = undone(decoder_of(bundle))
    for node in list(model.graph)[-8:]:
        if node.op_type == "Mul":
            node.op_type = "Softmax"
    with pytest.raises(ExportError, match="a Softmax behind the last attention"):
        for_last_position(model)
    with pytest.raises(ExportError, match="no attention"):
        for_last_position(ir.Model(ir.Graph([], [], nodes=[]), ir_version=10))
