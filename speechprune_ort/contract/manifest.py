"""``manifest.json``: what a bundle is, in one file that export writes and the runtime reads.

The manifest is the only place where the runtime learns about a model: no family name is
tested there. It is written last, so a folder without one is not a bundle, and it carries a digest
of its own content and the sha256 of every other file.
"""

from __future__ import annotations

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from speechprune_ort.contract.manifest_check import contradiction
from speechprune_ort.contract.manifest_entries import (
    AudioSpec,
    FileEntry,
    FileName,
    GraphEntry,
    LogMelSpec,
    Parity,
    PromptForm,
    PromptPiece,
    TokenId,
    Words,
    whole_windows,
)
from speechprune_ort.contract.specs import (
    ATTENTION,
    AUDIO_ENCODER,
    BFLOAT16,
    DECODER_LOWER,
    Dimensions,
    cached_layers,
)
from speechprune_ort.errors import BundleError, IntegrityError
from speechprune_ort.text import check_path

__all__ = [
    "MANIFEST_FILE",
    "SCHEMA_VERSION",
    "AudioSpec",
    "FileEntry",
    "GraphEntry",
    "LogMelSpec",
    "Manifest",
    "Parity",
    "PromptForm",
    "PromptPiece",
    "content_digest",
    "whole_windows",
]

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
MANIFEST_BYTES = 1 << 23
"""More than any manifest has: 64 layers take some 100 KB."""


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that the runtime needs to know about a bundle.

    Attributes:
        family: model family that export used, for the reader's information.
        source: hub id or folder name of the checkpoint.
        revision: commit of the checkpoint on the hub, or None.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8``, ``w8a8`` or ``int4``.
        target: ``cpu`` or ``cuda``: what the graphs were built for.
        float_dtype: dtype of embeddings and logits.
        dimensions: sizes that the checkpoint fixes.
        audio: how sound becomes tokens.
        prompt: the chat template in pieces.
        stop_token_ids: any of these ends an answer.
        graphs: the graphs, by name.
        files: every file but the manifest, by name.
        versions: versions of the packages that made the bundle.
        notes: what a user of the bundle should know, such as that it is not trained.
        further_turn: what the chat template puts between an answer and the next one, in pieces;
            empty where it has no further turns.
        forms: other forms of the prompt that the chat template has.
        languages: languages that a form can state, by their codes.
        frame_temperature: temperature of phase 1 if the caller sets none; 1.0 is the paper's.
    """

    family: Words
    source: Words
    revision: Words | None
    precision: Annotated[str, Meta(pattern="^[a-z0-9]{1,20}$")]
    target: Annotated[str, Meta(pattern="^(cpu|cuda)$")]
    float_dtype: Literal["float32", "float16"]
    dimensions: Dimensions
    audio: AudioSpec
    prompt: Annotated[tuple[PromptPiece, ...], Meta(max_length=1000)]
    stop_token_ids: Annotated[tuple[TokenId, ...], Meta(max_length=1000)]
    graphs: Mapping[str, GraphEntry]
    files: Mapping[FileName, FileEntry]
    versions: Mapping[Words, Words]
    notes: Annotated[tuple[Words, ...], Meta(max_length=100)] = ()
    further_turn: Annotated[tuple[PromptPiece, ...], Meta(max_length=1000)] = ()
    forms: Annotated[tuple[PromptForm, ...], Meta(max_length=200)] = ()
    languages: Annotated[Mapping[Words, Words], Meta(max_length=1000)] = {}
    frame_temperature: Annotated[float, Meta(gt=0, le=1e6)] = 1.0

    @property
    def tokens_per_second(self) -> float:
        """Audio tokens per second of sound."""
        return self.dimensions.window_tokens / self.audio.window_seconds

    @property
    def cache_dtype(self) -> str:
        """Dtype of keys and values."""
        return BFLOAT16 if self.precision == "bf16" else self.float_dtype

    @property
    def cut_after(self) -> int | None:
        """Layers in the lower half of the decoder; None where it is not cut."""
        lower = self.graphs.get(DECODER_LOWER)
        return None if lower is None else cached_layers(lower.spec)

    @property
    def encoder_attention(self) -> bool:
        """Whether the audio encoder has an attention output."""
        outputs = self.graphs[AUDIO_ENCODER].spec.outputs
        return ATTENTION in (tensor.name for tensor in outputs)

    def _content(self) -> dict[str, Any]:
        return {"schema_version": SCHEMA_VERSION, **msgspec.to_builtins(self)}

    def to_json(self) -> str:
        """The manifest as text, digest included."""
        content = self._content()
        content["digest"] = content_digest(content)
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    @property
    def digest(self) -> str:
        """Sha256 over the manifest's content: names the bundle, weights included."""
        return content_digest(self._content())

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """The JSON schema of ``manifest.json``, as in ``docs/reference/manifest.schema.json``."""
        schema = msgspec.json.schema(cls)
        content = schema["$defs"]["Manifest"]
        content["properties"] |= {
            "schema_version": {"const": SCHEMA_VERSION},
            "digest": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
        }
        content["required"] += ["schema_version", "digest"]
        return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check ``manifest.json`` of a bundle.

        Args:
            folder: the bundle.

        Raises:
            BundleError: no such folder, no manifest, not JSON, unknown schema, or an entry that is
                missing, unknown, out of range or contradicts another.
            IntegrityError: the content does not match its digest.
        """
        folder = check_path(folder, "The bundle's path", BundleError)
        path = folder / MANIFEST_FILE
        content = _read_json(folder, path)
        version = content.pop("schema_version", None) if isinstance(content, dict) else None
        if isinstance(version, bool) or version != SCHEMA_VERSION:
            raise BundleError(
                f"{path} has schema {str(version)[:40]} and this version reads schema "
                f"{SCHEMA_VERSION}: export the bundle again, or install the speechprune-ort that "
                "wrote it."
            )
        if content.pop("digest", None) != content_digest({"schema_version": version, **content}):
            raise IntegrityError(
                f"{path} was changed after export: copy or export the bundle again."
            )
        try:
            manifest = msgspec.convert(content, cls)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise BundleError(
                f"{path} lacks or misspells an entry ({error}): export the bundle again."
            ) from None
        problem = contradiction(
            manifest.audio,
            manifest.dimensions,
            manifest.float_dtype,
            manifest.cache_dtype,
            manifest.prompt,
            manifest.further_turn,
            manifest.forms,
            manifest.stop_token_ids,
            manifest.graphs,
            manifest.files,
        )
        if problem:
            raise BundleError(f"{path} contradicts itself ({problem}): export the bundle again.")
        return manifest


def _read_json(folder: Path, path: Path) -> Any:
    try:
        if not folder.is_dir():
            raise BundleError(
                f"No bundle at {folder}: give the folder that `speechprune-ort export` wrote."
            )
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{path} is not a regular file: copy or export the bundle again.")
        if status.st_size > MANIFEST_BYTES:
            raise BundleError(
                f"{path} has {status.st_size} bytes, too many for a manifest: copy or export the "
                "bundle again."
            )
        return msgspec.json.decode(path.read_bytes())
    except FileNotFoundError:
        raise BundleError(
            f"{folder} is not a bundle (it holds no {MANIFEST_FILE}): "
            "give the folder that `speechprune-ort export` wrote."
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(
            f"{path} cannot be read ({error}): copy or export the bundle again."
        ) from None


def content_digest(content: Mapping[str, Any]) -> str:
    """The sha256 that a manifest states of its own content, lower-case hex.

    Args:
        content: all of it but ``digest`` itself.
    """
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
