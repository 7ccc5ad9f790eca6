"""Where export compares its graphs with torch: on their target, or saying that it was not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import ROOT

from speechprune_ort import DeviceError, ParityError, providers
from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.export.parity import compare, open_graph


def test_a_graph_for_cuda_is_compared_on_cuda_or_not_at_all(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = Manifest.read(bundle).graphs["embed_tokens"].spec
    loaded = []
    monkeypatch.setattr(providers, "_driver_problem", lambda _: None)
    monkeypatch.setattr(providers.ort, "get_available_providers", lambda: [providers.CUDA_PROVIDER])
    monkeypatch.setattr(
        providers.ort, "preload_dlls", lambda: loaded.append("CUDA's wheels"), raising=False
    )
    monkeypatch.setattr(providers.ctypes, "CDLL", lambda _: None)
    # This machine's wheel has no CUDA, as a machine whose libraries do not load: ONNX Runtime
    # takes the CPU without an error.
    with pytest.raises(DeviceError, match="CPUExecutionProvider although CUDAExecutionProvider"):
        open_graph(bundle / "embed_tokens.onnx", spec, "cuda")
    assert loaded == ["CUDA's wheels"]


def test_where_there_is_no_cuda_the_reason_is_kept(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import speechprune_ort.export.parity as parity

    spec = Manifest.read(bundle).graphs["embed_tokens"].spec
    monkeypatch.setattr(parity, "cuda_problem", lambda: "no driver is installed: install it")
    session, problem = open_graph(bundle / "embed_tokens.onnx", spec, "cuda")
    assert problem == "no driver is installed"
    assert session.get_providers() == ["CPUExecutionProvider"]
    assert open_graph(bundle / "embed_tokens.onnx", spec, "cpu")[1] is None


def test_what_lies_behind_a_window_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    import speechprune_ort.export.parity as parity

    expected = np.ones((2, 5, 3), np.float32)
    found = expected.copy()
    found[0, 4:], found[1, 2:] = 7, -7

    class Session:
        def run(self, *_: Any) -> Any:
            return [found]

    monkeypatch.setattr(parity, "open_graph", lambda *_: (Session(), None))
    case: Any = {"speech": ({}, {"audio_embeds": expected})}
    spec: Any = None

    def verified(**heard: Any) -> Any:
        return parity.verify_graph(Path("encoder.onnx"), spec, "cpu", case, 0.999, **heard)

    assert verified(heard={"speech": [4, 2]}).parity
    for heard in ({}, {"heard": {"speech": [5, 2]}}, {"heard": {"speech": [4, 3]}}):
        with pytest.raises(ParityError, match="cosine to torch"):
            verified(**heard)


def test_graphs_hold_no_path_of_the_machine_that_wrote_them(bundle: Path) -> None:
    graphs = sorted(bundle.glob("*.onnx"))
    assert len(graphs) == 9
    for path in graphs:
        content = path.read_bytes()
        for trace in (b'File "', b"site-packages", str(ROOT).encode()):
            assert trace not in content, (path.name, trace)


def test_a_graph_that_gives_nothing_but_zeros_is_no_match() -> None:
    zeros, ones = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    with pytest.raises(ParityError, match="cosine to torch 0"):
        compare("decoder", "speech", "logits", ones, zeros, 0.9)
    assert [row.value for row in compare("decoder", "speech", "logits", zeros, zeros, 0.9)] == [1.0]
