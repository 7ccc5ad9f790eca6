"""``bench/make_random_checkpoint.py``: shards of a checkpoint without the model in memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import bench.bench_true_dimensions as bench
import pytest
import torch
import typer
from bench.byte_tokenizer import byte_tokenizer
from bench.make_random_checkpoint import MARK, main, make, remove, write_weights
from bench.true_dimensions import MODELS, Model, Part, shortened
from paths import ROOT
from safetensors import safe_open

from speechprune_ort.export.estimate import count
from speechprune_ort.export.families import check_checkpoint, load_checkpoint

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 4096,
}
AUDIO = {
    "d_model": 64, "hidden_size": 64, "hidden_dim": 64, "encoder_ffn_dim": 64,
    "intermediate_size": 256, "encoder_layers": 1, "num_hidden_layers": 1, "num_layers": 2,
    "encoder_attention_heads": 2, "num_attention_heads": 2, "num_key_value_heads": 2,
    "num_heads": 2, "dim_head": 16, "vocab_size": 60_000,
}  # fmt: skip
BIG = 50_000_000  # bytes of weights that a tiny checkpoint does not have


def tiny(name: str) -> Model:
    """A model of the same settings, each of them small."""
    model = MODELS[name]
    text = {**model.text, **TEXT}
    if "head_dim" in text:
        text["head_dim"] = 16
    audio = {key: AUDIO.get(key, value) for key, value in model.audio.items()}
    if "hidden_dim" in audio:  # a conformer, whose class has heads of its own by default
        audio |= {"num_heads": 2, "dim_head": 16}
    return replace(model, text=text, audio=audio)


def tensors_of(file: Path) -> dict[str, torch.Tensor]:
    with safe_open(file, "pt") as tensors:
        return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118


def test_shards_hold_every_tensor_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.make_random_checkpoint.SHARD_BYTES", 250)
    shapes = {
        "layers.0.mlp.weight": torch.empty([10, 10], device="meta"),
        "layers.0.input_layernorm.weight": torch.empty([10], device="meta"),
        "layers.0.input_layernorm.bias": torch.empty([10], device="meta"),
        "lm_head.weight": torch.empty([5, 10], device="meta"),
        "conv.batch_norm.running_var": torch.empty([10], device="meta"),
        "conv.batch_norm.running_mean": torch.empty([10], device="meta"),
        "conv.batch_norm.num_batches_tracked": torch.tensor(3, device="meta"),
    }
    total = write_weights(tmp_path, Part(shapes, None), torch.Generator().manual_seed(0))
    assert total == 2 * 190 + 8
    where = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert where.keys() == shapes.keys()
    assert set(where.values()) == {path.name for path in tmp_path.glob("*.safetensors")}
    assert len(set(where.values())) == 2
    found: dict[str, torch.Tensor] = {}
    for file in set(where.values()):
        found |= tensors_of(tmp_path / file)
    assert {name: values.shape for name, values in found.items()} == {
        name: values.shape for name, values in shapes.items()
    }
    assert found.pop("conv.batch_norm.num_batches_tracked").dtype == torch.int64
    assert {values.dtype for values in found.values()} == {torch.bfloat16}
    assert 0.01 < float(found["layers.0.mlp.weight"].float().std()) < 0.03
    assert found["layers.0.input_layernorm.weight"].eq(1).all()
    assert found["layers.0.input_layernorm.bias"].eq(0).all()
    assert found["conv.batch_norm.running_var"].eq(1).all()
    assert found["conv.batch_norm.running_mean"].eq(0).all()


def test_the_dimensions_are_those_of_qwen2_audio_7b() -> None:
    (part,) = MODELS["qwen2-audio-7b"].drawn().parts
    config: Any = part.config
    text, audio = config.text_config, config.audio_config
    assert (text.hidden_size, text.num_hidden_layers, text.vocab_size) == (4096, 32, 156_032)
    assert (audio.d_model, audio.encoder_layers, audio.num_mel_bins) == (1280, 32, 128)
    fast = byte_tokenizer(["<|im_end|>"])
    assert fast.decode(fast.encode("Wie groß?")) == "Wie groß?"
    short: Any = shortened(MODELS["qwen2-audio-7b"], 3, 2).drawn().parts[0].config
    assert (short.text_config.num_hidden_layers, short.audio_config.encoder_layers) == (3, 2)


@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("qwen2-audio-7b", 8.4), ("qwen2.5-omni-3b", 4.0), ("qwen2.5-omni-7b", 8.3),
        ("audio-flamingo-3", 8.3), ("qwen3-asr-0.6b", 0.8), ("qwen3-asr-1.7b", 2.0),
        ("glm-asr-nano", 2.1), ("granite-speech-2b", 3.0), ("voxtral-mini-3b", 4.7),
        ("ultravox-1b", 1.4), ("ultravox-8b", 8.7), ("diva-8b", 10.5),
    ],
)  # fmt: skip
def test_nothing_of_a_published_size_is_left_out(name: str, billions: float) -> None:
    parts = MODELS[name].drawn().parts
    weights = sum(values.numel() for part in parts for values in part.shapes.values())
    assert weights / 1e9 == pytest.approx(billions, abs=0.06)


def test_every_model_has_its_size_above() -> None:
    cases = test_nothing_of_a_published_size_is_left_out.pytestmark[0].args[1]
    assert [name for name, _ in cases] == list(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_export_takes_every_model(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    written = make(folder, tiny(name))
    assert written == pytest.approx(
        sum(path.stat().st_size for path in folder.rglob("*.safetensors")), rel=0.05
    )
    assert written < BIG
    loaded = load_checkpoint(str(folder), None, False)
    assert loaded.dimensions.hidden == TEXT["hidden_size"]
    assert loaded.dimensions.layers == TEXT["num_hidden_layers"]
    assert loaded.forms, "a template whose pieces are those of the whole, in more forms than one"
    stored = {t.dtype for file in folder.rglob("*.safetensors") for t in tensors_of(file).values()}
    assert stored <= {torch.bfloat16, torch.int64}
    counts = count(*check_checkpoint(str(folder)))
    assert counts.table == TEXT["hidden_size"] * TEXT["vocab_size"]
    assert remove(folder)
    assert not folder.exists()


def test_the_bench_measures_and_deletes_and_does_not_begin_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "scripts"))
    models = {"small": tiny("qwen3-asr-0.6b"), "wrong": replace(tiny("qwen3-asr-0.6b"), text={
        **TEXT, "head_dim": 24})}  # fmt: skip
    monkeypatch.setattr(bench, "MODELS", models)
    work, figures = tmp_path / "work", tmp_path / "figures.json"
    with pytest.raises(typer.Exit) as raised:
        bench.every(work, figures, models="small,wrong", precision="int4")
    assert raised.value.exit_code == 1
    printed = capsys.readouterr()
    said = " ".join(printed.err.split())
    assert "error: wrong: estimate ended with 1" in said
    assert "multiples of 16" in said
    assert not list(work.iterdir()), "nothing is left of either"
    kept = json.loads(figures.read_text())["models"]
    assert list(kept) == ["small"]
    export, asked = kept["small"]["export"], kept["small"]["ask"]
    assert export["cpu_seconds"] > 0
    assert export["peak_bytes"] > 100e6
    assert kept["small"]["parity"]["decoder"]["cosine"] > 0.9
    assert len(asked["token_ids"]) <= 4
    assert asked["audio_tokens"] > 1000
    heads, _, row = printed.out.strip().splitlines()
    assert heads.count("|") == row.count("|")
    monkeypatch.setattr(bench, "measured", None)
    bench.every(work, figures, models="small", precision="int4")
    assert capsys.readouterr().out == printed.out


def test_it_removes_what_it_made_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    for remove_it in (False, True):
        with pytest.raises(typer.Exit) as raised:
            main(tmp_path, remove_it=remove_it)
        assert raised.value.exit_code == 2
    assert (tmp_path / "mine.txt").exists()
    made = tmp_path / "made"
    with pytest.raises(typer.Exit) as raised:
        main(made, model="qwen2-audio-70b")
    assert raised.value.exit_code == 2
    assert not made.exists()
    made.mkdir()
    (made / MARK).touch()
    main(made, remove_it=True)
    assert not made.exists()
