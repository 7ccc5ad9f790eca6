"""What a prompt costs on this machine: arithmetic, time, memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np

from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.contract.specs import DECODER
from speechprune_ort.meters import reset_peak, resident
from speechprune_ort.model import SpeechLLM
from speechprune_ort.runtime.answering.decoder import Decoder

__all__ = ["Cost", "measure_costs", "prefill_tflops"]

REPEATS = 5
GIGA = 1e9


@dataclass(frozen=True, slots=True)
class Cost:
    """The cost of reading a prompt of a certain length.

    Attributes:
        prompt_tokens: positions of the prompt.
        tflops: floating point operations of the decoder, in 1e12; None where the bundle does
            not say how many parameters it has.
        selection_ms: median time to choose what is kept, of one recording for one question; None
            where nothing is chosen or it was not measured.
        prefill_ms: median time to read the prompt, in milliseconds.
        memory_gb: resident memory of the process at its peak, in 1e9 bytes; CPU only.
        activation_gb: how much of that reading the prompt added; CPU only.
    """

    prompt_tokens: int
    tflops: float | None
    selection_ms: float | None
    prefill_ms: float
    memory_gb: float | None
    activation_gb: float | None

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def prefill_tflops(manifest: Manifest, tokens: int) -> float | None:
    """Operations to read a prompt, in 1e12: two per weight and token, and attention.

    The output layer reads the last position alone. Attention is causal: half of the products of
    queries with keys, and of weights with values.

    Args:
        manifest: the bundle's manifest.
        tokens: positions of the prompt.

    Returns:
        None where the bundle does not say how many parameters its decoder has.
    """
    dims, parameters = manifest.dimensions, manifest.graphs[DECODER].parameters
    if not parameters:
        return None
    head = dims.hidden * dims.vocab
    linear = 2 * ((parameters - head) * tokens + head)
    attention = 2 * tokens * tokens * dims.heads * dims.head_dim * dims.layers
    return (linear + attention) / 1e12


def measure_costs(
    model: SpeechLLM,
    kept: Mapping[str, int],
    prompt_tokens: int,
    repeats: int = REPEATS,
    choose: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, Cost]:
    """Measure time and memory of prompts of several lengths.

    Memory comes first, from shortest to longest, as a runtime keeps what it once took; then time,
    warmed up, with settings taking turns so that a busy moment of the machine affects all of them.

    Args:
        model: the bundle.
        kept: audio tokens by name of setting.
        prompt_tokens: positions of the prompt without audio.
        repeats: measurements of time for each setting.
        choose: functions that choose the tokens, by name of setting.
    """
    choose = choose or {}
    manifest = model.manifest
    text = model.embed_text("What was said in the meeting, and by whom, and when was it said?")
    lengths = sorted(set(kept.values()))

    def read(audio_tokens: int) -> float:
        embeds = np.resize(text, (audio_tokens + prompt_tokens, text.shape[1]))
        decoder = Decoder.open(model.engine, len(embeds) + 1)
        started = perf_counter()
        decoder.prefill(embeds, np.arange(len(embeds)))
        return perf_counter() - started

    memory = {length: _peak(model, lambda n=length: read(n)) for length in lengths}
    times: dict[int, list[float]] = {length: [] for length in lengths}
    for _ in range(repeats):
        for length in lengths:
            times[length].append(read(length))
    chosen: dict[str, list[float]] = {name: [] for name in choose}
    for turn in range(repeats + 1):
        for name, work in choose.items():
            started = perf_counter()
            work()
            if turn:  # the first warms up
                chosen[name].append(perf_counter() - started)
    return {
        name: Cost(
            prompt_tokens=count + prompt_tokens,
            tflops=prefill_tflops(manifest, count + prompt_tokens),
            selection_ms=1000 * statistics.median(chosen[name]) if name in chosen else None,
            prefill_ms=1000 * statistics.median(times[count]),
            memory_gb=memory[count][0],
            activation_gb=memory[count][1],
        )
        for name, count in kept.items()
    }


def _peak(model: SpeechLLM, work: Any) -> tuple[float | None, float | None]:
    """Peak resident memory during ``work`` and its rise, in 1e9 bytes.

    None on a GPU, and where the system does not report it (only Linux does).
    """
    try:
        reset_peak()
        before = resident("VmRSS")
        work()
        peak = resident("VmHWM")
    except OSError:
        work()
        return None, None
    if model.device.name != "cpu":
        return None, None
    return peak / GIGA, max(0, peak - before) / GIGA
