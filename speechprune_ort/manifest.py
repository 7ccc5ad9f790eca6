"""``manifest.json``: what a bundle is, in one file that both wings read.

The manifest is the only place where the runtime learns about a model: no family name is
tested there. It is written last, so a folder without one is not a bundle, and it carries a
digest over its own content beside the sha256 of every other file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from speechprune_ort.errors import BundleError, IntegrityError
from speechprune_ort.specs import Dimensions, GraphSpec, TensorSpec

__all__ = [
    "MANIFEST_FILE",
    "SCHEMA_VERSION",
    "AudioSpec",
    "FileEntry",
    "GraphEntry",
    "Manifest",
    "Parity",
    "PromptPiece",
    "whole_windows",
]

SCHEMA_VERSION = 1
MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True)
class AudioSpec:
    """How sound becomes audio tokens.

    Attributes:
        sampling_rate: samples a second that the model hears.
        n_fft: samples under one log-mel frame.
        hop_length: samples from one log-mel frame to the next.
        window_seconds: length of the piece that the encoder hears at once.
        frame_tokens: audio tokens of one second, f in arXiv:2412.12009, section III.
        length_steps: how ``frames`` log-mel frames become tokens: for each (a, b, c) in
            turn, n = (n + a) // b + c.
        span_tokens: tokens that share one stretch of time: 1 where a token is a stretch of its
            own, all of a window where the encoder mixes its time (a Q-Former).
    """

    sampling_rate: int
    n_fft: int
    hop_length: int
    window_seconds: float
    frame_tokens: int
    length_steps: tuple[tuple[int, int, int], ...]
    span_tokens: int = 1

    @property
    def window_samples(self) -> int:
        """Samples of one window."""
        return round(self.window_seconds * self.sampling_rate)

    def tokens(self, frames: int) -> int:
        """Audio tokens that ``frames`` log-mel frames of one window give.

        >>> spec = AudioSpec(16000, 400, 160, 30.0, 25, ((-1, 2, 1), (-2, 2, 1)))
        >>> spec.tokens(3000), spec.tokens(100), spec.tokens(1)
        (750, 25, 0)
        """
        for add, divide, plus in self.length_steps:
            frames = (frames + add) // divide + plus
        return max(0, frames)


def whole_windows(frames: int, tokens: int) -> tuple[tuple[int, int, int], ...]:
    """``length_steps`` of an encoder that gives all tokens of a window however full it is.

    Args:
        frames: log-mel frames of a window.
        tokens: audio tokens of it.

    >>> spec = AudioSpec(16000, 400, 160, 30.0, 25, whole_windows(3000, 375))
    >>> spec.tokens(3000), spec.tokens(1)
    (375, 375)
    """
    return ((0, frames + 1, tokens),)


@dataclass(frozen=True, slots=True)
class PromptPiece:
    """A part of the prompt, in order.

    Attributes:
        kind: ``ids`` (template tokens), ``audio`` (the kept audio tokens) or ``query``
            (the user's text).
        ids: token ids, for ``ids``.
        before: template text that is tokenized in one with the query, ahead of it.
        after: the same, behind it.
    """

    kind: Literal["ids", "audio", "query"]
    ids: tuple[int, ...] = ()
    before: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class Parity:
    """One comparison of an exported graph with torch.

    Attributes:
        case: what went in, such as ``speech, 2 windows``.
        measure: what was compared: ``max_relative_error`` to the largest torch value,
            ``cosine`` or ``first_token``.
        value: what was found.
        tolerance: the bound that it had to keep.
    """

    case: str
    measure: str
    value: float
    tolerance: float


@dataclass(frozen=True, slots=True)
class GraphEntry:
    """One graph of the bundle.

    Attributes:
        file: its file name in the bundle.
        precision: what its weights are stored and computed in, in words.
        spec: its inputs and outputs.
        parity: comparisons made at export; empty where the graph could not be run.
        unverified: what the comparisons lack: made on another device than the target, or not
            made at all, and why; None where nothing is lacking.
        parameters: weights of the part of the model that it computes, None where not counted.
    """

    file: str
    precision: str
    spec: GraphSpec
    parity: tuple[Parity, ...]
    unverified: str | None = None
    parameters: int | None = None


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file of the bundle: bytes and sha256 (hexadecimal)."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything that the runtime needs to know about a bundle.

    Attributes:
        family: model family that export used, for the reader's information.
        source: hub id or folder name of the checkpoint.
        revision: commit of the checkpoint on the hub, or None.
        precision: ``fp32``, ``fp16``, ``int8``, ``w8a8`` or ``int4``.
        target: ``cpu`` or ``cuda``: what the graphs were built for.
        float_dtype: dtype of embeddings, cache and logits.
        dimensions: sizes that the checkpoint fixes.
        audio: how sound becomes tokens.
        prompt: the chat template in pieces.
        stop_token_ids: any of these ends an answer.
        graphs: by name.
        files: every file but the manifest, by name.
        versions: of the packages that made the bundle.
        notes: what a user of the bundle should know, such as that it is not trained.
        frame_temperature: of phase 1, where the caller sets none; 1.0 is the paper's.
    """

    family: str
    source: str
    revision: str | None
    precision: str
    target: str
    float_dtype: str
    dimensions: Dimensions
    audio: AudioSpec
    prompt: tuple[PromptPiece, ...]
    stop_token_ids: tuple[int, ...]
    graphs: Mapping[str, GraphEntry]
    files: Mapping[str, FileEntry]
    versions: Mapping[str, str]
    notes: tuple[str, ...] = ()
    frame_temperature: float = 1.0

    def to_json(self) -> str:
        """The manifest as text, digest included."""
        content = {"schema_version": SCHEMA_VERSION, **asdict(self)}
        return json.dumps({**content, "digest": _digest(content)}, indent=1) + "\n"

    @property
    def digest(self) -> str:
        """Sha256 over the manifest's content: names the bundle, weights included."""
        return _digest({"schema_version": SCHEMA_VERSION, **asdict(self)})

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read and check ``manifest.json`` of a bundle.

        Args:
            folder: the bundle.

        Raises:
            BundleError: no such folder, no manifest, not JSON, unknown schema, missing keys.
            IntegrityError: the content does not match its digest.
        """
        path = folder / MANIFEST_FILE
        if not folder.is_dir():
            raise BundleError(
                f"No bundle at {folder}: give the folder that `speechprune-ort export` wrote."
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BundleError(
                f"{folder} is not a bundle (it holds no {MANIFEST_FILE}): "
                "give the folder that `speechprune-ort export` wrote."
            ) from None
        except (OSError, ValueError) as error:
            raise BundleError(
                f"{path} cannot be read ({error}): copy or export the bundle again."
            ) from None
        version = content.pop("schema_version", None) if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise BundleError(
                f"{path} has schema {version!r} and this version reads schema {SCHEMA_VERSION}: "
                "export the bundle again, or install the speechprune-ort that wrote it."
            )
        if content.pop("digest", None) != _digest({"schema_version": version, **content}):
            raise IntegrityError(
                f"{path} was changed after export: copy or export the bundle again."
            )
        try:
            return cls._from_content(content)
        except (KeyError, TypeError, ValueError) as error:
            raise BundleError(
                f"{path} lacks or misspells an entry ({error}): export the bundle again."
            ) from None

    @classmethod
    def _from_content(cls, content: dict[str, Any]) -> Manifest:
        audio = content["audio"]
        graphs = {}
        for name, entry in content["graphs"].items():
            spec = entry["spec"]
            inputs, outputs = (
                tuple(
                    TensorSpec(t["name"], t["dtype"], tuple(t["axes"]), tuple(t["shape"]))
                    for t in spec[side]
                )
                for side in ("inputs", "outputs")
            )
            graphs[name] = GraphEntry(
                **{
                    **entry,
                    "spec": GraphSpec(spec["name"], inputs, outputs),
                    "parity": tuple(Parity(**parity) for parity in entry["parity"]),
                }
            )
        steps = tuple((a, b, c) for a, b, c in audio["length_steps"])
        return cls(
            **{
                **content,
                "dimensions": Dimensions(**content["dimensions"]),
                "audio": AudioSpec(**{**audio, "length_steps": steps}),
                "prompt": tuple(
                    PromptPiece(**{**piece, "ids": tuple(piece["ids"])})
                    for piece in content["prompt"]
                ),
                "stop_token_ids": tuple(content["stop_token_ids"]),
                "graphs": graphs,
                "files": {name: FileEntry(**f) for name, f in content["files"].items()},
                "notes": tuple(content["notes"]),
            }
        )


def _digest(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
