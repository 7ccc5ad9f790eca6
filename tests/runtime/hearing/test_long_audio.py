"""Recordings that do not fit: read as a stream, spilled to a file, answered the same."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import fake_gpu
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from speechprune_ort import (
    AudioError,
    AudioOptions,
    OptionError,
    PruningOptions,
    RecordingError,
    SpeechLLM,
)
from speechprune_ort.contract.specs import AUDIO_ENCODER
from speechprune_ort.pool import in_order
from speechprune_ort.runtime.hearing import embeddings
from speechprune_ort.runtime.hearing.embeddings import (
    DeviceEmbeds,
    EmbedsBuilder,
    HostEmbeds,
    SpilledEmbeds,
)
from speechprune_ort.runtime.hearing.features import LogMel
from speechprune_ort.runtime.ort.device import Device

QUESTION = "Who owns the budget?"
SHAPE = (30, 8)  # window_tokens, hidden


class Written:
    """A session's binding that writes a window at once, as a run would."""

    def __init__(self, window: NDArray[np.float32]) -> None:
        self.window = window

    def bind_output(self, *where: Any) -> None:
        import ctypes

        *_, shape, address = where
        assert shape == [1, *SHAPE]
        ctypes.memmove(address, self.window.ctypes.data, self.window.nbytes)


def build(device: Any, counts: list[int], budget: int) -> tuple[Any, NDArray[np.float32]]:
    random = np.random.default_rng(0)
    builder = EmbedsBuilder(SHAPE, np.dtype(np.float32), device, budget)
    kept = []
    for count in counts:
        window = random.standard_normal(SHAPE).astype(np.float32)
        builder.bind_next(Written(window), "audio_embeds")  # type: ignore[arg-type]
        builder.commit(count)
        kept.append(window[:count])
    return builder.finish(), np.concatenate(kept)


@pytest.mark.parametrize("device", [Device("cpu"), fake_gpu.FakeGpu()], ids=["cpu", "elsewhere"])
@pytest.mark.parametrize("budget", [10**6, 0, 5 * 30 * 8 * 4])
def test_rows_are_the_same_in_memory_in_a_file_and_after_growing(
    device: Any, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embeddings, "copy_rows", fake_gpu.copy_rows)
    counts = [30, 30, 17, 30, 1, 30, 30, 30, 30, 30, 5]
    embeds, wanted = build(device, counts, budget)
    assert isinstance(embeds, DeviceEmbeds if budget == 10**6 else SpilledEmbeds)
    assert (embeds.tokens, embeds.hidden) == wanted.shape
    np.testing.assert_array_equal(embeds.host, wanted)
    np.testing.assert_array_equal(np.concatenate(list(embeds.blocks())), wanted)
    for indices in ([0, 1, 2, 40, 41, len(wanted) - 1], [7], []):
        rows = np.array(indices, np.int64)
        np.testing.assert_array_equal(embeds.take(rows), wanted[rows])


def test_a_file_may_be_read_by_several_threads_at_once() -> None:
    embeds, wanted = build(Device("cpu"), [30] * 40, 0)
    random = np.random.default_rng(1)
    wrong: list[int] = []

    def read() -> None:
        for _ in range(50):
            rows = np.sort(random.choice(len(wanted), 100, replace=False))
            if (embeds.take(rows) != wanted[rows]).any():
                wrong.append(1)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("backend", ["numpy", "ort"])
@pytest.mark.parametrize(
    "method", ["speechprune", "similarity", "attention", "coverage", "passages", "random"]
)
def test_a_spilled_recording_answers_as_one_in_memory(
    method: Any, backend: Any, bundle: Path, tone: NDArray[np.float32], tmp_path: Path
) -> None:
    model = SpeechLLM(bundle, "cpu")
    path = tmp_path / "long.wav"
    soundfile.write(path, np.tile(tone, 2), 16_000, subtype="FLOAT")
    options = PruningOptions(method=method, pruning_rate=0.4, backend=backend)
    whole, spilled = (model.listen(path, memory_budget_mb=mb) for mb in (192, 0.01))
    assert spilled.tokens == whole.tokens == 3750
    a, b = (r.ask(QUESTION, pruning=options, max_new_tokens=5) for r in (whole, spilled))
    np.testing.assert_array_equal(a.pruning.indices, b.pruning.indices)
    assert a.token_ids == b.token_ids
    np.testing.assert_array_equal(whole.embeds, spilled.embeds)


def test_progress_and_stages_cover_the_whole_recording(
    bundle: Path, tone: NDArray[np.float32]
) -> None:
    heard: list[float] = []
    recording = SpeechLLM(bundle, "cpu").listen(tone, sampling_rate=16_000, progress=heard.append)
    assert heard == [30.0, 60.0, 75.0]
    assert recording.seconds == 75.0
    assert set(recording.timings.seconds) == {"audio", "log_mel", "encoder"}


@pytest.mark.parametrize("seconds", [0.06, 0.1, 1.0, 5.03, 29.9, 29.99, 30.0])
def test_a_short_window_gives_the_tokens_that_it_gives_padded(
    bundle: Path, tone: NDArray[np.float32], seconds: float
) -> None:
    model = SpeechLLM(bundle, "cpu")
    samples = tone[: round(seconds * 16_000)]
    features, length = LogMel(mel_bins=model.manifest.dimensions.mel_bins)(samples)
    inputs = {"input_features": features[None], "feature_lengths": np.array([length])}
    padded = model.engine.session(AUDIO_ENCODER).run(["audio_embeds"], inputs)[0][0]
    found = model.listen(samples, sampling_rate=16_000).embeds
    assert len(found) == model.manifest.audio.tokens(length)
    np.testing.assert_allclose(found, padded[: len(found)], rtol=0, atol=1e-5)


@pytest.mark.parametrize("budget_mb", [192, 0.01])
def test_silent_windows_are_encoded_once_and_count_as_any(
    bundle: Path, tone: NDArray[np.float32], budget_mb: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speechprune_ort.runtime.hearing import encoder

    window = 30 * 16_000
    silence = np.zeros(3 * window, np.float32)
    samples = np.concatenate([silence, tone[:window], silence, np.zeros(5 * 16_000, np.float32)])
    model = SpeechLLM(bundle, "cpu")
    quiet = AudioOptions(allow_silence=True)
    alone = model.listen(silence[:window], sampling_rate=16_000, audio_options=quiet).embeds
    sound = model.listen(tone[:window], sampling_rate=16_000).embeds
    runs: list[int] = []
    encode = encoder._encode
    monkeypatch.setattr(encoder, "_encode", lambda *given: (runs.append(1), encode(*given))[1])
    heard = model.listen(samples, sampling_rate=16_000, memory_budget_mb=budget_mb)
    assert len(runs) == 3
    assert heard.tokens == 7 * 750 + 125
    wanted = np.concatenate([alone] * 3 + [sound] + [alone] * 3)
    np.testing.assert_array_equal(heard.embeds[: 7 * 750], wanted)


def test_a_budget_must_be_positive_and_a_broken_end_is_an_error(
    bundle: Path, tone: NDArray[np.float32]
) -> None:
    model = SpeechLLM(bundle, "cpu")
    with pytest.raises(OptionError, match="memory_budget_mb"):
        model.listen(tone, sampling_rate=16_000, memory_budget_mb=0)
    broken = tone.copy()
    broken[-1] = np.nan
    with pytest.raises(AudioError, match="NaN"):
        model.listen(broken, sampling_rate=16_000)


@pytest.mark.parametrize("array", [np.zeros((0, 4)), np.zeros(4), np.zeros((4, 0))])
def test_what_is_no_table_of_embeddings_is_refused(array: NDArray[Any]) -> None:
    with pytest.raises(OptionError, match="audio embeddings"):
        HostEmbeds(array)


@pytest.mark.parametrize("budget", [192, 0.01])
def test_a_saved_recording_answers_as_the_one_that_was_heard(
    budget: float, bundle: Path, tone: NDArray[np.float32], tmp_path: Path
) -> None:
    model = SpeechLLM(bundle, "cpu")
    heard = model.listen(tone, sampling_rate=16_000, memory_budget_mb=budget)
    path = tmp_path / "meeting.recording"
    heard.save(path)
    for mb in (192, 0.01):
        again = model.load_recording(path, memory_budget_mb=mb)
        assert again.seconds == heard.seconds
        np.testing.assert_array_equal(again.embeds, heard.embeds)
        a, b = (r.ask(QUESTION, max_new_tokens=5) for r in (heard, again))
        assert a.token_ids == b.token_ids
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_a_recording_of_another_bundle_or_none_at_all_is_refused(
    bundle: Path, bundles: Any, tone: NDArray[np.float32], tmp_path: Path
) -> None:
    from tiny import TINY

    model, other = SpeechLLM(bundle, "cpu"), SpeechLLM(bundles(TINY[0], "fp16"), "cpu")
    path = tmp_path / "a.recording"
    model.listen(tone[:32_000], sampling_rate=16_000).save(path)
    with pytest.raises(RecordingError, match="another bundle"):
        other.load_recording(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    damaged = tmp_path / "b.recording"
    damaged.write_bytes(bytes(content))
    cut = tmp_path / "c.recording"
    cut.write_bytes(bytes(content[:300]))
    text = tmp_path / "d.recording"
    text.write_text("no recording")
    for wrong in (damaged, cut, text, tmp_path):
        with pytest.raises(RecordingError, match="damaged"):
            model.load_recording(wrong)
    with pytest.raises(RecordingError, match="check the path"):
        model.load_recording(tmp_path / "gone")
    with pytest.raises(RecordingError, match="cannot be written"):
        model.load_recording(path).save(tmp_path / "no" / "folder")


def test_many_are_answered_in_order_and_a_wrong_one_in_its_turn(
    bundle: Path, tone: NDArray[np.float32], tmp_path: Path
) -> None:
    model = SpeechLLM(bundle, "cpu")
    paths = []
    for number in range(4):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, tone[: (2 + 5 * (3 - number)) * 16_000], 16_000)
        paths.append(path)
    requests = [(path, f"Who was number {number}?") for number, path in enumerate(paths)]
    options = {"max_new_tokens": 4, "pruning_rate": 0.4}
    found = list(model.ask_many(requests, workers=3, **options))
    for answer, (path, question) in zip(found, requests, strict=True):
        alone = model.ask(path, question, **options)
        assert (answer.question, answer.token_ids) == (question, alone.token_ids)
    late = model.ask_many([requests[0], (tmp_path / "gone.wav", "Who?"), requests[1]], **options)
    assert next(late).token_ids == found[0].token_ids
    with pytest.raises(AudioError, match=r"gone\.wav"):
        next(late)
    with pytest.raises(OptionError, match="workers"):
        model.ask_many(requests, workers=0)
    with pytest.raises(OptionError, match="pruning_rate"):
        model.ask_many(requests, pruning_rate=2)


def test_no_more_is_taken_than_can_be_worked_on() -> None:
    taken: list[int] = []

    def source() -> Any:
        for number in range(100):
            taken.append(number)
            yield number

    results = in_order(lambda n: n + 1, source(), workers=3)
    assert next(results) == 1
    assert len(taken) <= 4
    results.close()
    assert len(taken) <= 4


@pytest.mark.parametrize("budget", [192.0, 0.05])
@pytest.mark.parametrize("at_once", [2, 3, 8])
def test_windows_that_run_together_give_what_they_give_alone(
    bundle: Path, tone: NDArray[np.float32], at_once: int, budget: float
) -> None:
    """Whole, silent and short windows in one recording, in memory and in a file."""
    samples = np.concatenate([tone, tone[::-1], np.zeros(75 * 16_000, np.float32), tone[:160_000]])
    model = SpeechLLM(bundle, "cpu")
    progress: list[float] = []
    found = []
    for number in (1, at_once):
        model.ear.windows_at_once = number
        found.append(
            model.listen(
                samples,
                sampling_rate=16_000,
                memory_budget_mb=budget,
                progress=progress.append,
            )
        )
    alone, together = found
    assert together.tokens == alone.tokens == 25 * 235
    np.testing.assert_allclose(together.embeds, alone.embeds, rtol=1e-4, atol=1e-5)
    assert progress == pytest.approx([30, 60, 90, 120, 150, 180, 210, 235] * 2)


def test_what_is_longer_than_a_window_is_pruned_truncated_or_refused(
    bundle: Path, tone: NDArray[np.float32]
) -> None:
    model = SpeechLLM(bundle, device="cpu")
    heard = {
        name: model.listen(tone, sampling_rate=16_000, long_audio=name)  # type: ignore[arg-type]
        for name in ("prune", "truncate")
    }
    assert (heard["prune"].seconds, heard["prune"].seconds_heard) == (75.0, 75.0)
    cut = heard["truncate"]
    assert (cut.seconds, cut.seconds_heard, cut.tokens) == (75.0, 30.0, 750)
    np.testing.assert_array_equal(cut.embeds, heard["prune"].embeds[:750])
    answer = cut.ask(QUESTION, max_new_tokens=2)
    assert (answer.seconds, answer.seconds_heard) == (75.0, 30.0)
    with pytest.raises(AudioError, match="longer than 30 seconds"):
        model.ask(tone, QUESTION, sampling_rate=16_000, long_audio="error")
    short = tone[: 30 * 16_000]
    for name in ("truncate", "error"):
        whole = model.listen(short, sampling_rate=16_000, long_audio=name)  # type: ignore[arg-type]
        assert (whole.seconds_heard, whole.tokens) == (30.0, 750)
    with pytest.raises(OptionError, match="prune, truncate, error"):
        model.stream(tone, QUESTION, sampling_rate=16_000, long_audio="cut")  # type: ignore[arg-type]
