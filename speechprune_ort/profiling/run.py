"""Measure a bundle: every recording at every setting, in turns, warmed up."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import shuffle
from time import perf_counter, process_time
from typing import Any

import onnxruntime as ort

from speechprune_ort import __version__
from speechprune_ort.errors import PromptError
from speechprune_ort.machine import machine
from speechprune_ort.meters import BusyMeter, EnergyMeter, MemoryMeter, Reading
from speechprune_ort.methods import needs_encoder
from speechprune_ort.model import SpeechLLM
from speechprune_ort.options import GenerationOptions
from speechprune_ort.profiling.condition import Condition, ProfileOptions
from speechprune_ort.profiling.distribution import Distribution
from speechprune_ort.profiling.operations import Operations
from speechprune_ort.profiling.trace import placements
from speechprune_ort.profiling.workload import Setting, Sound
from speechprune_ort.recording import Recording
from speechprune_ort.results import Answer
from speechprune_ort.runtime.answering.prompt import Prompt
from speechprune_ort.runtime.hearing.audio import SAMPLING_RATE
from speechprune_ort.timings import STAGES, Timings

__all__ = ["Profile", "profile", "profile_in_turns", "write_traces"]

LISTENING = ("audio", "log_mel", "encoder")
FROM_EMBEDDINGS = ("embed", "lower_layers", "phase_1", "phase_2", "assemble", "prefill")


@dataclass(slots=True)
class Profile:
    """Everything that was measured.

    Attributes:
        about: bundle, machine, versions, options; and what each meter reads.
        load: opening the bundle, checksums of its files included, in milliseconds.
        conditions: recordings in order, settings in order within.
    """

    about: dict[str, Any]
    load: Distribution
    conditions: list[Condition]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "about": self.about,
            "load_ms": self.load.to_dict(),
            "conditions": [condition.to_dict() for condition in self.conditions],
        }


class _Bench:
    """Measures one bundle, round by round.

    Args:
        open_bundle: opens the bundle anew.
        settings: how much is kept of each recording.
        options: how to measure.
        progress: called with a few words before each step.

    Raises:
        PromptError: the question is empty, or too long for the model.
    """

    def __init__(
        self,
        open_bundle: Callable[[], SpeechLLM],
        settings: Sequence[Setting],
        options: ProfileOptions,
        progress: Callable[[str], None],
    ) -> None:
        self._settings, self._options, self._progress = settings, options, progress
        self._open_bundle, self._loads = open_bundle, list[float]()
        for number in range(options.loads):
            progress(f"opening {number + 1} of {options.loads}")
            model = self.open_anew()
        Prompt.of(model.engine, options.question)  # refuses a question that is none
        self._memory = MemoryMeter(model.device.name)
        self._energy = EnergyMeter(model.device.name)
        self._samples: dict[tuple[str, str], dict[str, list[float]]] = {}
        self._found: dict[tuple[str, str], Condition] = {}

    def close(self) -> None:
        """Close the bundle, if it is open."""
        self._model: SpeechLLM | None = None
        gc.collect()

    def open_anew(self) -> SpeechLLM:
        """Close the bundle, if it is open, and open it."""
        self.close()
        started = perf_counter()
        self._model = self._open_bundle()
        self._loads.append(1000 * (perf_counter() - started))
        return self._model

    def measure(self, sound: Sound, counts: bool) -> None:
        """Encode a recording and ask about it at every setting; ``counts`` keeps the figures."""
        heard, model = Reading(), self._model
        assert model is not None, "loads is at least 1"  # noqa: S101 - options are checked
        with self._metered(heard):
            recording = _listen(model, sound, self._settings, self._options)
        for setting in self._settings:
            place = (sound.name, setting.name)
            condition = self._found.setdefault(
                place, Condition(sound.name, setting.name, recording.seconds, recording.tokens)
            )
            if condition.skipped is not None:
                continue
            asked = Reading()
            try:
                with self._metered(asked):
                    answer = _ask(recording, setting, self._options)
            except PromptError as error:
                condition.skipped = str(error)
                continue
            condition.kept = answer.pruning.kept
            condition.prompt_tokens = answer.prompt_tokens
            if counts:
                figures = _figures(recording.timings, answer, heard, asked)
                for name, value in figures.items():
                    self._samples.setdefault(place, {}).setdefault(name, []).append(value)

    def refuse_nothing(self) -> None:
        """Refuse to go on where no prompt fits, as nothing would be measured.

        Raises:
            PromptError: not one does; it has the reason of the first.
        """
        reasons = [condition.skipped for condition in self._found.values()]
        if None not in reasons:
            raise PromptError(f"Nothing can be measured: {reasons[0]}")

    @contextlib.contextmanager
    def _metered(self, reading: Reading) -> Iterator[None]:
        with self._energy.measure(reading), self._memory.measure(reading):
            started = process_time()
            yield
            reading.values["cpu_ms"] = 1000 * (process_time() - started)

    def result(self, busy: float | None) -> Profile:
        """The profile; other programs took the share ``busy`` of the processors meanwhile."""
        self._progress("counting operations")
        model, options = self._model, self._options
        assert model is not None, "loads is at least 1"  # noqa: S101 - options are checked
        counted = Operations(model)
        for place, condition in self._found.items():
            samples = self._samples.get(place, {})
            condition.figures = {n: Distribution.of(v) for n, v in samples.items()}
            if condition.skipped is None:
                setting = next(s for s in self._settings if s.name == condition.setting)
                condition.operations = counted.by_stage(condition, setting.options, options)
        about = {
            "version": __version__,
            "bundle": model.manifest.source,
            "bundle_digest": model.manifest.digest,
            "precision": model.manifest.precision,
            "device": model.device.name,
            "operators": placements(model.engine),
            "machine": machine(),
            "busy": busy,
            "onnxruntime": ort.__version__,
            "question": options.question,
            "new_tokens": options.new_tokens,
            "repeats": options.repeats,
            "warmup": options.warmup,
            "meters": {**self._memory.notes, **self._energy.notes},
        }
        return Profile(about, Distribution.of(self._loads), list(self._found.values()))


def profile(
    open_bundle: Callable[[], SpeechLLM],
    sounds: Sequence[Sound],
    settings: Sequence[Setting],
    options: ProfileOptions,
    progress: Callable[[str], None] = lambda _: None,
) -> Profile:
    """Measure every recording at every setting.

    A round goes through all of them once, and rounds follow each other, so that a busy moment of
    the machine affects them all. A recording is encoded once per round, for all of its settings.

    Args:
        open_bundle: opens the bundle anew.
        sounds: recordings.
        settings: how much is kept of each.
        options: how to measure.
        progress: called with a few words before each step.

    Raises:
        AudioError: a recording cannot be read.
        PromptError: the question is empty, or not one prompt fits the model.
    """
    return profile_in_turns([open_bundle], sounds, settings, options, progress)[0]


def profile_in_turns(
    open_bundles: Sequence[Callable[[], SpeechLLM]],
    sounds: Sequence[Sound],
    settings: Sequence[Setting],
    options: ProfileOptions,
    progress: Callable[[str], None] = lambda _: None,
    draw: Callable[[list[Any]], None] = shuffle,
) -> list[Profile]:
    """Measure several bundles in turns, recording by recording, in an order drawn for each round.

    The n-th samples of all profiles are of the same round, so that they can be compared in pairs:
    whatever slows the machine down affects all bundles alike. Each round closes all of them, opens
    them in the order in which it measures them, and warms them up: where an open bundle's memory
    happens to lie makes a few percent for as long as it is open. As nothing but the draw tells two
    equal bundles apart, flips of a round's sign are an exact test.

    Args:
        open_bundles: each opens a bundle anew; all stay open together.
        sounds: as in :func:`profile`.
        settings: likewise.
        options: likewise.
        progress: likewise.
        draw: draws the order of a round, in place.

    Raises:
        AudioError: likewise.
        PromptError: likewise.
    """
    benches = [_Bench(each, settings, options, progress) for each in open_bundles]
    busy, several = BusyMeter(), len(benches) > 1
    warmups = 0 if several else options.warmup  # several are warmed up in each round
    for turn in range(warmups + options.repeats):
        counts = turn >= warmups
        said = f"round {turn + 1 - warmups} of {options.repeats}" if counts else "warming up"
        order = list(benches)
        draw(order)
        if several:
            progress(f"{said}, opening")
            for bench in order:
                bench.close()
            for bench in order:
                bench.open_anew()
        for sound in sounds:
            progress(f"{said}, {sound.name}")
            for bench in order * options.warmup if several else ():
                bench.measure(sound, False)
            for bench in order:
                bench.measure(sound, counts)
        for bench in benches:
            bench.refuse_nothing()
    share = busy.share()
    return [bench.result(share) for bench in benches]


def write_traces(
    model: SpeechLLM, sound: Sound, settings: Sequence[Setting], options: ProfileOptions
) -> list[Path]:
    """Answer once at each setting with ONNX Runtime's own profiler on.

    Args:
        model: a model opened with a folder for traces; its times are of no use.
        sound: recording.
        settings: how much is kept of it.
        options: question and length of the answers.

    Returns:
        The files, one per graph.
    """
    recording = _listen(model, sound, settings, options)
    for setting in settings:
        with contextlib.suppress(PromptError):  # a prompt that does not fit is a row of the table
            _ask(recording, setting, options)
    return model.engine.write_traces()


def _listen(
    model: SpeechLLM, sound: Sound, settings: Sequence[Setting], options: ProfileOptions
) -> Recording:
    attention = any(needs_encoder(setting.options) for setting in settings)
    rate = None if isinstance(sound.source, Path) else SAMPLING_RATE
    return model.listen(
        sound.source,
        sampling_rate=rate,
        encoder_attention=attention,
        audio_options=options.audio,
    )


def _ask(recording: Recording, setting: Setting, options: ProfileOptions) -> Answer:
    generation = GenerationOptions(max_new_tokens=options.new_tokens, ignore_stop=True)
    return recording.ask(options.question, pruning=setting.options, generation=generation)


def _figures(
    heard: Timings, answer: Answer, listening: Reading, asking: Reading
) -> dict[str, float]:
    """Figures of one answer, milliseconds unless their names say otherwise."""
    seconds = {**dict.fromkeys(STAGES, 0.0), **heard.seconds, **answer.timings.seconds}
    listened = sum(seconds[stage] for stage in LISTENING)
    first = sum(seconds[stage] for stage in FROM_EMBEDDINGS)
    whole = listened + first + seconds["decode"]
    # The first token comes from the prompt; every further one takes a step.
    steps = max(1, len(answer.token_ids) - 1)
    figures = {f"{stage}_ms": 1000 * seconds[stage] for stage in STAGES}
    figures |= {
        "ttft_ms": 1000 * (listened + first),
        "ttft_embeds_ms": 1000 * first,
        "tpot_ms": 1000 * seconds["decode"] / steps,
        "tokens_per_s": steps / seconds["decode"] if seconds["decode"] else 0.0,
        "end_to_end_ms": 1000 * whole,
        "rtf": whole / answer.seconds,
    }
    for name, value in asking.values.items():
        before = listening.values.get(name, 0.0)
        # Energy and time add up over both parts; of memory the larger peak counts.
        figures[name] = max(value, before) if name.endswith("_mb") else value + before
    return figures
