"""What training changed, as one small file with its record.

A delta holds half-precision values of the trained encoder layers, LayerNorm and projector, which
replace the base's, and the LoRA factors of the language model, whose product is added; see
``speechprune_ort.models.delta``. What training alone needs to go on (``speller.``) is in it, too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from speechprune_ort.errors import PartError
from speechprune_ort.files import sha256_of, write_json
from speechprune_ort.models.packages import check_sha256

DELTA, RECORD, TEXTS = "delta.safetensors", "delta.json", ("README.md", "NOTICE")
FOR_TRAINING = "speller."
TRAINED = Path(__file__).with_name("trained")
"""Of the default model."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Delta:
    """What training changed.

    The record has the ``scale`` of products (two factors change a matrix by ``scale * B A``), the
    ``notes`` that ``speechprune-ort ask`` tells the user, the ``frame_temperature`` of phase 1, and
    in a folder ``sha256`` of the delta and, once they are known, of the finished weights.
    """

    tensors: Mapping[str, Array]  # by the checkpoint's names, FACTOR_A or FACTOR_B behind factors
    record: Mapping[str, Any]
    texts: tuple[Path, ...] = ()  # files that are copied into the checkpoint

    def check(self, weights: Path) -> None:
        """Refuse finished weights that are others than the record's."""
        if "result" in self.record["sha256"]:
            check_sha256(weights, self.record["sha256"]["result"], "The finished checkpoint")


def read_delta(folder: Path) -> Delta:
    """The delta in a folder, whose files must be there and whole."""
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        absent = {"scale", "notes", "frame_temperature", "sha256"} - set(record)
        if absent or "delta" not in record["sha256"]:
            raise KeyError(min(absent, default="sha256 of the delta"))
        check_sha256(folder / DELTA, record["sha256"]["delta"], "The delta")
        tensors = load_file(folder / DELTA)
    except (OSError, ValueError, KeyError) as error:
        raise PartError(
            f"{folder} holds no delta that can be used ({error}): take the folder of the release "
            "again."
        ) from error
    kept = {n: values for n, values in tensors.items() if not n.startswith(FOR_TRAINING)}
    texts = tuple(path for name in TEXTS if (path := folder / name).exists())
    return Delta(kept, record, texts)


def record_of(scale: float, notes: Sequence[str]) -> dict[str, Any]:
    """The record of a new delta, as far as its file does not matter."""
    return {"scale": scale, "notes": list(notes), "frame_temperature": 1.0}


def write_delta(folder: Path, delta: Delta) -> None:
    """Write ``delta.safetensors`` and ``delta.json``, still without the sha256 of the result."""
    tensors = {name: values.astype(np.float16) for name, values in delta.tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / DELTA, metadata={"format": "pt"})
    (folder / DELTA).chmod(0o644)  # safetensors makes it readable to its owner alone
    write_json(folder / RECORD, {**delta.record, "sha256": {"delta": sha256_of(folder / DELTA)}})


def record_result(folder: Path, weights: Path) -> None:
    """Add the sha256 of the weights that were made with a delta to its record."""
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    record["sha256"]["result"] = sha256_of(weights)
    write_json(folder / RECORD, record)
