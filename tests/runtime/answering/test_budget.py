"""``pruning_rate="auto"``: as many tokens as fit, and the name of what bounds them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from speechprune_ort import OptionError, PromptError, PruningOptions, SpeechLLM
from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.runtime.answering.budget import PrefillTime, bytes_per_position, pick_tokens

QUESTION = "Who owns the budget?"


def slow() -> PrefillTime:
    return PrefillTime(0.1, 0.01, 0.0)


def never() -> PrefillTime:
    raise AssertionError("nobody asked for a latency")


def test_each_bound_is_kept_and_named(bundle: Path) -> None:
    manifest = Manifest.read(bundle)
    context = manifest.dimensions.context
    each = bytes_per_position(manifest)

    assert pick_tokens(100, 20, 30, manifest, never).limit == "recording"
    found = pick_tokens(10**6, 20, 30, manifest, never)
    assert (found.tokens, found.limit) == (context - 50, "context")
    found = pick_tokens(10**6, 20, 30, manifest, slow, latency_target=1.1)
    assert (found.tokens, found.limit) == (80, "latency_target")
    found = pick_tokens(10**6, 20, 30, manifest, never, memory_target_mb=each * 150.5 / 1e6)
    assert (found.tokens, found.limit) == (100, "memory_target_mb")
    found = pick_tokens(40, 20, 30, manifest, slow, latency_target=60.0)
    assert (found.tokens, found.limit) == (40, "recording")


def test_where_not_one_token_fits_the_bound_is_named(bundle: Path) -> None:
    manifest = Manifest.read(bundle)
    context = manifest.dimensions.context
    with pytest.raises(PromptError, match="lower max_new_tokens"):
        pick_tokens(100, 20, context, manifest, never)
    with pytest.raises(PromptError, match="raise latency_target"):
        pick_tokens(100, 20, 30, manifest, slow, latency_target=0.2)
    with pytest.raises(PromptError, match="raise memory_target_mb"):
        pick_tokens(100, 20, 30, manifest, never, memory_target_mb=1e-6)


def test_time_is_fitted_and_never_falls_with_length() -> None:
    curved = {n: 0.2 + 1e-3 * n + 1e-6 * n * n for n in (32, 128, 512)}
    found = PrefillTime.fit(curved)
    assert found(4096) == pytest.approx(0.2 + 4.096 + 16.777216, rel=1e-6)
    for noisy in ({32: 0.5, 128: 0.4, 512: 0.45}, {32: 0.3, 128: 0.31}, {32: 0.3}):
        found = PrefillTime.fit(noisy)
        assert found.each > 0
        assert found.pair >= 0
        assert found(1000) > found(500) > 0


def test_a_recording_settles_the_rate(bundle: Path, tone: NDArray[np.float32]) -> None:
    model = SpeechLLM(bundle, device="cpu")
    recording = model.listen(tone, sampling_rate=16_000)
    answer = recording.ask(QUESTION, pruning_rate="auto", max_new_tokens=2)
    pruning = answer.pruning
    context = model.manifest.dimensions.context
    wanted = min(recording.tokens, context - (answer.prompt_tokens - pruning.kept) - 2)
    assert pruning.kept == wanted
    assert pruning.picked == ("recording" if wanted == recording.tokens else "context")
    assert answer.to_dict()["pruning"]["picked"] == pruning.picked

    each = bytes_per_position(model.manifest)
    tight = PruningOptions(
        method="speechprune", pruning_rate="auto", memory_target_mb=each * 400 / 1e6
    )
    answer = recording.ask(QUESTION, pruning=tight)
    assert answer.pruning.picked == "memory_target_mb"
    assert answer.prompt_tokens + answer.generation.max_new_tokens == 400
    # Phase 1 leaves a window, phase 2 the rest of the way.
    candidates = answer.pruning.scores[1].tokens
    assert candidates is not None
    assert len(candidates) == 750
    assert answer.pruning.options.rate == pytest.approx(1 - answer.pruning.kept / 750)

    quick = recording.prune(QUESTION, PruningOptions(pruning_rate="auto", latency_target=60.0))
    assert quick.picked in ("recording", "context", "latency_target")


def test_targets_are_for_auto_and_auto_is_no_number() -> None:
    with pytest.raises(OptionError, match="pruning_rate='auto'"):
        PruningOptions(latency_target=1.0)
    with pytest.raises(OptionError, match="positive"):
        PruningOptions(pruning_rate="auto", memory_target_mb=0)
    with pytest.raises(OptionError, match="or auto"):
        PruningOptions(pruning_rate="most")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="give a number"):
        PruningOptions(pruning_rate="auto").kept_tokens(100, 750)
