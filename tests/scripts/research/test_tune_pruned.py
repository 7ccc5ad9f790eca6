"""``research/tune_pruned.py``: LoRA on the prompts that a bundle lays out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import typer
from numpy.typing import NDArray
from research.tune_pruned import TARGETS, Tuner, answer_of, main, prompt_of
from safetensors.torch import load_file
from tiny import TINY

from speechprune_ort import OptionError, PruningOptions, SpeechLLM
from speechprune_ort.evaluation.samples import read_samples

QUESTION = "Who owns the budget?"


@pytest.fixture
def data(tmp_path: Path, tone: NDArray[np.float32]) -> Path:
    lines = []
    for number, choice in enumerate(("a tin", "nobody")):
        soundfile.write(tmp_path / f"{number}.wav", tone[number * 16_000 :][: 12 * 16_000], 16_000)
        line = {"audio": f"{number}.wav", "question": QUESTION, "choices": ["a tin", "nobody"],
                "answer": choice}  # fmt: skip
        lines.append(json.dumps(line) + "\n")
    path = tmp_path / "set.jsonl"
    path.write_text("".join(lines))
    return path


def test_an_untrained_adapter_scores_as_the_bundle_does(
    checkpoints: Any, bundle: Path, data: Path
) -> None:
    model, pruning = SpeechLLM(bundle, "cpu"), PruningOptions("coverage", pruning_rate=0.8)
    sample = read_samples(data)[0]
    tuner = Tuner(checkpoints(TINY[0]), rank=2, rate=1e-3, steps=1)
    *choice, _ = answer = answer_of(model, sample)
    prompt = prompt_of(model, sample, pruning)
    found = model.listen(sample.audio).score(QUESTION, [sample.choices[0]], pruning=pruning)
    with torch.no_grad():
        loss = float(tuner.loss(prompt, choice))
    assert len(answer) == len(choice) + 1
    assert loss == pytest.approx(-float(np.mean(found.log_probabilities[0])), abs=1e-4)


def test_merged_tokens_are_learnt_from_as_they_are_merged(bundle: Path, data: Path) -> None:
    model, sample = SpeechLLM(bundle, "cpu"), read_samples(data)[0]
    pruning = PruningOptions("affinity-pooling", pruning_rate=0.8)
    recording = model.listen(sample.audio)
    kept = recording.prune(sample.question, pruning).indices
    prompt = prompt_of(model, sample, pruning)
    rows = {row.tobytes() for row in recording.embeds.astype(np.float32)}
    own = sum(row.tobytes() in rows for row in prompt)
    assert own < len(kept), "a mean of several tokens is none of them"
    with pytest.raises(OptionError, match="fastv drops tokens within the decoder"):
        prompt_of(model, sample, PruningOptions("fastv", pruning_rate=0.8))


def test_what_is_learnt_is_an_adapter_of_the_checkpoint(
    checkpoints: Any, bundle: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "tuned"
    main(checkpoints(TINY[0]), bundle, data, out, pruning_rate=0.8, rank=2, rate=0.02, passes=8)
    losses = json.loads((out / "training.json").read_text())["losses"]
    assert len(losses) == 8
    assert losses[-1] < 0.9 * losses[0]
    assert json.loads((out / "adapter_config.json").read_text())["target_modules"] == TARGETS
    factors = load_file(out / "adapter_model.safetensors")
    assert factors
    assert all("language_model" in name for name in factors)
    with pytest.raises(typer.Exit) as failed:
        main(checkpoints(TINY[0]), bundle, data, out)
    assert failed.value.exit_code == 2
