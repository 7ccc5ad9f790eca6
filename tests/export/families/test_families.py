"""Families that hear every window to its end: what is particular to them, and their refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
from numpy.typing import NDArray
from paths import ROOT
from references import Family, greedy_ids, until_stop
from tiny_families import STATES, write_diva

from speechprune_ort import ExportError, PruningOptions, SpeechLLM
from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.explain.explanation import curves_of
from speechprune_ort.export.families import load_checkpoint
from speechprune_ort.export.pipeline import export_bundle

QUESTION = "Who owns the budget?"
NEW_TOKENS = 32
SECONDS = 41.0  # two windows, the second one not full
WINDOW = 480_000  # samples


@pytest.fixture(scope="module", params=STATES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Family:
    found: Family = request.param
    return found


@pytest.fixture(scope="module")
def made(case: Family, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Checkpoint and bundle."""
    folder = tmp_path_factory.mktemp(case.name)
    checkpoint = case.write(folder / "checkpoint")
    export_bundle(str(checkpoint), folder / "bundle")
    return checkpoint, folder / "bundle"


@pytest.fixture(scope="module")
def model(made: tuple[Path, Path]) -> SpeechLLM:
    return SpeechLLM(made[1], "cpu")


@pytest.fixture
def samples(case: Family, tone: NDArray[np.float32]) -> NDArray[np.float32]:
    found = tone[: int(SECONDS * 16_000)].copy()
    if case.family == "voxtral":  # so quiet that it matters whose loudest value scales a window
        found[480_000:] *= np.float32(1e-3)
    return found


def test_greedy_ids_equal_torch(
    case: Family, made: tuple[Path, Path], model: SpeechLLM, samples: NDArray[np.float32]
) -> None:
    expected = greedy_ids(case.open(made[0]), samples, QUESTION, NEW_TOKENS)
    answer = model.ask(
        samples, QUESTION, sampling_rate=16_000, method="none", max_new_tokens=NEW_TOKENS
    )
    assert list(answer.token_ids) == until_stop(expected, model.manifest.stop_token_ids)
    assert len(set(expected)) >= 8, "these weights repeat themselves: they would prove little"


def test_a_window_gives_all_of_its_tokens(
    case: Family, model: SpeechLLM, samples: NDArray[np.float32]
) -> None:
    assert model.manifest.family == case.family
    assert model.manifest.dimensions.window_tokens == case.tokens(WINDOW)
    assert model.listen(samples, sampling_rate=16_000).tokens == 2 * case.tokens(WINDOW)


@pytest.mark.parametrize("rate", [0.15, 0.8])
@pytest.mark.parametrize("method", ["speechprune", "similarity", "attention", "random", "crop"])
def test_pruning_keeps_what_its_rate_says(
    case: Family, model: SpeechLLM, samples: NDArray[np.float32], method: Any, rate: float
) -> None:
    answer = model.ask(
        samples, QUESTION, sampling_rate=16_000, method=method, pruning_rate=rate, max_new_tokens=4
    )
    assert answer.pruning.kept == round(case.tokens(WINDOW) * (1 - rate))
    spans = answer.pruning.spans
    # A stretch may lie wholly in the silence behind the recording, which these families hear.
    assert spans or method == "crop"
    assert all(0 <= span.start < span.end <= SECONDS for span in spans)
    if case.family == "diva":  # its tokens mix the time of a window
        assert {span.start for span in spans} <= {0.0, 30.0}


def test_a_score_is_drawn_where_its_token_lies(
    case: Family, model: SpeechLLM, samples: NDArray[np.float32]
) -> None:
    answer = model.ask(
        samples, QUESTION, sampling_rate=16_000, method="similarity", max_new_tokens=1
    )
    (recording,) = answer.pruning.recordings
    (curve,) = curves_of(answer, recording)
    # Windows are heard to their end, so that tokens go on in the silence after the sound.
    whole = (np.arange(2 * case.tokens(WINDOW)) + 0.5) * 30 / case.tokens(WINDOW)
    np.testing.assert_allclose(curve.seconds, whole, rtol=1e-9)


def test_both_backends_keep_the_same(model: SpeechLLM, samples: NDArray[np.float32]) -> None:
    recording = model.listen(samples, sampling_rate=16_000)
    by_numpy = recording.prune(QUESTION, PruningOptions(backend="numpy"))
    by_graph = recording.prune(QUESTION, PruningOptions(backend="ort"))
    np.testing.assert_array_equal(by_numpy.indices, by_graph.indices)


def test_the_runtime_learns_a_family_from_the_manifest_alone() -> None:
    for path in [*(ROOT / "runtime").rglob("*.py"), *(ROOT / "speechprune_ort").rglob("*.py")]:
        content = path.read_text(encoding="utf-8")
        for name in ("diva", "voxtral", "qwen2_audio"):
            assert f'"{name}"' not in content, f"{path.name} tests for {name}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference_encoder": None}, "names no reference_encoder"),
        ({"reference_encoder": ["encoder"]}, "names no reference_encoder"),
        ({"reference_decoder": "nowhere/at-all"}, "names 'nowhere/at-all' as reference_decoder"),
        ({"reference_decoder": "encoder"}, "'whisper': export knows"),
        ({"reference_encoder": "decoder"}, "'llama': export knows"),
        ({"bundle_prompt_order": "sideways"}, "text_first or audio_first"),
    ],
)
def test_a_diva_that_cannot_be_used_says_why(
    tmp_path: Path, change: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Its variable was read long ago, and a hub that cannot be reached is asked for a minute.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    folder = write_diva(tmp_path / "diva", 1, None)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ExportError, match=message):
        load_checkpoint(str(folder), None, False)


def test_a_diva_without_its_queries_is_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_diva(tmp_path / "diva", 4, None)
    weights = load_file(folder / "model.safetensors")
    del weights["query_tokens"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ExportError, match="lacks 'query_tokens'"):
        load_checkpoint(str(folder), None, False)


def test_the_manifest_says_what_a_span_is(case: Family, made: tuple[Path, Path]) -> None:
    audio = Manifest.read(made[1]).audio
    mixed = case.family == "diva"
    assert audio.span_tokens == (case.tokens(WINDOW) if mixed else 1)
    assert (case.tokens(WINDOW) * 2) % audio.frame_tokens == 0
