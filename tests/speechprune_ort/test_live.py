"""A recording that grows: at every moment what listening to all of it until then would give."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from speechprune_ort import AudioError, AudioOptions, ComputeError, OptionError, SpeechLLM
from speechprune_ort.contract.manifest_entries import LogMelSpec
from speechprune_ort.runtime.hearing import encoder as encoders

RATE = 16_000
OPTIONS: Any = {"max_new_tokens": 5, "pruning_rate": 0.8}


@pytest.fixture(scope="module")
def model(bundle: Path) -> SpeechLLM:
    return SpeechLLM(bundle, "cpu", threads=1)


def blocks(samples: NDArray[Any], seed: int = 0) -> Iterator[NDArray[Any]]:
    """Blocks of 0 to 4 seconds, some of them of one or two samples."""
    rng, start = np.random.default_rng(seed), 0
    while start < len(samples):
        few = samples.ndim
        size = int(rng.choice([0, few, int(rng.integers(few, 4 * RATE))], p=[0.05, 0.05, 0.9]))
        yield samples[start : start + size]
        start += size


@pytest.mark.parametrize("megabytes", [192.0, 0.01])
def test_it_is_always_the_recording_until_then(
    megabytes: float, model: SpeechLLM, tone: NDArray[np.float32]
) -> None:
    samples = tone.copy()
    samples[30 * RATE : 62 * RATE] = 0  # a window of silence, which is encoded once
    live, heard, moments = model.live(RATE, memory_budget_mb=megabytes), 0, []
    for number, block in enumerate(blocks(samples)):
        live.add(block)
        heard += len(block)
        assert live.seconds == heard / RATE
        if number % 9 == 4:
            moments.append((heard, live.so_far()))
    end = live.finish()
    assert len(moments) > 2
    assert any(heard % (30 * RATE) for heard, _ in moments), "in the middle of a window"
    for heard, found in [*moments, (len(samples), end)]:
        whole = model.listen(samples[:heard], sampling_rate=RATE, memory_budget_mb=megabytes)
        assert np.array_equal(found.embeds, whole.embeds), "what came later is not in it"
        assert (found.seconds, found.seconds_heard) == (whole.seconds, whole.seconds_heard)
        assert found.notes == tuple(n.replace("array", "live recording") for n in whole.notes)
    asked, whole_answer = end.ask("Who?", **OPTIONS), whole.ask("Who?", **OPTIONS)
    assert asked.token_ids == whole_answer.token_ids
    assert asked.log_probabilities == whole_answer.log_probabilities
    assert list(asked.pruning.indices) == list(whole_answer.pruning.indices)
    assert {"audio", "log_mel", "encoder"} <= set(end.timings.seconds)


def test_a_model_that_scales_by_the_whole_recording_hears_it_so(
    bundle: Path, tone: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = SpeechLLM(bundle, "cpu", threads=1)
    audio = model.manifest.audio
    whole_scale = msgspec.structs.replace(audio, log_mel=LogMelSpec(over="recording"))
    changed = msgspec.structs.replace(model.manifest, audio=whole_scale)
    monkeypatch.setattr(model.engine, "manifest", changed)
    samples = tone[: 65 * RATE].copy()
    samples[: 30 * RATE] *= 0.01  # what is loud later changes what was heard
    live, early = model.live(RATE), None
    for block in blocks(samples):
        live.add(block)
        if early is None and live.seconds > 31:
            early = live.seconds, live.so_far()
    assert early is not None
    until = round(early[0] * RATE)
    for found, heard in (
        (early[1], samples[:until]),
        (live.so_far(), samples),
        (live.finish(), samples),
    ):
        assert np.array_equal(found.embeds, model.listen(heard, sampling_rate=RATE).embeds)
    first = model.listen(samples[: 30 * RATE], sampling_rate=RATE)
    assert not np.array_equal(first.embeds, live.finish().embeds[: first.tokens])


def test_another_rate_and_integers_are_whole_at_the_end(
    model: SpeechLLM, tone: NDArray[np.float32]
) -> None:
    left = (tone[: 40 * RATE] * 20_000).astype(np.int16)
    stereo = np.stack([left, left // 3], axis=1)
    live = model.live(44_100)
    for block in blocks(stereo, seed=1):
        live.add(block)
    some = live.so_far()
    whole = model.listen(stereo, sampling_rate=44_100)
    assert 0 <= whole.seconds - some.seconds < 0.1, "what the resampler keeps back"
    assert np.array_equal(live.finish().embeds, whole.embeds)
    by_pairs = model.live(8_000)  # what a block says goes before
    for block in blocks(stereo, seed=2):
        if len(block):
            by_pairs.add((block, 44_100))
    assert np.array_equal(by_pairs.finish().embeds, whole.embeds)


def test_a_question_is_answered_from_what_was_said_so_far(
    model: SpeechLLM, tone: NDArray[np.float32]
) -> None:
    live = model.live(RATE)
    live.add(tone[: 12 * RATE])
    early = live.ask("Who?", **OPTIONS)
    assert "".join(live.stream("Who?", **OPTIONS)) == early.text
    assert early.seconds == 12
    before = live.so_far()
    assert live.so_far().embeds is before.embeds, "nothing is encoded again"
    live.add(tone[12 * RATE : 40 * RATE])
    assert live.ask("Who?", **OPTIONS).seconds == 40
    assert before.ask("Who?", **OPTIONS).token_ids == early.token_ids


def test_one_thread_adds_while_others_ask(model: SpeechLLM, tone: NDArray[np.float32]) -> None:
    live, errors = model.live(RATE), []
    live.add(tone[:RATE])

    def ask() -> None:
        try:
            while live.seconds < 50:
                answer = live.ask("Who?", max_new_tokens=2, pruning_rate=0.9)
                whole = model.listen(tone[: round(answer.seconds * RATE)], sampling_rate=RATE)
                assert whole.tokens == answer.pruning.total
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for start in range(RATE, 60 * RATE, RATE):
        live.add(tone[start : start + RATE])
    for thread in threads:
        thread.join(120)
    assert not errors, errors
    whole = model.listen(tone[: 60 * RATE], sampling_rate=RATE)
    assert np.array_equal(live.finish().embeds, whole.embeds)


def test_what_is_no_block_is_refused_and_the_recording_goes_on(
    model: SpeechLLM, tone: NDArray[np.float32], tmp_path: Path
) -> None:
    live = model.live(RATE, audio_options=AudioOptions(max_seconds=3))
    with pytest.raises(AudioError, match=r"too short|silent"):
        live.so_far()
    live.add(tone[:RATE])
    for wrong, words in (
        (tmp_path / "a.wav", "A block is samples, not a file"),
        (np.full(8, np.nan, np.float32), "The live recording has NaN"),
        (np.zeros((4, 3, 2), np.float32), "shape"),
        (tone[: 3 * RATE], "longer than 3 seconds"),
        (bytearray(b"RIFF"), "A block is samples, not a file"),
        ("Who?", "A block is samples"),
    ):
        with pytest.raises(AudioError, match=words):
            live.add(wrong)  # type: ignore[arg-type]
    live.add(tone[RATE : 2 * RATE])
    end = live.finish()
    assert np.array_equal(end.embeds, model.listen(tone[: 2 * RATE], sampling_rate=RATE).embeds)
    assert live.finish().embeds is end.embeds
    with pytest.raises(OptionError, match="has ended"):
        live.add(tone[:RATE])


def test_silence_and_nothing_are_refused(model: SpeechLLM) -> None:
    with pytest.raises(AudioError, match="The live recording holds no samples"):
        model.live(RATE).finish()
    live = model.live(RATE)
    live.add(np.zeros(2 * RATE, np.float32))
    for asked in (live.so_far, live.finish):
        with pytest.raises(AudioError, match="The live recording is silent"):
            asked()
    with pytest.raises(AudioError, match="sampling rate"):
        model.live().add(np.ones(8, np.float32))
    for wrong in (0, 1.5, 10**9):
        with pytest.raises(OptionError, match="sampling_rate"):
            model.live(wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [RATE, RATE // 2])
@pytest.mark.parametrize("samples", [0, 40, RATE])
def test_an_end_that_is_refused_stands(rate: int, samples: int, model: SpeechLLM) -> None:
    live = model.live(rate)
    live.add(np.full(samples, 1e-5 if samples == RATE else 0.1, np.float32))
    for asked in (live.finish, live.finish, live.so_far, lambda: live.ask("Who?")):
        with pytest.raises(AudioError, match=r"silent|too short|no samples"):
            asked()
    with pytest.raises(OptionError, match="has ended"):
        live.add(np.ones(8, np.float32))


def test_a_recording_whose_encoder_failed_does_not_go_on(
    model: SpeechLLM, tone: NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    live = model.live(RATE)
    live.add(tone[:RATE])
    with monkeypatch.context() as patched:
        patched.setattr(encoders, "_encode", lambda *_: (_ for _ in ()).throw(MemoryError()))
        with pytest.raises((ComputeError, MemoryError)):
            live.add(tone[: 30 * RATE])
    for asked in (lambda: live.add(tone[:RATE]), live.so_far, live.finish):
        with pytest.raises((ComputeError, MemoryError)):
            asked()
