"""The two sources of the same parts: the model hub and Python packages."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from small_model import hub
from small_model.ctranslate2_whisper import Weights, parse_model_bin, whisper_encoder_weights
from small_model.errors import SmallModelError
from small_model.language_model import LanguageModel, read_gguf
from small_model.parts import SMOLLM2_GGUF, WHISPER_PARTS, Report, fetch_package_files

AUTO_TIMEOUT_S = 5.0
HUB_TIMEOUT_S = 60.0

# What of SmolLM2's config.json a LlamaConfig is made from; the rest is Llama's default.
CONFIG_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


class Source(StrEnum):
    """Where the parts come from; ``auto`` is the hub where it answers, else the packages."""

    AUTO = "auto"
    HUB = "hub"
    PACKAGES = "packages"


@dataclass(frozen=True)
class Parts:
    """Everything that the checkpoint is put together from.

    Attributes:
        encoder: Whisper encoder weights, name as in ``WhisperEncoder`` to float32 array.
        language_model: SmolLM2.
        origins: One line for each part: what it is, from where, in what precision.
    """

    encoder: Weights
    language_model: LanguageModel
    origins: tuple[str, str]


def gather(source: Source, cache: Path, report: Report) -> Parts:
    """Fetch and read the parts.

    Args:
        source: Where from.
        cache: Cache folder for downloads.
        report: Called with lines of progress; with ``auto`` also with the choice and why.

    Raises:
        SmallModelError: a part cannot be had, or is not what it should be.
    """
    if source is Source.PACKAGES:
        return from_packages(cache, report)
    if source is Source.HUB:
        return from_hub(cache, HUB_TIMEOUT_S, report)
    try:
        parts = from_hub(cache, AUTO_TIMEOUT_S, report)
    except hub.HubUnreachableError as error:
        report(f"Taking the parts from Python packages, because: {error}")
        return from_packages(cache, report)
    report("Took the parts from the model hub, which answered.")
    return parts


def from_packages(cache: Path, report: Report) -> Parts:
    """The parts out of Python packages: Whisper in float16, SmolLM2 in 4 bits (Q4_1)."""
    paths = fetch_package_files([*WHISPER_PARTS, SMOLLM2_GGUF], cache, report)
    report("Reading Whisper's encoder (CTranslate2)")
    model_bin = b"".join(paths[part].read_bytes() for part in WHISPER_PARTS)
    encoder = whisper_encoder_weights(parse_model_bin(model_bin, "Whisper base's model.bin"))
    report("Reading SmolLM2 (GGUF)")
    whisper_names = " and ".join(part.requirement for part in WHISPER_PARTS)
    return Parts(
        encoder,
        read_gguf(paths[SMOLLM2_GGUF]),
        (
            f"Whisper base: Python packages {whisper_names}, CTranslate2, float16",
            f"SmolLM2-135M-Instruct: Python package {SMOLLM2_GGUF.requirement}, GGUF, Q4_1",
        ),
    )


def from_hub(cache: Path, timeout_s: float, report: Report) -> Parts:
    """The parts from the model hub: Whisper in float32, SmolLM2 in bfloat16."""
    names = (hub.WEIGHTS, hub.CONFIG, hub.TOKENIZER)
    lm_revision, lm_paths = hub.fetch_hub_files(hub.SMOLLM2, names, cache, timeout_s, report)
    whisper_revision, whisper_paths = hub.fetch_hub_files(
        hub.WHISPER, (hub.WEIGHTS,), cache, timeout_s, report
    )
    config = json.loads(lm_paths[hub.CONFIG].read_text(encoding="utf-8"))
    absent = [key for key in CONFIG_KEYS if key not in config]
    if absent:
        raise SmallModelError(
            f"{hub.SMOLLM2}'s config.json has no {', '.join(absent)}: its format has changed, "
            "take --source packages."
        )
    tokenizer: dict[str, Any] = json.loads(lm_paths[hub.TOKENIZER].read_text(encoding="utf-8"))
    return Parts(
        read_safetensors(whisper_paths[hub.WEIGHTS], "model.encoder."),
        LanguageModel(
            read_safetensors(lm_paths[hub.WEIGHTS], "model."),
            {key: config[key] for key in CONFIG_KEYS},
            tokenizer,
        ),
        (
            f"Whisper base: hub, {hub.WHISPER} at {whisper_revision}",
            f"SmolLM2-135M-Instruct: hub, {hub.SMOLLM2} at {lm_revision}",
        ),
    )


def read_safetensors(path: Path, prefix: str) -> Weights:
    """The tensors whose names start with ``prefix``, without it, as float32 arrays.

    Read through torch, because numpy has no bfloat16.
    """
    from safetensors.torch import load_file

    return {
        name.removeprefix(prefix): tensor.float().numpy()
        for name, tensor in load_file(path).items()
        if name.startswith(prefix)
    }
