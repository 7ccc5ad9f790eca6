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
from speechprune_ort.runtime.choosing.methods import OwnOptions
from speechprune_ort.runtime.hearing.audio import load_audio

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


@pytest.mark.parametrize("given", ["no", None, 1, 0.0])
def test_a_switch_is_true_or_false(given: Any) -> None:
    with pytest.raises(OptionError, match="ignore_stop must be True or False"):
        GenerationOptions(ignore_stop=given)
    with pytest.raises(OptionError, match="single_head must be True or False"):
        PruningOptions(method="speechprune", single_head=given)


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
