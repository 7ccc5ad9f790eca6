"""The pruning stage by the bundle's graphs equals the numpy reference, token for token."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import fake_gpu
import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from tiny import TINY

from speechprune_ort import OptionError, PruningOptions, SpeechLLM
from speechprune_ort.contract.specs import (
    ASSEMBLE,
    RECEIVED_ATTENTION,
    SIMILARITY,
    Dimensions,
    graph_specs,
)
from speechprune_ort.export.pruning_graphs import (
    export_assemble,
    export_received_attention,
    export_similarity,
)
from speechprune_ort.runtime.choosing import scoring
from speechprune_ort.runtime.choosing.pruning import (
    keep_by_attention,
    keep_by_similarity,
    received_attention,
    similarity_scores,
    text_direction,
)
from speechprune_ort.runtime.hearing import embeddings
from speechprune_ort.runtime.hearing.embeddings import DeviceEmbeds
from speechprune_ort.runtime.ort.device import Device

CPU = Device("cpu")
CASES = 500
QUESTION = "Who owns the budget?"


def dimensions(hidden: int, heads: int, kv_heads: int, head_dim: int) -> Dimensions:
    return Dimensions(80, 3000, 750, hidden, 2, heads, kv_heads, head_dim, 100, 4096)


def graph(name: str, dims: Dimensions, folder: Path, dtype: str = "float32") -> Any:
    spec = graph_specs(dims, dtype)[name]
    path = folder / f"{name}.onnx"
    if name == SIMILARITY:
        export_similarity(spec, path)
    elif name == ASSEMBLE:
        export_assemble(spec, path)
    else:
        export_received_attention(dims, spec, path)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def differing_gap(
    scores: NDArray[np.float32], kept: NDArray[np.int64], other: NDArray[np.int64]
) -> float:
    """Largest difference of score between tokens that one kept and the other did not."""
    only, instead = np.setdiff1d(kept, other), np.setdiff1d(other, kept)
    assert len(only) == len(instead)
    if not len(only):
        return 0.0
    return float(np.abs(np.sort(scores[only]) - np.sort(scores[instead])).max())


def test_phase_1_keeps_the_same_tokens_on_random_cases_of_every_size(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sessions = {
        hidden: graph(SIMILARITY, dimensions(hidden, 4, 4, hidden // 4), tmp_path)
        for hidden in (64, 192, 576, 1024, 4096)
    }
    worst = 0.0
    for case in range(CASES):
        hidden = int(random.choice(list(sessions)))
        most = 5000 if hidden <= 576 else 600
        tokens = int(np.exp(random.uniform(0, np.log(most))))
        audio = random.standard_normal((tokens, hidden)).astype(np.float32)
        if case % 5 == 0:  # ties: equal tokens, and tokens of zeros
            audio = audio[random.integers(0, max(1, tokens // 4), tokens)]
            audio[random.random(tokens) < 0.1] = 0
        text = random.standard_normal((int(random.integers(1, 20)), hidden)).astype(np.float32)
        wanted = similarity_scores(audio, text)
        inputs = {"audio_embeds": audio, "direction": text_direction(text)}
        (found,) = sessions[hidden].run(["scores"], inputs)
        np.testing.assert_allclose(found, wanted, atol=2e-6)
        keep = int(random.integers(1, tokens + 1))
        temperature = float(random.choice([0.1, 1.0, 5.0]))
        a, b = (keep_by_similarity(s, keep, 25, temperature) for s in (wanted, found))
        # Sums in another order may swap tokens whose scores differ by no more than rounding.
        worst = max(worst, differing_gap(wanted, a, b))
    assert worst < 1e-5


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(1, 1, 64), (9, 3, 64), (32, 32, 128), (14, 2, 64)]
)
def test_phase_2_keeps_the_same_tokens_on_binarized_projections(
    heads: int, kv_heads: int, head_dim: int, tmp_path: Path
) -> None:
    random = np.random.default_rng(heads)
    session = graph(
        RECEIVED_ATTENTION, dimensions(heads * head_dim, heads, kv_heads, head_dim), tmp_path
    )
    for case in range(CASES // 4):
        tokens = int(np.exp(random.uniform(0, np.log(300))))
        scale = 40 if case % 2 else 4  # sums of signs are whole numbers
        query = np.rint(scale * random.standard_normal((tokens, heads, head_dim)))
        key = np.rint(scale * random.standard_normal((tokens, kv_heads, head_dim)))
        if case % 5 == 0:
            same = random.integers(0, max(1, tokens // 4), tokens)
            query, key = query[same], key[same]
        query, key = query.astype(np.float32), key.astype(np.float32)
        wanted = received_attention(query, key)
        (total,) = session.run(["received"], {"query": query, "key": key})
        found = (total.astype(np.float64) / (tokens * heads)).astype(np.float32)
        np.testing.assert_allclose(found, wanted, atol=2e-6)
        keep = int(random.integers(1, tokens + 1))
        a, b = (keep_by_attention(s, keep) for s in (wanted, found))
        assert differing_gap(wanted, a, b) < 1e-6


def test_blocks_of_queries_and_offsets_give_the_same_sums(
    bundle: Path, tone: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SpeechLLM(bundle, "cpu")
    recording = model.listen(tone[: 30 * 16_000], sampling_rate=16_000)
    options = PruningOptions(method="attention", pruning_rate=0.4, backend="ort")
    whole = recording.prune(QUESTION, options)
    monkeypatch.setattr(scoring, "ATTENTION_AT_ONCE", 750 * 8 * 100)
    blocks = recording.prune(QUESTION, options)
    np.testing.assert_allclose(blocks.scores[0].values, whole.scores[0].values, rtol=1e-6)
    np.testing.assert_array_equal(blocks.indices, whole.indices)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize(
    ("method", "form"),
    [
        *((name, "binarized") for name in ("similarity", "coverage", "passages", "random", "none")),
        *product(("speechprune", "attention"), ("binarized", "float")),
    ],
)
def test_a_bundle_answers_the_same_with_either_backend(
    method: Any, form: Any, precision: str, bundles: Any, tone: NDArray[np.float32]
) -> None:
    model = SpeechLLM(bundles(TINY[1], precision), "cpu")
    recording = model.listen(tone[: 65 * 16_000], sampling_rate=16_000)
    own = {"attention": form} if form == "float" else {}
    options = PruningOptions(method=method, pruning_rate=0.4, backend="numpy", **own)
    by_numpy = recording.ask(QUESTION, pruning=options, max_new_tokens=6)
    by_ort = recording.ask(QUESTION, pruning=replace(options, backend="ort"), max_new_tokens=6)
    np.testing.assert_array_equal(by_ort.pruning.indices, by_numpy.pruning.indices)
    assert by_ort.token_ids == by_numpy.token_ids
    assert by_ort.prompt_tokens == by_numpy.prompt_tokens
    assert by_ort.pruning.options.backend == "ort"


def test_auto_is_numpy_on_the_cpu_and_the_result_says_so(
    bundle: Path, tone: NDArray[np.float32]
) -> None:
    recording = SpeechLLM(bundle, "cpu").listen(tone[:32_000], sampling_rate=16_000)
    assert recording.prune(QUESTION).options.backend == "numpy"
    with pytest.raises(OptionError, match="single_head needs backend='numpy'"):
        recording.prune(
            QUESTION, PruningOptions(method="attention", single_head=True, backend="ort")
        )


def test_what_is_not_finite_is_refused_by_both(bundle: Path) -> None:
    model = SpeechLLM(bundle, "cpu")
    embeds = np.ones((60, model.manifest.dimensions.hidden), np.float32)
    embeds[7, 3] = np.inf
    recording = model.recall(embeds)
    for backend in ("numpy", "ort"):
        with pytest.raises(OptionError, match="NaN or infinity"):
            recording.prune(QUESTION, PruningOptions(backend=backend))


class Recorder:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def bind_input(self, *arguments: Any) -> None:
        self.calls.append(arguments)

    def bind_output(self, *arguments: Any) -> None:
        self.calls.append(arguments)


def test_rows_are_bound_where_they_lie_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embeddings, "copy_rows", fake_gpu.copy_rows)
    device: Any = fake_gpu.FakeGpu()
    embeds = DeviceEmbeds(100, 90, 16, np.dtype(np.float16), device)
    assert device.made == [(100, 16)]
    address = embeds._buffer.data_ptr()
    recorder: Any = Recorder()
    embeds.bind(recorder, "audio_embeds")
    embeds.bind(recorder, "audio_embeds", 10, 20)
    embeds.bind_output(recorder, "audio_embeds", 50, (1, 30, 16))
    half = np.float16
    assert recorder.calls == [
        ("audio_embeds", "cuda", 0, half, [90, 16], address),
        ("audio_embeds", "cuda", 0, half, [10, 16], address + 10 * 16 * 2),
        ("audio_embeds", "cuda", 0, half, [1, 30, 16], address + 50 * 16 * 2),
    ]
    assert embeds.host.shape == (90, 16)


def test_the_prompt_is_assembled_around_the_kept_rows(tmp_path: Path) -> None:
    session = graph(ASSEMBLE, dimensions(8, 2, 2, 4), tmp_path, "float16")
    rows = np.arange(80, dtype=np.float16).reshape(10, 8)
    audio = DeviceEmbeds.of(rows, CPU)
    for before, after in ((2, 1), (0, 3), (0, 0)):
        indices = np.array([1, 4, 9])
        found = scoring.assemble(session, CPU, rows[:before], audio, indices, rows[:after]).numpy()
        wanted = np.concatenate([rows[:before], rows[indices], rows[:after]])[None]
        np.testing.assert_array_equal(found, wanted)
