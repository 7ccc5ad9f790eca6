"""A bundle is hostile until shown otherwise: it is refused at once, in one sentence."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from mutations import mutated
from onnx import TensorProto, helper
from paths import ROOT
from tokenizers import Tokenizer

from speechprune_ort import (
    BundleError,
    CancelledError,
    OutOfMemoryError,
    SpeechLLM,
    SpeechPruneError,
)
from speechprune_ort.contract.manifest import MANIFEST_FILE, Manifest, content_digest
from speechprune_ort.contract.onnx_file import read_graph
from speechprune_ort.contract.tokenizer_check import check_tokenizer
from speechprune_ort.errors import OutputError
from speechprune_ort.runtime.answering.cache import Cache
from speechprune_ort.runtime.answering.decoder import Decoder
from speechprune_ort.runtime.answering.prompt import Prompt, embed_ids
from speechprune_ort.runtime.hearing.encoder import WindowEncoder
from speechprune_ort.runtime.ort import session as session_module
from speechprune_ort.runtime.ort.bundle import verify_files
from speechprune_ort.runtime.ort.tokenizer import TextTokenizer
from speechprune_ort.runtime.ort.tokenizer_file import open_tokenizer

Change = Callable[[dict[str, Any]], object]

ASK = """
import sys, numpy as np
from speechprune_ort import SpeechLLM, SpeechPruneError
samples = np.random.default_rng(0).standard_normal(16_000 * 40).astype(np.float32) / 10
try:
    SpeechLLM(sys.argv[1], "cpu", threads=1).ask(
        samples, "Who?", sampling_rate=16_000, max_new_tokens=2, backend="ort"
    )
except SpeechPruneError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def forge(folder: Path, change: Change = lambda _: None) -> None:
    """Change a manifest and make its hashes right again, as an attacker would."""
    path = folder / MANIFEST_FILE
    content = json.loads(path.read_text())
    del content["digest"]
    for name, entry in content["files"].items():
        data = (folder / name).read_bytes()
        entry.update(size=len(data), sha256=hashlib.sha256(data).hexdigest())
    change(content)
    path.write_text(json.dumps(content | {"digest": content_digest(content)}))


def opened(folder: Path) -> SpeechLLM:
    return SpeechLLM(folder, "cpu", threads=1)


def test_random_changes_to_a_manifest_give_one_sentence(bundle: Path, tmp_path: Path) -> None:
    document = json.loads((bundle / MANIFEST_FILE).read_text())
    del document["digest"]
    accepted, refused = 0, []
    for seed in range(300):
        content = mutated(document, seed)
        if isinstance(content, dict):
            content["digest"] = content_digest(content)
        (tmp_path / MANIFEST_FILE).write_text(json.dumps(content))
        try:
            manifest = Manifest.read(tmp_path)
        except BundleError as error:
            refused.append(str(error))
        else:
            accepted += 1
            # What is accepted gives lengths that fit into its buffers.
            audio, dims = manifest.audio, manifest.dimensions
            assert audio.tokens(dims.frames) == dims.window_tokens
            assert max(audio.tokens(n) for n in (1, 100, dims.frames)) <= dims.window_tokens
    assert 5 < accepted < 100
    assert not [sentence for sentence in refused if "\n" in sentence]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"schema_version": 1' + "0" * 5000 + "}",
        '{"schema_version": NaN}',
        '{"schema_version": true}',
        '"\\ud800"',
        "1e999",
    ],
    ids=lambda text: text[:20],
)
def test_json_that_breaks_readers_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST_FILE).write_text(text)
    with pytest.raises(BundleError):
        Manifest.read(tmp_path)


def test_a_manifest_of_gigabytes_or_none_at_all_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / MANIFEST_FILE
    with path.open("wb") as stream:
        stream.truncate(1 << 40)
    with pytest.raises(BundleError, match="too many"):
        Manifest.read(tmp_path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BundleError, match="not a regular file"):
        Manifest.read(tmp_path)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(BundleError, match="not a regular file"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda c: c["audio"].update(n_fft=2**31), "n_fft"),
        (lambda c: c["audio"].update(n_fft=4096), "n_fft 4096 is more than 8 times"),
        (lambda c: c["audio"].update(length_steps=[[0, 1, 10**9]]), "length_steps"),
        (lambda c: c["audio"].update(length_steps=[[0, 1, 10**6]]), "length_steps give"),
        (lambda c: c["audio"].update(length_steps=[[0, 0, 0]]), "length_steps"),
        (lambda c: c["dimensions"].update(layers=10**6), "layers"),
        (lambda c: c["dimensions"].update(heads=3), "3 heads cannot share"),
        (lambda c: c.update(stop_token_ids=[262]), "token 262 is beyond"),
        (lambda c: c["prompt"][0]["ids"].append(-1), "ids"),
        (lambda c: c["prompt"].pop(1), "0 audio pieces"),
        (lambda c: c.update(float_dtype="float64"), "float_dtype"),
        (lambda c: c.update(float_dtype="float16"), "not those of its dimensions"),
        (lambda c: c.update(source="\x1b[2J"), "source"),
        (lambda c: c.update(extra=1), "extra"),
        (lambda c: c["graphs"].update(other=c["graphs"]["assemble"]), "no graph 'other'"),
        (lambda c: c["graphs"]["decoder"].update(file="/etc/passwd"), "file"),
        (lambda c: c["graphs"]["decoder"].update(file="../decoder.onnx"), "file"),
        (lambda c: c["graphs"]["decoder"].update(file="other.onnx"), "not among the files"),
        (lambda c: c["files"].update({"../x": c["files"]["decoder.onnx"]}), "files"),
        (lambda c: c["files"].update({"/etc/passwd": c["files"]["decoder.onnx"]}), "files"),
        (lambda c: c.update(files={}), "not among the files"),
        (lambda c: c["files"].pop("tokenizer.json"), "lists no tokenizer"),
        (lambda c: c["files"].pop("decoder.onnx.data"), r"holds 'decoder\.onnx\.data'"),
        (lambda c: c["files"].update(x=c["files"]["decoder.onnx"]), "x is missing"),
    ],
)  # fmt: skip
def test_entries_out_of_range_or_place_are_named_at_once(
    change: Change, word: str, copy: Path
) -> None:
    forge(copy, change)
    started = time.perf_counter()
    with pytest.raises(BundleError, match=word):
        opened(copy)
    assert time.perf_counter() - started < 2


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["dimensions"].update(window_tokens=10),
        lambda c: c["dimensions"].update(window_tokens=601),
        lambda c: c["dimensions"].update(window_tokens=3000),
        lambda c: c["dimensions"].update(frames=300),
        lambda c: c["dimensions"].update(frames=6000),
        lambda c: c["audio"].update(window_seconds=60.0),
        lambda c: (
            c["dimensions"].update(window_tokens=3000),
            c["audio"].update(length_steps=[[0, 1, 0]]),
        ),
    ],
)
def test_dimensions_that_lie_are_refused_before_a_buffer_is_bound(
    change: Change, copy: Path
) -> None:
    forge(copy, change)
    # In a process of its own: what this guards against ends the interpreter.
    ran = subprocess.run(
        [sys.executable, "-c", ASK, str(copy)], capture_output=True, text=True, timeout=120
    )
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1), ran.stderr[-500:]
    assert ran.stderr.startswith("refused: ")


def graph_of(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[TensorProto],
) -> None:
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs, weights),
        opset_imports=[helper.make_opsetid("", 20)],
        ir_version=10,
    )
    path.write_bytes(model.SerializeToString())


def test_graphs_that_write_more_than_they_say_are_refused(copy: Path) -> None:
    """The table gives a row too many, the encoder one token: both leave their sizes open."""
    info, floats = helper.make_tensor_value_info, TensorProto.FLOAT
    honest = onnx.load(copy / "embed_tokens.onnx")
    onnx.load_external_data_for_model(honest, str(copy))
    (table,) = honest.graph.initializer
    graph_of(
        copy / "embed_tokens.onnx",
        [
            helper.make_node("Gather", [table.name, "token_ids"], ["rows"]),
            helper.make_node("Concat", ["rows", "rows"], ["embeds"], axis=0),
        ],
        [info("token_ids", TensorProto.INT64, ["tokens"])],
        [info("embeds", floats, ["rows", 64])],
        [table],
    )
    forge(copy)
    model = opened(copy)
    with pytest.raises(BundleError, match=r"embed_tokens: output embeds has shape \(4,64\)"):
        embed_ids(model.engine, (1, 2))
    # A step of the decoder binds one row.
    with pytest.raises(BundleError, match=r"embeds has shape \(2,64\), expected \(1,64\)"):
        Decoder.open(model.engine, 4).step(1, 0)

    graph_of(
        copy / "audio_encoder.onnx",
        [
            helper.make_node("Shape", ["input_features"], ["sizes"]),
            helper.make_node("Mul", ["sizes", "times"], ["shape"]),
            helper.make_node("ConstantOfShape", ["shape"], ["audio_embeds"]),
            helper.make_node("Identity", ["feature_lengths"], ["lengths"]),
        ],
        [
            info("input_features", floats, ["windows", 80, "frames"]),
            info("feature_lengths", TensorProto.INT64, ["windows"]),
        ],
        [info("audio_embeds", floats, ["windows", "n", "m"])],
        [helper.make_tensor("times", TensorProto.INT64, [3], [1, 100, 1])],
    )
    forge(copy)
    samples = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    with pytest.raises(
        BundleError, match=r"audio_embeds has shape \(1,8000,\d+\), expected \(1,\d+,64\)"
    ):
        opened(copy).listen(samples, sampling_rate=16_000)


def test_links_devices_and_strangers_are_refused(copy: Path, tmp_path: Path) -> None:
    path = copy / "decoder.onnx"
    outside = tmp_path / "outside.onnx"
    path.rename(outside)
    path.symlink_to(outside)
    with pytest.raises(BundleError, match="leads out of the bundle"):
        opened(copy)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(BundleError, match="leads out of the bundle"):
        opened(copy)
    path.unlink()
    path.symlink_to(path.name)
    with pytest.raises(BundleError, match=r"Too many levels of symbolic links.*: copy or export"):
        opened(copy)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BundleError, match="not a regular file"):
        opened(copy)
    path.unlink()
    path.mkdir()
    with pytest.raises(BundleError, match="not a regular file"):
        opened(copy)
    path.rmdir()
    outside.rename(path)
    (copy / "plugin.so").touch()
    with pytest.raises(BundleError, match=r"'plugin\.so', which its manifest\.json does not list"):
        opened(copy)


def rewritten(folder: Path, name: str, change: Callable[[onnx.ModelProto], object]) -> None:
    path = folder / f"{name}.onnx"
    model = onnx.load(path, load_external_data=False)
    change(model)
    path.write_bytes(model.SerializeToString())
    forge(folder)


def point(model: onnx.ModelProto, location: str) -> None:
    for weights in model.graph.initializer:
        for entry in weights.external_data:
            if entry.key == "location":
                entry.value = location


@pytest.mark.parametrize(
    "location",
    ["/etc/passwd", "../other.data", "./decoder.onnx.data", "*/_ORT_MEM_ADDR_/*", ""],
)
def test_weights_lie_in_listed_files_alone(location: str, copy: Path) -> None:
    rewritten(copy, "decoder", lambda model: point(model, location))
    with pytest.raises(BundleError, match="reads its weights from"):
        verify_files(copy, Manifest.read(copy))


def test_weights_within_a_node_are_looked_at_too(copy: Path) -> None:
    weights = helper.make_tensor("x", TensorProto.FLOAT, [1], [0.0])
    weights.ClearField("float_data")
    weights.data_location = TensorProto.EXTERNAL
    weights.external_data.add(key="location", value="/etc/passwd")
    node = helper.make_node("Constant", [], ["never"], value=weights)
    rewritten(copy, "similarity", lambda model: model.graph.node.append(node))
    with pytest.raises(BundleError, match="/etc/passwd"):
        verify_files(copy, Manifest.read(copy))


def test_what_a_known_graph_reads_is_held_against_each_manifest(copy: Path) -> None:
    rewritten(copy, "decoder", lambda model: point(model, "embed_tokens.onnx.data"))
    verify_files(copy, Manifest.read(copy))  # remembered from here on
    (copy / "embed_tokens.onnx.data").unlink()
    path = copy / MANIFEST_FILE
    content = json.loads(path.read_text())
    del content["digest"], content["files"]["embed_tokens.onnx.data"]
    path.write_text(json.dumps(content | {"digest": content_digest(content)}))
    with pytest.raises(BundleError, match="reads its weights from"):
        verify_files(copy, Manifest.read(copy))


EMPTY = helper.make_graph([], "g", [], [])


@pytest.mark.parametrize(
    ("node", "word"),
    [
        (helper.make_node("EPContext", [], ["y"], domain="com.microsoft"), "EPContext"),
        (helper.make_node("Relu", ["scores"], ["y"], domain="other"), r"other\.Relu"),
        (helper.make_node("NonZero", ["scores"], ["y"]), "NonZero"),
        (helper.make_node("If", ["scores"], ["y"], then_branch=EMPTY), "graphs within a node"),
    ],
)  # fmt: skip
def test_operators_that_export_never_writes_are_refused(
    node: onnx.NodeProto, word: str, copy: Path
) -> None:
    rewritten(copy, "similarity", lambda model: model.graph.node.append(node))
    with pytest.raises(BundleError, match=word):
        verify_files(copy, Manifest.read(copy))


def test_functions_of_a_graph_are_refused(copy: Path) -> None:
    function = helper.make_function(
        "own", "F", ["x"], ["y"], [helper.make_node("Relu", ["x"], ["y"])],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    rewritten(copy, "similarity", lambda model: model.functions.append(function))
    with pytest.raises(BundleError, match="functions"):
        verify_files(copy, Manifest.read(copy))


def test_a_graph_is_read_as_the_onnx_package_reads_it(bundle: Path) -> None:
    for path in bundle.glob("*.onnx"):
        model = onnx.load(path, load_external_data=False)
        found = read_graph(path)
        assert found.operators == {(node.domain, node.op_type) for node in model.graph.node}
        assert found.locations == {
            entry.value
            for weights in model.graph.initializer
            for entry in weights.external_data
            if entry.key == "location"
        }


def test_damaged_graphs_give_a_phrase(bundle: Path, tmp_path: Path) -> None:
    whole = (bundle / "decoder.onnx").read_bytes()
    random = np.random.default_rng(0)
    path = tmp_path / "x.onnx"
    damaged = [b"", b"\xff" * 40, b"ORTM" * 9, *(whole[:n] for n in range(1, 12_000, 977))]
    for _ in range(100):
        content = bytearray(whole)
        for at in random.integers(0, len(whole), 5):
            content[at] = random.integers(256)
        damaged.append(bytes(content))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            read_graph(path)
        except ValueError as error:
            refused += "\n" not in str(error)
    assert refused > len(damaged) / 3


def tokenizer_with(folder: Path, **parts: Any) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | parts))
    forge(folder)
    return path


def replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


LETTER = {"String": "a"}
SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ({"normalizer": {"type": "Sequence", "normalizers": [replace(LETTER, "aaaa")] * 9}},
         "262144 times as long"),
        ({"normalizer": replace({"Regex": ""}, "a" * 2000)}, "2001 times"),
        ({"decoder": replace({"String": ""}, "a" * 2000)}, "2001 times"),
        ({"decoder": {"type": "Sequence", "decoders": [
            {"type": "Strip", "content": " ", "start": 1, "stop": 1}]}}, "off the ends of tokens"),
        ({"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 100}}, "64 steps"),
        ({"normalizer": {"type": "Other"}}, "unknown step 'Other'"),
        ({"normalizer": {"type": {"a": {}}}}, "unknown step"),
        ({"pre_tokenizer": SPLIT | {"pattern": {"Regex": "(a+)+$"}}}, "repeats a repetition"),
        ({"pre_tokenizer": SPLIT | {"pattern": {"Regex": "((?:b|a*)|c){2,}"}}}, "repeats a rep"),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": {}}}, "not a list"),
        ({"post_processor": {"type": "TemplateProcessing", "pair": [], "special_tokens": {},
          "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 9}}, "several times"),
        ({"model": {}}, "cannot be read"),
        ({"normalizer": 3}, "normalizer"),
    ],
)  # fmt: skip
def test_tokenizers_that_blow_up_are_refused(parts: Any, word: str, copy: Path) -> None:
    tokenizer_with(copy, **parts)
    with pytest.raises(BundleError, match=word):
        opened(copy)


WORDS = {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "",
         "max_input_chars_per_word": 100, "vocab": {"[UNK]": 0, "a": 1}}  # fmt: skip
PAIRS = {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}
PIECES = {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]}


MAP = base64.b64encode(bytes([8, 0, 0, 0]) + bytes(8) + b"z" * 60_000 + b"\0").decode()


def added(*contents: str) -> list[dict[str, Any]]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "special"), False)
    return [{"id": 2 + number, "content": content, "normalized": True, **flags}
            for number, content in enumerate(contents)]  # fmt: skip


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ({"model": WORDS | {"max_input_chars_per_word": 10**9}}, "max_input_chars_per_word"),
        ({"model": WORDS | {"continuing_subword_prefix": "#" * 10**6}}, "subword_prefix has more"),
        ({"model": PAIRS | {"continuing_subword_prefix": "#" * 10**6}}, "subword_prefix has more"),
        ({"model": PAIRS | {"end_of_word_suffix": "#" * 10**6}}, "end_of_word_suffix has more"),
        ({"model": PAIRS | {"unk_token": "u" * 10**6}}, "unk_token has more"),
        ({"model": PAIRS | {"vocab": {"a": 0, "b" * 10**6: 1}}}, "token of 1000000 characters"),
        ({"model": PAIRS | {"dropout": 0.1}}, "at random"),
        ({"model": PIECES | {"vocab": [["<unk>", 0.0], *(["a" * n, -1.0] for n in range(1, 999))]}},
         "token of 998 characters"),
        ({"added_tokens": added(*map(str, range(200_000)))}, "adds 200000 tokens"),
        ({"added_tokens": added("x" * 10**6)}, "adds a token of more than"),
        ({"added_tokens": added(*(f"x{n}" * 20 for n in range(20_000))),
          "normalizer": replace({"Regex": ""}, "a" * 900)}, "of the tokens that it adds"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": MAP}}, "60000 bytes of"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "x"}}, "not a tokenizer"),
        ({"normalizer": replace({"Regex": "a{1000}{1000}b"}, "x")}, "repeats a repetition"),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "pieces of no length"),
        ({"post_processor": {"type": "TemplateProcessing", "pair": [],
          "single": [{"Sequence": {"id": "A", "type_id": 0}}],
          "special_tokens": {"x": {"id": "x", "ids": [0] * 10**6, "tokens": ["x"] * 10**6}}}},
         "special token of more than 64 ids"),
    ],
)  # fmt: skip
def test_tokenizers_that_take_too_long_are_refused(parts: Any, word: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"version": "1.0", "model": PAIRS, **parts}))
    with pytest.raises(BundleError, match=word):
        check_tokenizer(path)


@pytest.mark.parametrize("model", [WORDS, PAIRS, PIECES])
def test_tokenizers_within_bounds_are_quick_whatever_they_hold(model: Any, tmp_path: Path) -> None:
    """As far as the bounds allow, and texts that are the worst for each."""
    path, longest = tmp_path / "tokenizer.json", 1024
    if model is PIECES:
        model = model | {"vocab": [["<unk>", 0.0], *(["a" * n, -1.0] for n in range(1, 129))]}
    elif model is WORDS:
        vocab = {"[UNK]": 0, "a": 1, "b" * longest: 2}
        model = model | {"max_input_chars_per_word": 1000, "vocab": vocab}
    else:
        vocab = {"a" * n: n - 1 for n in range(1, longest + 1)}
        merges = [f"{'a' * (n - 1)} a" for n in range(2, longest + 1)]
        model = model | {"vocab": vocab, "merges": merges}
    contents = added(*(f"x{n}" for n in range(10_000)))
    path.write_text(json.dumps({"version": "1.0", "model": model, "added_tokens": contents}))
    begin = time.process_time()
    check_tokenizer(path)
    tokenizer = TextTokenizer(open_tokenizer(path, 100_000))
    for text in ("a" * 20_000, "a" * 999 + " ", "b" * 20_000):
        tokenizer.encode(text)
    tokenizer.decode([1] * 1000)
    assert time.process_time() - begin < 15


@pytest.mark.parametrize("text", ["", "{}", "[]", "[" * 100_000, "\x00"])
def test_a_tokenizer_that_is_none_is_one_sentence(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(text)
    with pytest.raises(BundleError, match="not a tokenizer"):
        check_tokenizer(path)


def test_padding_and_cutting_of_a_tokenizer_are_left_out(bundle: Path, copy: Path) -> None:
    tokenizer_with(
        copy,
        padding={
            "strategy": {"Fixed": 10**9}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "x",
        },
        truncation={"max_length": 1, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
    )  # fmt: skip
    assert Prompt.of(opened(copy).engine, "Who?") == Prompt.of(opened(bundle).engine, "Who?")


def test_a_panic_of_the_tokenizer_is_one_sentence(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicException(BaseException):
        """No ``Exception``, as that of pyo3 is none."""

    def panic(*_: Any, **__: Any) -> None:
        raise PanicException("index out of bounds")

    model = opened(bundle)
    monkeypatch.setattr(model.engine.text, "encode", panic)
    with pytest.raises(BundleError, match="index out of bounds"):
        Prompt.of(model.engine, "Who?")
    monkeypatch.setattr(Tokenizer, "from_file", panic)
    with pytest.raises(BundleError, match="index out of bounds"):
        opened(bundle)


def test_what_a_panic_prints_is_not_seen(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = copy / "tokenizer.json"
    content = json.loads(path.read_text())
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    path.write_text(json.dumps(content))
    with pytest.raises(BundleError, match="Cannot parse precompiled_charsmap"):
        open_tokenizer(path, 1 << 20)
    assert capfd.readouterr().err == ""


def test_tokens_beyond_the_table_are_named(copy: Path) -> None:
    path = copy / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["W"] = 100_000
    path.write_text(json.dumps(content))
    forge(copy)
    model = opened(copy)
    with pytest.raises(BundleError, match=r"gives token 100000 \('W'\) and .* has 262 rows"):
        model.embed_text("Who?")
    content["model"]["vocab"] |= {f"x{n}": n for n in range(300, 400)}
    path.write_text(json.dumps(content))
    forge(copy)
    with pytest.raises(BundleError, match="362 tokens and the embedding table 262 rows"):
        opened(copy)


@pytest.mark.parametrize(
    ("error", "kind", "word"),
    [
        (MemoryError(), OutOfMemoryError, "There is not enough memory for decoder: raise the"),
        (RuntimeError("Failed to allocate memory for requested buffer of size 9"),
         OutOfMemoryError, "There is not enough memory for decoder"),
        (RuntimeError("std::bad_alloc"), OutOfMemoryError, "not enough memory"),
        (RuntimeError("Non-zero status code\nat line 7"), SpeechPruneError,
         r"decoder failed in ONNX Runtime \(Non-zero status code\)"),
        (ValueError(""), SpeechPruneError, r"decoder failed in ONNX Runtime \(ValueError\)"),
    ],
)  # fmt: skip
def test_errors_of_a_run_are_one_sentence(
    error: Exception, kind: type[SpeechPruneError], word: str, bundle: Path
) -> None:
    class Failing:
        def run_with_iobinding(self, *_: Any) -> None:
            raise error

        run = run_with_iobinding

    spec = Manifest.read(bundle).graphs["decoder"].spec
    session = session_module.CheckedSession(Failing(), spec)
    for run in (lambda: session.run_with_iobinding(None), lambda: session.run(["logits"], {})):
        with pytest.raises(kind, match=word) as caught:
            run()
        assert "\n" not in str(caught.value)


def test_a_run_that_is_cancelled_stays_so(bundle: Path) -> None:
    class Ended:
        def run_with_iobinding(self, *_: Any) -> None:
            raise CancelledError("It was cancelled.")

        run = run_with_iobinding

    spec = Manifest.read(bundle).graphs["decoder"].spec
    session = session_module.CheckedSession(Ended(), spec)
    for run in (lambda: session.run_with_iobinding(None), lambda: session.run(["logits"], {})):
        with pytest.raises(CancelledError, match="It was cancelled"):
            run()


def test_a_cache_beyond_memory_is_one_sentence(bundle: Path) -> None:
    with pytest.raises(OutOfMemoryError, match="max_new_tokens"):
        Decoder.open(opened(bundle).engine, 1 << 50)


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("std::bad_alloc")], ids=["numpy", "ONNX Runtime"]
)
def test_memory_that_runs_out_on_the_way_is_one_sentence(
    error: Exception, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    model, noise = opened(bundle), np.random.default_rng(0).uniform(-0.1, 0.1, 16_000)
    with monkeypatch.context() as patch:
        patch.setattr(WindowEncoder, "add", fail)
        with pytest.raises(OutOfMemoryError, match="not enough memory for audio_encoder"):
            model.listen(noise, sampling_rate=16_000)
        live = model.live(sampling_rate=16_000)
        with pytest.raises(OutOfMemoryError, match="not enough memory for audio_encoder"):
            live.add(np.tile(noise, 40))
    decoder = Decoder.open(model.engine, 8)
    monkeypatch.setattr(Cache, "take", fail)
    with pytest.raises(OutOfMemoryError, match="not enough memory for decoder"):
        decoder.grow(2, 16)


@pytest.mark.parametrize("at", ["TemporaryFile", "write"])
def test_what_finds_no_room_on_disk_is_one_sentence(
    at: str, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full(io.BytesIO):
        def write(self, _: Any, /) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    def temporary(*_: Any, **__: Any) -> Full:
        if at == "TemporaryFile":
            raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")
        return Full()

    sound = np.random.default_rng(0).uniform(-0.1, 0.1, 200 * 16_000)
    model, path = opened(bundle), tmp_path / "a.recording"
    model.listen(sound, sampling_rate=16_000).save(path)
    monkeypatch.setattr(tempfile, "TemporaryFile", temporary)
    with pytest.raises(OutputError, match=r"temporary file .*set TMPDIR"):
        model.listen(sound, sampling_rate=16_000, memory_budget_mb=1e-6)
    with pytest.raises(OutputError, match=r"temporary file .*set TMPDIR"):
        model.live(sampling_rate=16_000, memory_budget_mb=1e-6).add(sound)
    with pytest.raises(OutputError, match=r"temporary file .*set TMPDIR"):
        model.load_recording(path, memory_budget_mb=1e-6)


def test_a_budget_beyond_all_memory_is_what_a_recording_needs(bundle: Path) -> None:
    sound = np.random.default_rng(0).uniform(-0.1, 0.1, 65 * 16_000)
    model = opened(bundle)
    for budget in (1e5, 1e308, float("inf")):
        heard = model.listen(sound, sampling_rate=16_000, memory_budget_mb=budget)
        asked = model.listen(sound, sampling_rate=16_000).ask("Who?", max_new_tokens=3)
        assert heard.ask("Who?", max_new_tokens=3).token_ids == asked.token_ids


def test_a_graph_beyond_memory_is_not_called_damaged(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("std::bad_alloc")

    monkeypatch.setattr(session_module.ort.InferenceSession, "__init__", fail)
    with pytest.raises(OutOfMemoryError, match="narrower --precision"):
        opened(bundle)


def test_the_published_schema_is_current_and_true(bundle: Path) -> None:
    import jsonschema

    path = ROOT / "docs" / "reference" / "manifest.schema.json"
    schema = json.loads(path.read_text())
    assert schema == json.loads(json.dumps(Manifest.schema())), "run scripts/write_schemas.py"
    content = json.loads((bundle / MANIFEST_FILE).read_text())
    jsonschema.validate(content, schema)
    content["audio"]["n_fft"] = 2**31
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)
