"""What an export would write and need, from a checkpoint's config alone: no weight is read.

Sizes are counted from the checkpoint's own class, built without memory. How much memory an export
takes is estimated from some that were measured (``docs/results/full-size.md``), and
its time as ``course`` does.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from speechprune_ort.contract.specs import (
    AUDIO_ENCODER,
    DECODER,
    EMBED_TOKENS,
    FIRST_LAYER_QK,
    FIRST_LAYER_QK_FLOAT,
    ROTARY,
)
from speechprune_ort.errors import ExportError, SpeechPruneError
from speechprune_ort.export.checkpoint_config import Described, check_text, windows_of
from speechprune_ort.export.compared_sound import WINDOW_SECONDS, seconds_at_once
from speechprune_ort.export.course import Sizes, seconds_of
from speechprune_ort.export.families import Family
from speechprune_ort.export.precision import Plan, Weights, plans

__all__ = ["Counts", "Estimate", "count", "estimate"]

BLOCK = 32
"""Weights that share a scale."""
LIBRARIES = 1_500_000_000
"""Bytes that torch, transformers and ONNX Runtime take."""
LOADED = 1.2
"""Bytes that a session takes at its peak for each byte of its file."""
SOUND = 25_000_000
"""Bytes that encoders take for each second of the sound that they are compared on at once."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Weights of a checkpoint, by where they go.

    Attributes:
        encoder_matrices: weights of the audio encoder's linear layers.
        encoder_others: all its other weights.
        decoder_matrices: weights of the matrices in the language model's layers.
        decoder_others: norms and biases of these layers.
        hidden: width of the language model.
        vocab: rows of the token embedding.
        heads: heads of queries and keys together.
        head_dim: width of a head.
        context: number of positions.
        tied: whether the output head is the token embedding, as the config says.
        windows: sliding windows of the language model's layers, see ``windows_of``.
        window_seconds: seconds of a window of the audio encoder.
    """

    encoder_matrices: int
    encoder_others: int
    decoder_matrices: int
    decoder_others: int
    hidden: int
    vocab: int
    heads: int
    head_dim: int
    context: int
    tied: bool = False
    windows: tuple[int | None, ...] = ()
    window_seconds: float = WINDOW_SECONDS

    @property
    def table(self) -> int:
        """Weights of the token embedding, and of the output head."""
        return self.hidden * self.vocab

    @property
    def sizes(self) -> Sizes:
        """All weights, a tied head counted twice, as most plans write it twice."""
        return Sizes(
            encoder=self.encoder_matrices + self.encoder_others,
            table=self.table,
            decoder=self.decoder_matrices + self.decoder_others + self.table,
            window_seconds=self.window_seconds,
        )


@dataclass(frozen=True, slots=True)
class Estimate:
    """What an export in one precision would write and need.

    Attributes:
        precision: precision of the weights.
        graphs: bytes by graph, those that have weights.
        memory: bytes at its peak, about.
        seconds: on two cores, about.
    """

    precision: str
    graphs: dict[str, int]
    memory: int
    seconds: float

    @property
    def size(self) -> int:
        """Bytes of all graphs together."""
        return sum(self.graphs.values())


def count(found: Described, family: Family) -> Counts:
    """Count the weights of a checkpoint that ``check_checkpoint`` has accepted.

    Args:
        found: the checkpoint.
        family: the family that loads it.

    Raises:
        UnsupportedModelError: its language model or a setting of its encoder is not one that export
            knows.
        ExportError: its config is not that of its family, or no model can be built from it.
    """
    import torch
    from torch import nn

    module = importlib.import_module(f"speechprune_ort.export.families.{family.module}")
    try:
        with torch.device("meta"):
            parts, text = _parts(found, family, module)
            if known := getattr(module, "require_known", None):
                known(found.location, parts.config)
    except SpeechPruneError:
        raise
    except Exception as error:  # transformers raises its own over a config
        raise ExportError(
            f"config.json of {found.location!r} is not that of {family.loaded_by or family.module} "
            f"({type(error).__name__}: {str(error).strip().splitlines()[:1]}): download it again."
        ) from error
    # Positions that only pictures need are not exported.
    plain = getattr(module, "plain_text", None)
    settings = (plain(text) if plain else text).to_dict()
    check_text(found.location, settings)
    sums = {"encoder": [0, 0], "decoder": [0, 0]}
    for name, layer in parts.named_modules():
        part = "decoder" if "language_model" in name else "encoder"
        if LEFT_OUT & set(name.split(".")):
            continue
        for kind, values in layer.named_parameters(recurse=False):
            matrix = isinstance(layer, nn.Linear) and kind == "weight"
            sums[part][0 if matrix else 1] += values.numel()
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Counts(
        encoder_matrices=sums["encoder"][0],
        encoder_others=sums["encoder"][1],
        decoder_matrices=sums["decoder"][0],
        decoder_others=sums["decoder"][1],
        hidden=text.hidden_size,
        vocab=text.vocab_size,
        heads=text.num_attention_heads + text.num_key_value_heads,
        head_dim=head_dim,
        context=text.max_position_embeddings,
        tied=bool(text.tie_word_embeddings),
        windows=windows_of(found.location, settings),
        window_seconds=family.window_seconds,
    )


def _parts(found: Described, family: Family, module: ModuleType) -> tuple[Any, Any]:
    """A checkpoint's modules, those of its language model under that name, and its text config."""
    import transformers
    from torch import nn

    if family.loaded_by is None:
        encoder, text = module.sketch(found.location, found.config)
        language_model = transformers.AutoModelForCausalLM.from_config(text)
        return nn.ModuleDict({"encoder": encoder, "language_model": language_model}), text
    cls = getattr(transformers, family.loaded_by)
    config = cls.config_class.from_dict(dict(found.config.get("thinker_config") or found.config))
    return cls(config), config.get_text_config()


LEFT_OUT = {"lm_head", "embed_tokens", "visual"}
"""Parts that are counted elsewhere, or not exported."""


def estimate(counts: Counts, target: str) -> list[Estimate]:
    """What each precision of a target would write and need.

    Args:
        counts: counts of the checkpoint.
        target: ``cpu`` or ``cuda``.

    Raises:
        ExportError: there is no such target.
    """
    return [_estimate(counts, name, plan) for name, plan in plans(target).items()]


def _estimate(counts: Counts, precision: str, plan: Plan) -> Estimate:
    passed = 2 if plan.float_dtype == "float16" else 4
    plain = _bytes(plan.embedding, passed)
    projected = counts.hidden * counts.heads * counts.head_dim
    head: Weights = "int8" if plan.decoder in ("int4", "w8a8") else plan.decoder
    decoder = counts.decoder_matrices * _bytes(plan.decoder, passed)
    decoder += counts.table * _bytes(head, passed)
    # The builder writes norms in the dtype that it computes in.
    norms = _bytes(plan.decoder, passed) if _whole(plan) else passed
    decoder += counts.decoder_others * norms
    encoder = counts.encoder_matrices * _bytes(plan.encoder, 4)
    encoder += counts.encoder_others * min(4.0, 2.0 if _half(plan.encoder) else 4.0)
    graphs = {
        AUDIO_ENCODER: encoder,
        EMBED_TOKENS: 0 if plan.one_table and counts.tied else counts.table * plain,
        FIRST_LAYER_QK: projected,
        FIRST_LAYER_QK_FLOAT: projected * plain,
        ROTARY: counts.context * counts.head_dim * passed,
        DECODER: decoder,
    }
    written = {name: round(size) for name, size in graphs.items()}
    # Two copies of the widest matrix, which is the head, are in float32 while it is quantized.
    widest = 8 * counts.table
    quantizing = LOADED * max(decoder, encoder) + widest
    comparing = 4 * counts.sizes.encoder + LOADED * encoder
    comparing += SOUND * seconds_at_once(counts.window_seconds)
    memory = round(LIBRARIES + max(quantizing, comparing))
    return Estimate(precision, written, memory, sum(seconds_of(counts.sizes).values()))


def _whole(plan: Plan) -> bool:
    return plan.decoder in ("half_stored", "bfloat16")


def _half(weights: Weights) -> bool:
    return weights in ("float16", "half_stored")


def _bytes(weights: Weights, scale: int) -> float:
    """Bytes of a weight in a matrix, its share of a block's scale included."""
    if weights in ("int8", "int4"):
        return (1.0 if weights == "int8" else 0.5) + scale / BLOCK
    whole = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "half_stored": 2.0, "w8a8": 1.0}
    return whole[weights]
