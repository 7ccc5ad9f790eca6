"""Weights of a base checkpoint and what training changed in them, with one sum everywhere.

A delta holds half-precision values that replace the base's, and LoRA factors whose product is
added. The sum is made in an order that every machine keeps, so that the result has one sha256.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from speechprune_ort.errors import PartError

__all__ = ["FACTOR_A", "FACTOR_B", "lora_sum", "merge"]

FACTOR_A, FACTOR_B = ".lora_a", ".lora_b"
ROWS = 32

Array = npt.NDArray[Any]


def merge(
    base: Mapping[str, Array], delta: Mapping[str, Array], scale: float
) -> dict[str, npt.NDArray[np.float32]]:
    """All weights of the trained checkpoint, float32.

    >>> base = {"w": np.eye(2, dtype=np.float32), "v": np.zeros(1, dtype=np.float32)}
    >>> delta = {"w.lora_a": np.float16([[1, 2]]), "w.lora_b": np.float16([[1], [0]])}
    >>> merge(base, delta | {"v": np.float16([3])}, 0.5)["w"].tolist()
    [[1.5, 1.0], [0.0, 1.0]]

    Raises:
        PartError: the delta has a name or shape that the base does not have.
    """
    merged = {name: np.asarray(values, dtype=np.float32) for name, values in base.items()}
    for name, values in delta.items():
        if name.endswith(FACTOR_B):
            continue
        target = name.removesuffix(FACTOR_A)
        if target not in merged:
            raise PartError(
                f"The base checkpoint has no {target}: give the one that the delta was trained on."
            )
        changed = values
        if name.endswith(FACTOR_A):
            changed = lora_sum(merged[target], values, delta[target + FACTOR_B], scale)
        if changed.shape != merged[target].shape:
            raise PartError(
                f"{target} has shape {changed.shape} in the delta and {merged[target].shape} in "
                "the base checkpoint: they do not belong together."
            )
        merged[target] = np.asarray(changed, dtype=np.float32)
    return merged


def lora_sum(weight: Array, first: Array, second: Array, scale: float) -> Array:
    """``weight + scale * second @ first``, (out, in), the same to the last bit everywhere.

    Each step is one rounding of float64 per element in a fixed order; a matrix product would leave
    the order to the library. It goes through some rows at a time, which stay in the processor's
    cache.
    """
    total = weight.astype(np.float64)
    left, right = scale * second.astype(np.float64), first.astype(np.float64)
    for start in range(0, len(total), ROWS):
        rows, some = total[start : start + ROWS], left[start : start + ROWS]
        for index in range(len(right)):
            rows += some[:, index, None] * right[index]
    return total
