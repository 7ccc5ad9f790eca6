"""Floating point operations of a bundle's graphs, counted by running them.

ONNX Runtime's own profiler writes the shapes that went into every operator that it ran, fused ones
included. Operators that multiply matrices are counted, two operations per multiplication and
addition; the rest (norms, activations, softmax) is less than a hundredth of that and is not. Each
graph is run at three small sizes, and the polynomial through them gives all others: operators are
at most quadratic in the length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from math import prod

from speechprune_ort.contract.specs import (
    AUDIO_ENCODER,
    DECODER,
    DECODER_LOWER,
    DECODER_UPPER,
    FIRST_LAYER_QK,
)
from speechprune_ort.methods import Work, needs_cut
from speechprune_ort.model import SpeechLLM
from speechprune_ort.options import PruningOptions
from speechprune_ort.profiling.condition import Condition, ProfileOptions
from speechprune_ort.profiling.trace import feeds_of, traced
from speechprune_ort.runtime.answering.prompt import Prompt
from speechprune_ort.runtime.choosing.selection import operations_of

__all__ = ["Operations", "polynomial"]

PRODUCTS = frozenset(
    {
        "DynamicQuantizeMatMul",
        "FusedGemm",
        "FusedMatMul",
        "Gemm",
        "MatMul",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "MatMulNBits",
        "QLinearMatMul",
    }
)
CONVOLUTIONS = frozenset({"Conv", "FusedConv", "NhwcFusedConv"})
WITHIN = frozenset({"Attention", "MultiHeadAttention"})
CAUSAL = frozenset({"GroupQueryAttention"})
SIZES = (8, 16, 24)  # tokens; frames of the encoder are a hundred times as many

Shapes = Sequence[Mapping[str, Sequence[int]]]


def _shape(entry: Mapping[str, Sequence[int]]) -> tuple[int, ...]:
    return tuple(next(iter(entry.values())))


def operator_count(name: str, inputs: Shapes, outputs: Shapes, past: int) -> int:
    """Operations of one operator.

    Args:
        name: its type.
        inputs: as the profiler writes them: one mapping of a type to a shape each.
        outputs: likewise.
        past: positions that are in the cache before.

    >>> operator_count("MatMul", [{"float": [1, 5, 4]}, {"float": [4, 3]}],
    ...                [{"float": [1, 5, 3]}], 0)
    120
    """
    if name in PRODUCTS:
        left, out = _shape(inputs[0]), _shape(outputs[0])
        # Gemm may take its left side transposed: the length that is summed over is what is left.
        summed = left[-1] if len(left) > 2 else prod(left) // out[0]
        return 2 * prod(out) * summed
    if name in CONVOLUTIONS:
        return 2 * prod(_shape(outputs[0])) * prod(_shape(inputs[1])[1:])
    if name in WITHIN:
        query, key = _shape(inputs[0]), _shape(inputs[1])
        if len(query) == 4:  # (batch, heads, length, size)
            query = (query[0], query[2], query[1] * query[3])
        batch, length, width = query
        keys = key[1] if len(key) == 3 else key[2]
        return 2 * 2 * batch * length * keys * width
    if name in CAUSAL:
        _, length, width = _shape(outputs[0])  # going in, keys and values may be beside queries
        pairs = length * past + length * (length + 1) // 2
        return 2 * 2 * pairs * width
    return 0


def polynomial(sizes: Sequence[int], counts: Sequence[int]) -> Callable[[int], int]:
    """The polynomial through three points, exact in whole numbers.

    >>> polynomial([1, 2, 3], [6, 11, 18])(10)
    123
    """
    from fractions import Fraction

    def value(x: int) -> int:
        total = Fraction(0)
        for i, y in enumerate(counts):
            term = Fraction(y)
            for j, other in enumerate(sizes):
                if i != j:
                    term *= Fraction(x - other, sizes[i] - other)
            total += term
        return round(total)

    return value


def _prompt(tokens: int, past: int) -> dict[str, int]:
    """Sizes of a decoder's axes: tokens after what its cache holds, in a buffer with room."""
    room = max(SIZES) + tokens + past
    return {"batch": 1, "tokens": tokens, "past": room, "slots": room, "total": past + tokens}


class Operations:
    """Counts of a bundle's stages.

    Args:
        model: the bundle.
    """

    def __init__(self, model: SpeechLLM) -> None:
        self._engine, self._dims = model.engine, model.manifest.dimensions
        self._decoders: dict[tuple[str, bool], Callable[[int], int]] = {}

    def _counted(
        self, name: str, runs: Sequence[Mapping[str, int]], pasts: Sequence[int] = (0, 0, 0)
    ) -> list[int]:
        """Operations of a graph at several sizes of its axes.

        Args:
            name: name of the graph.
            runs: the sizes.
            pasts: positions that the cache holds before each.
        """
        spec = self._engine.manifest.graphs[name].spec
        counts = []
        events = traced(self._engine, name, [feeds_of(spec, sizes) for sizes in runs])
        for found, past in zip(events, pasts, strict=False):
            total = 0
            for event in found:
                said = event["args"]
                shapes = said["input_type_shape"], said["output_type_shape"]
                total += operator_count(said["op_name"], *shapes, past)
            counts.append(total)
        return counts

    @cached_property
    def _encoder(self) -> Callable[[int], int]:
        """Operations of one window, by its audio tokens."""
        dims = self._dims
        frames = self._engine.session(AUDIO_ENCODER).get_inputs()[0].shape[-1]
        if isinstance(frames, int):  # every window has its full length
            count = self._counted(AUDIO_ENCODER, [{"windows": 1}])[0]
            return lambda _: count
        step = dims.frames // dims.window_tokens
        tokens = [size * max(1, dims.window_tokens // 32) for size in SIZES]
        runs = [{"windows": 1, "frames": step * count} for count in tokens]
        return polynomial(tokens, self._counted(AUDIO_ENCODER, runs))

    def _decoder(self, name: str, step: bool = False) -> Callable[[int], int]:
        """Operations of a decoder's prompt by its length, or of a step by what is in the cache."""
        if (name, step) not in self._decoders:
            sizes = [_prompt(1, size) if step else _prompt(size, 0) for size in SIZES]
            counts = self._counted(name, sizes, SIZES if step else (0, 0, 0))
            self._decoders[name, step] = polynomial(SIZES, counts)
        return self._decoders[name, step]

    @cached_property
    def _projection(self) -> Callable[[int], int]:
        runs = [{"tokens": size} for size in SIZES]
        return polynomial(SIZES, self._counted(FIRST_LAYER_QK, runs))

    def by_stage(
        self, condition: Condition, pruning: PruningOptions, options: ProfileOptions
    ) -> dict[str, int]:
        """Operations of one answer.

        Those of choosing are counted by the method itself, in closed form.

        Args:
            condition: recording and setting, with the lengths that were measured.
            pruning: the setting.
            options: question and length of the answer.

        Raises:
            OptionError: a method of the user's own does not count as it should.
        """
        dims, tokens = self._dims, condition.tokens
        windows, rest = divmod(tokens, dims.window_tokens)
        encoder = windows * self._encoder(dims.window_tokens)
        encoder += self._encoder(rest) if rest else 0
        work = Work(
            own=pruning.own,
            tokens=tokens,
            kept=condition.kept,
            budget=pruning.budget or dims.window_tokens,
            words=len(Prompt.of(self._engine, options.question).query),
            hidden=dims.hidden,
            heads=dims.heads,
            head_dim=dims.head_dim,
            projection=lambda count: self._projection(count),
        )
        counts = {"encoder": encoder, **operations_of(pruning.method, work)}
        read = {DECODER: condition.prompt_tokens}
        if needs_cut(pruning):
            whole = condition.prompt_tokens + tokens - condition.kept
            read = {DECODER_LOWER: whole, DECODER_UPPER: condition.prompt_tokens}
        for name, prompt in read.items():
            stage = "lower_layers" if name == DECODER_LOWER else "prefill"
            counts[stage] = self._decoder(name)(prompt)
            steps = range(prompt, prompt + options.new_tokens - 1)
            decoded = sum(map(self._decoder(name, step=True), steps))
            counts["decode"] = counts.get("decode", 0) + decoded
        return counts
