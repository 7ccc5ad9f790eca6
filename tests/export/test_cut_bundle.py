"""A bundle whose decoder is cut, and the method that drops tokens there, against transformers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from cut_reference import attended, logits_behind_a_cut
from numpy.typing import NDArray
from qwen2_audio_reference import Qwen2Audio
from tiny import TINY

from speechprune_ort import OptionError, PromptError, PruningOptions, SpeechLLM
from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.contract.specs import DECODER, DECODER_LOWER, DECODER_UPPER
from speechprune_ort.errors import ExportError
from speechprune_ort.evaluation.costs import measure_costs, prefill_tflops
from speechprune_ort.export.pipeline import export_bundle
from speechprune_ort.export.request import check_request
from speechprune_ort.profiling.condition import ProfileOptions
from speechprune_ort.profiling.run import profile
from speechprune_ort.profiling.workload import Setting, Sound

QUESTION = "Who owns the budget?"
CUT, NEW_TOKENS, SECONDS = 1, 8, 12
ASKED: dict[str, Any] = {"method": "fastv", "max_new_tokens": NEW_TOKENS}


@pytest.fixture(scope="module")
def cut(checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a tiny Qwen2-Audio with its decoder cut in the middle."""
    folder = tmp_path_factory.mktemp("cut") / "bundle"
    export_bundle(str(checkpoints(TINY[5])), folder, cut_after=CUT)
    return folder


@pytest.fixture(scope="module")
def model(cut: Path) -> SpeechLLM:
    return SpeechLLM(cut, "cpu")


@pytest.fixture
def samples(tone: NDArray[np.float32]) -> NDArray[np.float32]:
    return tone[: SECONDS * 16_000]


def test_the_manifest_says_where_it_is_cut(cut: Path) -> None:
    manifest = Manifest.read(cut)
    assert manifest.cut_after == CUT
    assert {DECODER, DECODER_LOWER, DECODER_UPPER} <= set(manifest.graphs)
    for name in (DECODER_LOWER, DECODER_UPPER):
        parity = manifest.graphs[name].parity
        assert len(parity) >= 8
        assert all(f.value > 0.999999 for f in parity if f.measure == "cosine")
    assert not {f"{name}.onnx.data" for name in (DECODER_LOWER, DECODER_UPPER)} & set(
        manifest.files
    )


def test_with_nothing_dropped_it_answers_as_the_whole_decoder(
    model: SpeechLLM, samples: NDArray[np.float32]
) -> None:
    recording = model.listen(samples, sampling_rate=16_000)
    kept = recording.ask(QUESTION, **ASKED, pruning_rate=0.0, budget=10_000)
    whole = recording.ask(QUESTION, method="none", max_new_tokens=NEW_TOKENS)
    assert kept.pruning.kept == recording.tokens
    assert kept.token_ids == whole.token_ids
    np.testing.assert_allclose(kept.log_probabilities, whole.log_probabilities, atol=1e-4)


@pytest.mark.parametrize("positions", ["renumbered", "original"])
def test_answers_equal_those_of_torch(
    positions: Any, model: SpeechLLM, checkpoints: Any, samples: NDArray[np.float32]
) -> None:
    reference = Qwen2Audio(str(checkpoints(TINY[5])), QUESTION)
    before, after = reference.text_embeds(samples)
    audio = reference.audio_embeds(samples)
    whole = torch.cat([before, audio, after]).numpy()
    causal = torch.nn.Module()
    causal.model, causal.lm_head = reference.model.model.language_model, reference.model.lm_head

    recording = model.listen(samples, sampling_rate=16_000)
    answer = recording.ask(QUESTION, **ASKED, pruning_rate=0.9, positions=positions)
    shares = attended(causal, CUT, whole)[len(before) : len(before) + len(audio)]
    n_keep = round(0.1 * len(audio))
    wanted = np.sort(np.argsort(-shares, kind="stable")[:n_keep])
    np.testing.assert_array_equal(answer.pruning.indices, wanted)
    (scores,) = answer.pruning.scores
    np.testing.assert_allclose(scores.values, shares / shares.sum(), rtol=1e-3)

    end = len(before) + len(audio) + np.arange(len(after))
    kept = np.concatenate([np.arange(len(before)), len(before) + wanted, end])
    at = kept if positions == "original" else np.arange(len(kept))
    ids: list[int] = []
    while len(ids) < NEW_TOKENS:
        ids.append(int(logits_behind_a_cut(causal, CUT, whole, kept, at, ids).argmax()))
        if ids[-1] in model.manifest.stop_token_ids:
            ids.pop()
            break
    assert len(ids) > 3
    assert list(answer.token_ids) == ids
    assert answer.prompt_tokens == len(kept)
    assert {"lower_layers", "phase_1", "prefill", "decode"} <= set(answer.timings.seconds)

    # Continuations are tried from the same prompt, one after the other.
    asked = PruningOptions("fastv", 0.9, positions=positions)
    score = recording.score(QUESTION, ["abc", "x"], pruning=asked)
    for text, found in zip(("abc", "x"), score.log_probabilities, strict=True):
        tokens = model.engine.text.encode(text).ids
        for place, (token, value) in enumerate(zip(tokens, found, strict=True)):
            row = logits_behind_a_cut(causal, CUT, whole, kept, at, tokens[:place])
            log_shares = torch.from_numpy(row).log_softmax(-1)
            assert value == pytest.approx(float(log_shares[token]), abs=1e-3)


def test_recordings_side_by_side_keep_the_text_between_them(
    model: SpeechLLM, samples: NDArray[np.float32]
) -> None:
    halves = [model.listen(part, sampling_rate=16_000) for part in np.array_split(samples, 2)]
    together = halves[0].beside(halves[1])
    kept = together.ask(QUESTION, **ASKED, pruning_rate=0.0, budget=10_000)
    whole = together.ask(QUESTION, method="none", max_new_tokens=NEW_TOKENS)
    assert kept.token_ids == whole.token_ids
    fewer = together.ask(QUESTION, **ASKED, pruning_rate=0.5)
    assert fewer.prompt_tokens == whole.prompt_tokens - (fewer.pruning.total - fewer.pruning.kept)


def test_what_one_sequence_cannot_do_is_refused(
    model: SpeechLLM, samples: NDArray[np.float32]
) -> None:
    recording = model.listen(samples, sampling_rate=16_000)
    with pytest.raises(OptionError, match="fastv gives one answer at a time"):
        recording.sample(QUESTION, 2, **ASKED)
    assert len(recording.sample(QUESTION, 1, **ASKED)) == 1
    with pytest.raises(OptionError, match="fastv takes a single question"):
        recording.chat(**ASKED)
    answer = recording.ask(QUESTION, **ASKED)
    with pytest.raises(OptionError, match="fastv reads every token before it drops some"):
        recording.with_evidence(answer)
    with pytest.raises(OptionError, match="pruning_rate='auto' cannot bound"):
        PruningOptions("fastv", "auto")
    long = model.listen(np.resize(samples, 16_000 * 400), sampling_rate=16_000)
    with pytest.raises(PromptError, match=r"the model has 8192: prune \(method='coverage'\)"):
        long.ask(QUESTION, **ASKED)


def test_a_bundle_that_is_not_cut_says_how_to_cut_it(
    bundle: Path, samples: NDArray[np.float32], tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    line = ["ask", str(bundle), str(tmp_path / "a.wav"), QUESTION, "--method", "fastv"]
    command = [sys.executable, "-m", "speechprune_ort", *line]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "export with --cut-after 2, or use another method" in done.stderr


def test_a_cut_must_have_layers_on_both_sides(checkpoints: Any, tmp_path: Path) -> None:
    folder = str(checkpoints(TINY[5]))
    with pytest.raises(ExportError, match="--cut-after 0 leaves no layer below"):
        check_request(folder, tmp_path / "out", cut_after=0)
    with pytest.raises(ExportError, match="--cut-after 2 leaves no layer above"):
        export_bundle(folder, tmp_path / "out", cut_after=2)
    assert not (tmp_path / "out").exists()


def test_costs_count_both_halves(cut: Path, model: SpeechLLM, samples: NDArray[np.float32]) -> None:
    sound = Sound("12 s", float(SECONDS), samples)
    pruned = Setting("0.9", PruningOptions("fastv", 0.9))
    settings = [Setting("none", PruningOptions("none")), pruned]
    options = ProfileOptions(QUESTION, new_tokens=3, repeats=1, warmup=0, loads=1)
    found = profile(lambda: SpeechLLM(cut, "cpu"), [sound], settings, options)
    whole, less = (condition.operations for condition in found.conditions)
    assert "lower_layers" not in whole
    reading = [less["lower_layers"], less["prefill"]]
    # One layer of two, the other of which computes the last position alone behind its attention.
    assert 0.5 < less["lower_layers"] / whole["prefill"] < 0.7
    assert sum(reading) < whole["prefill"]
    figures = found.conditions[1].figures
    assert figures["lower_layers_ms"].p50 > 0
    assert figures["ttft_embeds_ms"].p50 >= figures["lower_layers_ms"].p50

    kept, every = found.conditions[1].prompt_tokens, found.conditions[0].prompt_tokens
    tflops = prefill_tflops(model.manifest, kept, every)
    assert tflops is not None
    assert 1e12 * tflops == pytest.approx(sum(reading), rel=0.05)
    assert prefill_tflops(model.manifest, every, every) == prefill_tflops(model.manifest, every)
    costs = measure_costs(model, {"none": 300, "fastv": 30}, 20, 1, whole={"fastv": 300})
    assert costs["fastv"].prefill_ms > 0
    assert (costs["fastv"].tflops or 0) < (costs["none"].tflops or 0)
