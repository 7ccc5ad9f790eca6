"""Whisper's encoder out of CTranslate2's ``model.bin``, under the names that transformers uses.

The package ctranslate2 writes such files and runs them, and gives no weights back. File layout
(little-endian), specification versions 5 and 6::

    uint32  version
    string  specification name, e.g. "WhisperSpec"
    uint32  specification revision
    uint32  number of variables
      string  name, e.g. "encoder/layer_0/ffn/linear_0/weight"
      uint8   rank
      uint32  x rank    shape
      uint8   data type (see DTYPES)
      uint32  number of bytes
      ...     the values, C order
    uint32  number of aliases
      string  alias
      string  name of the variable it stands for

A string is a uint16 length, zero byte included, then the bytes and the zero byte.
"""

from __future__ import annotations

import io
import re
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

Weights = dict[str, npt.NDArray[np.float32]]

DTYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
NAME = re.compile(r"encoder/(?:layer_(\d+)/)?(.+)/(weight|bias|gamma|beta|encodings)")
PARTS = {
    "position_encodings": "embed_positions",
    "self_attention/layer_norm": "self_attn_layer_norm",
    "self_attention/linear_1": "self_attn.out_proj",
    "ffn/layer_norm": "final_layer_norm",
    "ffn/linear_0": "fc1",
    "ffn/linear_1": "fc2",
}
STACKED = "self_attention/linear_0"
KINDS = {"gamma": "weight", "beta": "bias", "encodings": "weight"}


def parse_model_bin(data: bytes) -> dict[str, npt.NDArray[Any]]:
    """Variables of a CTranslate2 model by name, in the data types of the file."""
    stream = io.BytesIO(data)

    def integer(code: str) -> int:
        """One unsigned integer; ``code`` is struct's: B, H or I."""
        (value,) = struct.unpack(f"<{code}", stream.read(struct.calcsize(code)))
        return int(value)

    def string() -> str:
        return stream.read(integer("H")).rstrip(b"\0").decode()

    integer("I"), string(), integer("I")
    variables: dict[str, npt.NDArray[Any]] = {}
    for _ in range(integer("I")):
        name = string()
        shape = [integer("I") for _ in range(integer("B"))]
        dtype = DTYPES[integer("B")]
        variables[name] = np.frombuffer(stream.read(integer("I")), dtype).reshape(shape)
    for _ in range(integer("I")):
        alias = string()
        variables[alias] = variables[string()]
    return variables


def whisper_encoder_weights(model_bin: bytes) -> Weights:
    """The encoder of a CTranslate2 Whisper model in float32, by the names of ``WhisperEncoder``.

    CTranslate2 stacks the query, key and value projections of self-attention into one matrix
    (3d, d), and gives the key a bias of zeros, which Whisper does not have.
    """
    weights: Weights = {}
    for name, stored in parse_model_bin(model_bin).items():
        if (match := NAME.fullmatch(name)) is None:
            continue
        layer, part, kind = match.groups()
        values, begin = stored.astype(np.float32), f"layers.{layer}." if layer else ""
        if part == STACKED:
            for projection, third in zip("qkv", np.split(values, 3), strict=True):
                if (projection, kind) != ("k", "bias"):
                    weights[f"{begin}self_attn.{projection}_proj.{kind}"] = third
        else:
            weights[f"{begin}{PARTS.get(part, part)}.{KINDS.get(kind, kind)}"] = values
    return weights
