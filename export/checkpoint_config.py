"""What a checkpoint's ``config.json`` must say before anything else of it is read.

Nothing here imports torch or transformers: a checkpoint that export cannot take is refused at once,
by name and with the cure, not after gigabytes of it were read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import msgspec

from speechprune_ort.contract.specs import Dimensions
from speechprune_ort.errors import ExportError, UnsupportedModelError
from speechprune_ort.export.adapter_config import ADAPTER, Adapter, read_adapter
from speechprune_ort.export.json_object import brief, read_object
from speechprune_ort.text import expand_home

__all__ = [
    "FULL",
    "SLIDING",
    "TEXT_MODELS",
    "Described",
    "check_audio_token",
    "check_cut",
    "check_parts",
    "check_text",
    "context_of",
    "describe",
    "told_of_windows",
    "windows_of",
]

SHORT_ROTARY = ("dynamic", "longrope")
"""Rotary embeddings that turn every token otherwise once a conversation is longer than the model
was first trained on: known up to that length, which becomes the context of a bundle."""

ROTARY = ("default", "linear", "llama3", "yarn", *SHORT_ROTARY)

SCALED_BY: Mapping[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}
"""What a scaled rotary embedding cannot do without."""

TEXT_MODELS: Mapping[str, tuple[str, ...]] = dict.fromkeys(
    ("qwen2", "llama", "qwen3", "mistral", "granite"), ROTARY
)
"""Language models that export knows, and which rotary embeddings of each the decoder graph computes
as transformers does."""

FULL, SLIDING = "full_attention", "sliding_attention"
"""What ``layer_types`` may name."""

WINDOWED = ("qwen2", "qwen3", "mistral")
"""Language models whose classes in transformers mask by a sliding window."""

WINDOW = 4096
"""Their ``sliding_window`` where a config leaves it out, as files may that hold no defaults."""

LEAST_WINDOW = 2
"""Of one token nothing is left between two steps, and transformers' cache keeps all instead."""

OWN_ADAPTER = "has_lora_adapter"
"""Key of a config whose checkpoint carries a LoRA of its own beside its weights."""

QUANTIZED = ("quantization_config", "compression_config", "quantization")
"""Keys of a config whose weights are quantized: transformers' tools, compressed-tensors before
them, MLX."""

QUANTIZED_FILES: Mapping[str, str] = {
    "quantize_config.json": "GPTQ's tools",
    "quant_config.json": "AWQ's tools",
    "hf_quant_config.json": "NVIDIA's tools",
}
"""Files that tools write beside a config that may say nothing of it."""

HEAD_UNIT = 16
"""Widths of a head that ONNX Runtime's grouped-query attention turns are multiples of it."""

MOST: Mapping[str, int] = {
    field.encode_name: cast("Any", field.type).le
    for field in cast("Any", msgspec.inspect.type_info(Dimensions)).fields
}
"""What the manifest allows for each size."""

SIZES: Mapping[str, int] = {
    "hidden_size": MOST["hidden"],
    "intermediate_size": 1 << 20,
    "num_hidden_layers": MOST["layers"],
    "num_attention_heads": MOST["heads"],
    "num_key_value_heads": MOST["kv_heads"],
    "vocab_size": MOST["vocab"],
    "max_position_embeddings": MOST["context"],
}
"""Sizes of a language model, and the largest that a bundle can have."""

MANY = ("layers", "depth", "num_labels")
"""Ends of the keys whose values say how much is made as a model is built, even without memory."""

OF_ENCODERS: Mapping[str, int] = {
    "encoder_layers": MOST["layers"],
    "max_source_positions": MOST["frames"] // 2,  # of two frames each
    "num_mel_bins": MOST["mel_bins"],
}
"""Sizes of audio encoders, and the largest that a bundle can have."""


@dataclass(frozen=True, slots=True)
class Described:
    """A checkpoint that was found, and what its config says.

    Attributes:
        location: folder or hub id, for transformers.
        folder: the folder, or None where it is on the hub.
        config: ``config.json``.
        adapter: that is to be merged into it, or None.
        revision: commit on the hub, or None for a folder.
    """

    location: str
    folder: Path | None
    config: Mapping[str, Any]
    adapter: Adapter | None = None
    revision: str | None = None

    @property
    def architectures(self) -> tuple[str, ...]:
        """Names of classes that the config gives."""
        named = self.config.get("architectures") or ()
        if not isinstance(named, list | tuple) or not all(isinstance(n, str) for n in named):
            raise ExportError(
                f"architectures in config.json of {self.location!r} is {brief(named)}, not a list "
                "of names: correct it, or download the checkpoint again."
            )
        return tuple(named)


def describe(
    model: str,
    revision: str | None = None,
    *,
    base: str | None = None,
    allow_pickle: bool = False,
) -> Described:
    """Find a checkpoint and read its config.

    Args:
        model: hub id or local folder; of an adapter, its folder.
        revision: branch, tag or commit on the hub; of an adapter, of its base there.
        base: checkpoint that an adapter is merged into; None for the one that it names.
        allow_pickle: take an adapter's weights from a ``.bin`` file, too.

    Raises:
        ExportError: there is none, it is of a kind that export does not read, a folder is given
            a revision, or its config cannot be read or is that of quantized weights.
    """
    folder = expand_home(Path(model), "The checkpoint", ExportError)
    try:
        there = folder.exists()
    except OSError as error:
        raise ExportError(
            f"{model[:80]!r}... is not a checkpoint ({error.strerror}): give a folder or a hub id."
        ) from None
    if not model or not there:
        if not model or "\0" in model or model.startswith((".", "/", "~")) or model.count("/") > 1:
            raise ExportError(
                f"There is no checkpoint folder {model!r}: give one, or a hub id such as "
                "Qwen/Qwen2-Audio-7B-Instruct."
            )
        path = _from_hub(model, revision)
        config = read_object(path, model)
        if config.get(OWN_ADAPTER):
            raise ExportError(
                f"{model!r} has a LoRA of its own beside its weights: download it, and give the "
                "folder."
            )
        # The hub's cache names the folder by the commit: weights and tokenizer are then of the same
        # one, wherever a branch has moved to meanwhile.
        found = Described(model, None, config, revision=path.parent.name)
    else:
        _require_folder(folder)
        path, adapted = folder / "config.json", (folder / ADAPTER).exists()
        own = base is None and path.exists() and read_object(path, str(folder)).get(OWN_ADAPTER)
        if adapted and not own:
            return _adapted(read_adapter(folder, base, allow_pickle), revision)
        if revision is not None:
            raise ExportError(
                f"--revision names a version on the hub, and {str(folder)!r} is a local folder: "
                "leave it out, or give the hub id."
            )
        _require_checkpoint_folder(folder)
        adapter = None
        if own:
            if not adapted:
                raise ExportError(
                    f"config.json of {str(folder)!r} says {OWN_ADAPTER}, and there is no "
                    f"{ADAPTER}: download the LoRA, too, or set {OWN_ADAPTER} to false if it was "
                    "merged."
                )
            adapter = read_adapter(folder, str(folder), allow_pickle)
        config = read_object(path, str(folder))
        found = Described(str(folder), folder, config, adapter, revision)
    if base is not None:
        raise ExportError(
            f"--base names the checkpoint of an adapter, and {model!r} is no adapter folder: "
            "leave it out."
        )
    _refuse_sizes(found.location, found.config)
    _refuse_quantized(found.location, found.config)
    _refuse_old_quantized(found)
    return found


def _adapted(adapter: Adapter, revision: str | None) -> Described:
    """The base of an adapter, with the adapter."""
    beside = expand_home(Path(adapter.base), "The adapter's base", ExportError)
    if beside.is_dir() and (beside / ADAPTER).exists():
        raise UnsupportedModelError(
            f"The adapter {str(adapter.folder)!r} was made from another adapter, {adapter.base!r}: "
            "merge that one first, and give the whole model by --base."
        )
    try:
        # A folder has no versions, whatever the adapter noted when it was made.
        noted = None if beside.exists() else adapter.revision
        found = describe(adapter.base, revision or noted)
    except ExportError as error:
        raise type(error)(
            f"{str(adapter.folder)!r} is an adapter of {adapter.base!r} (--base takes another). "
            f"{error}"
        ) from error
    return replace(found, adapter=adapter)


def check_parts(location: str, config: Mapping[str, Any], parts: tuple[str, ...]) -> None:
    """Refuse a config without its parts: transformers would make up models of its own for them.

    Raises:
        ExportError: one of ``parts`` is missing, empty, or no object.
    """
    for part in parts:
        if not isinstance(config.get(part), dict) or not config[part]:
            # As Qwen3-ASR's authors published it first.
            other = ", of Qwen3-ASR one whose name ends in -hf" * ("thinker_config" in config)
            raise ExportError(
                f"config.json of {location!r} has no {part} ({brief(config.get(part))}): give a "
                f"checkpoint as save_pretrained writes it{other}."
            )


def check_text(location: str, text: Mapping[str, Any]) -> None:
    """Refuse a language model that the decoder graph cannot be.

    Args:
        location: of the checkpoint, for the message.
        text: its config.

    Raises:
        UnsupportedModelError: an architecture, rotary embedding, activation or attention that is
            not known.
        ExportError: sizes that are none.
    """
    kind = text.get("model_type", next(iter(TEXT_MODELS)))
    if not isinstance(kind, str) or kind not in TEXT_MODELS:
        raise UnsupportedModelError(
            f"The text model of {location!r} is {kind!r}: export knows {', '.join(TEXT_MODELS)}."
        )
    act = text.get("hidden_act", "silu")
    if act != "silu":
        raise UnsupportedModelError(
            f"The text model of {location!r} has hidden_act {brief(act)}: export knows silu."
        )
    for name, most in SIZES.items():
        size = text.get(name)
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
            raise ExportError(
                f"{name} of the text model of {location!r} is {brief(size)}, not a positive whole "
                "number: correct config.json."
            )
        if size is not None and size > most:
            raise ExportError(
                f"{name} of the text model of {location!r} is {brief(size)}, and a bundle has at "
                f"most {most}: correct config.json."
            )
    hidden, heads = text.get("hidden_size"), text.get("num_attention_heads")
    shared = text.get("num_key_value_heads")
    if heads and shared and heads % shared:
        raise ExportError(
            f"num_attention_heads of the text model of {location!r} is {heads}, which cannot share "
            f"num_key_value_heads {shared}: correct config.json."
        )
    width = text.get("head_dim") or (hidden // heads if hidden and heads else HEAD_UNIT)
    if not isinstance(width, int) or width < 1 or width % HEAD_UNIT:
        raise UnsupportedModelError(
            f"The heads of the text model of {location!r} are {brief(width)} wide, and ONNX "
            f"Runtime's attention turns multiples of {HEAD_UNIT}: there is no exporting them."
        )
    _check_rope(location, text, TEXT_MODELS[kind])
    if text.get("per_layer_config"):
        raise UnsupportedModelError(
            f"The text model of {location!r} has settings of single layers (per_layer_config), "
            "which the decoder graph does not have: export knows models whose layers differ in "
            "their windows alone, by layer_types."
        )
    windows_of(location, text)


def windows_of(location: str, text: Mapping[str, Any]) -> tuple[int | None, ...]:
    """The sliding window of each layer of a language model.

    It counts slots of the cache and not positions, as transformers' masks do
    (``masking_utils.sliding_window_overlay``): a token attends to itself and those right before it
    in the cache, however far apart they once were.

    Args:
        location: of the checkpoint, for the message.
        text: its config, completed by transformers or not.

    Returns:
        For each layer, slots that a token attends to, its own included; None where it attends to
        all.

    Raises:
        UnsupportedModelError: windows that transformers' class does not have, or in two ways.
        ExportError: settings that are none.

    >>> windows_of("x", {"model_type": "mistral", "num_hidden_layers": 2, "sliding_window": 8})
    (8, 8)
    """
    kind, layers = text.get("model_type", "qwen2"), text.get("num_hidden_layers") or 32
    named = f"of the text model of {location!r}"
    width, first = text.get("sliding_window", WINDOW if kind in WINDOWED else None), 0
    if kind in ("qwen2", "qwen3"):
        width = width if text.get("use_sliding_window") else None
        first = text.get("max_window_layers", 28) if width is not None else 0
    given = text.get("layer_types")
    if not isinstance(given, list | tuple | None) or not isinstance(first, int):
        raise ExportError(
            f"layer_types or max_window_layers of {location!r} is not what transformers writes: "
            "correct config.json."
        )
    own = [SLIDING if width is not None and layer >= first else FULL for layer in range(layers)]
    kinds = own if given is None else list(given)
    unknown = next((k for k in kinds if k not in (FULL, SLIDING)), None)
    if unknown is not None:
        raise UnsupportedModelError(
            f"layer_types {named} names {brief(unknown)}, which the decoder graph does not have: "
            f"export knows {FULL} and {SLIDING}."
        )
    if given is not None and len(kinds) != layers:
        raise ExportError(
            f"layer_types {named} names {len(kinds)} layers, and num_hidden_layers is {layers}: "
            "correct config.json."
        )
    if kind == "mistral" and kinds != own:
        raise UnsupportedModelError(
            f"layer_types {named} contradicts sliding_window {brief(width)}: a mistral slides in "
            "every layer where that is a number and in none where it is null, so leave layer_types "
            "out of config.json."
        )
    if SLIDING not in kinds:
        return (None,) * layers
    if kind not in WINDOWED:
        raise UnsupportedModelError(
            f"{'sliding_window' if given is None else 'layer_types'} {named} asks for a sliding "
            f"window, which transformers' {kind} does not have: set sliding_window to null, and "
            f"layer_types to {FULL}, in config.json."
        )
    if width is None:
        raise UnsupportedModelError(
            f"layer_types {named} names {SLIDING}, and no window is in use: set use_sliding_window "
            f"to true and sliding_window to its width in config.json, or layer_types to {FULL}."
        )
    if not isinstance(width, int) or isinstance(width, bool) or width < LEAST_WINDOW:
        raise ExportError(
            f"sliding_window {named} is {brief(width)}, not a whole number of at least "
            f"{LEAST_WINDOW}: correct config.json."
        )
    return tuple(width if k == SLIDING else None for k in kinds)


def check_cut(cut_after: int | None, windows: Sequence[int | None]) -> None:
    """Refuse a cut that leaves no layer above it, or whose last layer below it is not known.

    Args:
        cut_after: number of layers below the cut; None for none.
        windows: sliding windows of all layers, see ``windows_of``.

    Raises:
        ExportError: all layers are below it, or the last of them has a sliding window.
    """
    if cut_after is None:
        return
    layers = len(windows)
    if cut_after >= layers:
        raise ExportError(
            f"--cut-after {cut_after} leaves no layer above the cut: this language model has "
            f"{layers} layers, so give at most {layers - 1}."
        )
    if windows[cut_after - 1] is not None:
        raise ExportError(
            f"--cut-after {cut_after} cuts behind a layer with a sliding window, whose attention "
            "cannot be computed again: give another number of layers, or leave it out."
        )


def told_of_windows(windows: tuple[int | None, ...]) -> str:
    """What sliding windows mean for the user of a bundle, in a sentence; empty without any.

    Args:
        windows: see ``windows_of``.

    >>> told_of_windows((None, 8))[:60]
    'In 1 of 2 layers a token attends to 8 tokens at most, its ow'
    """
    widths = [window for window in windows if window]
    if not widths:
        return ""
    return (
        f"In {len(widths)} of {len(windows)} layers a token attends to {widths[0]} tokens at most, "
        "its own included, as the cache holds them: of pruned audio these are kept ones, from "
        "further back in time."
    )


def context_of(text: Mapping[str, Any]) -> int:
    """Positions that a bundle of a language model has.

    All of them; where its rotary embedding changes with the length of what is read, those before it
    does.

    Args:
        text: its config, as transformers completes it.

    >>> rope = {"rope_type": "longrope", "original_max_position_embeddings": 4096}
    >>> context_of({"max_position_embeddings": 131072, "rope_parameters": rope})
    4096
    """
    most, rope = int(text["max_position_embeddings"]), text.get("rope_parameters") or {}
    if rope.get("rope_type") in SHORT_ROTARY:
        return min(most, int(rope.get("original_max_position_embeddings") or most))
    return most


def check_audio_token(location: str, token: Any, vocab: Any) -> None:
    """Refuse an id of the audio placeholder that is none.

    Args:
        location: of the checkpoint, for the message.
        token: the id that its config gives.
        vocab: rows of the token embedding, or None where the config leaves it open.

    Raises:
        ExportError: it is no id of the vocabulary.
    """
    whole = isinstance(token, int) and not isinstance(token, bool)
    if not whole or token < 0 or (isinstance(vocab, int) and token >= vocab):
        raise ExportError(
            f"audio_token_id of {location!r} is {brief(token)}, which is not an id of its "
            f"vocabulary{f' of {vocab}' if vocab else ''}: give the id of the audio placeholder in "
            "config.json."
        )


def _check_rope(location: str, text: Mapping[str, Any], known: tuple[str, ...]) -> None:
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    base = text.get("rope_theta")
    if base is not None and not _positive(base):
        raise ExportError(
            f"rope_theta of the text model of {location!r} is {brief(base)}, no positive number: "
            "correct config.json."
        )
    if not isinstance(rope, Mapping):
        raise ExportError(f"rope_parameters of {location!r} is {brief(rope)}, not an object.")
    # Some configs have one object for each type of layer in it.
    for part in (rope, *(value for value in rope.values() if isinstance(value, Mapping))):
        kind = part.get("rope_type", part.get("type", "default"))
        if kind not in known or part.get("mrope_section"):
            named = "mrope" if part.get("mrope_section") else kind
            raise UnsupportedModelError(
                f"The text model of {location!r} has rotary embeddings of type {named!r}, which "
                f"the decoder graph does not have: export knows {' and '.join(known)}."
            )
        needed = SCALED_BY.get(kind, ())
        for name in (*needed, "rope_theta") if part.get("rope_theta") is not None else needed:
            values = part.get(name)
            if not all(_positive(v) for v in (values if isinstance(values, list) else [values])):
                raise ExportError(
                    f"{name} of the rotary embeddings ({kind}) of {location!r} is {brief(values)}, "
                    "no positive number: correct rope_parameters in config.json."
                )
    share = text.get("partial_rotary_factor", rope.get("partial_rotary_factor", 1))
    if share not in (None, 1):
        raise UnsupportedModelError(
            f"The text model of {location!r} rotates {brief(share)} of each head, and the decoder "
            "graph all of it: export knows models with partial_rotary_factor 1."
        )


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        what = "a GGUF file" if folder.suffix.lower() == ".gguf" else "a file"
        raise ExportError(
            f"{folder} is {what}: give the folder of a checkpoint as save_pretrained writes it."
        )


def _require_checkpoint_folder(folder: Path) -> None:
    try:
        names = {path.name for path in folder.iterdir()}
    except OSError as error:
        raise ExportError(f"{folder} cannot be read ({error.strerror}).") from None
    if "config.json" in names:
        return
    if any(name.lower().endswith(".gguf") for name in names):
        raise ExportError(
            f"{folder} holds GGUF files and no config.json: give the checkpoint that they were "
            "made from."
        )
    what = "is empty and holds no config.json" if not names else "holds no config.json"
    raise ExportError(f"{folder} {what}: give a checkpoint folder as save_pretrained writes it.")


def _refuse_sizes(location: str, config: Mapping[str, Any]) -> None:
    """Refuse sizes of any part that no bundle has, or by which building the model would not end."""
    parts: list[Mapping[str, Any]] = [config]
    for part in parts:
        parts += [value for value in part.values() if isinstance(value, Mapping)]
        for key, value in part.items():
            most = OF_ENCODERS.get(key, MOST["layers"] if key.endswith(MANY) else math.inf)
            least = 1 if key in OF_ENCODERS else -math.inf
            if isinstance(value, int | float) and (value < least or value > most):
                raise ExportError(
                    f"{key} in config.json of {location!r} is {brief(value)}, and export takes 1 "
                    f"to {most}: correct it, or download the checkpoint again."
                )


def _refuse_quantized(location: str, config: Mapping[str, Any]) -> None:
    """Refuse a config that says so of itself, or of a part however deep in it."""
    parts: list[Mapping[str, Any]] = [config]
    for part in parts:
        parts += [value for value in part.values() if isinstance(value, Mapping)]
        key = next((key for key in QUANTIZED if part.get(key)), None)
        if key is not None:
            method = part[key].get("quant_method") if isinstance(part[key], Mapping) else None
            raise UnsupportedModelError(
                f"{location!r} is quantized ({brief(method) if method else key}): give the "
                "checkpoint that it was made from, and --precision int8 or int4."
            )


def _refuse_old_quantized(found: Described) -> None:
    """Refuse what older tools wrote beside a config that says nothing of it."""
    for name, tools in QUANTIZED_FILES.items():
        if found.folder is not None and (found.folder / name).exists():
            raise UnsupportedModelError(
                f"{found.location!r} is quantized ({name}, as {tools} write it): give the "
                "checkpoint that it was made from, and --precision int8 or int4."
            )


def _from_hub(model: str, revision: str | None) -> Path:
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(model, "config.json", revision=revision))
    except Exception as error:  # the hub, its client and the client's transport raise their own
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ExportError(
            f"Cannot read a checkpoint from {model!r} ({reason}): "
            "give a local folder (an adapter is always one), or a hub id while the hub can be "
            "reached, with HF_ENDPOINT and HF_TOKEN correct where they are set."
        ) from error
