"""``bench/make_random_checkpoint.py``: shards of a checkpoint without the model in memory."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from bench.make_random_checkpoint import MARK, config_of, main, tokenizer, write_weights
from safetensors import safe_open


def test_shards_hold_every_tensor_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.make_random_checkpoint.SHARD_BYTES", 250)
    shapes = {
        "layers.0.mlp.weight": torch.Size([10, 10]),
        "layers.0.input_layernorm.weight": torch.Size([10]),
        "layers.0.input_layernorm.bias": torch.Size([10]),
        "lm_head.weight": torch.Size([5, 10]),
    }
    total = write_weights(tmp_path, shapes, seed=0)
    assert total == 2 * 170
    where = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    assert where.keys() == shapes.keys()
    assert set(where.values()) == {path.name for path in tmp_path.glob("*.safetensors")}
    assert len(set(where.values())) == 2
    found = {}
    for file in set(where.values()):
        with safe_open(tmp_path / file, "pt") as tensors:
            found |= {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118
    assert {name: values.shape for name, values in found.items()} == shapes
    assert {values.dtype for values in found.values()} == {torch.bfloat16}
    assert 0.01 < float(found["layers.0.mlp.weight"].float().std()) < 0.03
    assert found["layers.0.input_layernorm.weight"].eq(1).all()
    assert found["layers.0.input_layernorm.bias"].eq(0).all()


def test_the_dimensions_are_those_of_qwen2_audio_7b() -> None:
    fast = tokenizer()
    config = config_of(32, 32, fast)
    text, audio = config.text_config, config.audio_config
    assert (text.hidden_size, text.num_hidden_layers, text.vocab_size) == (4096, 32, 156_032)
    assert (audio.d_model, audio.encoder_layers, audio.num_mel_bins) == (1280, 32, 128)
    assert fast.decode(fast.encode("Wie groß?")) == "Wie groß?"


def test_it_removes_what_it_made_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    for remove in (False, True):
        with pytest.raises(typer.Exit) as raised:
            main(tmp_path, remove=remove)
        assert raised.value.exit_code == 2
    assert (tmp_path / "mine.txt").exists()
    made = tmp_path / "made"
    made.mkdir()
    (made / MARK).touch()
    main(made, remove=True)
    assert not made.exists()
