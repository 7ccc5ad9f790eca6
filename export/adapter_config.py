"""A fine-tune as a LoRA folder: what ``adapter_config.json`` must say before it can be merged.

Neither torch nor peft is imported: an adapter that cannot be merged is refused at once.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from speechprune_ort.errors import ExportError, UnsupportedModelError
from speechprune_ort.export.json_object import read_object

__all__ = ["ADAPTER", "Adapter", "read_adapter"]

ADAPTER = "adapter_config.json"
WEIGHTS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json")


@dataclass(frozen=True, slots=True)
class Adapter:
    """A LoRA folder.

    Attributes:
        folder: the folder that holds it.
        base: hub id or folder of the checkpoint that it was made from.
        revision: revision of the base on the hub, or None.
        weights: the file of its weights.
    """

    folder: Path
    base: str
    revision: str | None
    weights: Path

    @property
    def has_processor(self) -> bool:
        """Whether it carries tokenizer and feature extractor of its own."""
        return self.has_tokenizer and any((self.folder / name).is_file() for name in PROCESSORS)

    @property
    def has_tokenizer(self) -> bool:
        """Whether it carries a tokenizer of its own."""
        return any((self.folder / name).is_file() for name in TOKENIZERS)


def read_adapter(folder: Path, base: str | None, allow_pickle: bool) -> Adapter:
    """Read what an adapter folder says of itself.

    Args:
        folder: the folder with ``adapter_config.json``.
        base: hub id or folder of the checkpoint to merge it into; None for the one that it names.
        allow_pickle: whether its weights may also be read from a ``.bin`` file.

    Raises:
        ExportError: it names no base, has no weights, or peft is not installed.
        UnsupportedModelError: it is not a LoRA, or its weights are a pickle.
    """
    config = read_object(folder / ADAPTER, str(folder))
    kind = config.get("peft_type")
    if kind != "LORA":
        raise UnsupportedModelError(
            f"The adapter {str(folder)!r} is of type {str(kind)[:40]!r}: export merges only LORA; "
            "merge it with peft, save the whole model with save_pretrained, and export that."
        )
    named = base or config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise ExportError(
            f"The adapter {str(folder)!r} names no base_model_name_or_path: give the checkpoint "
            "that it was made from with --base."
        )
    whole = any((folder / name).is_file() for name in ("model.safetensors", "pytorch_model.bin"))
    if whole and base != str(folder):
        raise ExportError(
            f"{str(folder)!r} holds both a whole model and an adapter, and either may be meant: "
            f"move {ADAPTER} or the model's weights elsewhere."
        )
    weights = _weights(folder, allow_pickle)
    if importlib.util.find_spec("peft") is None:
        raise ExportError(
            f"{str(folder)!r} is an adapter, and merging it needs peft: pip install "
            "'speechprune-ort[lora]'."
        )
    return Adapter(folder, named, None if base else _revision(folder, config), weights)


def _revision(folder: Path, config: Mapping[str, Any]) -> str | None:
    revision = config.get("revision")
    if revision is not None and not isinstance(revision, str):
        raise ExportError(f"revision of the adapter {str(folder)!r} is not a text: correct it.")
    return revision or None


def _weights(folder: Path, allow_pickle: bool) -> Path:
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    if not (folder / PICKLE).is_file():
        raise ExportError(
            f"The adapter {str(folder)!r} holds no weights ({WEIGHTS}): save or download it again."
        )
    if not allow_pickle:
        raise UnsupportedModelError(
            f"The adapter {str(folder)!r} holds its weights as {PICKLE}, a pickle: save it again "
            "as safetensors, or give --allow-pickle if you trust where it comes from."
        )
    return folder / PICKLE
