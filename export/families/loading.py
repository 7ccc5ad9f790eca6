"""What every family does alike: loading the parts, and describing them."""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoProcessor,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)
from transformers.utils import cached_file

from speechprune_ort.contract.manifest import AudioSpec, LogMelSpec
from speechprune_ort.contract.specs import Dimensions
from speechprune_ort.errors import ExportError, SpeechPruneError, UnsupportedModelError
from speechprune_ort.export.checkpoint_config import check_text, context_of
from speechprune_ort.export.checkpoint_weights import (
    check_shapes,
    check_text_shapes,
    pickled_weights,
    stored_weights,
)
from speechprune_ort.export.families.adapters import merged
from speechprune_ort.export.families.base import Checkpoint
from speechprune_ort.export.families.text_models import language_model_of
from speechprune_ort.export.source import Source

if TYPE_CHECKING:
    from speechprune_ort.export.families.prompts import Prompts

__all__ = [
    "audio_spec_of",
    "audio_token_of",
    "checkpoint_of",
    "fill",
    "load_model",
    "model_of_weights",
    "notes_of",
    "part_of",
    "processor_of",
    "require_fast",
    "require_log_mel",
    "stored_file",
    "tokenizer_of",
    "unreadable",
    "weights_of",
]

SAMPLING_RATE = 16_000
"""In Hz, what every Whisper encoder hears."""

HARMLESS = re.compile(r"(rotary_emb\.inv_freq|position_ids|^proj_out\.weight)$")
"""Tensors that older checkpoints hold and no model here has: buffers, and Whisper's tied head."""


def load_model(
    cls: Any,
    source: Source,
    text_part: str | None,
    *,
    config: PreTrainedConfig | None = None,
    beside: str | None = None,
) -> Any:
    """Load a checkpoint for inference, its weights in the dtype in which they are stored.

    They are mapped from its files: what is never looked at costs no memory. Its config is held
    against what the decoder graph can be, and against the weights' names and shapes, before any
    of them is.

    Args:
        cls: class of transformers with ``from_pretrained``.
        source: the checkpoint; its adapter is merged into the model.
        text_part: attribute of the config that is the language model's; empty where the whole
            config is, None where there is no language model.
        config: of the part of the checkpoint that is loaded; None where it is its own.
        beside: regular expression for names of weights that belong to parts that are left out.

    Raises:
        ExportError: the checkpoint cannot be read, or weights are missing or left over.
        UnsupportedModelError: the language model is none that export knows.
    """
    location, options = source.location, source.options
    pickled = False
    try:
        part = {} if config is None else {"config": config}
        config = config or AutoConfig.from_pretrained(location, **options)
        stored = {}
        if source.folder is not None:
            stored = stored_weights(source.folder, source.allow_pickle)
            pickled = not stored
        if text_part is not None:
            text = getattr(config, text_part) if text_part else config
            check_text(location, text.to_dict())
            check_text_shapes(location, stored, text, "language_model" if text_part else "")
        if stored:
            with torch.device("meta"):
                empty = cls.from_config(config) if hasattr(cls, "from_config") else cls(config)
            shapes = {name: tuple(p.shape) for name, p in empty.named_parameters()}
            check_shapes(location, stored, shapes)
        with _without_adapter(source) as place:
            model, info = cls.from_pretrained(
                place,
                **options,
                **part,
                dtype="auto",
                output_loading_info=True,
                attn_implementation="sdpa",
                # Pickles are read by torch.load(weights_only=True), where that was asked for alone.
                use_safetensors=not pickled if source.folder else not source.allow_pickle or None,
            )
    except (SpeechPruneError, MemoryError):
        raise
    except Exception as error:  # transformers, safetensors and the hub's client raise their own
        raise ExportError(unreadable(location, error)) from error
    return merged(source, _complete(location, model, info, beside))


@contextlib.contextmanager
def _without_adapter(source: Source) -> Iterator[str]:
    """The checkpoint without the LoRA that lies in the same folder.

    Transformers would load both, and say what is missing or left over of the LoRA alone.
    """
    adapter, folder = source.adapter, source.folder
    if adapter is None or folder is None or adapter.folder != folder:
        yield source.location
        return
    with tempfile.TemporaryDirectory(prefix="speechprune-ort-") as beside:
        for path in folder.resolve().iterdir():
            if not path.name.startswith("adapter_"):
                (Path(beside) / path.name).symlink_to(path)
        yield beside


def model_of_weights(
    cls: Any, location: str, config: PreTrainedConfig, weights: Mapping[str, Tensor]
) -> Any:
    """A part of a checkpoint as a model of its own, its weights in the dtype that they have.

    Args:
        cls: class of transformers with ``from_pretrained``.
        location: of the checkpoint, for messages.
        config: of the part.
        weights: of the part, under the names that its class gives them.

    Raises:
        ExportError: weights are missing, left over, or do not fit the config.
    """
    try:
        model, info = cls.from_pretrained(
            None,
            config=config,
            state_dict=dict(weights),
            dtype=next(iter(weights.values())).dtype,
            output_loading_info=True,
            attn_implementation="sdpa",
        )
    except MemoryError:
        raise
    except Exception as error:  # transformers raises its own, and torch's
        raise ExportError(unreadable(location, error)) from error
    return _complete(location, model, info, None)


def _complete(location: str, model: Any, info: Mapping[str, Any], beside: str | None) -> Any:
    """The model, if its checkpoint had every weight and none too many."""
    missing = sorted(info["missing_keys"])
    if missing:
        raise ExportError(
            f"The checkpoint {location!r} lacks {len(missing)} weights (first: {missing[0]}): "
            "give a complete checkpoint."
        )
    unexpected = sorted(name for name in info["unexpected_keys"] if not HARMLESS.search(name))
    left_over = [name for name in unexpected if beside is None or not re.search(beside, name)]
    if left_over:
        raise ExportError(
            f"The checkpoint {location!r} holds {len(left_over)} weights that its config has no "
            f"place for (first: {left_over[0]}): config and weights are of different models."
        )
    return model.eval().requires_grad_(False)


def weights_of(source: Source) -> dict[str, Tensor]:
    """All tensors of a checkpoint, of one file or of several with an index.

    Args:
        source: the checkpoint.

    Raises:
        ExportError: a file cannot be read.
    """
    if source.folder is not None and not stored_weights(source.folder, source.allow_pickle):
        return _unpickled(pickled_weights(source.folder))
    location, revision = source.location, source.revision
    index = stored_file(location, "model.safetensors.index.json", revision)
    names = ["model.safetensors"]
    if index is not None:
        listed = json.loads(index.read_text(encoding="utf-8"))
        names = sorted(set(listed["weight_map"].values()))
    weights: dict[str, Tensor] = {}
    for name in names:
        weights |= load_file(str(cached_file(location, name, revision=revision)))
    return weights


def part_of(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights whose names begin with ``prefix``, under the names without it."""
    found = {name: value for name, value in weights.items() if name.startswith(prefix)}
    return {name.removeprefix(prefix): value for name, value in found.items()}


def fill(module: nn.Module, weights: Mapping[str, Tensor], misfit: str) -> None:
    """Load a part's weights, in float32, into a module of our own.

    Args:
        module: as its config says.
        weights: under the module's names.
        misfit: beginning of the message where they do not fit: which part does not fit what.

    Raises:
        ExportError: weights are missing, left over, or of other shapes.
    """
    try:
        module.load_state_dict({name: value.float() for name, value in weights.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ExportError(f"{misfit} ({reason}): give a complete checkpoint.") from None


def stored_file(location: str, name: str, revision: str | None) -> Path | None:
    """A file of a checkpoint, downloaded where it is on the hub; None where there is none."""
    found = cached_file(
        location, name, revision=revision, _raise_exceptions_for_missing_entries=False
    )
    return Path(found) if found else None


def _unpickled(files: Sequence[Path]) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for path in files:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except MemoryError:
            raise
        except Exception as error:  # unpickling raises whatever the file makes it raise
            raise ExportError(
                f"{path} holds more than tensors, or is damaged ({_reason(error)[:200]}): "
                "download it again, or save it as safetensors where you trust it."
            ) from None
        if not isinstance(found, Mapping) or not all(
            isinstance(value, Tensor) for value in found.values()
        ):
            raise ExportError(f"{path} is not a table of tensors: give a whole checkpoint.")
        weights |= found
    return weights


def unreadable(location: str, error: BaseException) -> str:
    """Message for a checkpoint that transformers cannot read."""
    return (
        f"The checkpoint {location!r} cannot be loaded ({_reason(error)}): "
        "check that weights, config, tokenizer and preprocessor_config.json are all there."
    )


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    words = lines[0][:300] if lines else ""
    named = isinstance(error, OSError | ValueError | RuntimeError) and words
    return words if named else f"{type(error).__name__}: {words}".rstrip(": ")


def require_fast(location: str, tokenizer: Any) -> PreTrainedTokenizerFast:
    """Refuse a tokenizer that the runtime could not load.

    Raises:
        ExportError: it has no ``tokenizer.json``.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ExportError(
            f"The tokenizer of {location!r} has no tokenizer.json: save its fast version there."
        )
    fast: PreTrainedTokenizerFast = tokenizer
    return fast


def tokenizer_of(source: Source) -> PreTrainedTokenizerFast:
    """The tokenizer of a checkpoint, where no processor is needed.

    Raises:
        ExportError: it has no ``tokenizer.json``.
    """
    found = AutoTokenizer.from_pretrained(source.processor, **source.options)
    return require_fast(source.location, found)


def processor_of(source: Source) -> Any:
    """The processor of a checkpoint: tokenizer, feature extractor and template in one.

    Raises:
        ExportError: its tokenizer has no ``tokenizer.json``.
    """
    found = AutoProcessor.from_pretrained(source.processor, **source.options)
    require_fast(source.location, found.tokenizer)
    return found


def audio_token_of(location: str, tokenizer: PreTrainedTokenizerFast, token_id: int) -> str:
    """Text of the audio placeholder, where only the config says which token it is.

    Args:
        location: of the checkpoint, for the message.
        tokenizer: of the checkpoint.
        token_id: that the config gives.

    Raises:
        ExportError: the tokenizer has no such token.
    """
    token = tokenizer.convert_ids_to_tokens(token_id)
    if token is None:
        raise ExportError(
            f"The audio placeholder in config.json of {location!r} is token {token_id}, which its "
            "tokenizer does not have: give the id of one that it has."
        )
    return str(token)


def require_log_mel(location: str, extractor: Any, frames: int | None = None) -> None:
    """Refuse features that the runtime would not compute as transformers does.

    Args:
        location: of the checkpoint, for the message.
        extractor: its feature extractor, Whisper's.
        frames: log-mel frames of the encoder's window, where the extractor must have the same.

    Raises:
        UnsupportedModelError: extractor and encoder do not fit each other, or a setting is none
            that the runtime has; the message names it.
    """
    window = extractor.chunk_length * extractor.sampling_rate // extractor.hop_length
    wanted = {
        "frames in chunk_length": (window, window if frames is None else frames),
        "dither": (getattr(extractor, "dither", 0.0), 0.0),
        "do_normalize": (bool(getattr(extractor, "do_normalize", False)), False),
    }
    for name, (found, known) in wanted.items():
        if found != known:
            raise UnsupportedModelError(
                f"The features of {location!r} have {name} {found!r} where export knows {known!r}: "
                "correct preprocessor_config.json if it does not belong to these weights."
            )


def audio_spec_of(
    extractor: Any,
    mel_bins: int,
    frames: int,
    frame_tokens: int,
    length_steps: tuple[tuple[int, int, int], ...],
    *,
    span_tokens: int = 1,
    chunk: tuple[int, int] | None = None,
    log_mel: LogMelSpec | None = None,
) -> AudioSpec:
    """How sound becomes audio tokens; see ``AudioSpec``.

    Args:
        extractor: the checkpoint's feature extractor.
        mel_bins: log-mel bins that its encoder takes.
        frames: log-mel frames of a window.
        frame_tokens: audio tokens of a frame of phase 1.
        length_steps: from log-mel frames to tokens.
        span_tokens: tokens that share one stretch of time.
        chunk: frames and tokens of a piece that becomes tokens on its own, or None.
        log_mel: how features are made, where they are not those of Whisper's windows.

    Raises:
        ExportError: the extractor is not that of a Whisper encoder, or not of this one.
    """
    for name, wanted in (("sampling_rate", SAMPLING_RATE), ("feature_size", mel_bins)):
        if getattr(extractor, name) != wanted:
            raise ExportError(
                f"{name} in the checkpoint's preprocessor_config.json is "
                f"{getattr(extractor, name)!r}, and its encoder takes {wanted}: correct the file."
            )
    for name in ("n_fft", "hop_length"):
        size = getattr(extractor, name)
        if type(size) is not int or not 1 <= size <= SAMPLING_RATE:
            raise ExportError(
                f"{name} in the checkpoint's preprocessor_config.json is {size!r}, no number of "
                "samples: correct the file."
            )
    return AudioSpec(
        sampling_rate=extractor.sampling_rate,
        n_fft=extractor.n_fft,
        hop_length=extractor.hop_length,
        window_seconds=frames * extractor.hop_length / extractor.sampling_rate,
        frame_tokens=frame_tokens,
        length_steps=length_steps,
        span_tokens=span_tokens,
        chunk_frames=chunk[0] if chunk else None,
        chunk_tokens=chunk[1] if chunk else 1,
        log_mel=log_mel or LogMelSpec(),
    )


def checkpoint_of(
    family: str,
    model: Any,
    audio_encoder: nn.Module,
    *,
    tokenizer: PreTrainedTokenizerFast,
    audio: AudioSpec,
    mel_bins: int,
    prompts: Prompts,
    short_windows: bool = False,
    encoder_attention: bool = False,
    taken_as: PreTrainedConfig | None = None,
) -> Checkpoint:
    """What a family found, with all that follows from its model alike in every family.

    Args:
        family: its name.
        model: of transformers, with the text half in it and the generation config.
        audio_encoder: see ``Checkpoint``; in whatever mode.
        tokenizer: of the language model.
        audio: how sound becomes tokens.
        mel_bins: log-mel bins that the encoder takes.
        prompts: from ``prompts_of``.
        short_windows: see ``Checkpoint``.
        encoder_attention: see ``Checkpoint``.
        taken_as: see ``language_model_of``.

    Raises:
        ExportError: no token ends an answer, or it is not of the vocabulary.
    """
    language_model = language_model_of(model, taken_as)
    text: Any = language_model.config
    frames = audio.window_samples // audio.hop_length
    dimensions = Dimensions(
        mel_bins=mel_bins,
        frames=frames,
        window_tokens=audio.tokens(frames),
        hidden=text.hidden_size,
        layers=text.num_hidden_layers,
        heads=text.num_attention_heads,
        kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        vocab=text.vocab_size,
        context=context_of(text.to_dict()),
    )
    return Checkpoint(
        family=family,
        audio_encoder=audio_encoder.eval().requires_grad_(False),
        language_model=language_model,
        tokenizer=tokenizer,
        audio=audio,
        dimensions=dimensions,
        stop_token_ids=_stop_token_ids(model.generation_config, text, tokenizer),
        short_windows=short_windows,
        encoder_attention=encoder_attention,
        **prompts,
    )


def _stop_token_ids(generation: Any, text: Any, tokenizer: Any) -> tuple[int, ...]:
    """Ids that end an answer: of the generation config, else of the text half, else of both.

    Args:
        generation: generation config of the checkpoint, or None.
        text: config of the text half.
        tokenizer: of the checkpoint.

    Raises:
        ExportError: none of them names one.
    """
    for owner in (generation, text, tokenizer):
        found = getattr(owner, "eos_token_id", None)
        if found is not None:
            ids = found if isinstance(found, list | tuple) else [found]
            if not ids or not all(type(i) is int and 0 <= i < text.vocab_size for i in ids):
                raise ExportError(
                    f"eos_token_id of the checkpoint is {found!r}, which are not ids of its "
                    f"vocabulary of {text.vocab_size}: set it in generation_config.json."
                )
            return tuple(ids)
    raise ExportError(
        "The checkpoint names no end-of-answer token: set eos_token_id in generation_config.json."
    )


def notes_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint's config says to us alone, as fields of ``Checkpoint``.

    Raises:
        ExportError: it is not of the type that it should be.
    """
    notes, temperature = config.get("bundle_notes", []), config.get("bundle_frame_temperature", 1.0)
    if not isinstance(notes, list | tuple) or not all(isinstance(note, str) for note in notes):
        raise ExportError(f"bundle_notes is {notes!r}, not a list of texts: correct config.json.")
    if not isinstance(temperature, int | float) or not 0 < temperature < float("inf"):
        raise ExportError(
            f"bundle_frame_temperature is {temperature!r}, not a positive number: correct "
            "config.json."
        )
    return {"notes": tuple(notes), "frame_temperature": float(temperature)}
