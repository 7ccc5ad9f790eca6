"""Read a CTranslate2 ``model.bin`` and give Whisper's encoder its own names back.

File layout (little-endian), specification versions 5 and 6::

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

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from small_model.errors import SmallModelError

Array = npt.NDArray[Any]
Weights = dict[str, npt.NDArray[np.float32]]

SUPPORTED_VERSIONS = (5, 6)
# bfloat16 (5 in CTranslate2) has no numpy type and does not occur in the files used here.
DTYPES: Mapping[int, type[np.generic]] = {
    0: np.float32,
    1: np.int8,
    2: np.int16,
    3: np.int32,
    4: np.float16,
}


@dataclass(frozen=True)
class ModelBin:
    """A CTranslate2 model in memory.

    Attributes:
        version: Version of the binary layout.
        specification: Name of the model family, "WhisperSpec" for Whisper.
        revision: Revision of that specification.
        variables: Name to array, in the data type of the file. Aliases are included and share
            memory with what they stand for. The arrays are read-only views of one buffer.
    """

    version: int
    specification: str
    revision: int
    variables: dict[str, Array]


class _Cursor:
    """Sequential reads from a byte buffer that never run past its end."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name
        self._at = 0

    def take(self, count: int) -> memoryview:
        """The next ``count`` bytes, without a copy."""
        end = self._at + count
        if end > len(self._data):
            raise SmallModelError(
                f"{self._name} ends at byte {len(self._data)} where {count} bytes from byte "
                f"{self._at} are expected: it is cut short, delete it and fetch it again."
            )
        piece = memoryview(self._data)[self._at : end]
        self._at = end
        return piece

    def integer(self, code: str) -> int:
        """One unsigned integer; ``code`` is struct's: B, H or I."""
        (value,) = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))
        return int(value)

    def string(self) -> str:
        """One length-prefixed, zero-terminated string."""
        return bytes(self.take(self.integer("H"))).rstrip(b"\0").decode("utf-8")

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at


def read_model_bin(path: Path) -> ModelBin:
    """Read every variable of a CTranslate2 model file.

    Raises:
        SmallModelError: another version, an unknown data type, a size that contradicts the
            shape, a file cut short or with bytes after its end.
    """
    return parse_model_bin(path.read_bytes(), str(path))


def parse_model_bin(data: bytes, name: str) -> ModelBin:
    """As :func:`read_model_bin`, from bytes; ``name`` is what error messages call them."""
    cursor = _Cursor(data, name)
    version = cursor.integer("I")
    if version not in SUPPORTED_VERSIONS:
        raise SmallModelError(
            f"{name} is CTranslate2 format version {version}, this reads versions "
            f"{' and '.join(map(str, SUPPORTED_VERSIONS))}: convert the model again with a "
            "CTranslate2 that writes one of them."
        )
    specification = cursor.string()
    revision = cursor.integer("I")
    variables: dict[str, Array] = {}
    for _ in range(cursor.integer("I")):
        key = cursor.string()
        shape = tuple(cursor.integer("I") for _ in range(cursor.integer("B")))
        code = cursor.integer("B")
        if code not in DTYPES:
            raise SmallModelError(
                f"{name}: variable {key} has data type {code}, this reads "
                f"{', '.join(f'{k} ({v.__name__})' for k, v in DTYPES.items())}: convert the "
                "model again with one of them, e.g. --quantization float16."
            )
        values = np.frombuffer(cursor.take(cursor.integer("I")), dtype=DTYPES[code])
        if values.size != int(np.prod(shape, dtype=np.int64)):
            raise SmallModelError(
                f"{name}: variable {key} has shape {shape} but {values.size} values: the file is "
                "damaged, delete it and fetch it again."
            )
        variables[key] = values.reshape(shape)
    for _ in range(cursor.integer("I")):
        alias, target = cursor.string(), cursor.string()
        if target not in variables:
            raise SmallModelError(
                f"{name}: alias {alias} stands for {target}, which is not in the file: it is "
                "damaged, delete it and fetch it again."
            )
        variables[alias] = variables[target]
    if cursor.remaining:
        raise SmallModelError(
            f"{name} has {cursor.remaining} bytes after its end: delete it and fetch it again."
        )
    return ModelBin(version, specification, revision, variables)


def whisper_encoder_weights(model: ModelBin) -> Weights:
    """The encoder of a CTranslate2 Whisper model under the names transformers uses.

    CTranslate2 stacks the query, key and value projections of self-attention into one matrix
    ``linear_0`` (3d, d), and gives the key a bias of zeros, which Whisper does not have.

    Returns:
        Name (``conv1.weight``, ``layers.0.self_attn.q_proj.weight``, ...) to float32 array.

    Raises:
        SmallModelError: not a Whisper model, a variable is missing or not floating point, or
            the key has a bias.
    """
    if not model.specification.startswith("Whisper"):
        raise SmallModelError(
            f"The CTranslate2 model is a {model.specification}, not a Whisper model: give the "
            "model.bin of a converted Whisper."
        )

    def tensor(name: str) -> npt.NDArray[np.float32]:
        if name not in model.variables:
            raise SmallModelError(
                f"The CTranslate2 Whisper model has no variable {name}: fetch the model again."
            )
        values = model.variables[name]
        if not np.issubdtype(values.dtype, np.floating):
            raise SmallModelError(
                f"CTranslate2 variable {name} is {values.dtype}: use a model converted without "
                "integer quantization."
            )
        return values.astype(np.float32)

    weights: Weights = {}

    def linear(name: str, source: str) -> None:
        weights[f"{name}.weight"] = tensor(f"{source}/weight")
        weights[f"{name}.bias"] = tensor(f"{source}/bias")

    def layer_norm(name: str, source: str) -> None:
        weights[f"{name}.weight"] = tensor(f"{source}/gamma")
        weights[f"{name}.bias"] = tensor(f"{source}/beta")

    linear("conv1", "encoder/conv1")
    linear("conv2", "encoder/conv2")
    weights["embed_positions.weight"] = tensor("encoder/position_encodings/encodings")
    layer = 0
    while f"encoder/layer_{layer}/self_attention/linear_0/weight" in model.variables:
        source, name = f"encoder/layer_{layer}", f"layers.{layer}"
        attention = f"{source}/self_attention"
        matrices = np.split(tensor(f"{attention}/linear_0/weight"), 3)
        biases = np.split(tensor(f"{attention}/linear_0/bias"), 3)
        for projection, matrix, bias in zip("qkv", matrices, biases, strict=True):
            weights[f"{name}.self_attn.{projection}_proj.weight"] = matrix
            if projection != "k":
                weights[f"{name}.self_attn.{projection}_proj.bias"] = bias
            elif np.any(bias):
                raise SmallModelError(
                    f"{attention} has a bias on the key, which Whisper does not have: this is "
                    "not a Whisper encoder, fetch the model again."
                )
        linear(f"{name}.self_attn.out_proj", f"{attention}/linear_1")
        layer_norm(f"{name}.self_attn_layer_norm", f"{attention}/layer_norm")
        linear(f"{name}.fc1", f"{source}/ffn/linear_0")
        linear(f"{name}.fc2", f"{source}/ffn/linear_1")
        layer_norm(f"{name}.final_layer_norm", f"{source}/ffn/layer_norm")
        layer += 1
    if layer == 0:
        raise SmallModelError(
            "The CTranslate2 Whisper model has no encoder layers: fetch the model again."
        )
    layer_norm("layer_norm", "encoder/layer_norm")
    return weights
