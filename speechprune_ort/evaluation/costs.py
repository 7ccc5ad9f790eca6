"""What a prompt costs on this machine: arithmetic, time, memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from time import perf_counter
from typing import Any

import numpy as np

from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.contract.specs import DECODER, DECODER_LOWER, DECODER_UPPER
from speechprune_ort.meters import reset_peak, resident
from speechprune_ort.model import SpeechLLM
from speechprune_ort.runtime.answering.cut_decoder import CutDecoder
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


def prefill_tflops(manifest: Manifest, tokens: int, whole: int | None = None) -> float | None:
    """Operations to read a prompt, in 1e12: two per weight and token, and attention.

    The output layer reads the last position alone, and so does all of the last layer behind its
    attention. Attention is causal: half of the products of queries with keys, and of weights with
    values.

    Args:
        manifest: the bundle's manifest.
        tokens: positions of the prompt.
        whole: positions that the lower half of a cut decoder reads, where not all of them are kept
            behind it; None where the decoder is whole.

    Returns:
        None where the bundle does not say how many parameters its decoder has.
    """
    dims, parameters = manifest.dimensions, manifest.graphs[DECODER].parameters
    if not parameters:
        return None
    head = dims.hidden * dims.vocab
    below = 0 if whole is None else manifest.cut_after or 0
    read = ((below, whole or 0), (dims.layers - below, tokens))  # layers, and what they read
    rows = sum(layers * count for layers, count in read) / dims.layers
    projections = dims.hidden * (dims.heads + 2 * dims.kv_heads) * dims.head_dim
    behind = (parameters - head) / dims.layers - projections  # of a layer, behind its attention
    linear = 2 * ((parameters - head) * rows + head - behind * (tokens - 1))
    pairs = sum(layers * count * count for layers, count in read)
    return (linear + 2 * pairs * dims.heads * dims.head_dim) / 1e12


def measure_costs(
    model: SpeechLLM,
    kept: Mapping[str, int],
    prompt_tokens: int,
    repeats: int = REPEATS,
    choose: Mapping[str, Callable[[], object]] | None = None,
    whole: Mapping[str, int] | None = None,
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
        whole: audio tokens of the recording, by name of those settings that have all of them read
            by the lower half of a cut decoder, which is part of reading their prompts.
    """
    choose, whole = choose or {}, whole or {}
    sizes = {name: (count, whole.get(name)) for name, count in kept.items()}
    manifest = model.manifest
    text = model.embed_text("What was said in the meeting, and by whom, and when was it said?")
    shortest_first = sorted(set(sizes.values()), key=lambda size: (size[0], size[1] or 0))

    def read(size: tuple[int, int | None]) -> float:
        audio_tokens, every = size
        count = (audio_tokens if every is None else every) + prompt_tokens
        embeds = np.resize(text, (count, text.shape[1]))
        if every is None:
            decoder = Decoder.open(model.engine, count + 1)
            started = perf_counter()
            decoder.prefill(embeds, np.arange(count))
        else:
            cut, kept = CutDecoder(model.engine, 1), np.arange(audio_tokens + prompt_tokens)
            started = perf_counter()
            cut.read(embeds, count)
            cut.keep(kept, kept)
            cut.prefill()
        return perf_counter() - started

    # Opened as they are first needed, which is no cost of a prompt.
    for _, every in shortest_first:
        for name in (DECODER,) if every is None else (DECODER_LOWER, DECODER_UPPER):
            model.engine.session(name)
    memory = {size: _peak(model, lambda s=size: read(s)) for size in shortest_first}
    times: dict[tuple[int, int | None], list[float]] = {size: [] for size in shortest_first}
    for _ in range(repeats):
        for size in shortest_first:
            times[size].append(read(size))
    chosen: dict[str, list[float]] = {name: [] for name in choose}
    for turn in range(repeats + 1):
        for name, work in choose.items():
            started = perf_counter()
            work()
            if turn:  # the first warms up
                chosen[name].append(perf_counter() - started)
    return {
        name: Cost(
            prompt_tokens=size[0] + prompt_tokens,
            tflops=prefill_tflops(
                manifest,
                size[0] + prompt_tokens,
                None if size[1] is None else size[1] + prompt_tokens,
            ),
            selection_ms=1000 * statistics.median(chosen[name]) if name in chosen else None,
            prefill_ms=1000 * statistics.median(times[size]),
            memory_gb=memory[size][0],
            activation_gb=memory[size][1],
        )
        for name, size in sizes.items()
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
