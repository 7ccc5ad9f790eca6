"""The end of an export: the manifest over what was written, read back as the runtime would."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from speechprune_ort.contract.manifest import (
    MANIFEST_FILE,
    TOKENIZER_FILE,
    FileEntry,
    Manifest,
)
from speechprune_ort.contract.onnx_file import foreign_operators, read_graph
from speechprune_ort.contract.tokenizer_check import check_tokenizer
from speechprune_ort.errors import BundleError, ExportError
from speechprune_ort.export.course import Advance
from speechprune_ort.export.work import ExportedGraph, Work
from speechprune_ort.files import sha256_of
from speechprune_ort.wheels import installed_version

__all__ = ["seal"]

PACKAGES = (
    "speechprune-ort",
    "torch",
    "transformers",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-genai",
    "onnxruntime-genai-cuda",
)
"""Packages whose versions the manifest names."""


def seal(
    folder: Path, work: Work, rows: Sequence[ExportedGraph], *, precision: str, source: str
) -> None:
    """Write the manifest of a folder of graphs and tokenizer, and check it.

    Args:
        folder: the folder, with everything else that belongs to the bundle, and nothing else.
        work: what was exported.
        rows: its graphs.
        precision: as it was asked for.
        source: where the checkpoint is from.

    Raises:
        ExportError: the runtime would refuse the bundle.
    """
    checkpoint = work.checkpoint
    versions = {name: installed_version(name) for name in PACKAGES}
    manifest = Manifest(
        family=checkpoint.family,
        source=source,
        revision=checkpoint.revision,
        precision=precision,
        target=work.target,
        float_dtype=work.plan.float_dtype,
        dimensions=checkpoint.dimensions,
        audio=checkpoint.audio,
        prompt=checkpoint.prompt,
        further_turn=checkpoint.further_turn,
        forms=checkpoint.forms,
        languages=checkpoint.languages,
        stop_token_ids=checkpoint.stop_token_ids,
        graphs={row.name: row.entry for row in rows},
        files=_file_entries(folder, work.course.advance),
        versions={name: version for name, version in versions.items() if version is not None},
        notes=checkpoint.notes,
        frame_temperature=checkpoint.frame_temperature,
    )
    (folder / MANIFEST_FILE).write_text(manifest.to_json(), encoding="utf-8")
    _check_readable(folder)


def _file_entries(folder: Path, advance: Advance) -> dict[str, FileEntry]:
    """Sizes and hashes of all files that are there."""
    paths = sorted(folder.iterdir())
    whole, done, found = sum(path.stat().st_size for path in paths), 0, {}
    for path in paths:
        found[path.name] = FileEntry(path.stat().st_size, sha256_of(path))
        done += found[path.name].size
        advance(done / whole)
    return found


def _check_readable(folder: Path) -> None:
    """Check what was written as the runtime checks any bundle."""
    try:
        manifest = Manifest.read(folder)
        check_tokenizer(folder / TOKENIZER_FILE)
        for name, entry in manifest.graphs.items():
            foreign = foreign_operators(read_graph(folder / entry.file))
            if foreign:
                raise ValueError(f"{name} uses the operator {foreign[0]}")
    except (BundleError, ValueError) as error:
        raise ExportError(
            f"The runtime would refuse this checkpoint's bundle ({error}): report the checkpoint."
        ) from None
