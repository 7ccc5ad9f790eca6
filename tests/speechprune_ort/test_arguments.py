"""What Python is given where it should have been something else: one sentence that names it."""

from __future__ import annotations

import inspect
import pickle
import warnings
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speechprune_ort import (
    AudioError,
    AudioOptions,
    BundleError,
    GenerationOptions,
    OptionError,
    PromptError,
    PruningOptions,
    Recording,
    RecordingError,
    SpeechLLM,
    SpeechPruneError,
)
from speechprune_ort.methods import METHODS
from speechprune_ort.options import Options
from speechprune_ort.profiling.condition import ProfileOptions
from speechprune_ort.runtime.choosing.methods import OwnOptions
from speechprune_ort.runtime.hearing.audio import load_audio
from speechprune_ort.server.options import ServeOptions

HALF = "\ud83d"
WAVE = np.sin(np.arange(32_000, dtype=np.float32)) / 9


class Odd:
    """Of no kind that anything takes."""


@pytest.fixture(scope="module")
def model(bundle: Path) -> SpeechLLM:
    return SpeechLLM(bundle, "cpu")


@pytest.fixture(scope="module")
def recording(model: SpeechLLM) -> Recording:
    return model.listen((WAVE, 16_000))


@pytest.mark.parametrize("given", [1, b"x", Odd(), "x", {"seed": 1}])
@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("pruning=", lambda _m, r, x: r.ask("Who?", pruning=x)),
        ("pruning=", lambda _m, r, x: r.prune("Who?", x)),
        ("pruning=", lambda _m, r, x: r.score("Who?", ["a"], pruning=x)),
        ("generation=", lambda m, _r, x: m.stream((WAVE, 16_000), "Who?", generation=x)),
        ("audio_options", lambda m, _r, x: m.listen((WAVE, 16_000), audio_options=x)),
        ("audio_options", lambda m, _r, x: m.ask_many([], audio_options=x)),
        ("audio_options", lambda _m, _r, x: load_audio(WAVE, 16_000, options=x)),
        ("progress", lambda m, _r, x: m.listen((WAVE, 16_000), progress=x)),
        ("embeds", lambda m, _r, x: m.recall(x)),
    ],
)
def test_an_argument_of_another_type_is_named(
    name: str, call: Callable[..., Any], given: Any, model: SpeechLLM, recording: Recording
) -> None:
    with pytest.raises(OptionError, match=rf"^{name} takes ") as raised:
        call(model, recording, given)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("given", [None, 1, b"x", [], Odd(), "", "a\0b", HALF, "x" * 300])
@pytest.mark.parametrize(
    ("kind", "call"),
    [
        (BundleError, lambda _m, _r, x: SpeechLLM(x, "cpu")),
        (RecordingError, lambda m, _r, x: m.load_recording(x)),
        (RecordingError, lambda _m, r, x: r.save(x)),
    ],
)
def test_what_is_no_path_is_one_sentence(
    kind: type[SpeechPruneError],
    call: Callable[..., Any],
    given: Any,
    model: SpeechLLM,
    recording: Recording,
) -> None:
    with pytest.raises(kind, match="path") as raised:
        call(model, recording, given)
    str(raised.value).encode()


@pytest.mark.parametrize("given", [None, 1, b"ab", "ab", {"a"}, Odd()])
def test_continuations_are_a_list_of_texts(given: Any, recording: Recording) -> None:
    with pytest.raises(PromptError, match="continuations must be a list of texts"):
        recording.score("Who?", given)


@pytest.mark.parametrize("given", [None, 1, "ab", b"ab", {"a"}, Odd(), [1], [""], [None]])
def test_stop_strings_are_a_tuple_of_texts(given: Any) -> None:
    with pytest.raises(OptionError, match="stop must be a tuple of non-empty strings"):
        GenerationOptions(stop=given)


def test_half_a_character_is_no_stop_string() -> None:
    with pytest.raises(OptionError, match="A stop string holds half a character"):
        GenerationOptions(stop=("ok", HALF))


BEYOND = [
    np.nan, np.inf, -np.inf, -(10**400), 10**400, 10**5000, True, 1j, "3", None, [], {3}, Odd(),
    np.array([1, 2]), np.array([]), np.array("x"), np.longdouble("1e4000"), np.datetime64("now"),
]  # fmt: skip
"""What no number of any option may be."""
NUMBERS: dict[type[Any], tuple[str, ...]] = {
    PruningOptions: ("pruning_rate", "budget", "seed", "latency_target", "memory_target_mb",
                     "candidates", "frame_temperature", "threshold"),
    GenerationOptions: ("max_new_tokens", "temperature", "top_p", "seed", "repetition_penalty",
                        "no_repeat_ngram_size"),
    AudioOptions: ("channel", "max_seconds", "max_channels", "max_decoded_mb", "max_stream_mb",
                   "silence_dbfs"),
    ServeOptions: ("max_new_tokens", "max_body_mb", "timeout", "queue", "max_recordings",
                   "keep_hours", "memory_budget_mb", "stop_seconds"),
    ProfileOptions: ("new_tokens", "repeats", "warmup", "loads"),
}  # fmt: skip
NEEDED = {
    "latency_target": {"pruning_rate": "auto"}, "memory_target_mb": {"pruning_rate": "auto"},
    "candidates": {"method": "speechprune"}, "frame_temperature": {"method": "speechprune"},
    "threshold": {"method": "sa-map"},
}  # fmt: skip
MAY_BE_NONE = ("budget", "latency_target", "memory_target_mb", "candidates", "frame_temperature",
               "channel")  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in NUMBERS.items() for name in names]
)
def test_a_number_beyond_its_range_is_one_sentence(kind: type[Any], name: str) -> None:
    others = {ServeOptions: {"name": "tiny"}, ProfileOptions: {"question": "Who?"}}.get(kind, {})
    for value in BEYOND:
        if value is None and name in MAY_BE_NONE:
            continue
        with pytest.raises(OptionError, match=f"^{name} must be ") as raised:
            kind(**{**others, **NEEDED.get(name, {}), name: value})
        assert len(str(raised.value)) < 150


@pytest.mark.parametrize("value", [1e308, 1e300])
@pytest.mark.parametrize(
    "name", ["max_body_mb", "timeout", "keep_hours", "memory_budget_mb", "stop_seconds"]
)
def test_a_limit_of_a_server_has_a_limit(name: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"{name} must be positive and at most"):
        ServeOptions("tiny", **{name: value})


@pytest.mark.parametrize("value", [0, -1, np.nan, 1e10, 1e300, 10**400, "3", True, np.ones(2)])
def test_a_deadline_is_one_that_a_clock_has(value: Any, recording: Recording) -> None:
    with pytest.raises(OptionError, match="deadline must be positive and at most 1000000000"):
        recording.ask("Who?", deadline=value)


@pytest.mark.parametrize("value", [0, -1, np.nan, -np.inf, 10**400, np.ones(2), None, True])
def test_a_budget_of_memory_is_positive(value: Any, model: SpeechLLM) -> None:
    with pytest.raises(OptionError, match="memory_budget_mb must be positive"):
        model.listen((WAVE, 16_000), memory_budget_mb=value)


@pytest.mark.parametrize("given", [np.array(["cpu", "auto"]), np.array(1), ["cpu"], 3, None, HALF])
def test_a_choice_is_one_of_a_few_words(given: Any, bundle: Path, model: SpeechLLM) -> None:
    for name, call in (
        ("device", lambda: SpeechLLM(bundle, given)),
        ("verify", lambda: SpeechLLM(bundle, "cpu", verify=given)),
        ("long_audio", lambda: model.listen((WAVE, 16_000), long_audio=given)),
        ("method", lambda: PruningOptions(given)),
        ("positions", lambda: PruningOptions(positions=given)),
        ("attention", lambda: PruningOptions("speechprune", attention=given)),
    ):
        with pytest.raises(OptionError, match=f"^{name} must be one of .*, not .*\\.$"):
            call()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("given", ["no", None, 1, 0.0, np.array([1, 2])])
def test_a_switch_is_true_or_false(given: Any) -> None:
    with pytest.raises(OptionError, match="ignore_stop must be True or False"):
        GenerationOptions(ignore_stop=given)
    with pytest.raises(OptionError, match="single_head must be True or False"):
        PruningOptions(method="speechprune", single_head=given)
    with pytest.raises(OptionError, match="allow_silence must be True or False"):
        AudioOptions(allow_silence=given)


@pytest.mark.parametrize("given", ["no", None, 1, np.array([1, 2])])
def test_attention_is_kept_or_not(given: Any, model: SpeechLLM) -> None:
    with pytest.raises(OptionError, match="encoder_attention must be True or False"):
        model.listen((WAVE, 16_000), encoder_attention=given)
    with pytest.raises(OptionError, match="encoder_attention must be True or False"):
        model.live(16_000, encoder_attention=given)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1, "x", True])
def test_a_recalled_recording_has_a_length(seconds: Any, model: SpeechLLM) -> None:
    embeds = np.zeros((3, model.manifest.dimensions.hidden), np.float32)
    with pytest.raises(OptionError, match="seconds must be at least 0 and finite"):
        model.recall(embeds, seconds)


@pytest.mark.parametrize("kind", [complex, object, "U1", bool])
def test_recalled_embeddings_are_numbers(kind: Any, model: SpeechLLM) -> None:
    with pytest.raises(OptionError, match="must be numbers"):
        model.recall(np.zeros((3, model.manifest.dimensions.hidden), kind))


def test_a_message_can_be_printed_whatever_it_names() -> None:
    for name in (HALF, "caf\udce9.wav"):
        with pytest.raises(AudioError) as raised:
            load_audio(f"/nowhere/{name}")
        assert "\\ud" in str(raised.value)
        str(raised.value).encode()
        again = pickle.loads(pickle.dumps(raised.value))  # noqa: S301 - our own
        assert (type(again), str(again)) == (AudioError, str(raised.value))


@pytest.mark.parametrize("scale", [1e18, 1e30, np.inf, np.nan])
def test_samples_beyond_all_sense_are_refused_without_a_warning(scale: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(AudioError, match="far too large"):
            load_audio(np.full(99, scale, np.float32), 16_000, options=AudioOptions())


def test_a_saved_recording_still_says_what_was_wrong_with_it(
    model: SpeechLLM, tmp_path: Path
) -> None:
    heard = model.listen((np.clip(WAVE * 99, -1, 1), 16_000))
    assert "is clipped" in heard.notes[0]
    heard.save(tmp_path / "heard")
    again = model.load_recording(tmp_path / "heard")
    assert (again.decoder, again.notes) == (heard.decoder, heard.notes) == ("array", heard.notes)
    assert again.ask("Who?", max_new_tokens=1).notes == heard.notes


def test_an_editor_shows_every_option_as_a_keyword_argument() -> None:
    names = [field.name for kind in (PruningOptions, GenerationOptions) for field in fields(kind)]
    # None of ours has an option that an editor does not show.
    ours = [
        m for m in METHODS.values() if m.select.__module__.startswith("speechprune_ort.runtime.")
    ]
    own = {name for method in ours for name in method.options.names()}
    assert set(Options.__annotations__) == set(names) | own
    assert set(OwnOptions.__annotations__) == own
    for function in (SpeechLLM.ask, SpeechLLM.stream, SpeechLLM.ask_many, Recording.ask):
        assert inspect.signature(function).parameters["options"].annotation == "Unpack[Options]"
