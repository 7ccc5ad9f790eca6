"""Model families that export knows: one module each, registered by architecture name.

What a family can be refused for by its config alone is looked at before its module, and with it
torch, is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from speechprune_ort.errors import ExportError, SpeechPruneError, UnsupportedModelError
from speechprune_ort.export.checkpoint_config import (
    Described,
    check_audio_token,
    check_parts,
    check_text,
    describe,
)
from speechprune_ort.export.checkpoint_weights import stored_tensors, stored_weights
from speechprune_ort.export.compared_sound import WINDOW_SECONDS
from speechprune_ort.export.json_object import read_object
from speechprune_ort.export.source import Source

if TYPE_CHECKING:
    from speechprune_ort.export.families.base import Checkpoint

__all__ = ["FAMILIES", "Checkpoint", "Family", "check_checkpoint", "load_checkpoint"]


@dataclass(frozen=True, slots=True)
class Family:
    """What is known of a family without loading it.

    Attributes:
        module: of ``speechprune_ort.export.families``, with a function ``load``; the manifest of
            its bundles gives the name.
        tokens: audio tokens of a second of sound, as published checkpoints have them.
        checked: what answers of exported checkpoints are compared with in the tests.
        parts: keys of the config whose values are the configs of its parts; ``text_config`` is
            that of the language model.
        references: keys of the config that name checkpoints of their own; ``reference_decoder`` is
            the language model.
        named: keys of the config whose checkpoint stands in for a part: by the key of the part's
            own config, the key that names it and the beginning of its weights' names.
        audio_token: keys of the config, any of which gives the id of the audio placeholder.
        default_audio_token: where no key does.
        encoder_attention: whether its encoder has attention that belongs to single tokens.
        window_seconds: the longest window of its audio encoder, as published checkpoints have it.
        loaded_by: class of transformers' that loads it whole, so that a LoRA can be merged into
            it; None where it is put together from parts, which its module's function ``sketch``
            then makes without weights.
    """

    module: str
    tokens: str
    checked: str
    parts: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    named: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    audio_token: tuple[str, ...] = ()
    default_audio_token: int | None = None
    encoder_attention: bool = True
    window_seconds: float = WINDOW_SECONDS
    loaded_by: str | None = None


GENERATION = "generation_config.json"
THINKER = "Qwen2_5OmniThinkerForConditionalGeneration"
HALVES = ("audio_config", "text_config")
GENERATE = "transformers' own class: prompt ids, 32 greedy ids, pruned and not, tiny random weights"
LAYOUT = (
    "the same layout put together from transformers' parts: 32 greedy ids, pruned and not, tiny "
    "random weights"
)

OMNI = Family(
    "qwen2_5_omni",
    "25",
    GENERATE,
    ("thinker_config",),
    window_seconds=300.0,
    loaded_by=THINKER,
)

FAMILIES: Mapping[str, Family] = {
    "Qwen2AudioForConditionalGeneration": Family(
        "qwen2_audio",
        "25",
        f"{GENERATE}; the default model: its audio embeddings",
        HALVES,
        audio_token=("audio_token_index", "audio_token_id"),
        default_audio_token=151_646,
        loaded_by="Qwen2AudioForConditionalGeneration",
    ),
    "AudioFlamingo3ForConditionalGeneration": Family(
        "audio_flamingo3",
        "25",
        GENERATE,
        HALVES,
        audio_token=("audio_token_id",),
        default_audio_token=151_669,
        loaded_by="AudioFlamingo3ForConditionalGeneration",
    ),
    # Its text config is Qwen2's only once the parts of its positions are taken off.
    THINKER: replace(OMNI, parts=("audio_config",)),
    "Qwen2_5OmniModel": OMNI,
    "Qwen2_5OmniForConditionalGeneration": OMNI,
    "Qwen3ASRForConditionalGeneration": Family(
        "qwen3_asr",
        "13",
        GENERATE,
        HALVES,
        audio_token=("audio_token_id",),
        default_audio_token=151_676,
        loaded_by="Qwen3ASRForConditionalGeneration",
    ),
    "GlmAsrForConditionalGeneration": Family(
        "glm_asr",
        "12.5",
        GENERATE,
        HALVES,
        audio_token=("audio_token_id",),
        default_audio_token=59_260,
        loaded_by="GlmAsrForConditionalGeneration",
    ),
    "GraniteSpeechForConditionalGeneration": Family(
        "granite_speech",
        "10",
        "transformers' own class, longer recordings window by window: 32 greedy ids, pruned and "
        "not, tiny random weights",
        ("encoder_config", "projector_config", "text_config"),
        audio_token=("audio_token_index", "audio_token_id"),
        default_audio_token=49_155,
        encoder_attention=False,
        window_seconds=240.0,
        loaded_by="GraniteSpeechForConditionalGeneration",
    ),
    "VoxtralForConditionalGeneration": Family(
        "voxtral",
        "12.5",
        "transformers' own class: 32 greedy ids, pruned and not, tiny random weights",
        HALVES,
        audio_token=("audio_token_id",),
        loaded_by="VoxtralForConditionalGeneration",
    ),
    "UltravoxModel": Family(
        "ultravox",
        "6.3",
        LAYOUT,
        named={
            "audio_config": ("audio_model_id", "audio_tower."),
            "text_config": ("text_model_id", "language_model."),
        },
    ),
    "DiVAModel": Family(
        "diva",
        "14.9 or 3.7",
        LAYOUT,
        references=("reference_encoder", "reference_decoder"),
        encoder_attention=False,
    ),
}
"""Families by the architecture that a checkpoint's config names."""


def check_checkpoint(
    model: str,
    revision: str | None = None,
    *,
    base: str | None = None,
    allow_pickle: bool = False,
) -> tuple[Described, Family]:
    """Refuse a checkpoint that cannot be exported, by its config and its files' headers.

    Args:
        model: hub id or local folder; of an adapter (LoRA), its folder.
        revision: branch, tag or commit on the hub; None for the default one.
        base: checkpoint that an adapter is merged into; None for the one that it names.
        allow_pickle: take weights from ``.bin`` files where there are no safetensors.

    Returns:
        What was found, and the family that loads it.

    Raises:
        ExportError: the checkpoint cannot be found or read, or is not whole.
        UnsupportedModelError: its architecture, or that of its language model, is not known.
    """
    found = describe(model, revision, base=base, allow_pickle=allow_pickle)
    named = found.architectures
    family = next((FAMILIES[name] for name in named if name in FAMILIES), None)
    if family is None:
        raise UnsupportedModelError(
            f"{found.location!r} is a {', '.join(named) or found.config.get('model_type')} "
            f"checkpoint, which export does not know: it knows {', '.join(FAMILIES)}. How to add a "
            "family is told in docs/guide/add-a-family.md."
        )
    if found.adapter is not None:
        if family.loaded_by is None:
            raise UnsupportedModelError(
                f"{model!r} is an adapter of a {named[0]}, which no class of transformers' loads: "
                "merge it where it was trained, and export the whole model."
            )
        if found.adapter.weights.suffix == ".safetensors":
            stored_tensors(found.adapter.weights)
    config = found.config
    check_parts(found.location, config, family.parts)
    if "text_config" in family.parts:
        text = config["text_config"]
        check_text(found.location, text)
        given = (config[key] for key in family.audio_token if key in config)
        token = next(given, family.default_audio_token)
        check_audio_token(found.location, token, text.get("vocab_size"))
    if found.folder is not None:
        _check_files(found.folder, allow_pickle)
    for key in family.references:
        _check_reference(found, key, key == "reference_decoder", allow_pickle)
    for part, (key, begin) in family.named.items():
        _check_part(found, part, key, begin, allow_pickle)
    return found, family


def load_checkpoint(
    model: str,
    revision: str | None,
    trust_remote_code: bool,
    *,
    base: str | None = None,
    allow_pickle: bool = False,
) -> Checkpoint:
    """Load a checkpoint of any known family.

    Args:
        model: hub id or local folder; of an adapter (LoRA), its folder.
        revision: branch, tag or commit on the hub; None for the default one.
        trust_remote_code: let transformers run code that comes with the checkpoint.
        base: checkpoint that an adapter is merged into; None for the one that it names.
        allow_pickle: take weights from ``.bin`` files where there are no safetensors.

    Raises:
        ExportError: the checkpoint cannot be found or read.
        UnsupportedModelError: its architecture belongs to no family here.
    """
    found, family = check_checkpoint(model, revision, base=base, allow_pickle=allow_pickle)
    source = Source(found.location, found.revision, trust_remote_code, allow_pickle, found.adapter)
    module = importlib.import_module(f"speechprune_ort.export.families.{family.module}")
    try:
        loaded: Checkpoint = module.load(source)
    except (SpeechPruneError, MemoryError):
        raise
    except Exception as error:
        raise ExportError(_unreadable(found.location, error)) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of the tokenizers library, no Exception
            raise
        raise ExportError(_unreadable(found.location, error)) from error
    from speechprune_ort.export.families.adapters import require_its_tokenizer
    from speechprune_ort.export.families.loading import notes_of
    from speechprune_ort.export.families.text_models import (
        with_context_told,
        with_scale_folded,
        with_windows_told,
    )

    require_its_tokenizer(source, loaded.tokenizer)
    loaded = replace(loaded, revision=found.revision, **notes_of(found.config))
    return with_windows_told(with_context_told(with_scale_folded(loaded)))


def _check_part(found: Described, part: str, key: str, begin: str, allow_pickle: bool) -> None:
    """Check a part that is the checkpoint's own, or another's that it names.

    Args:
        found: the checkpoint.
        part: key of the part's own config.
        key: key that names another checkpoint.
        begin: how the names of the part's weights begin.
        allow_pickle: whether weights may be pickled.
    """
    if found.config.get(part):
        check_parts(found.location, found.config, (part,))
        if part == "text_config":
            check_text(found.location, found.config[part])
        names = stored_weights(found.folder, allow_pickle) if found.folder is not None else {}
        # On the hub, and in pickles, names of weights are not seen before they are read.
        if not names or not found.config.get(key) or any(map(_begins(begin), names)):
            return
    _check_reference(found, key, part == "text_config", allow_pickle)


def _begins(begin: str) -> Callable[[str], bool]:
    return lambda name: name.startswith(begin)


def _check_reference(found: Described, key: str, text: bool, allow_pickle: bool) -> None:
    """Check a checkpoint that another names, by its config and its files' headers."""
    named = found.config.get(key)
    if not isinstance(named, str) or not named:
        raise ExportError(
            f"config.json of {found.location!r} names no {key}, and its "
            f"{'language model' if text else 'audio encoder'} is a checkpoint of its own: add it."
        )
    beside = None if found.folder is None else found.folder / named
    try:
        other = describe(str(beside) if beside is not None and beside.is_dir() else named)
        if other.adapter is not None:
            raise UnsupportedModelError(
                f"{other.location!r} is an adapter: merge it where it was trained, and refer to "
                "the whole model."
            )
        if text:
            check_text(other.location, other.config)
        elif other.config.get("model_type") != "whisper":
            raise UnsupportedModelError(
                f"{other.location!r} is {other.config.get('model_type')!r}: export knows whisper."
            )
        if other.folder is not None:
            _check_files(other.folder, allow_pickle)
    except ExportError as error:
        raise type(error)(f"{found.location!r} names {named!r} as {key}. {error}") from error


def _check_files(folder: Path, allow_pickle: bool) -> None:
    stored_weights(folder, allow_pickle)
    # Transformers would go on without one that it cannot read, and answers would not end.
    if (folder / GENERATION).exists():
        read_object(folder / GENERATION, str(folder))


def _unreadable(location: str, error: BaseException) -> str:
    """Message for what a library raised over a checkpoint; see ``loading.unreadable``."""
    from speechprune_ort.export.families.loading import unreadable

    return unreadable(location, error)
