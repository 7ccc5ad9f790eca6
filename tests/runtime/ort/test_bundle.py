"""A bundle is whole or not there: manifest, integrity, atomic export."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny import TINY, write_checkpoint

from speechprune_ort import (
    BundleError,
    DeviceError,
    ExportError,
    IntegrityError,
    OptionError,
    SpeechLLM,
    UnsupportedModelError,
)
from speechprune_ort.contract.manifest import MANIFEST_FILE, Manifest
from speechprune_ort.runtime.ort import bundle as bundle_module


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def rewrite(folder: Path, change: Any) -> None:
    """Change a manifest's content, leaving its digest as it was."""
    path = folder / MANIFEST_FILE
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_files_are_hashed_once_or_always(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    sha256_of = bundle_module.sha256_of

    def counted(path: Path) -> str:
        hashed.append(path.name)
        return sha256_of(path)

    monkeypatch.setattr(bundle_module, "sha256_of", counted)
    files = sorted(Manifest.read(copy).files)
    for verify, wanted in (("once", files), ("once", []), ("always", files), ("once", [])):
        hashed.clear()
        SpeechLLM(copy, "cpu", verify=verify)  # type: ignore[arg-type]
        assert sorted(hashed) == wanted
    with pytest.raises(OptionError, match="verify must be one of once, always, not 'never'"):
        SpeechLLM(copy, "cpu", verify="never")  # type: ignore[arg-type]


def test_manifest_survives_the_round_trip(bundle: Path) -> None:
    manifest = Manifest.read(bundle)
    text = manifest.to_json()
    assert json.loads(text) == json.loads((bundle / MANIFEST_FILE).read_text())
    assert json.loads(text)["digest"] == manifest.digest
    assert {
        "audio_encoder",
        "embed_tokens",
        "first_layer_qk",
        "first_layer_qk_float",
        "similarity",
        "received_attention",
        "assemble",
        "rotary",
        "decoder",
    } == set(manifest.graphs)
    for name, graph in manifest.graphs.items():
        assert graph.parity, f"{name} was not compared with torch"
        assert graph.unverified is None
    assert manifest.versions["torch"].startswith("2.")
    assert manifest.audio.tokens(3000) == manifest.dimensions.window_tokens == 750


def test_bundle_holds_nothing_but_what_the_manifest_lists(bundle: Path) -> None:
    listed = set(Manifest.read(bundle).files) | {MANIFEST_FILE}
    assert {path.name for path in bundle.iterdir()} == listed


@pytest.mark.parametrize("name", ["decoder.onnx", "decoder.onnx.data", "tokenizer.json"])
def test_one_changed_byte_is_found_even_after_the_file_was_verified(copy: Path, name: str) -> None:
    SpeechLLM(copy, "cpu")
    path = copy / name
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    # Restoring the modification time, as rsync and cp -p do, must not hide it.
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(IntegrityError, match=name.replace(".", r"\.")):
        SpeechLLM(copy, "cpu")


def test_a_changed_manifest_is_found(copy: Path) -> None:
    rewrite(copy, lambda content: content["audio"].update(frame_tokens=24))
    with pytest.raises(IntegrityError, match="changed after export"):
        Manifest.read(copy)


def test_an_unknown_schema_names_both_versions(copy: Path) -> None:
    rewrite(copy, lambda content: content.update(schema_version=99))
    with pytest.raises(BundleError, match="schema 99 and this version reads schema 1"):
        Manifest.read(copy)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "\x00\xff"])
def test_a_manifest_that_is_none_is_one_sentence(copy: Path, text: str) -> None:
    (copy / MANIFEST_FILE).write_text(text, encoding="latin-1")
    with pytest.raises(BundleError):
        Manifest.read(copy)


def test_missing_folder_manifest_and_file_are_told_apart(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="No bundle at"):
        SpeechLLM(tmp_path / "nowhere", "cpu")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match="is not a bundle"):
        SpeechLLM(tmp_path / "empty", "cpu")
    (copy / "embed_tokens.onnx").unlink()
    with pytest.raises(BundleError, match=r"embed_tokens\.onnx is missing"):
        SpeechLLM(copy, "cpu")


def test_files_are_hashed_once(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SpeechLLM(copy, "cpu")

    def refuse(*_: Any) -> None:
        raise AssertionError("hashed again although nothing changed")

    monkeypatch.setattr(bundle_module, "sha256_of", refuse)
    SpeechLLM(copy, "cpu")
    (copy / "decoder.onnx").touch()
    with pytest.raises(AssertionError):
        SpeechLLM(copy, "cpu")


def test_a_cache_that_cannot_be_written_costs_only_time(
    copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    SpeechLLM(copy, "cpu")


def test_export_does_not_touch_what_is_there(
    bundle: Path, checkpoints: Any, tmp_path: Path
) -> None:
    from speechprune_ort.export.pipeline import export_bundle

    source = str(checkpoints(TINY[0]))
    with pytest.raises(ExportError, match="--overwrite"):
        export_bundle(source, bundle)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    with pytest.raises(ExportError, match="not a bundle"):
        export_bundle(source, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "years of work"


def test_overwrite_replaces_a_bundle(copy: Path, checkpoints: Any) -> None:
    from speechprune_ort.export.pipeline import export_bundle

    old = Manifest.read(copy).digest
    export_bundle(str(checkpoints(TINY[1])), copy, overwrite=True)
    assert Manifest.read(copy).digest != old
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
def test_a_failing_disk_leaves_nothing_behind(
    code: int, checkpoints: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speechprune_ort.export import embed_tokens, pipeline

    def fail(*_: Any) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(embed_tokens, "export_embed_tokens", fail)
    with pytest.raises(ExportError) as caught:
        pipeline.export_bundle(str(checkpoints(TINY[0])), tmp_path / "out" / "bundle")
    assert ("full" in str(caught.value)) == (code == errno.ENOSPC)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_parity_failure_fails_the_export(
    checkpoints: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from speechprune_ort import ParityError
    from speechprune_ort.export import first_layer_qk, pipeline

    good = first_layer_qk.export_binarized

    def export(projection: Any, *rest: Any) -> None:
        projection.key[3, 3] *= -1
        good(projection, *rest)
        projection.key[3, 3] *= -1

    monkeypatch.setattr(first_layer_qk, "export_binarized", export)
    with pytest.raises(ParityError, match="first_layer_qk"):
        pipeline.export_bundle(str(checkpoints(TINY[0])), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_export_leaves_nothing_behind(
    number: int, checkpoints: Any, tmp_path: Path
) -> None:
    out = tmp_path / "bundle"
    process = subprocess.Popen(
        [sys.executable, "-m", "speechprune_ort", "export", str(checkpoints(TINY[0])), str(out)],
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".bundle.partial-*/bundle/audio_encoder.onnx")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert list(tmp_path.iterdir()) == []


def test_unknown_architectures_are_refused_by_name(tmp_path: Path) -> None:
    from transformers import LlamaConfig

    from speechprune_ort.export.pipeline import export_bundle

    config = LlamaConfig()
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(tmp_path / "llama")
    with pytest.raises(UnsupportedModelError, match="Qwen2AudioForConditionalGeneration"):
        export_bundle(str(tmp_path / "llama"), tmp_path / "out")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ExportError, match=r"no config\.json"):
        export_bundle(str(tmp_path / "nothing"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_without_weights_is_refused(tmp_path: Path) -> None:
    from speechprune_ort.export.pipeline import export_bundle

    folder = write_checkpoint(tmp_path / "checkpoint", TINY[0])
    (folder / "model.safetensors").unlink()
    with pytest.raises(ExportError, match="cannot be loaded"):
        export_bundle(str(folder), tmp_path / "out")


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"precision": "fp8"}, "--precision"),
        ({"target": "tpu"}, "--target"),
        ({"precision": "fp32", "target": "cuda"}, "fp16"),
        ({"precision": "w8a8", "target": "cuda"}, "fp16"),
        ({"precision": "bf16", "target": "cpu"}, "bfloat16"),
    ],
)
def test_impossible_plans_are_refused_before_anything_is_read(
    options: dict[str, str], word: str, tmp_path: Path
) -> None:
    from speechprune_ort.export.pipeline import export_bundle

    with pytest.raises(ExportError, match=word):
        export_bundle("no/such", tmp_path / "out", **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int4"])
def test_a_bundle_for_cuda_says_what_was_not_compared_on_cuda(
    precision: str, checkpoints: Any, tmp_path: Path
) -> None:
    import onnxruntime

    from speechprune_ort.export.pipeline import export_bundle

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this machine's wheel has CUDA: nothing is left uncompared")
    # Narrow weights: in 4 bits, wide random ones are another model.
    export_bundle(
        str(checkpoints(replace(TINY[4], spread=0.05))), tmp_path / "bundle",
        precision=precision, target="cuda",
    )  # fmt: skip
    manifest = Manifest.read(tmp_path / "bundle")
    passed = {"bf16": ("float32", "bfloat16")}.get(precision, ("float16", "float16"))
    assert (manifest.float_dtype, manifest.cache_dtype) == passed
    cache = {t.dtype for t in manifest.graphs["decoder"].spec.outputs if t.name != "logits"}
    assert cache == {manifest.cache_dtype}
    for name, graph in manifest.graphs.items():
        assert "no CUDA here" in str(graph.unverified), name
        assert graph.parity, f"{name} runs on the CPU, too, and was not compared"
    with pytest.raises(DeviceError, match="CUDA cannot be used here"):
        SpeechLLM(tmp_path / "bundle")
