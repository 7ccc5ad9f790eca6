"""Model families that export knows: one module each, registered by architecture name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from transformers import PreTrainedConfig

from speechprune_ort.errors import ExportError, UnsupportedModelError
from speechprune_ort.export.families import (
    audio_flamingo3,
    diva,
    qwen2_audio,
    ultravox,
    voxtral,
)
from speechprune_ort.export.families.base import Checkpoint
from speechprune_ort.export.families.text_models import with_scale_folded

__all__ = ["FAMILIES", "Checkpoint", "load_checkpoint"]

Loader = Callable[[str, str | None, bool], Checkpoint]

FAMILIES: Mapping[str, Loader] = {
    "Qwen2AudioForConditionalGeneration": qwen2_audio.load,
    "AudioFlamingo3ForConditionalGeneration": audio_flamingo3.load,
    "DiVAModel": diva.load,
    "UltravoxModel": ultravox.load,
    "VoxtralForConditionalGeneration": voxtral.load,
}
"""How to load a checkpoint, by the architecture that its config names."""


def load_checkpoint(model: str, revision: str | None, trust_remote_code: bool) -> Checkpoint:
    """Load a checkpoint of any known family.

    Args:
        model: hub id or local folder.
        revision: branch, tag or commit on the hub; None for the default one.
        trust_remote_code: let transformers run code that comes with the checkpoint.

    Raises:
        ExportError: the checkpoint cannot be found or read.
        UnsupportedModelError: its architecture belongs to no family here.
    """
    folder = Path(model).expanduser()
    if folder.exists() and not (folder / "config.json").is_file():
        raise ExportError(
            f"{folder} holds no config.json: give a checkpoint folder as save_pretrained writes it."
        )
    location = str(folder) if folder.exists() else model
    try:
        config, _ = PreTrainedConfig.get_config_dict(location, revision=revision)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ExportError(
            f"Cannot read a checkpoint from {model!r} ({reason}): "
            "give a local folder, or a hub id while the hub can be reached."
        ) from error
    architectures = list(config.get("architectures") or [])
    for architecture in architectures:
        if architecture in FAMILIES:
            checkpoint = FAMILIES[architecture](location, revision, trust_remote_code)
            return with_scale_folded(checkpoint)
    raise UnsupportedModelError(
        f"{model!r} is a {', '.join(architectures) or config.get('model_type')} checkpoint, which "
        f"export does not know: it knows {', '.join(FAMILIES)}. How to add a family is told in "
        "docs/families.md."
    )
