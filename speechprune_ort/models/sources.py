"""Weights in other projects' files, read at known places: no file format is parsed here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from speechprune_ort.errors import PartError

__all__ = ["Joined", "Kind", "Source"]

Floats = NDArray[np.float32]
Kind = Literal["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]
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
    """

    file: int
    at: int
    kind: Kind
    shape: tuple[int, ...]

    def read(self, files: Sequence[Joined]) -> Floats:
        """The weight in float32.

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
        return gguf.dequantize(content, kind).astype(np.float32, copy=False).reshape(self.shape)
