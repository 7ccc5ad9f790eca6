"""Checkpoints of the families: other layouts that are read, and settings refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_audio_flamingo3
import tiny_glm_asr
import tiny_granite_speech
import tiny_qwen2_5_omni
import tiny_qwen3_asr
import tiny_ultravox
import torch
from safetensors.torch import load_file, save_file

from speechprune_ort import ExportError, UnsupportedModelError
from speechprune_ort.export.families import check_checkpoint, load_checkpoint

Change = Callable[[Path], None]


def config(**changes: Any) -> Change:
    """A change of ``config.json``; None takes a setting away."""

    def apply(folder: Path) -> None:
        path = folder / "config.json"
        content = json.loads(path.read_text()) | changes
        kept = {name: value for name, value in content.items() if value is not None}
        path.write_text(json.dumps(kept))

    return apply


def weights(change: Callable[[dict[str, torch.Tensor]], None]) -> Change:
    """A change of ``model.safetensors``."""

    def apply(folder: Path) -> None:
        content = load_file(folder / "model.safetensors")
        change(content)
        save_file(content, folder / "model.safetensors", metadata={"format": "pt"})

    return apply


def without(part: str) -> Change:
    """The weights without those that have this in their name."""

    def drop(content: dict[str, torch.Tensor]) -> None:
        dropped = [name for name in content if part in name]
        assert dropped, f"there is no {part} to leave out"
        for name in dropped:
            del content[name]

    return weights(drop)


def no_template(folder: Path) -> None:
    """Take the chat template away."""
    (folder / "chat_template.jinja").unlink()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (config(audio_latency_block_size=10), UnsupportedModelError, "audio_latency_block_size 10"),
        (config(num_projector_layers=2), UnsupportedModelError, "num_projector_layers 2"),
        (config(projector_act="unheard"), UnsupportedModelError, "projector_act 'unheard'"),
        (
            config(audio_config={"model_type": "wav2vec2"}),
            UnsupportedModelError,
            "audio_config.model_type 'wav2vec2'",
        ),
        (
            weights(lambda w: w.update({"language_model.lora_A.weight": torch.zeros(1)})),
            UnsupportedModelError,
            "LoRA weights",
        ),
        (config(text_config={"model_type": "gemma"}), UnsupportedModelError, "'gemma'"),
        (config(projector_ln_mid=False), ExportError, "projector of .* does not fit"),
        (config(stack_factor=4), ExportError, "projector of .* does not fit"),
        (without("multi_modal_projector.linear_1"), ExportError, "linear_1"),
        (without("audio_tower."), ExportError, "no audio_tower and names no audio_model_id"),
        (without("language_model."), ExportError, "no language_model and names no text_model_id"),
        (without("language_model.model.norm"), ExportError, "lacks 1 weights"),
        (no_template, ExportError, "chat template cannot be rendered"),
        (lambda f: (f / "model.safetensors").unlink(), ExportError, "weights"),
    ],
)
def test_an_ultravox_that_cannot_be_used_says_why(
    tmp_path: Path, change: Change, error: type[Exception], message: str
) -> None:
    folder = tiny_ultravox.write(tmp_path / "checkpoint")
    change(folder)
    with pytest.raises(error, match=message):
        load_checkpoint(str(folder), None, False)


def test_an_ultravox_in_several_files_is_the_same(tmp_path: Path) -> None:
    folder = tiny_ultravox.write(tmp_path / "checkpoint")
    whole = load_checkpoint(str(folder), None, False)
    content = load_file(folder / "model.safetensors")
    names = sorted(content)
    listed = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(names)}
    for file in sorted(set(listed.values())):
        save_file({n: content[n] for n in names if listed[n] == file}, folder / file)
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": listed}))
    split = load_checkpoint(str(folder), None, False)
    for one, other in (
        (whole.audio_encoder, split.audio_encoder),
        (whole.language_model, split.language_model),
    ):
        expected, found = one.state_dict(), other.state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_whole_omni_checkpoint_gives_its_thinker(tmp_path: Path) -> None:
    thinker = load_checkpoint(str(tiny_qwen2_5_omni.write(tmp_path / "thinker")), None, False)
    whole = load_checkpoint(str(tiny_qwen2_5_omni.write_whole(tmp_path / "whole")), None, False)
    assert whole.family == "qwen2_5_omni"
    assert whole.prompt == thinker.prompt
    assert whole.audio == thinker.audio
    for one, other in (
        (thinker.audio_encoder, whole.audio_encoder),
        (thinker.language_model, whole.language_model),
    ):
        expected, found = one.state_dict(), other.state_dict()
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_window": 75}, "n_window 75"),
        ({"n_window": 160}, "n_window 160"),
        ({"num_mel_bins": 80}, "feature_size .* is 128, and its encoder takes 80"),
    ],
)
def test_an_omni_encoder_that_is_not_known_is_named(
    tmp_path: Path, settings: dict[str, int], message: str
) -> None:
    folder = tiny_qwen2_5_omni.write(tmp_path / "checkpoint", **settings)
    with pytest.raises(ExportError, match=message):
        load_checkpoint(str(folder), None, False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_window": 100}, "n_window 100"),
        ({"n_window_infer": 850}, "n_window_infer 850"),
        ({"num_mel_bins": 80}, "feature_size .* is 128, and its encoder takes 80"),
    ],
)
def test_an_asr_encoder_that_is_not_known_is_named(
    tmp_path: Path, settings: dict[str, int], message: str
) -> None:
    folder = tiny_qwen3_asr.write(tmp_path / "checkpoint", **settings)
    with pytest.raises(ExportError, match=message):
        load_checkpoint(str(folder), None, False)


def test_an_asr_in_the_layout_of_its_authors_package_is_told_where_another_is(
    tmp_path: Path,
) -> None:
    folder = tiny_qwen3_asr.write(tmp_path / "checkpoint")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    parts = {name: config.pop(name) for name in ("audio_config", "text_config")}
    path.write_text(json.dumps({**config, "thinker_config": parts}))
    with pytest.raises(ExportError, match=r"has no audio_config .* name ends in -hf\.$"):
        check_checkpoint(str(folder))


def with_features(**changes: object) -> Change:
    def change(folder: Path) -> None:
        path = folder / "preprocessor_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_features(projector_window_size=30), "its features are for 30 and 5"),
        (with_features(melspec_kwargs={"n_mels": 64}), "feature_size .* is 64, and its encoder"),
        (with_features(win_length=600), "win_length .* is more than n_fft"),
        (with_features(hop_length="wide"), "hop_length .* is 'wide'"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "no preprocessor_config.json"),
        (lambda f: (f / "adapter_config.json").unlink(), "download the LoRA, too"),
        (without("layers.1.conv.batch_norm.running_mean"), "lacks 1 weights"),
    ],
)
def test_a_granite_that_cannot_be_used_says_why(
    tmp_path: Path, change: Change, message: str
) -> None:
    folder = tiny_granite_speech.write(tmp_path / "checkpoint", lora=True)
    change(folder)
    with pytest.raises(ExportError, match=message):
        load_checkpoint(str(folder), None, False)


def test_an_encoder_of_glm_asr_that_is_not_known_is_refused_by_name(tmp_path: Path) -> None:
    folder = tiny_glm_asr.write(tmp_path / "joined", inner=64)
    with pytest.raises(UnsupportedModelError, match=r"hidden_size 2\.0: export knows 4"):
        load_checkpoint(str(folder), None, False)
    folder = tiny_glm_asr.write(tmp_path / "turned")
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["audio_config"]["rope_parameters"] |= {"rope_type": "linear", "factor": 2.0}
    path.write_text(json.dumps(config))
    with pytest.raises(UnsupportedModelError, match="rope_type 'linear': export knows 'default'"):
        load_checkpoint(str(folder), None, False)


@pytest.mark.parametrize("write", [tiny_audio_flamingo3.write, tiny_qwen2_5_omni.write])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_template, "chat template"),
        (without("layers.1.mlp.down_proj.weight"), "lacks 1 weights"),
        (without("audio_tower.conv1.bias"), "lacks 1 weights"),
        (lambda f: (f / "model.safetensors").unlink(), "weights"),
    ],
)
def test_a_checkpoint_that_lacks_something_says_what(
    tmp_path: Path, write: Callable[[Path], Path], change: Change, message: str
) -> None:
    folder = write(tmp_path / "checkpoint")
    change(folder)
    with pytest.raises(ExportError, match=message):
        load_checkpoint(str(folder), None, False)
