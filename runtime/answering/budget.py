"""``pruning_rate="auto"``: how many audio tokens fit the context, a latency and a memory target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter
from weakref import WeakKeyDictionary

import numpy as np

from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.contract.specs import DECODER
from speechprune_ort.errors import PromptError
from speechprune_ort.providers import ort_type
from speechprune_ort.runtime.answering.decoder import Decoder
from speechprune_ort.runtime.answering.prompt import embed_ids
from speechprune_ort.runtime.ort.engine import Engine

__all__ = ["Pick", "PrefillTime", "bytes_per_position", "pick_tokens"]

MEGA = 1e6
TIMED_LENGTHS = (32, 128, 512)  # positions, to measure how long a prompt takes
LONGEST_TIMED = 2.0  # seconds after which no longer prompt is tried


@dataclass(frozen=True, slots=True)
class Pick:
    """How many audio tokens are to be kept, and why not more.

    Attributes:
        tokens: at least 1.
        limit: ``recording`` (all of it fits), ``context``, ``latency_target`` or
            ``memory_target_mb``.
    """

    tokens: int
    limit: str


@dataclass(frozen=True, slots=True)
class PrefillTime:
    """Seconds that reading a prompt takes on a device: ``start + each * n + pair * n^2``."""

    start: float
    each: float
    pair: float

    @classmethod
    def fit(cls, seconds: dict[int, float]) -> PrefillTime:
        """Fit the seconds measured by prompt length; the square term needs three lengths.

        >>> found = PrefillTime.fit({100: 1.1, 200: 2.1, 400: 4.1})
        >>> round(found.start, 6), round(found.each, 6), round(found.pair, 6)
        (0.1, 0.01, 0.0)
        """
        lengths = np.array(list(seconds), np.float64)
        taken = np.array(list(seconds.values()), np.float64)
        for degree in range(min(2, len(lengths) - 1), -1, -1):
            terms = [*np.polynomial.polynomial.polyfit(lengths, taken, degree), 0.0, 0.0]
            start, each, pair = (float(term) for term in terms[:3])
            if each > 0 and pair >= -1e-15:  # noise can bend the curve downwards
                return cls(start, each, max(0.0, pair))
        return cls(0.0, float((taken / lengths).max()), 0.0)

    @classmethod
    def measured(cls, engine: Engine) -> PrefillTime:
        """Measure a bundle on its device, once: the better of two tries, about a second in all."""
        if engine not in _measured:
            _measured[engine] = cls._measure(engine)
        return _measured[engine]

    @classmethod
    def _measure(cls, engine: Engine) -> PrefillTime:
        seconds: dict[int, float] = {}
        dims = engine.manifest.dimensions
        for length in TIMED_LENGTHS:
            if length > dims.context:
                break
            embeds = embed_ids(engine, tuple(range(min(length, dims.vocab))))
            embeds = np.resize(embeds, (length, embeds.shape[1]))
            decoder = Decoder.open(engine, length)
            taken = []
            for _ in range(3):  # the first warms up
                started = perf_counter()
                decoder.prefill(embeds, np.arange(length))
                taken.append(perf_counter() - started)
            seconds[length] = min(taken[1:])
            if seconds[length] > LONGEST_TIMED:
                break
        return cls.fit(seconds)

    def __call__(self, length: int) -> float:
        """Seconds for a prompt of ``length`` positions."""
        return self.start + self.each * length + self.pair * length * length


_measured: WeakKeyDictionary[Engine, PrefillTime] = WeakKeyDictionary()


def bytes_per_position(manifest: Manifest) -> int:
    """Memory that one position of a prompt takes: cache, embedding, and activations of a layer.

    Activations are three of the feed-forward width and three of the hidden size, the most that
    is alive at once within a layer; the width follows from the decoder's number of parameters.
    """
    dims = manifest.dimensions
    _, size = ort_type(manifest.cache_dtype)  # the decoder computes in it, too
    cache = 2 * dims.layers * dims.kv_heads * dims.head_dim
    parameters = manifest.graphs[DECODER].parameters or 0
    layer = max(0, parameters - dims.hidden * dims.vocab) / dims.layers
    attention = 2 * dims.hidden * dims.head_dim * (dims.heads + dims.kv_heads)
    inner = max(4 * dims.hidden, round((layer - attention) / (3 * dims.hidden)))
    return size * (cache + dims.hidden + 3 * inner + 3 * dims.hidden)


def pick_tokens(
    total: int,
    prompt_tokens: int,
    new_tokens: int,
    manifest: Manifest,
    prefill_time: Callable[[], PrefillTime],
    latency_target: float | None = None,
    memory_target_mb: float | None = None,
) -> Pick:
    """The largest number of audio tokens within every bound.

    Args:
        total: audio tokens of the recording.
        prompt_tokens: positions of the prompt without audio.
        new_tokens: the longest answer.
        manifest: manifest of the bundle, for its context and sizes.
        prefill_time: measured when a latency is asked for, and only then.
        latency_target: seconds that reading the prompt may take.
        memory_target_mb: 1e6 bytes that cache and activations may take.

    Raises:
        PromptError: not a single audio token fits; the message says which bound to move.
    """
    bounds = {
        "recording": total,
        "context": manifest.dimensions.context - prompt_tokens - new_tokens,
    }
    if memory_target_mb is not None:
        positions = int(memory_target_mb * MEGA) // bytes_per_position(manifest)
        bounds["memory_target_mb"] = positions - prompt_tokens - new_tokens
    if latency_target is not None:
        seconds, low = prefill_time(), 0
        high = max(1, min(bounds.values()))
        while low < high:  # the most tokens whose prompt is read in time
            middle = (low + high + 1) // 2
            fits = seconds(middle + prompt_tokens) <= latency_target
            low, high = (middle, high) if fits else (low, middle - 1)
        bounds["latency_target"] = low
    # Of equal bounds the first is named: the recording's own length restricts nothing.
    limit = min(bounds, key=bounds.__getitem__)
    if bounds[limit] < 1:
        cure = (
            "lower max_new_tokens, or ask a shorter question"
            if limit == "context"
            else f"raise {limit}"
        )
        raise PromptError(f"Not one audio token fits {limit} together with the prompt: {cure}.")
    return Pick(bounds[limit], limit)
