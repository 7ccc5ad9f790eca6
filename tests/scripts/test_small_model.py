"""The embedded default model, real weights and real speech: equal to transformers."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paths import ROOT
from qwen2_audio_reference import NEW_TOKENS, Qwen2Audio

from speechprune_ort import GenerationOptions, PruningOptions, SpeechLLM
from speechprune_ort.runtime.hearing.audio import load_audio

RECORDING = ROOT / "scripts" / "research" / "recording" / "meeting.ogg"
QUESTION = "How large is the budget that the city council has approved?"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None, reason="needs [test] and [export] installed"
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as scripts/demo builds it; downloads stay in the user's cache."""
    out = tmp_path_factory.mktemp("small") / "checkpoint"
    environment = {k: v for k, v in os.environ.items() if k != "XDG_CACHE_HOME"}
    subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "build_small_model.py"), str(out)],
        check=True, env=environment,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def small(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    from speechprune_ort.export.pipeline import export_bundle

    folder = tmp_path_factory.mktemp("small-bundles")

    def get(precision: str) -> SpeechLLM:
        out = folder / precision
        if not out.exists():
            export_bundle(str(checkpoint), out, precision=precision)
        return SpeechLLM(out, "cpu")

    return get


@pytest.mark.export
@pytest.mark.parametrize("pruning", [
    PruningOptions(method="none"), PruningOptions(pruning_rate=0.4),
], ids=["all tokens", "pruned"])  # fmt: skip
def test_ids_equal_transformers_on_real_speech(
    pruning: PruningOptions, checkpoint: Path, small: Any
) -> None:
    import torch

    samples = load_audio(RECORDING)
    assert len(samples) > 75 * 16_000
    model = small("fp32")
    answer = model.ask(
        RECORDING, QUESTION, pruning=pruning,
        generation=GenerationOptions(max_new_tokens=NEW_TOKENS),
    )  # fmt: skip
    reference = Qwen2Audio(str(checkpoint), question=QUESTION)
    stops = set(model.manifest.stop_token_ids)
    if pruning.method == "none":
        expected = [i for i in reference.generate(samples) if i not in stops]
    else:
        before, after = reference.text_embeds(samples)
        kept = reference.audio_embeds(samples)[torch.from_numpy(answer.pruning.indices)]
        assert len(kept) == 450
        prefill = torch.cat([before, kept, after])
        expected = reference.greedy(prefill, torch.arange(len(prefill)), stops)
    assert list(answer.token_ids) == expected


@pytest.mark.export
@pytest.mark.parametrize("precision", ["fp16", "int8", "w8a8", "int4"])
def test_narrow_bundles_carry_their_figures_and_answer(precision: str, small: Any) -> None:
    model = small(precision)
    figures = model.manifest.graphs["decoder"].parity
    assert {f.measure for f in figures} == {"cosine", "first_token"}
    assert all(f.value >= f.tolerance for f in figures)
    wide, narrow = (
        m.ask(RECORDING, QUESTION, pruning_rate=0.4, max_new_tokens=8)
        for m in (small("fp32"), model)
    )
    assert narrow.token_ids
    # Encoder and first-layer signs barely move: most of what was kept is the same. They move more
    # where the encoder's activations have 8 bits, too.
    shared = np.intersect1d(wide.pruning.indices, narrow.pruning.indices)
    assert len(shared) > (0.7 if precision == "w8a8" else 0.8) * 450
