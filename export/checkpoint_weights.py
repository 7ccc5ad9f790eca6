"""What a checkpoint's weight files hold, by their headers: names, dtypes, shapes.

Neither torch nor the weights themselves are needed: a pointer, a half download or quantized weights
are refused before anything is loaded.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechprune_ort.errors import ExportError, UnsupportedModelError
from speechprune_ort.export.json_object import read_object

__all__ = [
    "Stored",
    "check_shapes",
    "check_text_shapes",
    "pickled_weights",
    "stored_tensors",
    "stored_weights",
]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
QUANTIZED = re.compile(r"\.(qweight|qzeros|weight_packed|SCB|absmax|quant_map|weight_scale_inv)$")
PACKED = ("I8", "U8", "U16", "U32")
"""Dtypes of weights of 8 bits, and of those that hold several values each; ids have none."""
LARGEST_HEADER = 100_000_000  # what the safetensors library accepts
POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file.

    Attributes:
        dtype: as safetensors names it.
        shape: its shape.
    """

    dtype: str
    shape: tuple[int, ...]


def stored_weights(folder: Path, allow_pickle: bool = False) -> dict[str, Stored]:
    """All tensors of a checkpoint folder; none where they are pickles that may be read.

    Args:
        folder: folder of the checkpoint.
        allow_pickle: whether pickles may be read; what they hold is only known then.

    Raises:
        ExportError: there are none, or a file is a pointer, cut off or damaged.
        UnsupportedModelError: they are pickles or quantized.
    """
    if (folder / WEIGHTS).exists():
        names = [WEIGHTS]
    elif (folder / INDEX).exists():
        names = _shards(folder, INDEX)
    elif allow_pickle and pickled_weights(folder):
        return {}
    else:
        raise _no_weights(folder)
    found: dict[str, Stored] = {}
    for name in names:
        found |= stored_tensors(folder / name)
    for tensor, stored in found.items():
        packed = stored.dtype.startswith(("F8", "F4", "F6")) or stored.dtype in PACKED
        if packed or QUANTIZED.search(tensor):
            raise UnsupportedModelError(
                f"{str(folder)!r} stores quantized weights ({tensor} in {stored.dtype}): give the "
                "checkpoint that it was made from, and --precision int8 or int4."
            )
    return found


def check_text_shapes(
    location: str, stored: Mapping[str, Stored], text: Any, prefix: str = ""
) -> None:
    """Compare what a text config says with the weights that are there.

    Args:
        location: the checkpoint, for the message.
        stored: its tensors.
        text: config of the text model, as transformers completes it.
        prefix: what names of the language model's tensors hold.

    Raises:
        ExportError: vocabulary, width or number of layers differ.
    """
    mine = {name: s for name, s in stored.items() if prefix in name}
    for name, tensor in mine.items():
        if name.endswith("embed_tokens.weight") and len(tensor.shape) == 2:
            for label, wanted, size in zip(
                ("vocab_size", "hidden_size"),
                (text.vocab_size, text.hidden_size),
                tensor.shape,
                strict=True,
            ):
                if wanted != size:
                    raise ExportError(
                        f"{label} in config.json of {location!r} is {wanted} and {name} has "
                        f"{size}: config and weights are of different models; download both again."
                    )
    layers = {int(m[1]) for n in mine if (m := re.search(r"\blayers\.(\d+)\.", n))}
    if layers and max(layers) + 1 != text.num_hidden_layers:
        raise ExportError(
            f"num_hidden_layers in config.json of {location!r} is {text.num_hidden_layers} and the "
            f"weights have {max(layers) + 1}: config and weights are of different models; "
            "download both again."
        )


def check_shapes(
    location: str, stored: Mapping[str, Stored], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Compare the shapes of a model's weights with those that are there.

    A loader would first make up weights of the shapes that the config says, gigabytes where a size
    was left out of it.

    Args:
        location: the checkpoint, for the message.
        stored: its tensors, named by this version of transformers or an earlier one.
        expected: shapes by the model's own names.

    Raises:
        ExportError: one has another shape.
    """
    mine = {_bare(name): (name, tensor.shape) for name, tensor in stored.items()}
    for wanted, shape in expected.items():
        name, found = mine.get(_bare(wanted), ("", shape))
        if found != shape:
            raise ExportError(
                f"{name} of {location!r} has shape {found} and config.json asks for {shape}: "
                "config and weights are of different models, or the config leaves out a size; "
                "download both again."
            )


def _bare(name: str) -> str:
    """A weight's name without the levels that came and went between versions of transformers.

    >>> _bare("language_model.model.layers.0.mlp.up_proj.weight")
    'layers.0.mlp.up_proj.weight'
    """
    return ".".join(part for part in name.split(".") if part not in ("model", "language_model"))


def _shards(folder: Path, file: str) -> list[str]:
    index = read_object(folder / file, str(folder)).get("weight_map")
    if not isinstance(index, dict) or not all(isinstance(n, str) for n in index.values()):
        raise ExportError(
            f"{file} of {str(folder)!r} names no files: download the checkpoint again."
        )
    names = sorted(set(index.values()))
    for name in names:
        if Path(name).name != name:
            raise ExportError(
                f"{file} of {str(folder)!r} leads out of its folder ({name!r}): download the "
                "checkpoint again."
            )
        if not (folder / name).exists():
            raise ExportError(
                f"{name} of {str(folder)!r}, which {file} names, is missing: download it again."
            )
    return names


def stored_tensors(path: Path) -> dict[str, Stored]:
    """All tensors of one safetensors file.

    Raises:
        ExportError: it is a pointer, cut off or damaged.
    """
    label = f"{path.name} of {str(path.parent)!r}"
    if not path.is_file():
        raise ExportError(f"{label} is not a file: download the checkpoint again.")
    try:
        size = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(8)
            if POINTER.startswith(start) and (start + stream.read(32)).startswith(POINTER):
                raise ExportError(
                    f"{label} is a Git LFS pointer, not weights: run `git lfs pull` in its folder."
                )
            stream.seek(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
            text = stream.read(length) if 0 < length <= LARGEST_HEADER else b""
    except OSError as error:
        raise ExportError(
            f"{label} cannot be read ({os.strerror(error.errno or 0)}): check its permissions."
        ) from None
    if len(start) < 8 or (0 < length <= LARGEST_HEADER and len(text) < length):
        raise ExportError(f"{label} is cut off ({size} bytes): download it again.")
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        found = {n: Stored(str(v["dtype"]), tuple(map(int, v["shape"]))) for n, v in header.items()}
        end = 8 + length + max((int(v["data_offsets"][1]) for v in header.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise ExportError(
            f"{label} is damaged: its header is not readable; download it again."
        ) from None
    if end > size:
        raise ExportError(f"{label} is cut off ({size} of {end} bytes): download it again.")
    return found


def pickled_weights(folder: Path) -> list[Path]:
    """Files of a checkpoint whose weights are pickles, as transformers names them.

    Raises:
        ExportError: the index of several files is damaged, or one of them is missing.
    """
    if (folder / PICKLE).is_file():
        return [folder / PICKLE]
    if (folder / PICKLE_INDEX).is_file():
        return [folder / name for name in _shards(folder, PICKLE_INDEX)]
    return []


def _no_weights(folder: Path) -> ExportError:
    names = sorted(path.name for path in folder.iterdir())
    pickles = [n for n in names if n.endswith((".bin", ".bin.index.json", ".pt", ".pth", ".ckpt"))]
    if pickles:
        named = PICKLE in names or PICKLE_INDEX in names
        return UnsupportedModelError(
            f"{str(folder)!r} holds its weights as {pickles[0]}, a pickle, which may run code when "
            "it is read: load it where you trust it and save_pretrained it as safetensors"
            + (", or give --allow-pickle, which reads only tensors." if named else ".")
        )
    return ExportError(
        f"The checkpoint {str(folder)!r} cannot be loaded: it holds no weights ({WEIGHTS}); "
        "download it again."
    )
