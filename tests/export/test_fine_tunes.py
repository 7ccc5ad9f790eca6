"""Fine-tunes: LoRA folders, other vocabularies, shards and pickles answer as torch does."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_audio_flamingo3
import tiny_qwen2_5_omni
import tiny_ultravox
import torch
from numpy.typing import NDArray
from references import RATE, Family, Reference, greedy_ids, pruned_ids, until_stop
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from speechprune_ort import ExportError, PruningOptions, SpeechLLM, UnsupportedModelError
from speechprune_ort.cli.app import app
from speechprune_ort.export.families import check_checkpoint, load_checkpoint
from speechprune_ort.export.pipeline import export_bundle

peft = pytest.importorskip("peft")

QUESTION = "Who owns the budget?"
OMNI = tiny_qwen2_5_omni.STATES[0]
FLAMINGO = tiny_audio_flamingo3.STATES[0]
EVERYWHERE = r".*(q_proj|k_proj|v_proj|o_proj|gate_proj|down_proj|linear_1|fc1)"


def make_adapter(base: Path, folder: Path, family: Family, **settings: Any) -> Reference:
    """Write a random adapter of a checkpoint, and give the model with the adapter merged in."""
    reference = family.open(base)
    torch.manual_seed(5)
    chosen = {"r": 4, "lora_alpha": 8, "target_modules": EVERYWHERE} | settings
    wrapped = peft.get_peft_model(reference.model, peft.LoraConfig(**chosen))
    wrapped.peft_config["default"].base_model_name_or_path = str(base)
    with torch.no_grad():
        for name, weights in wrapped.named_parameters():
            if "lora_B" in name:  # zeros, which would change nothing
                weights.normal_(std=0.1)
            elif "modules_to_save" in name:
                weights.mul_(1.3)
    wrapped.save_pretrained(folder)
    reference.model = wrapped.merge_and_unload().eval()
    return reference


def answers(folder: Path, reference: Reference, samples: NDArray[np.float32]) -> list[int]:
    """Answers of a bundle equal those of torch, whole and pruned; the ids of the whole one."""
    model = SpeechLLM(folder, "cpu")
    stops = model.manifest.stop_token_ids
    expected = greedy_ids(reference, samples, QUESTION, 32)
    options: dict[str, Any] = {"sampling_rate": RATE, "max_new_tokens": 32}
    found = model.ask(samples, QUESTION, method="none", **options)
    assert list(found.token_ids) == until_stop(expected, stops)
    assert len(set(expected)) >= 8
    pruning = PruningOptions(method="speechprune", pruning_rate=0.5, positions="original")
    kept = model.listen(samples, sampling_rate=RATE).prune(QUESTION, pruning).indices.tolist()
    pruned = pruned_ids(reference, samples, QUESTION, kept, True, 32)
    found = model.ask(
        samples, QUESTION, method="speechprune", pruning_rate=0.5, positions="original", **options
    )
    assert list(found.token_ids) == until_stop(pruned, stops)
    return expected


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        (FLAMINGO, {}),
        (FLAMINGO, {"use_dora": True, "use_rslora": True, "bias": "all"}),
        (FLAMINGO, {"modules_to_save": ["lm_head"]}),
        (OMNI, {}),
    ],
    ids=["lora", "dora", "modules-to-save", "omni"],
)
def test_a_lora_answers_as_the_merged_model(
    family: Family, settings: dict[str, Any], tmp_path: Path, tone: NDArray[np.float32]
) -> None:
    base = family.write(tmp_path / "base")
    plain = greedy_ids(family.open(base), tone[: 9 * RATE], QUESTION, 32)
    reference = make_adapter(base, tmp_path / "adapter", family, **settings)
    export_bundle(str(tmp_path / "adapter"), tmp_path / "bundle")
    merged = answers(tmp_path / "bundle", reference, tone[: 9 * RATE])
    assert merged != plain, "this adapter changes no answer: it would prove nothing"
    source = json.loads((tmp_path / "bundle" / "manifest.json").read_text())["source"]
    assert source == "adapter on base"


def test_a_lora_is_merged_in_the_dtype_that_its_base_is_stored_in(tmp_path: Path) -> None:
    base = FLAMINGO.write(tmp_path / "base")
    stored = {n: v.to(torch.bfloat16) for n, v in load_file(base / "model.safetensors").items()}
    save_file(stored, base / "model.safetensors", {"format": "pt"})
    make_adapter(base, tmp_path / "adapter", FLAMINGO)
    said = (base / "config.json").read_text().replace("float32", "bfloat16")
    (base / "config.json").write_text(said)
    before = (base / "model.safetensors").read_bytes()
    found = load_checkpoint(str(tmp_path / "adapter"), None, False).language_model
    assert {weights.dtype for weights in found.parameters()} == {torch.bfloat16}
    model = tiny_audio_flamingo3.AudioFlamingo3ForConditionalGeneration.from_pretrained(base)
    merged = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload()
    expected = merged.model.language_model.state_dict()
    for name, weights in found.model.state_dict().items():
        assert torch.equal(weights, expected[name]), name
    # Weights are mapped from the base's file, and it must not change under them.
    assert (base / "model.safetensors").read_bytes() == before


def grown(base: Path, family: Family) -> tuple[Any, Any]:
    """Processor and model of a checkpoint with two more tokens."""
    processor = tiny_audio_flamingo3.AudioFlamingo3Processor.from_pretrained(base)
    processor.tokenizer.add_tokens(["<laughs>", "<sighs>"], special_tokens=True)
    reference = family.open(base)
    reference.model.resize_token_embeddings(len(processor.tokenizer))
    with torch.no_grad():
        reference.model.get_input_embeddings().weight[-2:].normal_()
    return processor, reference.model


def test_a_lora_with_tokens_of_its_own_brings_them_along(
    tmp_path: Path, tone: NDArray[np.float32]
) -> None:
    base, folder = FLAMINGO.write(tmp_path / "base"), tmp_path / "adapter"
    processor, model = grown(base, FLAMINGO)
    chosen = peft.LoraConfig(
        r=4, target_modules=r".*v_proj", modules_to_save=["embed_tokens", "lm_head"]
    )
    wrapped = peft.get_peft_model(model, chosen)
    wrapped.peft_config["default"].base_model_name_or_path = str(base)
    with torch.no_grad():
        for name, weights in wrapped.named_parameters():
            if "lora_B" in name:
                weights.normal_(std=0.1)
    wrapped.save_pretrained(folder)
    processor.tokenizer.save_pretrained(folder)
    with pytest.raises(ExportError, match="has a tokenizer of its own and no preprocessor_config"):
        load_checkpoint(str(folder), None, False)
    processor.save_pretrained(folder)
    export_bundle(str(folder), tmp_path / "bundle")
    reference = FLAMINGO.open(base)
    reference.processor = processor
    reference.model = wrapped.merge_and_unload().eval()
    answers(tmp_path / "bundle", reference, tone[: 9 * RATE])
    engine = SpeechLLM(tmp_path / "bundle", "cpu").engine
    assert engine.tokenizer.encode("<laughs>") != [len(processor.tokenizer) - 2]  # a user's text
    assert (
        len(json.loads((tmp_path / "bundle" / "tokenizer.json").read_text())["added_tokens"]) == 6
    )


def test_half_of_a_new_vocabulary_is_refused(tmp_path: Path) -> None:
    base, folder = FLAMINGO.write(tmp_path / "base"), tmp_path / "adapter"
    processor, model = grown(base, FLAMINGO)
    chosen = peft.LoraConfig(r=4, target_modules=r".*v_proj", modules_to_save=["embed_tokens"])
    wrapped = peft.get_peft_model(model, chosen)
    wrapped.peft_config["default"].base_model_name_or_path = str(base)
    wrapped.save_pretrained(folder)
    processor.save_pretrained(folder)
    with pytest.raises(ExportError, match="has 262 tokens in embed_tokens and its base 260"):
        load_checkpoint(str(folder), None, False)


def edited(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        content = json.loads(path.read_text()) | changes
        path.write_text(json.dumps(content))

    return change


def as_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()


def cut(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-9])


def renamed(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(iter(weights))
    weights["base_model.model.strange.lora_A.weight"] = weights.pop(name)
    save_file(weights, path)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (edited(peft_type="IA3"), UnsupportedModelError, "of type 'IA3': export merges only LORA"),
        (edited(base_model_name_or_path=None), ExportError, "names no base_model.*--base"),
        (
            edited(base_model_name_or_path="./no/where"),
            ExportError,
            "adapter of './no/where' .--base takes another.*no checkpoint folder",
        ),
        (edited(revision=3), ExportError, "revision .* is not a text"),
        (as_pickle, UnsupportedModelError, "adapter_model.bin, a pickle.*--allow-pickle"),
        (cut, ExportError, "adapter_model.safetensors .* is cut off"),
        (
            lambda f: (f / "adapter_model.safetensors").unlink(),
            ExportError,
            "The adapter .* holds no weights",
        ),
        (renamed, ExportError, "1 of its weights have no place there, 1 are missing.*--base"),
        (edited(target_modules=["unheard"]), ExportError, "cannot be merged into"),
        (edited(r=5), ExportError, "cannot be merged into .*size mismatch"),
    ],
)
def test_an_adapter_that_cannot_be_merged_says_why(
    tmp_path: Path, change: Callable[[Path], None], error: type[Exception], message: str
) -> None:
    base = FLAMINGO.write(tmp_path / "base")
    make_adapter(base, tmp_path / "adapter", FLAMINGO)
    change(tmp_path / "adapter")
    with pytest.raises(error, match=message) as caught:
        load_checkpoint(str(tmp_path / "adapter"), None, False)
    assert "\n" not in str(caught.value)


def test_what_an_adapter_is_merged_into_may_be_said(tmp_path: Path) -> None:
    base = FLAMINGO.write(tmp_path / "base")
    folder = tmp_path / "adapter"
    make_adapter(base, folder, FLAMINGO)
    edited(base_model_name_or_path="./gone")(folder)
    found, _ = check_checkpoint(str(folder), base=str(base))
    assert (found.location, found.adapter is not None) == (str(base), True)
    with pytest.raises(ExportError, match="is no adapter folder: leave it out"):
        check_checkpoint(str(base), base=str(base))
    edited(base_model_name_or_path=str(base), revision="abc")(folder)
    check_checkpoint(str(folder))
    with pytest.raises(ExportError, match=r"adapter of .* --revision .* is a local folder"):
        check_checkpoint(str(folder), "main")
    edited(base_model_name_or_path=str(folder))(folder)
    with pytest.raises(UnsupportedModelError, match="made from another adapter"):
        check_checkpoint(str(folder))
    ultravox = tiny_ultravox.write(tmp_path / "ultravox")
    with pytest.raises(UnsupportedModelError, match="adapter of a UltravoxModel, which no class"):
        check_checkpoint(str(folder), base=str(ultravox))
    as_pickle(folder)
    load_checkpoint(str(folder), None, False, base=str(base), allow_pickle=True)


def test_a_quantized_base_is_refused_with_the_cure(tmp_path: Path) -> None:
    base = FLAMINGO.write(tmp_path / "base")
    make_adapter(base, tmp_path / "adapter", FLAMINGO)
    path = base / "config.json"
    quantized = {"quantization_config": {"quant_method": "bitsandbytes"}}
    path.write_text(json.dumps(json.loads(path.read_text()) | quantized))
    with pytest.raises(UnsupportedModelError, match=r"--base takes another.*\('bitsandbytes'\)"):
        check_checkpoint(str(tmp_path / "adapter"))


def test_without_peft_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = FLAMINGO.write(tmp_path / "base")
    make_adapter(base, tmp_path / "adapter", FLAMINGO)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "peft" else 1)
    with pytest.raises(ExportError, match=r"merging it needs peft: .*\[lora\]"):
        check_checkpoint(str(tmp_path / "adapter"))


def to_pickles(folder: Path, files: int) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    if files == 1:
        torch.save(weights, folder / "pytorch_model.bin")
        return
    listed = {name: f"pytorch_model-{i % files}.bin" for i, name in enumerate(sorted(weights))}
    for file in set(listed.values()):
        torch.save({n: weights[n] for n, f in listed.items() if f == file}, folder / file)
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": listed}))


@pytest.mark.parametrize("files", [1, 2])
@pytest.mark.parametrize("write", [tiny_audio_flamingo3.write, tiny_ultravox.write])
def test_pickles_are_read_where_that_is_asked_for(
    write: Callable[[Path], Path], files: int, tmp_path: Path
) -> None:
    folder = write(tmp_path / "checkpoint")
    whole = load_checkpoint(str(folder), None, False)
    to_pickles(folder, files)
    with pytest.raises(UnsupportedModelError, match=r"a pickle.*--allow-pickle"):
        load_checkpoint(str(folder), None, False)
    found = load_checkpoint(str(folder), None, False, allow_pickle=True)
    for one, other in (
        (whole.audio_encoder, found.audio_encoder),
        (whole.language_model, found.language_model),
    ):
        expected, weights = one.state_dict(), other.state_dict()
        assert expected.keys() == weights.keys()
        assert all(torch.equal(expected[name], weights[name]) for name in expected)


class Runs:
    """What a hostile pickle holds."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", [tiny_audio_flamingo3.write, tiny_ultravox.write])
def test_a_pickle_runs_nothing(write: Callable[[Path], Path], tmp_path: Path) -> None:
    folder = write(tmp_path / "checkpoint")
    (folder / "model.safetensors").unlink()
    for save in (torch.save, lambda x, path: path.write_bytes(pickle.dumps(x))):
        save({"weight": Runs(tmp_path / "was-run")}, folder / "pytorch_model.bin")
        with pytest.raises(ExportError):
            load_checkpoint(str(folder), None, False, allow_pickle=True)
        assert not (tmp_path / "was-run").exists()


def test_shards_are_the_same_as_one_file(tmp_path: Path) -> None:
    folder = FLAMINGO.write(tmp_path / "checkpoint")
    whole = load_checkpoint(str(folder), None, False)
    sharded = Path(shutil.copytree(folder, tmp_path / "sharded"))
    (sharded / "model.safetensors").unlink()
    FLAMINGO.open(folder).model.save_pretrained(sharded, max_shard_size="200KB")
    assert len(list(sharded.glob("model-*.safetensors"))) > 2
    found = load_checkpoint(str(sharded), None, False)
    expected = whole.language_model.state_dict()
    for name, weights in found.language_model.state_dict().items():
        assert torch.equal(weights, expected[name])


@pytest.mark.parametrize("rows", [320, 262])
def test_a_resized_vocabulary_answers_alike(
    rows: int, tmp_path: Path, tone: NDArray[np.float32]
) -> None:
    """More rows than tokens, as multiples of 64 give; and tokens of one's own with their rows."""
    folder = FLAMINGO.write(tmp_path / "base")
    processor, model = grown(folder, FLAMINGO)
    model.resize_token_embeddings(rows)
    model.save_pretrained(tmp_path / "grown")
    (processor if rows == 262 else FLAMINGO.open(folder).processor).save_pretrained(
        tmp_path / "grown"
    )
    export_bundle(str(tmp_path / "grown"), tmp_path / "bundle")
    answers(tmp_path / "bundle", FLAMINGO.open(tmp_path / "grown"), tone[: 9 * RATE])


def test_more_tokens_than_rows_is_refused(tmp_path: Path) -> None:
    folder = FLAMINGO.write(tmp_path / "base")
    processor, _ = grown(folder, FLAMINGO)
    processor.save_pretrained(folder)
    with pytest.raises(ExportError, match="has 262 tokens and the embedding table 260 rows"):
        export_bundle(str(folder), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_the_command_line_takes_an_adapter(tmp_path: Path) -> None:
    base = FLAMINGO.write(tmp_path / "base")
    make_adapter(base, tmp_path / "adapter", FLAMINGO)
    edited(base_model_name_or_path="./gone")(tmp_path / "adapter")
    arguments = ["export", str(tmp_path / "adapter"), str(tmp_path / "bundle")]
    done = CliRunner().invoke(app, [*arguments, "--base", str(base)])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "bundle" / "manifest.json").is_file()
