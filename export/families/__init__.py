"""Model families that export knows: one module each, registered by architecture name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedConfig

from speechprune_ort.errors import ExportError, UnsupportedModelError
from speechprune_ort.export.families import (
    audio_flamingo3,
    diva,
    qwen2_5_omni,
    qwen2_audio,
    ultravox,
    voxtral,
)
from speechprune_ort.export.families.base import Checkpoint
from speechprune_ort.export.families.text_models import with_scale_folded

__all__ = ["FAMILIES", "Checkpoint", "Family", "load_checkpoint"]

Loader = Callable[[str, str | None, bool], Checkpoint]
GENERATE = "transformers' own class: prompt ids, 32 greedy ids, pruned and not, tiny random weights"
LAYOUT = "the same layout put together from transformers' parts: 32 greedy ids, tiny random weights"


@dataclass(frozen=True, slots=True)
class Family:
    """A model family that export knows.

    Attributes:
        name: that the manifest of its bundles gives.
        tokens: audio tokens of a second of sound, as published checkpoints have them.
        checked: what answers of exported checkpoints are compared with in the tests.
        load: reads a checkpoint of it.
    """

    name: str
    tokens: str
    checked: str
    load: Loader


FAMILIES: Mapping[str, Family] = {
    "AudioFlamingo3ForConditionalGeneration": Family(
        "audio_flamingo3", "25", GENERATE, audio_flamingo3.load
    ),
    "DiVAModel": Family("diva", "14.9 or 3.7", LAYOUT, diva.load),
    "Qwen2_5OmniThinkerForConditionalGeneration": Family(
        "qwen2_5_omni", "25", GENERATE, qwen2_5_omni.load
    ),
    "Qwen2_5OmniModel": Family("qwen2_5_omni", "25", GENERATE, qwen2_5_omni.load),
    "Qwen2_5OmniForConditionalGeneration": Family(
        "qwen2_5_omni", "25", GENERATE, qwen2_5_omni.load
    ),
    "Qwen2AudioForConditionalGeneration": Family(
        "qwen2_audio", "25", f"{GENERATE}; the embedded default model", qwen2_audio.load
    ),
    "UltravoxModel": Family("ultravox", "6.3", LAYOUT, ultravox.load),
    "VoxtralForConditionalGeneration": Family(
        "voxtral",
        "12.5",
        "transformers' own class: 32 greedy ids, tiny random weights",
        voxtral.load,
    ),
}
"""Known families by the architecture that a checkpoint's config names."""


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
            checkpoint = FAMILIES[architecture].load(location, revision, trust_remote_code)
            return with_scale_folded(checkpoint)
    raise UnsupportedModelError(
        f"{model!r} is a {', '.join(architectures) or config.get('model_type')} checkpoint, which "
        f"export does not know: it knows {', '.join(FAMILIES)}. How to add a family is told in "
        "docs/families.md."
    )
