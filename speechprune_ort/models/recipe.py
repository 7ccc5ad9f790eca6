"""A bundle from a kit: its graphs without their weights, and a recipe that says where those lie.

A kit holds what is small in a bundle: manifest, graphs, tokenizer, what training changed, and the
few weights that export computed. Everything else is filled in from the parts that the checkpoint
was made from: added up, transposed, rounded and quantized as export does it, by numpy and ONNX
Runtime. The manifest has the sha256 of every file, so the result is export's, bit for bit, or an
error.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from speechprune_ort.contract.manifest import MANIFEST_FILE, Manifest
from speechprune_ort.errors import BundleError, PartError
from speechprune_ort.models.base_files import BaseFile, fetch_base_file
from speechprune_ort.models.delta import FACTOR_A, FACTOR_B, merge
from speechprune_ort.models.packages import Report
from speechprune_ort.models.sources import Floats, Joined, Source
from speechprune_ort.models.store import Fill, cache_folder

__all__ = [
    "DELTA_FILE",
    "KIT_PACKAGE",
    "RECIPE_FILE",
    "REST_FILE",
    "Piece",
    "Recipe",
    "Shelf",
    "computed",
    "installed_kit",
    "make_bundle",
    "make_default",
]

Array = NDArray[Any]

KIT_PACKAGE = "speechprune_ort_default"
"""The package that carries the kit of the default model."""

RECIPE_FILE, DELTA_FILE, REST_FILE = "recipe.json", "delta.safetensors", "rest.safetensors"


class Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A stretch of a file of weights.

    Attributes:
        at: first byte.
        weights: names of the checkpoint's weights, whose rows follow one after the other; empty if
            the bytes are in the kit.
        form: as float32 or float16, or one of the two parts of a quantized matrix.
        transposed: columns become rows; a quantized matrix always is transposed.
        bits: bits of each value of a quantized matrix.
        block: number of its values that share a scale.
    """

    at: int
    weights: tuple[str, ...] = ()
    form: Literal["float32", "float16", "packed", "scales"] = "float32"
    transposed: bool = False
    bits: int = 0
    block: int = 0


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a kit becomes a bundle.

    Attributes:
        parts: the files that weights lie in.
        weights: where the base checkpoint's weights lie, by their names there.
        scale: factor of the delta's products.
        files: the pieces of each file of weights.
        stored: how the finished checkpoint stores its weights, which rounds them.
    """

    parts: tuple[BaseFile, ...]
    weights: Mapping[str, Source]
    scale: float
    files: Mapping[str, tuple[Piece, ...]]
    stored: Literal["float32", "float16"] = "float32"


class Shelf:
    """The weights of the finished checkpoint, one by one.

    Args:
        recipe: says where the base checkpoint's weights lie.
        parts: the files, in the recipe's order.
        delta: values that training changed, by their names.
    """

    def __init__(self, recipe: Recipe, parts: Sequence[Joined], delta: Mapping[str, Array]) -> None:
        self._recipe, self._parts, self._delta = recipe, parts, delta

    def weight(self, name: str) -> Floats:
        """A weight of the finished checkpoint.

        Raises:
            PartError: neither base nor delta has it, or they do not fit.
        """
        changed = {
            key: self._delta[key]
            for key in (name, name + FACTOR_A, name + FACTOR_B)
            if key in self._delta
        }
        if name in changed:
            found = np.asarray(changed[name], np.float32)
        elif name in self._recipe.weights:
            base = self._recipe.weights[name].read(self._parts)
            found = merge({name: base}, changed, self._recipe.scale)[name]
        else:
            raise PartError(f"The recipe does not say where {name} lies: get a new kit.")
        return found.astype(self._recipe.stored).astype(np.float32, copy=False)


def computed(piece: Piece, weight: Callable[[str], Floats]) -> Array:
    """The values of a piece, as export stores them.

    Args:
        piece: a piece with weights.
        weight: returns a weight by its name.
    """
    if piece.form in ("packed", "scales"):
        packed, scales = _quantized(piece.weights, piece.bits, piece.block, weight)
        return packed if piece.form == "packed" else scales
    joined = _joined(piece.weights, weight)
    return np.ascontiguousarray(joined.T if piece.transposed else joined).astype(piece.form)


def _joined(names: Sequence[str], weight: Callable[[str], Floats]) -> Floats:
    found = [weight(name) for name in names]
    return found[0] if len(found) == 1 else np.concatenate(found)


@lru_cache(maxsize=1)  # its two parts follow each other
def _quantized(
    names: tuple[str, ...], bits: int, block: int, weight: Callable[[str], Floats]
) -> tuple[Array, Array]:
    """A matrix as ``MatMulNBits`` takes it: (columns, blocks, bytes), (columns, blocks)."""
    from onnxruntime.capi import _pybind_state as kernels

    matrix = np.ascontiguousarray(_joined(names, weight).T)
    rows, columns = matrix.shape
    blocks = -(-rows // block)
    if blocks * block > rows:
        matrix = np.pad(matrix, ((0, blocks * block - rows), (0, 0)))
    packed = np.zeros((columns, blocks, block * bits // 8), np.uint8)
    scales = np.zeros((columns, blocks), np.float32)
    zero_points = np.zeros((columns, -(-blocks * bits // 8)), np.uint8)
    quantize = {4: kernels.quantize_matmul_4bits, 8: kernels.quantize_matmul_8bits}[bits]
    quantize(packed, matrix, scales, zero_points, block, columns, rows, True)
    return packed, scales


def make_bundle(kit: Path, folder: Path, cache: Path, report: Report) -> None:
    """Fill a folder with the bundle of a kit.

    Args:
        kit: folder of the kit.
        folder: the folder, which exists.
        cache: folder of downloads.
        report: called with lines of progress.

    Raises:
        PartError: a part cannot be fetched, or the kit is damaged.
        BundleError: the kit's manifest cannot be used.
    """
    manifest = Manifest.read(kit)
    try:
        recipe = msgspec.json.decode((kit / RECIPE_FILE).read_bytes(), type=Recipe)
        with (
            safe_open(kit / DELTA_FILE, "numpy") as changed,
            safe_open(kit / REST_FILE, "numpy") as rest,
        ):
            parts = [Joined(fetch_base_file(part, cache, report)) for part in recipe.parts]
            delta = {name: changed.get_tensor(name) for name in changed.keys()}  # noqa: SIM118
            shelf = Shelf(recipe, parts, delta)
            for number, (name, entry) in enumerate(manifest.files.items(), 1):
                if name not in recipe.files:
                    shutil.copyfile(kit / name, folder / name)
                    continue
                report(f"Making {name} ({number} of {len(manifest.files)})")
                with (folder / name).open("wb") as out:
                    out.truncate(entry.size)
                    for piece in recipe.files[name]:
                        out.seek(piece.at)
                        kept = None if piece.weights else rest.get_tensor(f"{name}:{piece.at}")
                        out.write((computed(piece, shelf.weight) if kept is None else kept).data)
    except (msgspec.MsgspecError, SafetensorError, FileNotFoundError) as error:
        raise PartError(f"The kit {kit} cannot be used ({error}): install it again.") from None
    finally:
        _quantized.cache_clear()
    shutil.copyfile(kit / MANIFEST_FILE, folder / MANIFEST_FILE)


def installed_kit() -> Path | None:
    """The folder of the default model's kit, or None where its package is not installed."""
    spec = importlib.util.find_spec(KIT_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def make_default() -> Fill:
    """A function that fills a folder with the bundle of the default model.

    Raises:
        BundleError: its kit is not installed. The function itself raises ``PartError`` if a part
            cannot be fetched.
    """
    kit = installed_kit()
    if kit is None:
        raise BundleError(
            "The default model is made from the package speechprune-ort-default, which is not "
            "installed: install its wheel from the release, or build it in a checkout with "
            "scripts/make_default_wheel."
        )
    return lambda folder, report: make_bundle(kit, folder, cache_folder(), report)
