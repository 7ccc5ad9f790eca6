"""The graphs of a bundle: names, dtypes and axes, declared once.

Export names its dynamic axes from these specs and verifies each graph against them; the
runtime checks the same specs, as stored in the manifest, against the sessions it opens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Protocol

import msgspec

__all__ = [
    "ASSEMBLE",
    "ATTENTION",
    "AUDIO_ENCODER",
    "AXES",
    "BFLOAT16",
    "DECODER",
    "DECODER_LOWER",
    "DECODER_UPPER",
    "EMBED_TOKENS",
    "FIRST_LAYER_QK",
    "FIRST_LAYER_QK_FLOAT",
    "HIDDEN_STATES",
    "LAST_ATTENTION",
    "RECEIVED_ATTENTION",
    "ROTARY",
    "SIMILARITY",
    "Dimensions",
    "GraphSpec",
    "TensorSpec",
    "cached_layers",
    "graph_specs",
    "past_name",
    "present_name",
]

AUDIO_ENCODER = "audio_encoder"
EMBED_TOKENS = "embed_tokens"
FIRST_LAYER_QK = "first_layer_qk"
FIRST_LAYER_QK_FLOAT = "first_layer_qk_float"
SIMILARITY = "similarity"
RECEIVED_ATTENTION = "received_attention"
ASSEMBLE = "assemble"
ROTARY = "rotary"
DECODER = "decoder"
DECODER_LOWER = "decoder_lower"
DECODER_UPPER = "decoder_upper"
"""The decoder's first layers and its others, where export was asked to cut it."""

HIDDEN_STATES = "hidden_states"
"""What passes from the lower half of a cut decoder to the upper one."""
LAST_ATTENTION = "last_attention"
"""Attention of a prompt's last position in the lower half's last layer, the mean over its heads."""

ATTENTION = "attention"
"""Output of the audio encoder, where export was asked for it."""

AXES = (
    "batch",  # sequences decoded together
    "single",  # always 1
    "windows",  # 30-second pieces of a recording
    "mel_bins",
    "frames",  # log-mel frames of a window, one per hop
    "window_tokens",  # audio tokens of a whole window
    "tokens",  # tokens in a row, text or audio
    "rows",  # tokens whose attention is looked at together
    "before",  # tokens of the prompt before the audio
    "kept",  # audio tokens that are kept
    "after",  # tokens of the prompt after the audio
    "prompt",  # all of the prompt
    "hidden",  # width of the language model
    "heads",
    "kv_heads",
    "head_dim",
    "angles",  # by which a token's position turns its queries and keys, half of head_dim
    "slots",  # positions that the cache has room for
    "past",  # cache positions going in
    "total",  # cache positions coming out, past + tokens
    "last",  # positions with logits: the last one
    "vocab",
)
"""The one vocabulary of axis names."""


class Dimensions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes of the axes that a checkpoint fixes.

    The bounds are far above any model of today; they keep a damaged manifest from asking for
    memory that no machine has.

    Attributes:
        mel_bins: log-mel bins, 80 or 128.
        frames: log-mel frames of one window, 3000 for 30 s.
        window_tokens: audio tokens of one window, 750 for Qwen2-Audio.
        hidden: width of the language model.
        layers: its decoder layers.
        heads: its query heads.
        kv_heads: its key and value heads; fewer than ``heads`` when grouped.
        head_dim: width of a head.
        vocab: its vocabulary.
        context: positions that it was trained for.
    """

    mel_bins: Annotated[int, msgspec.Meta(ge=1, le=512)]
    frames: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    window_tokens: Annotated[int, msgspec.Meta(ge=1, le=1 << 15)]
    hidden: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]
    layers: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    heads: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    kv_heads: Annotated[int, msgspec.Meta(ge=1, le=1024)]
    head_dim: Annotated[int, msgspec.Meta(ge=1, le=4096)]
    vocab: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
    context: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]


BFLOAT16 = "bfloat16"

DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": BFLOAT16,
    "tensor(int64)": "int64",
}
"""ONNX Runtime's type names as numpy's."""


class GraphTensor(Protocol):
    """An input or output as ``onnxruntime.InferenceSession`` describes it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def type(self) -> str:
        """Its type in ONNX Runtime's words, such as ``tensor(float)``."""

    @property
    def shape(self) -> Sequence[object]:
        """Its dimensions: an int where fixed, anything else where dynamic."""


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output of a graph.

    Attributes:
        name: name of the tensor in the graph.
        dtype: numpy name, such as ``float32``, or ``bfloat16``, which numpy lacks.
        axes: an axis name per dimension, all from ``AXES``.
        shape: the size per dimension, None where it varies.
    """

    name: str
    dtype: str
    axes: tuple[str, ...]
    shape: tuple[int | None, ...]

    def mismatch(self, found: GraphTensor) -> str | None:
        """What differs between this spec and a tensor of a graph.

        Returns:
            A phrase such as ``"has dtype float16, expected float32"``; None if all agrees.
        """
        dtype = DTYPES.get(found.type, found.type)
        if dtype != self.dtype:
            return f"has dtype {dtype}, expected {self.dtype}"
        if len(found.shape) != len(self.shape):
            axes = ", ".join(self.axes)
            return f"has {len(found.shape)} axes, expected {len(self.shape)} ({axes})"
        for axis, size, expected in zip(self.axes, found.shape, self.shape, strict=True):
            # A graph may leave open what we know to be fixed, never the other way round.
            if isinstance(size, int) and size != expected:
                wanted = "a dynamic axis" if expected is None else str(expected)
                return f"has {size} along {axis}, expected {wanted}"
        return None


class GraphSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What goes into a graph and what comes out, in order."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def mismatch(self, inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]) -> str | None:
        """What differs between this spec and a graph: names first, then dtypes, then axes.

        Args:
            inputs: those of the graph, in any order.
            outputs: those of the graph, in any order.

        Returns:
            A phrase that names the tensor; None if all agrees.
        """
        sides = (("input", self.inputs, inputs), ("output", self.outputs, outputs))
        for side, specs, found in sides:
            by_name = {tensor.name: tensor for tensor in found}
            expected = sorted(spec.name for spec in specs)
            if sorted(by_name) != expected:
                return f"{side}s are {sorted(by_name)}, expected {expected}"
        for side, specs, found in sides:
            by_name = {tensor.name: tensor for tensor in found}
            for spec in specs:
                problem = spec.mismatch(by_name[spec.name])
                if problem:
                    return f"{side} {spec.name} {problem}"
        return None

    def in_float32(self) -> GraphSpec:
        """The same where bfloat16 is float32."""

        def wide(tensor: TensorSpec) -> TensorSpec:
            dtype = "float32" if tensor.dtype == BFLOAT16 else tensor.dtype
            return TensorSpec(tensor.name, dtype, tensor.axes, tensor.shape)

        return GraphSpec(self.name, tuple(map(wide, self.inputs)), tuple(map(wide, self.outputs)))


def past_name(layer: int, kind: str) -> str:
    """Decoder input that holds the cache of a layer; ``kind`` is ``key`` or ``value``."""
    return f"past_key_values.{layer}.{kind}"


def present_name(layer: int, kind: str) -> str:
    """Decoder output that holds the cache of a layer; ``kind`` is ``key`` or ``value``."""
    return f"present.{layer}.{kind}"


def cached_layers(spec: GraphSpec) -> int:
    """Number of layers whose cache a graph takes."""
    prefix = past_name(0, "").partition(".")[0]
    return sum(tensor.name.startswith(prefix) for tensor in spec.inputs) // 2


def graph_specs(
    dims: Dimensions,
    float_dtype: str,
    short_windows: bool = False,
    encoder_attention: bool = False,
    cache_dtype: str | None = None,
    cut_after: int | None = None,
) -> dict[str, GraphSpec]:
    """Every graph that a bundle may hold.

    Args:
        dims: sizes fixed by the checkpoint.
        float_dtype: dtype of embeddings and logits: ``float32`` on CPU, ``float16`` on CUDA.
        short_windows: whether the audio encoder takes windows of fewer frames.
        encoder_attention: whether it also gives the attention that each token receives.
        cache_dtype: dtype of keys and values, where that is another: on CUDA, grouped-query
            attention has no float32 kernel.
        cut_after: number of layers in the lower half of a cut decoder, at least 1 and fewer than
            there are; None where it is whole.

    Returns:
        Specs by graph name.
    """
    sizes: dict[str, int | None] = {
        "mel_bins": dims.mel_bins,
        "frames": None if short_windows else dims.frames,
        "window_tokens": None if short_windows else dims.window_tokens,
        "hidden": dims.hidden,
        "heads": dims.heads,
        "kv_heads": dims.kv_heads,
        "head_dim": dims.head_dim,
        "angles": dims.head_dim // 2,
        "vocab": dims.vocab,
        "last": 1,
        "single": 1,
    }

    def tensor(name: str, dtype: str, *axes: str) -> TensorSpec:
        return TensorSpec(name, dtype, axes, tuple(sizes.get(axis) for axis in axes))

    def projection(name: str) -> GraphSpec:
        return GraphSpec(
            name,
            (tensor("audio_embeds", float_dtype, "tokens", "hidden"),),
            (
                tensor("query", "float32", "tokens", "heads", "head_dim"),
                tensor("key", "float32", "tokens", "kv_heads", "head_dim"),
            ),
        )

    def cache(names: Iterable[str], axis: str, rows: str = "batch") -> tuple[TensorSpec, ...]:
        dtype = cache_dtype or float_dtype
        return tuple(tensor(n, dtype, rows, "kv_heads", axis, "head_dim") for n in names)

    def angles(axis: str) -> tuple[TensorSpec, ...]:
        return tuple(tensor(name, float_dtype, axis, "angles") for name in ("cos", "sin"))

    def pairs(first: int, end: int) -> list[tuple[int, str]]:
        return [(layer, kind) for layer in range(first, end) for kind in ("key", "value")]

    layers = pairs(0, dims.layers)

    def halves(after: int) -> tuple[GraphSpec, ...]:
        # One sequence: what is dropped differs from one to another.
        def half(
            name: str, given: str, layers: list[tuple[int, str]], *made: TensorSpec
        ) -> GraphSpec:
            return GraphSpec(
                name,
                (
                    tensor(given, float_dtype, "single", "tokens", "hidden"),
                    tensor("attention_mask", "int64", "single", "total"),
                    *angles("slots"),
                    *cache((past_name(*layer) for layer in layers), "past", "single"),
                ),
                (*made, *cache((present_name(*layer) for layer in layers), "total", "single")),
            )

        return (
            half(
                DECODER_LOWER,
                "inputs_embeds",
                pairs(0, after),
                tensor(HIDDEN_STATES, float_dtype, "single", "tokens", "hidden"),
                tensor(LAST_ATTENTION, "float32", "single", "total"),
            ),
            half(
                DECODER_UPPER,
                HIDDEN_STATES,
                pairs(after, dims.layers),
                tensor("logits", float_dtype, "single", "last", "vocab"),
            ),
        )

    specs: tuple[GraphSpec, ...] = (
        GraphSpec(
            AUDIO_ENCODER,
            (
                tensor("input_features", "float32", "windows", "mel_bins", "frames"),
                tensor("feature_lengths", "int64", "windows"),
            ),
            (
                tensor("audio_embeds", float_dtype, "windows", "window_tokens", "hidden"),
                *([tensor(ATTENTION, "float32", "windows", "window_tokens")] * encoder_attention),
            ),
        ),
        GraphSpec(
            EMBED_TOKENS,
            (tensor("token_ids", "int64", "tokens"),),
            (tensor("embeds", float_dtype, "tokens", "hidden"),),
        ),
        projection(FIRST_LAYER_QK),
        projection(FIRST_LAYER_QK_FLOAT),
        GraphSpec(
            SIMILARITY,
            (
                tensor("audio_embeds", float_dtype, "tokens", "hidden"),
                tensor("direction", "float32", "hidden"),
            ),
            (tensor("scores", "float32", "tokens"),),
        ),
        GraphSpec(
            RECEIVED_ATTENTION,
            (
                tensor("query", "float32", "rows", "heads", "head_dim"),
                tensor("key", "float32", "tokens", "kv_heads", "head_dim"),
            ),
            (tensor("received", "float32", "tokens"),),
        ),
        GraphSpec(
            ASSEMBLE,
            (
                tensor("before_embeds", float_dtype, "before", "hidden"),
                tensor("audio_embeds", float_dtype, "tokens", "hidden"),
                tensor("indices", "int64", "kept"),
                tensor("after_embeds", float_dtype, "after", "hidden"),
            ),
            (tensor("inputs_embeds", float_dtype, "single", "prompt", "hidden"),),
        ),
        GraphSpec(ROTARY, (tensor("position_ids", "int64", "tokens"),), angles("tokens")),
        GraphSpec(
            DECODER,
            (
                tensor("inputs_embeds", float_dtype, "batch", "tokens", "hidden"),
                tensor("attention_mask", "int64", "batch", "total"),
                *angles("slots"),
                *cache((past_name(*layer) for layer in layers), "past"),
            ),
            (
                tensor("logits", float_dtype, "batch", "last", "vocab"),
                *cache((present_name(*layer) for layer in layers), "total"),
            ),
        ),
    )
    if cut_after is not None:
        specs += halves(cut_after)
    return {spec.name: spec for spec in specs}
