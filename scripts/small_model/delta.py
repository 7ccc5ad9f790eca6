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
from speechprune_ort.models.delta import FACTOR_A, FACTOR_B
from speechprune_ort.models.packages import check_sha256

DELTA, RECORD, TEXTS = "delta.safetensors", "delta.json", ("README.md", "NOTICE")
FOR_TRAINING = "speller."
TRAINED = Path(__file__).with_name("trained")
"""Of the default model."""

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Delta:
    """What training changed.

    Attributes:
        tensors: By the checkpoint's names, or those with ``FACTOR_A`` and ``FACTOR_B`` behind.
        record: ``scale`` of the products, ``notes`` for the user, ``frame_temperature`` of phase 1,
            ``sha256`` of the delta and of the finished weights; the last may be missing.
        texts: Files that are copied into the checkpoint.
    """

    tensors: Mapping[str, Array]
    record: Mapping[str, Any]
    texts: tuple[Path, ...] = ()

    def check(self, weights: Path) -> None:
        """Compare finished weights with the record.

        Raises:
            PartError: they are others.
        """
        if "result" in self.record["sha256"]:
            check_sha256(weights, self.record["sha256"]["result"], "The finished checkpoint")


def read_delta(folder: Path) -> Delta:
    """The delta in a folder.

    Raises:
        PartError: a file is missing or damaged.
    """
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


def write_delta(
    folder: Path,
    replaced: Mapping[str, Array],
    factors: Mapping[str, tuple[Array, Array]],
    scale: float,
    notes: Sequence[str] = (),
) -> None:
    """Write ``delta.safetensors`` and ``delta.json``, still without the sha256 of the result.

    Args:
        folder: Made where missing.
        replaced: New values by the checkpoint's names.
        factors: (A (rank, in), B (out, rank)) by the name of the matrix they change.
        scale: The change is ``scale * B A``.
        notes: What ``speechprune-ort ask`` tells the user of the model.
    """
    tensors = {name: values.astype(np.float16) for name, values in replaced.items()}
    for name, (first, second) in factors.items():
        tensors[name + FACTOR_A] = first.astype(np.float16)
        tensors[name + FACTOR_B] = second.astype(np.float16)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / DELTA, metadata={"format": "pt"})
    (folder / DELTA).chmod(0o644)  # safetensors makes it readable to its owner alone
    record = {
        "scale": scale,
        "notes": list(notes),
        "frame_temperature": 1.0,
        "sha256": {"delta": sha256_of(folder / DELTA)},
    }
    write_json(folder / RECORD, record)


def record_result(folder: Path, weights: Path) -> None:
    """Add the sha256 of the weights that were made with a delta to its record."""
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    record["sha256"]["result"] = sha256_of(weights)
    write_json(folder / RECORD, record)
