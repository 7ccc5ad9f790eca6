"""What training changed, as one small file, and how to add it to the base checkpoint.

A delta holds half-precision values of the trained encoder layers, LayerNorm and projector, which
replace the base's, and the LoRA factors of the language model, whose product is added; see
``speechprune_ort.models.delta``.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from small_model.errors import SmallModelError
from small_model.parts import check_sha256
from speechprune_ort.files import sha256_of, whole_folder, write_json
from speechprune_ort.models.delta import FACTOR_A, FACTOR_B, merge

WEIGHTS, DELTA, RECORD = "model.safetensors", "delta.safetensors", "delta.json"
CARD = "README.md"
FORMAT = {"format": "pt"}  # what transformers writes and asks for

Array = npt.NDArray[Any]


def write_delta(
    folder: Path,
    base: Path,
    replaced: Mapping[str, Array],
    factors: Mapping[str, tuple[Array, Array]],
    scale: float,
    notes: Sequence[str] = (),
    frame_temperature: float = 1.0,
) -> Path:
    """Write ``delta.safetensors`` and ``delta.json`` for a base checkpoint.

    Args:
        folder: Made where missing.
        base: The checkpoint folder that training started from.
        replaced: New values by the checkpoint's names.
        factors: (A (rank, in), B (out, rank)) by the name of the matrix they change.
        scale: The change is ``scale * B A``.
        notes: What ``speechprune-ort ask`` tells the user of the model.
        frame_temperature: Of phase 1, chosen for this model.

    Returns:
        The path of the weights.

    Raises:
        SmallModelError: a name is not in the base checkpoint.
    """
    tensors = {name: values.astype(np.float16) for name, values in replaced.items()}
    for name, (first, second) in factors.items():
        tensors[name + FACTOR_A] = first.astype(np.float16)
        tensors[name + FACTOR_B] = second.astype(np.float16)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / DELTA, metadata=FORMAT)
    (folder / DELTA).chmod(0o644)  # safetensors makes it readable to its owner alone
    weights = base / WEIGHTS
    result = merge(load_file(weights), load_file(folder / DELTA), scale)
    with tempfile.TemporaryDirectory(dir=folder) as work:
        merged = Path(work) / WEIGHTS
        save_file(result, merged, metadata=FORMAT)
        digest = sha256_of(merged)
    record = {
        "scale": scale,
        "notes": list(notes),
        "frame_temperature": frame_temperature,
        "sha256": {
            "base": sha256_of(weights),
            "delta": sha256_of(folder / DELTA),
            "result": digest,
        },
    }
    write_json(folder / RECORD, record)
    return folder / DELTA


def read_record(folder: Path) -> dict[str, Any]:
    """The content of ``delta.json``.

    Raises:
        SmallModelError: it is missing or damaged.
    """
    try:
        record: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        absent = {"scale", "notes", "frame_temperature", "sha256"} - set(record)
        absent |= {"base", "delta", "result"} - set(record.get("sha256", ()))
        if absent:
            raise KeyError(min(absent))
    except (OSError, ValueError, KeyError) as error:
        raise SmallModelError(
            f"{folder / RECORD} cannot be used ({error}): take the folder of the release again."
        ) from error
    return record


def add_delta(checkpoint: Path, folder: Path) -> Path:
    """Put a delta into a base checkpoint, in place.

    Args:
        checkpoint: Folder of the base checkpoint; what is in it is lost if this fails.
        folder: With ``delta.safetensors`` and ``delta.json``.

    Returns:
        The path of the weights file.

    Raises:
        SmallModelError: base, delta or result has another sha256 than the record says.
    """
    record = read_record(folder)
    digests, weights = record["sha256"], checkpoint / WEIGHTS
    check_sha256(folder / DELTA, digests["delta"], "The delta")
    check_sha256(weights, digests["base"], "The base checkpoint")
    mode = weights.stat().st_mode
    merged = merge(load_file(weights), load_file(folder / DELTA), record["scale"])
    save_file(merged, weights, metadata=FORMAT)
    weights.chmod(mode)
    check_sha256(weights, digests["result"], "The sum of base and delta")
    config = checkpoint / "config.json"
    content = json.loads(config.read_text(encoding="utf-8"))
    content["bundle_notes"] = record["notes"]
    content["bundle_frame_temperature"] = record["frame_temperature"]
    write_json(config, content)
    if (folder / CARD).exists():
        shutil.copyfile(folder / CARD, checkpoint / CARD)
    return weights


def apply_delta(base: Path, folder: Path, out: Path) -> Path:
    """Copy a base checkpoint to ``out`` with the delta in it.

    Args:
        base: Checkpoint folder.
        folder: With ``delta.safetensors`` and ``delta.json``.
        out: Must not exist; it appears once it is complete and checked.

    Returns:
        The path of the weights file.

    Raises:
        SmallModelError: ``out`` exists, or as :func:`add_delta`.
    """
    if out.exists():
        raise SmallModelError(f"{out} exists already: give another folder.")
    with whole_folder(out) as fresh:
        shutil.copytree(base, fresh, dirs_exist_ok=True)
        add_delta(fresh, folder)
    return out / WEIGHTS
