"""Weights in other projects' files, read at known places: no file format is parsed here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from speechprune_ort.errors import PartError

__all__ = ["Joined", "Kind", "Source", "unpermute_rotary"]

Floats = NDArray[np.float32]
Kind = Literal["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
"""How values are stored, by ggml's names."""


class Joined:
    """Files that one file was cut into, read as that one.

    Args:
        paths: in their order.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = tuple(paths)
        self._sizes = [path.stat().st_size for path in self._paths]

    def read(self, at: int, size: int) -> bytes:
        """``size`` bytes from byte ``at`` on.

        Raises:
            PartError: the files end before that.
        """
        found, start = [], 0
        for path, length in zip(self._paths, self._sizes, strict=True):
            first, last = max(at, start), min(at + size, start + length)
            if first < last:
                with path.open("rb") as stream:
                    stream.seek(first - start)
                    found.append(stream.read(last - first))
            start += length
        content = b"".join(found)
        if len(content) != size:
            raise PartError(f"{self._paths[-1].name} ends early: fetch the model again.")
        return content


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where the values of one weight lie.

    Attributes:
        file: number of the file in the recipe.
        at: first byte.
        kind: how the values are stored.
        shape: shape of the weight.
        heads: heads whose rows llama.cpp has put in another order, or 0.
    """

    file: int
    at: int
    kind: Kind
    shape: tuple[int, ...]
    heads: int = 0

    def read(self, files: Sequence[Joined]) -> Floats:
        """The weight in float32, in the order of its checkpoint.

        Raises:
            PartError: the file ends early, or the package gguf is missing.
        """
        try:
            import gguf
        except ModuleNotFoundError:
            raise PartError(
                "Reading the parts of the default model needs gguf: pip install "
                "'speechprune-ort[default]'."
            ) from None
        kind: Any = gguf.GGMLQuantizationType[self.kind]
        values, stored = gguf.GGML_QUANT_SIZES[kind]
        size = int(np.prod(self.shape)) // values * stored
        content = np.frombuffer(files[self.file].read(self.at, size), np.uint8)
        found = gguf.dequantize(content, kind).astype(np.float32, copy=False).reshape(self.shape)
        return unpermute_rotary(found, self.heads) if self.heads else found


def unpermute_rotary(matrix: Floats, heads: int) -> Floats:
    """Undo llama.cpp's row order of a query or key projection.

    llama.cpp rotates neighbouring pairs of a head's dimensions, transformers rotates dimension i
    with i + d/2; its converter therefore interleaves the two halves of each head.

    >>> rows = np.array([[0.0], [2.0], [1.0], [3.0]], dtype=np.float32)  # 0 2 | 1 3 interleaved
    >>> unpermute_rotary(rows, heads=1).ravel().tolist()
    [0.0, 1.0, 2.0, 3.0]

    Args:
        matrix: (heads * d, hidden) as in the GGUF file.
        heads: Number of heads that the rows belong to.

    Returns:
        The same rows, (heads * d, hidden), in transformers' order.
    """
    rows, columns = matrix.shape
    halves = matrix.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))
