"""Evidence: what an answer rests on is found, by trying each stretch alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from speechprune_ort import OptionError, PruningOptions, SpeechLLM
from speechprune_ort.runtime.answering.evidence import stretches
from speechprune_ort.timings import Timings


@pytest.mark.parametrize("span_tokens", [1, 3])
def test_every_kept_token_is_in_one_stretch_of_a_sentence_at_most(span_tokens: int) -> None:
    kept = np.flatnonzero(np.random.default_rng(0).random(4000) < 0.3)
    places = stretches(kept, 25.0, span_tokens)
    assert np.concatenate(places).tolist() == list(range(len(kept)))
    assert all((kept[p[-1]] - kept[p[0]]) / 25 <= 3.0 + span_tokens / 25 for p in places)
    assert stretches(kept[:0], 25.0) == []


def test_support_is_what_each_stretch_alone_makes_of_the_answer(
    bundle: Path, tone: NDArray[np.float32]
) -> None:
    model = SpeechLLM(bundle, "cpu")
    recording = model.listen(tone, sampling_rate=16_000)
    asked = recording.ask("Who?", pruning_rate=0.9, max_new_tokens=1)
    said = replace(asked, text="yes", token_ids=tuple(model.engine.text.encode("yes", "It").ids))
    answer = recording.with_evidence(said, count=100)
    assert answer.evidence
    assert replace(answer, evidence=None) == said
    supports = [found.support for found in answer.evidence]
    assert supports == sorted(supports, reverse=True)
    assert supports[-1] > 0
    assert recording.with_evidence(said, count=1).evidence == answer.evidence[:1]
    written = json.loads(json.dumps(answer.to_dict()))["evidence"]
    assert [(found["start"], found["end"]) for found in written] == [
        (found.span.start, found.span.end) for found in answer.evidence
    ]
    # The same by way of what is public: a recording of these tokens alone, and one of none.
    kept, rate = said.pruning.indices, model.manifest.tokens_per_second
    first = answer.evidence[0]
    inside = (kept >= round(first.span.start * rate)) & (kept < round(first.span.end * rate))
    embeds = recording.embeds[kept[inside]]
    every = PruningOptions(method="none")
    heard: list[Any] = [
        model.recall(part).score("Who?", ["yes"], pruning=every).means[0]
        for part in (embeds, embeds[:0])
    ]
    assert first.support == pytest.approx(heard[0] - heard[1], abs=1e-3)


@pytest.mark.parametrize("name", ["affinity-pooling", "focused-pooling", "coverage"])
def test_merged_tokens_and_several_recordings_have_evidence(
    name: str, bundle: Path, tone: NDArray[np.float32]
) -> None:
    model = SpeechLLM(bundle, "cpu")
    one = model.listen(tone[:48_000], sampling_rate=16_000)
    for recording in (one, one.beside(one)):
        said = recording.ask("Who?", method=name, pruning_rate=0.5, max_new_tokens=2)
        asked = recording._about(recording._prompt("Who?"), said.pruning.options, 2, Timings())
        found = asked.evidence(said.token_ids)
        assert len(found) >= (2 if recording is not one else 1)
        assert all(np.isfinite(part.support) for part in found)


def test_no_audio_and_no_answer_have_no_evidence(bundle: Path) -> None:
    model = SpeechLLM(bundle, "cpu")
    recording = model.recall(model.embed_text("a")[:0])
    said = recording.ask("Who?", max_new_tokens=2)
    assert recording.with_evidence(said).evidence == ()
    with pytest.raises(OptionError, match="count must be"):
        recording.with_evidence(said, count=0)
