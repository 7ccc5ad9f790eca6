"""Checkpoints that cannot be exported are refused in one sentence, most of them before torch."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from hub_server import COMMIT, hub, reach
from safetensors.torch import load_file, save_file
from tiny import TINY
from tiny_families import write_diva, write_voxtral
from tiny_ultravox import write as write_ultravox

from speechprune_ort import ExportError, ParityError
from speechprune_ort.export.families import FAMILIES, check_checkpoint, load_checkpoint
from speechprune_ort.export.memory import enough_memory
from speechprune_ort.export.parity import checked, compare
from speechprune_ort.export.request import check_request

NOBODY = "~no-user-has-this-name"
Change = Callable[[Path], None]


@pytest.fixture
def copy(checkpoints: Any, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints(TINY[0]), tmp_path / "checkpoint"))


def config(**values: Any) -> Change:
    """Set, or with None of a part remove, what ``config.json`` says."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps(content | values))

    return change


def without(*keys: str) -> Change:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps({k: v for k, v in content.items() if k not in keys}))

    return change


def part(name: str, **values: Any) -> Change:
    """Set what ``config.json`` says of a part."""

    def change(folder: Path) -> None:
        path = folder / "config.json"
        content = json.loads(path.read_text())
        content[name] |= values
        path.write_text(json.dumps(content))

    return change


def text(**values: Any) -> Change:
    """Set what ``config.json`` says of the language model."""
    return part("text_config", **values)


def rope(**values: Any) -> Change:
    return text(rope_parameters={"rope_theta": 10_000.0, **values})


def file(name: str, content: str | bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def cut(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])


def cut_header(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 5000) + b"{")


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Change:
    def rewrite(folder: Path) -> None:
        weights = {n: v.clone() for n, v in load_file(folder / "model.safetensors").items()}
        change(weights)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    return rewrite


def only(*names: str) -> Change:
    """Leave nothing in the folder but empty files of these names."""

    def change(folder: Path) -> None:
        for path in folder.iterdir():
            path.unlink()
        for name in names:
            (folder / name).write_text("{}")

    return change


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 699664\n"

EARLY: Mapping[str, tuple[Change, str]] = {
    "list": (file("config.json", "[1]"), "holds a list, not an object"),
    "number": (file("config.json", "7"), "holds 7, not an object"),
    "null": (file("config.json", "null"), "holds null, not an object"),
    "empty file": (file("config.json", ""), "is not JSON"),
    "garbage": (file("config.json", b"\x00\xff\xfe"), "is not JSON"),
    "deep": (file("config.json", "[" * 200_000), "nested too deeply"),
    "deep object": (file("config.json", '{"a":' * 200_000), "nested too deeply"),
    "pointer for a config": (file("config.json", POINTER), "git lfs pull"),
    "architectures is a number": (config(architectures=3), "architectures .* is 3, not a list"),
    "architectures of lists": (config(architectures=[["x"]]), "architectures .* is a list, not"),
    "no text config": (without("text_config"), r"has no text_config \(null\)"),
    "empty text config": (config(text_config={}), "has no text_config"),
    "text config is a list": (config(text_config=[1]), "has no text_config"),
    "no audio config": (without("audio_config"), "has no audio_config"),
    "fp8": (config(quantization_config={"quant_method": "fp8"}), r"is quantized \('fp8'\)"),
    "gptq": (config(quantization_config={"quant_method": "gptq"}), r"is quantized \('gptq'\)"),
    "awq": (config(quantization_config={"quant_method": "awq"}), r"is quantized \('awq'\)"),
    "bitsandbytes": (
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        r"is quantized \('bitsandbytes'\).*--precision",
    ),
    "compressed-tensors": (
        text(quantization_config={"quant_method": "compressed-tensors"}),
        r"is quantized \('compressed-tensors'\)",
    ),
    "nameless quantization": (config(quantization_config=[1]), "is quantized"),
    "compressed-tensors before transformers": (
        config(compression_config={"format": "pack-quantized"}),
        r"is quantized \(compression_config\)",
    ),
    "mlx": (config(quantization={"group_size": 64, "bits": 4}), r"is quantized \(quantization\)"),
    "a part of a part": (
        config(thinker_config={"text_config": {"quantization_config": {"quant_method": "gptq"}}}),
        r"is quantized \('gptq'\)",
    ),
    "rope linear": (rope(rope_type="linear", factor=0), r"factor .* \(linear\) .* is 0, no"),
    "rope dynamic": (rope(rope_type="dynamic"), r"factor .* \(dynamic\) .* is null, no"),
    "rope yarn": (rope(rope_type="yarn", factor="4"), r"factor .* \(yarn\) .* is '4', no"),
    "rope longrope": (rope(rope_type="longrope"), "short_factor .* is null, no positive"),
    "rope unknown": (rope(rope_type="spiral"), "type 'spiral'"),
    "rope by its old name": (
        text(rope_parameters=None, rope_scaling={"type": "spiral", "factor": 2}),
        "type 'spiral'",
    ),
    "rope of several axes": (rope(rope_type="default", mrope_section=[2, 3, 3]), "type 'mrope'"),
    "rope of a part": (rope(partial_rotary_factor=0.5), "rotates 0.5 of each head"),
    "rope by layers": (
        text(rope_parameters={"full_attention": {"rope_type": "proportional"}}),
        "type 'proportional'",
    ),
    "rope is a list": (text(rope_parameters=[1]), "rope_parameters .* is a list"),
    "sliding window": (
        text(use_sliding_window=True, sliding_window=64, max_window_layers=0),
        "sliding window",
    ),
    "mistral's window": (
        text(model_type="mistral", sliding_window=64, layer_types=["full_attention"] * 2),
        "contradicts sliding_window 64",
    ),
    "settings of single layers": (
        text(per_layer_config={"1": {"sliding_window": 4}}),
        "settings of single layers .per_layer_config",
    ),
    "chunked layers": (text(layer_types=["chunked_attention"] * 2), "names 'chunked_attention'"),
    "activation": (text(hidden_act="gelu"), "hidden_act 'gelu': export knows silu"),
    "sliding layers": (text(layer_types=["full_attention", "sliding_attention"]), "sliding window"),
    "text model": (text(model_type="gemma3"), "'gemma3': export knows qwen2, llama"),
    "hidden size": (text(hidden_size="64"), "hidden_size .* '64', not a positive"),
    "no heads": (text(num_attention_heads=0), "num_attention_heads .* 0, not a positive"),
    "narrow heads": (text(head_dim=24), "are 24 wide, .* multiples of 16"),
    "audio token null": (config(audio_token_index=None), "audio_token_id .* is null"),
    "audio token beyond": (
        config(audio_token_index=262),
        "audio_token_id .* is 262, which is not an id",
    ),
    "audio token below": (config(audio_token_index=-1), "audio_token_id .* is -1"),
    "pointer": (file("model.safetensors", POINTER), "is a Git LFS pointer.*git lfs pull"),
    "empty weights": (file("model.safetensors", ""), r"is cut off \(0 bytes\)"),
    "half of the weights": (cut, r"is cut off \(\d+ of \d+ bytes\)"),
    "half of the header": (cut_header, "is cut off"),
    "no header": (file("model.safetensors", b"\xff" * 400), "its header is not readable"),
    "pickle": (pickled, r"pytorch_model\.bin, a pickle.*--allow-pickle"),
    "weights in 8 bits": (
        tensors(lambda w: w.update(x=torch.zeros(2, dtype=torch.float8_e4m3fn))),
        "stores quantized weights .x in F8_E4M3",
    ),
    **{
        f"weights of {name}": (
            tensors(
                lambda w, given=(end, dtype): w.update(
                    {f"layer.{given[0]}": torch.zeros(2, 2, dtype=given[1])}
                )
            ),
            f"stores quantized weights .layer.{end} in",
        )
        for name, end, dtype in (
            ("gptq and awq", "qweight", torch.int32),
            ("bitsandbytes in 4 bits", "weight", torch.uint8),
            ("bitsandbytes in 8 bits", "weight", torch.int8),
            ("compressed-tensors, packed", "weight_packed", torch.int32),
            ("compressed-tensors, 8 bits", "weight", torch.float8_e4m3fn),
            ("mlx", "weight", torch.uint32),
        )
    },
    "generation config": (file("generation_config.json", "[1"), "generation_config.json .* JSON"),
    "layer types": (text(layer_types=3), "layer_types or max_window_layers"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "it holds no weights"),
    "adapter of no type": (
        only("adapter_config.json", "adapter_model.safetensors"),
        "'None': export",
    ),
    "adapter beside a model": (
        file("adapter_config.json", '{"peft_type": "LORA", "base_model_name_or_path": "x"}'),
        "holds both a whole model and an adapter",
    ),
    "endless layers": (text(num_hidden_layers=10**12), "num_hidden_layers .* takes 1 to 1024"),
    "endless layers of a part": (
        config(vision_config={"depth": 1e400}),
        r"depth in config\.json of .* is inf",
    ),
    "no layers of sound": (part("audio_config", encoder_layers=0), "encoder_layers .* is 0, and"),
    "too wide": (text(hidden_size=1 << 17), "hidden_size .* a bundle has at most 65536"),
    "too many words": (text(vocab_size=10**15), "vocab_size .* a bundle has at most 16777216"),
    "heads that cannot be shared": (text(num_key_value_heads=3), "cannot share num_key_value"),
    "rope without a base": (text(rope_theta="x"), "rope_theta .* is 'x', no positive number"),
    "old gptq": (file("quantize_config.json", "{}"), r"is quantized \(quantize_config\.json"),
    "old awq": (file("quant_config.json", "{}"), r"is quantized \(quant_config\.json"),
    "nvidia's": (file("hf_quant_config.json", "{}"), r"is quantized \(hf_quant_config\.json"),
    "empty folder": (only(), r"is empty and holds no config\.json"),
    "gguf folder": (only("model-q4.gguf"), "GGUF"),
    "another model": (
        config(architectures=["LlamaForCausalLM"], model_type="llama"),
        "is a LlamaForCausalLM checkpoint, which export does not know",
    ),
}


@pytest.mark.parametrize("case", EARLY)
def test_refused_before_torch(case: str, copy: Path) -> None:
    change, message = EARLY[case]
    change(copy)
    with pytest.raises(ExportError, match=message) as caught:
        check_checkpoint(str(copy))
    assert "\n" not in str(caught.value)


def test_shards_are_looked_at_one_by_one(copy: Path) -> None:
    whole = (copy / "model.safetensors").read_bytes()
    index = copy / "model.safetensors.index.json"
    (copy / "model.safetensors").rename(copy / "model-1.safetensors")
    for names, message in (
        ({"a": "model-1.safetensors", "b": "model-2.safetensors"}, "model-2.* is missing"),
        ({"a": "../model-1.safetensors"}, "leads out of its folder"),
        ({"a": 1}, "names no files"),
        ([1], "names no files"),
    ):
        index.write_text(json.dumps({"weight_map": names}))
        with pytest.raises(ExportError, match=message):
            check_checkpoint(str(copy))
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors"}}))
    check_checkpoint(str(copy))
    (copy / "model-1.safetensors").write_bytes(whole[:-1])
    with pytest.raises(ExportError, match=r"model-1.* is cut off"):
        check_checkpoint(str(copy))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.gguf", "is a GGUF file"),
        ("config.json", "is a file: give the folder"),
        ("nowhere", "There is no checkpoint folder"),
        ("x" * 300, "File name too long"),
    ],
)
def test_what_is_no_folder_is_refused(name: str, message: str, copy: Path) -> None:
    (copy / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ExportError, match=message):
        check_checkpoint(str(copy / name))


def test_what_nobodys_home_holds_is_refused(copy: Path) -> None:
    for model, base in ((f"{NOBODY}/x", None), (str(copy), f"{NOBODY}/x")):
        if base is not None:
            only("adapter_model.safetensors")(copy)
            file("adapter_config.json", '{"peft_type": "LORA"}')(copy)
        with pytest.raises(ExportError, match="there is no home folder of that name"):
            check_request(model, None, base=base)


def test_settings_that_the_hubs_client_cannot_read_are_one_sentence(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "huggingface_hub.constants", raising=False)
    monkeypatch.delattr("huggingface_hub.constants", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", "http://[")
    with pytest.raises(ExportError, match=r"Invalid IPv6 URL.*: correct HF_ENDPOINT"):
        check_request(str(copy), None)


def test_every_shape_of_rope_that_is_taken_is_tested(copy: Path) -> None:
    rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
         original_max_position_embeddings=256)(copy)  # fmt: skip
    check_checkpoint(str(copy))
    text(use_sliding_window=True, max_window_layers=2, num_hidden_layers=2)(copy)
    check_checkpoint(str(copy))  # no layer is left that would slide
    assert set(FAMILIES) >= {"Qwen2AudioForConditionalGeneration", "DiVAModel"}


def rewritten(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


TEXT_MODELS: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "another kind": (lambda f: rewritten(f, model_type="gpt2"), "text model of .* is 'gpt2'"),
    "no config": (lambda f: (f / "config.json").unlink(), "config.json"),
    "garbage": (lambda f: (f / "config.json").write_text("{"), "is not JSON"),
    "quantized": (
        lambda f: rewritten(f, quantization_config={"quant_method": "gptq"}),
        "is quantized .'gptq'",
    ),
    "rope": (
        lambda f: rewritten(f, rope_parameters={"rope_type": "mystery", "rope_theta": 1e4}),
        "mystery",
    ),
    "activation": (lambda f: rewritten(f, hidden_act="gelu"), "hidden_act"),
    "cut weights": (lambda f: cut(f), "is cut off"),
    "missing": (lambda f: shutil.rmtree(f), "decoder|text"),
}


@pytest.mark.parametrize("family", ["diva", "ultravox"])
@pytest.mark.parametrize("name", TEXT_MODELS)
def test_a_text_model_of_its_own_is_refused_before_any_weight_is_read(
    family: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoint"
    if family == "diva":
        folder.mkdir()
        write_diva(folder, 1, None)
        text, key = folder / "decoder", "reference_decoder"
    else:
        write_ultravox(folder, whole=False)
        text, key = folder / "language_model", "text_model_id"
    check_checkpoint(str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read long ago
    change, message = TEXT_MODELS[name]
    change(text)
    with pytest.raises(ExportError, match=message) as found:
        check_checkpoint(str(folder))
    assert key in str(found.value)
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("family", ["diva", "ultravox"])
@pytest.mark.parametrize("named", [None, "", 5, ["x"], "no/such"])
def test_a_text_model_that_is_named_nowhere_is_refused(
    family: str, named: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # read long ago
    folder = tmp_path / "checkpoint"
    if family == "diva":
        folder.mkdir()
        write_diva(folder, 1, None)
        rewritten(folder, reference_decoder=named)
    else:
        write_ultravox(folder, whole=False)
        rewritten(folder, text_model_id=named, text_config=None)
    with pytest.raises(ExportError, match=r"reference_decoder|text_model_id"):
        check_checkpoint(str(folder))


def test_an_ultravoxs_own_text_model_is_checked_before_torch(tmp_path: Path) -> None:
    folder = write_ultravox(tmp_path / "checkpoint")
    check_checkpoint(str(folder))
    config = json.loads((folder / "config.json").read_text())
    for values, message in (
        ({"text_config": config["text_config"] | {"model_type": "gpt2"}}, "'gpt2'"),
        ({"text_config": [1]}, "has no text_config"),
        ({"text_config": None}, "names no text_model_id"),
        ({"audio_config": None}, "names no audio_model_id"),
    ):
        rewritten(folder, **{**config, **values})
        with pytest.raises(ExportError, match=message):
            check_checkpoint(str(folder))


def more_layers(weights: dict[str, torch.Tensor]) -> None:
    for name in [n for n in weights if "language_model" in n and ".layers.1." in n]:
        weights[name.replace(".layers.1.", ".layers.2.")] = weights[name].clone()


def strange(weights: dict[str, torch.Tensor]) -> None:
    weights["language_model.model.extra.weight"] = torch.zeros(2)


def narrow_projector(weights: dict[str, torch.Tensor]) -> None:
    name = next(n for n in weights if "projector" in n and n.endswith("weight"))
    weights[name] = weights[name][:, :-1].contiguous()


LATE: Mapping[str, tuple[Change, str]] = {
    "vocabulary": (text(vocab_size=300), "vocab_size .* is 300 and .* has 262"),
    "hidden size": (text(hidden_size=128, head_dim=16), "hidden_size .* is 128 and .* has 64"),
    "fewer layers than weights": (tensors(more_layers), "num_hidden_layers .* is 2 and .* have 3"),
    "more layers than weights": (text(num_hidden_layers=3), "is 3 and the weights have 2"),
    "weights left over": (tensors(strange), r"1 weights that .* no place for \(first: .*extra"),
    "weights missing": (
        tensors(lambda w: w.__delitem__("audio_tower.conv1.bias")),
        "lacks 1 weights",
    ),
    "another shape": (tensors(narrow_projector), r"projector.* has shape \(64, 31\) and"),
    "sizes left out": (
        config(audio_config={"model_type": "qwen2_audio_encoder"}),
        r"audio_tower.* asks for \(1280,.*leaves out a size",
    ),
    "empty tokenizer": (file("tokenizer.json", "{}"), "cannot be loaded"),
    "tokenizer is a list": (file("tokenizer.json", "[]"), "cannot be loaded"),
    "tokenizer pointer": (file("tokenizer.json", POINTER), "cannot be loaded"),
    "processor is a list": (file("processor_config.json", "[]"), "cannot be loaded"),
    "broken template": (file("chat_template.jinja", "{% if %}"), "template cannot be rendered"),
    "raising template": (
        file("chat_template.jinja", "{{ raise_exception('roles must alternate') }}"),
        r"cannot be rendered \(.*roles must alternate",
    ),
    "template divides": (file("chat_template.jinja", "{{ 1 // 0 }}"), "cannot be rendered"),
    "template without audio": (file("chat_template.jinja", "hello"), "audio placeholder 0 times"),
    "end tokens": (file("generation_config.json", '{"eos_token_id": [262]}'), "eos_token_id"),
    "notes": (config(bundle_notes=3), "bundle_notes is 3"),
    "temperature": (config(bundle_frame_temperature=-1), "bundle_frame_temperature is -1"),
}


@pytest.mark.parametrize("case", LATE)
def test_refused_while_loading(case: str, copy: Path) -> None:
    change, message = LATE[case]
    change(copy)
    with pytest.raises(ExportError, match=message) as caught:
        load_checkpoint(str(copy), None, False)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("token", [None, 100_000, "x", 2.5])
def test_a_voxtral_without_its_audio_token_is_refused(token: Any, tmp_path: Path) -> None:
    folder = write_voxtral(tmp_path / "voxtral")
    config(audio_token_id=token)(folder)
    with pytest.raises(ExportError, match="audio_token_id"):
        load_checkpoint(str(folder), None, False)


IMPORTS = """
import sys
from pathlib import Path
from speechprune_ort.cli import main

sys.argv = ["speechprune-ort", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert end.code == 2, end.code
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""


def test_what_must_be_refused_is_before_torch_is_imported(copy: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    rope(rope_type="yarn")(copy)
    packed = Path(shutil.copytree(copy, tmp_path / "packed"))
    config(quantization_config={"quant_method": "awq", "bits": 4})(packed)
    for arguments, word in (
        ([str(copy), str(taken)], "already there"),
        ([str(copy), str(tmp_path / "out"), "--precision", "fp8"], "--precision"),
        ([str(copy), str(tmp_path / "out"), "--target", "tpu"], "--target"),
        ([str(copy), str(tmp_path / "out")], "(yarn)"),
        ([str(copy), str(copy / "out")], "lies in the checkpoint"),
        ([str(copy), str(tmp_path / "out"), "--revision", "main"], "is a local folder: leave it"),
        ([str(packed), str(tmp_path / "out")], "is quantized ('awq')"),
        ([str(packed), "--dry-run"], "is quantized ('awq')"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", IMPORTS, "export", *arguments],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert word in done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("revision", [None, "main", COMMIT])
def test_a_checkpoint_of_the_hub_is_read_at_one_commit_which_its_bundle_names(
    checkpoints: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with hub({"someone/weights": checkpoints(TINY[0])}) as found:
        reach(found, monkeypatch)
        assert load_checkpoint("someone/weights", revision, False).revision == COMMIT


def test_weights_that_are_not_finite_are_the_checkpoints_fault() -> None:
    good, bad = np.ones(4, np.float32), np.array([1, np.nan, 1, 1], np.float32)
    for expected, found, words in (
        (bad, good, "not finite in torch either"),
        (bad, bad, "not finite in torch either"),
        (good, bad, "is not finite: report"),
        (good, -good, "largest value: report the checkpoint"),
    ):
        with pytest.raises(ParityError, match=words):
            compare("decoder", "case", "logits", expected, found, 0.999999)
    with pytest.raises(ParityError, match="wider --precision"):
        compare("decoder", "case", "logits", good, -good, 0.99)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
        RuntimeError("std::bad_alloc"),
        ParityError("decoder.onnx does not run in ONNX Runtime (std::bad_alloc): report it."),
    ],
)
def test_memory_that_ran_out_is_one_sentence(error: Exception) -> None:
    with pytest.raises(ExportError, match="Memory ran out"), enough_memory():
        raise error


def test_a_graph_that_does_not_run_is_one_sentence() -> None:
    def fail() -> list[Any]:
        raise RuntimeError("Non-zero status code returned\nwhile running a node")

    with pytest.raises(ParityError, match=r"decoder does not run .*Non-zero status") as caught:
        checked("decoder", None, fail)
    assert "\n" not in str(caught.value)
    assert "not run: no CUDA here (no driver)" in str(
        checked("decoder", "no driver", fail).unverified
    )
