"""What ``--precision`` and ``--target`` mean for each graph, in one table.

| precision | audio encoder | token embedding | decoder |
|---|---|---|---|
| fp32 | float32 | float32 | float32 |
| fp16, cpu | float16 stored, float32 computed | the same | the same |
| fp16, cuda | float16 | float16 | float16 |
| bf16, cuda | float16 | bfloat16 | bfloat16 |
| int8, cpu | 8-bit blocks of 32 | float16, or head's | 8-bit blocks of 32 |
| int8, cuda | float16 | float16 | 8-bit blocks of 32 |
| w8a8, cpu | 8-bit columns, activations | float16, or head's | the same, output head 8-bit |
| int4, cpu | 8-bit blocks of 32 | float16, or head's | 4-bit blocks of 32, output head 8-bit |
| int4, cuda | float16 | float16 | 4-bit blocks of 32, output head 8-bit |

"Or head's": an output head that is the token embedding (tied) is in the bundle once, as the
decoder's 8-bit blocks, and the look-up reads its rows there.

The first-layer projections are signs in int8 (exact) whatever the precision; their float form
is float32 on the CPU and float16 stored for CUDA.

bf16 is for models whose values between layers are beyond float16's range. What passes between its
graphs is float32; the cache is bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from speechprune_ort.contract.specs import BFLOAT16
from speechprune_ort.errors import ExportError

__all__ = ["Plan", "Precision", "Target", "Weights", "plan", "plans"]

Precision = Literal["fp32", "fp16", "bf16", "int8", "w8a8", "int4"]
Target = Literal["cpu", "cuda"]
Weights = Literal["float32", "float16", "bfloat16", "half_stored", "int8", "w8a8", "int4"]

WORDS: dict[Weights, str] = {
    "float32": "float32",
    "float16": "float16",
    "bfloat16": "bfloat16",
    "half_stored": "float16 stored, float32 computed",
    "int8": "8-bit blocks of 32",
    "w8a8": "8-bit columns, 8-bit activations",
    "int4": "4-bit blocks of 32, output head 8-bit",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How each graph's weights are stored, and what passes between graphs.

    Attributes:
        float_dtype: dtype of embeddings and logits, and of the cache unless the decoder is
            bfloat16.
        encoder: weights of the audio encoder.
        embedding: weights of the token embedding.
        decoder: weights of the decoder.
        min_cosine: least cosine to torch's float32 result that passes, per comparison.
        one_table: whether an embedding that is the output head, too, is read from its 8-bit blocks.
    """

    float_dtype: Literal["float32", "float16"]
    encoder: Weights
    embedding: Weights
    decoder: Weights
    min_cosine: float
    one_table: bool = False

    @property
    def cache_dtype(self) -> str:
        """Dtype of the decoder's keys and values."""
        return self.decoder if self.decoder == BFLOAT16 else self.float_dtype


_PLANS: dict[tuple[str, str], Plan] = {
    ("fp32", "cpu"): Plan("float32", "float32", "float32", "float32", 0.999999),
    ("fp16", "cpu"): Plan("float32", "half_stored", "half_stored", "half_stored", 0.9999),
    ("int8", "cpu"): Plan("float32", "int8", "half_stored", "int8", 0.99, True),
    ("w8a8", "cpu"): Plan("float32", "w8a8", "half_stored", "w8a8", 0.97, True),
    ("int4", "cpu"): Plan("float32", "int8", "half_stored", "int4", 0.9, True),
    ("fp16", "cuda"): Plan("float16", "float16", "float16", "float16", 0.999),
    ("bf16", "cuda"): Plan("float32", "float16", "bfloat16", "bfloat16", 0.99),
    ("int8", "cuda"): Plan("float16", "float16", "float16", "int8", 0.99),
    ("int4", "cuda"): Plan("float16", "float16", "float16", "int4", 0.9),
}
_MISSING = {
    "fp32": "grouped-query attention has no float32 kernel there",
    "bf16": "attention has no bfloat16 kernel there",
    "w8a8": "products of 8-bit activations have no kernel there",
}


def plan(precision: str, target: str) -> Plan:
    """The plan of a precision on a target.

    Raises:
        ExportError: no such precision or target, or the two cannot be combined.
    """
    for name, value, allowed in (
        ("precision", precision, get_args(Precision)),
        ("target", target, get_args(Target)),
    ):
        if value not in allowed:
            raise ExportError(f"--{name} must be one of {', '.join(allowed)}, not {value!r}.")
    if (precision, target) not in _PLANS:
        raise ExportError(
            f"--precision {precision} cannot be used with --target {target} "
            f"({_MISSING[precision]}): use --precision fp16 or int8."
        )
    return _PLANS[precision, target]


def plans(target: str) -> dict[str, Plan]:
    """Every precision that goes with a target, and its plan.

    Raises:
        ExportError: there is no such target.
    """
    found = {precision: made for (precision, of), made in _PLANS.items() if of == target}
    if not found:
        raise ExportError(f"--target must be one of {', '.join(get_args(Target))}, not {target!r}.")
    return found
