"""The embedded default model, real weights and real speech, as scripts/demo makes and asks it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from paths import ROOT
from qwen2_audio_reference import Qwen2Audio

from speechprune_ort import SpeechLLM
from speechprune_ort.runtime.hearing.audio import load_audio

RECORDING = ROOT / "scripts" / "research" / "recording" / "meeting.ogg"
EVERY = json.loads(RECORDING.with_name("questions.json").read_text(encoding="utf-8"))["questions"]
QUESTIONS = EVERY[:5]  # half of them: reading their prompts takes longer than all else
QUESTION = QUESTIONS[0]["question"]

pytestmark = [
    pytest.mark.export,
    pytest.mark.default_model,
    pytest.mark.skipif(
        importlib.util.find_spec("gguf") is None, reason="needs [test] and [export] installed"
    ),
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Downloads stay in the user's cache."""
    out = tmp_path_factory.mktemp("small") / "checkpoint"
    environment = {k: v for k, v in os.environ.items() if k != "XDG_CACHE_HOME"}
    subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "build_small_model.py"), str(out)],
        check=True, env=environment,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def bundle(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """At the precision of scripts/demo."""
    from speechprune_ort.export.pipeline import export_bundle

    out = tmp_path_factory.mktemp("small-bundle") / "int8"
    export_bundle(str(checkpoint), out, precision="int8")
    return out


def test_the_bundle_is_small_and_close_to_torch(bundle: Path) -> None:
    assert sum(path.stat().st_size for path in bundle.iterdir()) < 700e6
    with SpeechLLM(bundle, "cpu") as model:
        graphs = model.manifest.graphs
    assert {f.measure for f in graphs["decoder"].parity} == {"cosine", "first_token"}
    assert all(f.value >= f.tolerance for graph in graphs.values() for f in graph.parity
               if f.measure == "cosine")  # fmt: skip


def test_it_hears_as_torch_hears_and_answers(checkpoint: Path, bundle: Path) -> None:
    samples = load_audio(RECORDING)
    assert len(samples) > 75 * 16_000
    with SpeechLLM(bundle, "cpu") as model:
        recording = model.listen(RECORDING)
        heard = np.asarray(recording.embeds)
        asked = [one["question"] for one in QUESTIONS]
        answers = list(recording.ask_many(asked, pruning_rate=0.6, max_new_tokens=24))
    wanted = Qwen2Audio(str(checkpoint), QUESTION).audio_embeds(samples).numpy()
    assert heard.shape == wanted.shape
    products = (heard * wanted).sum(1)
    cosines = products / np.linalg.norm(heard, axis=1) / np.linalg.norm(wanted, axis=1)
    assert np.median(cosines) > 0.99
    right = [
        any(text in answer.text.lower() for text in one["accepted"])
        for one, answer in zip(QUESTIONS, answers, strict=True)
    ]
    assert sum(right) >= 2, [answer.text for answer in answers]
    assert all(len(answer.pruning.indices) == 300 for answer in answers)
