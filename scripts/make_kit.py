"""A kit of a bundle: what is small of it, and a recipe for all else; see ``models/recipe.py``.

    python scripts/make_kit.py CHECKPOINT BUNDLE KIT

CHECKPOINT is the default model that ``scripts/build_small_model.py`` made, BUNDLE what export made
of it. For every weight the recipe is found by trial: each candidate of the checkpoint is computed
as export might have stored it, and the one with the same bytes is it. What matches none lies in the
kit as it is. In the end the bundle is made from the kit and held against every sha256.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import onnx
import typer
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from safetensors.numpy import load_file, save_file
from small_model.assemble import EMBEDDINGS, ENCODER, HEAD, STORED, TEXT, gather
from small_model.delta import TRAINED, read_delta
from small_model.language_model import LEFT_OUT, transformers_name
from small_model.parts import QWEN, WHISPER, fetch_qwen, fetch_whisper

from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.models.recipe import (
    DELTA_FILE,
    RECIPE_FILE,
    REST_FILE,
    Array,
    Piece,
    Recipe,
    computed,
    make_bundle,
)
from speechprune_ort.models.sources import Kind, Source
from speechprune_ort.models.store import cache_folder, keep

TOGETHER = ("q_proj", "k_proj", "v_proj")  # one matrix in the decoder
QUANTIZED = {"_Q4": 4, "_Q8": 8}


def main(
    checkpoint: Annotated[Path, typer.Argument(help="The default model's checkpoint.")],
    bundle: Annotated[Path, typer.Argument(help="What export made of it.")],
    kit: Annotated[Path, typer.Argument(help="Folder to make.")],
    cache: Annotated[Path | None, typer.Option(help="Folder for downloads.")] = None,
) -> None:
    """Make a kit, make the bundle from it, and compare."""
    cache = cache_folder(cache)
    stored = load_file(checkpoint / "model.safetensors")
    weights = {name: values.astype(np.float32) for name, values in stored.items()}
    delta = read_delta(TRAINED)
    kit.mkdir(parents=True)
    manifest = Manifest.read(bundle)
    rest: dict[str, Array] = {}
    files = {}
    for entry in manifest.graphs.values():
        data = f"{entry.file}.data"
        if data in manifest.files:
            found = list(pieces(bundle / entry.file, weights))
            files[data] = tuple(piece for piece, _ in found)
            rest |= {f"{data}:{p.at}": content for p, content in found if content is not None}
    sources = base_sources(cache)
    used = {name for found in files.values() for piece in found for name in piece.weights}
    recipe = Recipe(
        parts=(WHISPER, QWEN),
        weights={name: source for name, source in sources.items() if name in used},
        scale=delta.record["scale"],
        files=files,
        stored=STORED,
    )
    (kit / RECIPE_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(recipe), indent=1))
    save_file(rest, kit / REST_FILE)
    save_file(dict(delta.tensors), kit / DELTA_FILE)
    for name in ("manifest.json", *(name for name in manifest.files if name not in files)):
        shutil.copyfile(bundle / name, kit / name)
    for path in kit.iterdir():
        path.chmod(0o644)
    left = sum(content.nbytes for content in rest.values())
    size = sum(path.stat().st_size for path in kit.iterdir())
    print(f"{left / 1e6:.1f} MB match no weight; the kit has {size / 1e6:.1f} MB", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=kit.parent) as work:
        keep(
            Path(work) / "bundle",
            lambda folder, report: make_bundle(kit, folder, cache, report),
            print,
        )
    print("The bundle made from the kit has every sha256 of export's.", file=sys.stderr)


def base_sources(cache: Path) -> dict[str, Source]:
    """Where each weight of the base checkpoint lies in the parts.

    The encoder's are found by their bytes, the language model's by the table of the GGUF file.
    """
    import gguf

    parts = gather(cache, lambda line: print(line, file=sys.stderr))
    whisper = fetch_whisper(cache, print)
    found = {}
    for name, values in parts.encoder.items():
        at = whisper.find(values.astype(np.float16).tobytes())
        if at >= 0:
            found[ENCODER + name] = Source(0, at, "F16", values.shape)
    for tensor in gguf.GGUFReader(fetch_qwen(cache, print)).tensors:
        if tensor.name != LEFT_OUT:
            name = transformers_name(tensor.name)
            found[TEXT + name] = Source(
                file=1,
                at=int(tensor.data_offset),
                kind=msgspec.convert(tensor.tensor_type.name, Kind),
                shape=parts.language_model.weights[name].shape,
            )
    found[HEAD] = found[EMBEDDINGS]
    return found


def pieces(path: Path, weights: dict[str, Any]) -> Iterator[tuple[Piece, Array | None]]:
    """Pieces of the weights of a graph, and the bytes of those that match nothing."""
    model = onnx.load(path, load_external_data=False)
    content = np.fromfile(path.with_name(f"{path.name}.data"), np.uint8)
    blocks = {
        node.input[1]: {a.name: a.i for a in node.attribute}
        for node in model.graph.node
        if node.op_type == "MatMulNBits"
    }
    groups = candidates(weights)
    known: dict[str, Piece] = {}  # of a quantized matrix, by the name of what it was made from
    for tensor in model.graph.initializer:
        if not uses_external_data(tensor):
            continue
        info = ExternalDataInfo(tensor)
        at, size = int(info.offset or 0), int(info.length or 0)
        bytes_of = content[at : at + size]
        suffix = next((s for s in (*QUANTIZED, "_scales") if tensor.name.endswith(s)), "")
        stem = tensor.name.removesuffix(suffix)
        piece = None
        if suffix in QUANTIZED and tensor.name in blocks:
            about = blocks[tensor.name]
            form = {"form": "packed", "bits": QUANTIZED[suffix], "block": about["block_size"]}
            tried = [g for g in groups if shape_of(g, weights) == (about["N"], about["K"])]
            piece = match(at, bytes_of, alike(tried, tensor.name), [form], weights)
            if piece is not None:
                known[stem] = piece
        elif suffix == "_scales" and stem in known:
            piece = msgspec.structs.replace(known[stem], at=at, form="scales")
        elif tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
            kind = "float32" if tensor.data_type == onnx.TensorProto.FLOAT else "float16"
            count = int(np.prod(tensor.dims))
            tried = [g for g in groups if sum(weights[n].size for n in g) == count]
            forms: list[dict[str, Any]] = [
                {"form": kind, "transposed": turned} for turned in (False, True)
            ]
            piece = match(at, bytes_of, alike(tried, tensor.name), forms, weights)
        if piece is None:
            print(f"{path.name}: {tensor.name} {list(tensor.dims)} matches none", file=sys.stderr)
        yield (piece, None) if piece is not None else (Piece(at), np.array(bytes_of))


def candidates(weights: dict[str, Any]) -> list[tuple[str, ...]]:
    """Weights alone, and those that export puts into one matrix."""
    joined = [
        tuple(name.replace(TOGETHER[0], part) for part in TOGETHER)
        for name in weights
        if TOGETHER[0] in name
    ]
    return [(name,) for name in weights] + [g for g in joined if set(g) <= set(weights)]


def alike(groups: list[tuple[str, ...]], name: str) -> list[tuple[str, ...]]:
    """Candidates whose name is made of the same words and numbers come first.

    >>> alike([("layers.1.up.weight",), ("layers.2.up.weight",)], "model.layers.2.up.MatMul_Q4")
    [('layers.2.up.weight',), ('layers.1.up.weight',)]
    """
    words = set(re.split(r"[._]", name))
    return sorted(groups, key=lambda group: -len(words & set(re.split(r"[._]", group[0]))))


def shape_of(names: tuple[str, ...], weights: dict[str, Any]) -> tuple[int, ...]:
    first = weights[names[0]].shape
    return (sum(weights[name].shape[0] for name in names), *first[1:])


def match(
    at: int, content: Array, tried: list[tuple[str, ...]], forms: list[dict[str, Any]],
    weights: dict[str, Any],
) -> Piece | None:  # fmt: skip
    """The first candidate with these bytes."""
    for names in tried:
        for form in forms:
            if form.get("transposed") and len(shape_of(names, weights)) != 2:
                continue
            piece = Piece(at=at, weights=names, **form)
            if computed(piece, weights.__getitem__).tobytes() == content.tobytes():
                return piece
    return None


if __name__ == "__main__":
    typer.run(main)
