"""``export --dry-run``: sizes from the config alone are those that export writes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_audio_flamingo3
import tiny_glm_asr
import tiny_granite_speech
import tiny_qwen2_5_omni
import tiny_qwen3_asr
import tiny_ultravox
from command import run
from tiny import Tiny, write_checkpoint
from tiny_families import write_diva, write_voxtral

from speechprune_ort.cli.export import export
from speechprune_ort.cli.export_estimate import print_estimate
from speechprune_ort.contract.specs import AUDIO_ENCODER, DECODER, EMBED_TOKENS, FIRST_LAYER_QK
from speechprune_ort.errors import ExportError, UnsupportedModelError
from speechprune_ort.export.estimate import Counts, count, estimate
from speechprune_ort.export.families import check_checkpoint, load_checkpoint
from speechprune_ort.export.pipeline import export_bundle

WIDE = Tiny(
    heads=8, head_dim=64, spread=0.05
)  # wide enough that weights outweigh the graphs' own nodes
COMPARED = (AUDIO_ENCODER, EMBED_TOKENS, FIRST_LAYER_QK, DECODER)
NODES = 250_000
"""Bytes of a graph that are no weights."""


@pytest.mark.parametrize("precision", ["fp32", "int4"])
def test_sizes_are_those_that_export_writes(tmp_path: Path, precision: str) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", WIDE)
    found = estimate(count(*check_checkpoint(str(folder))), "cpu")
    expected = next(e for e in found if e.precision == precision).graphs
    for row in export_bundle(str(folder), tmp_path / "bundle", precision=precision):
        if row.name in COMPARED:
            assert 0.97 * expected[row.name] < row.bytes < 1.03 * expected[row.name] + NODES
    assert expected[DECODER] > 4 * NODES


@pytest.mark.parametrize(
    "write",
    [
        *(family.write for family in (
            tiny_audio_flamingo3.STATES[0], tiny_qwen3_asr.STATES[0],
            tiny_glm_asr.STATES[0], tiny_granite_speech.STATES[0], tiny_qwen2_5_omni.STATES[0],
        )),
        tiny_ultravox.write,
        lambda folder: tiny_ultravox.write(folder, whole=False),
        lambda folder: write_diva(folder, 1, None),
        write_voxtral,
    ],
    ids=(
        "flamingo", "asr", "glm", "granite", "omni", "ultravox", "ultravox, parts", "diva",
        "voxtral",
    ),
)  # fmt: skip
def test_weights_are_counted_without_reading_them(
    write: Callable[[Path], Path], tmp_path: Path
) -> None:
    folder = write(tmp_path / "checkpoint")
    loaded = load_checkpoint(str(folder), None, False)
    counts = count(*check_checkpoint(str(folder)))
    encoder = sum(p.numel() for p in loaded.audio_encoder.parameters())
    table = loaded.language_model.get_input_embeddings().weight.numel()
    rest = sum(
        parameter.numel()
        for name, parameter in loaded.language_model.named_parameters()
        if "embed_tokens" not in name and "lm_head" not in name
    )
    # Positions that are computed, not learned, may be weights of the module.
    assert 0 <= encoder - counts.encoder_matrices - counts.encoder_others < 100_000
    assert counts.decoder_matrices + counts.decoder_others == rest
    assert counts.table == table
    # Tiny checkpoints have windows of seconds; published ones have those that families state.
    assert 0 < loaded.audio.window_seconds <= counts.window_seconds


def test_a_dry_run_writes_nothing_and_reads_no_weights(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", WIDE)
    before = sorted(tmp_path.rglob("*"))
    done = run("export", folder, "--dry-run", "--precision", "int8")
    assert done.returncode == 0, done.stderr
    assert "qwen2_audio" in done.stdout
    assert "int8 *" in done.stdout
    for word in ("decoder", "bundle", "memory", "minutes", "w8a8"):
        assert word in done.stdout
    assert sorted(tmp_path.rglob("*")) == before


def test_a_dry_run_refuses_what_export_would(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "checkpoint", WIDE)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["hidden_act"] = "gelu"
    path.write_text(json.dumps(config))
    done = run("export", folder, "--dry-run")
    assert done.returncode == 2
    assert "hidden_act" in done.stderr


def test_what_its_text_model_lacks_is_refused_for_every_family(tmp_path: Path) -> None:
    omni = tiny_qwen2_5_omni.STATES[0].write(tmp_path / "omni")
    ultravox = tiny_ultravox.write(tmp_path / "ultravox")
    for folder in (omni, ultravox):
        path = folder / "config.json"
        config = json.loads(path.read_text())
        config.get("thinker_config", config)["text_config"]["hidden_act"] = "gelu"
        path.write_text(json.dumps(config))
        with pytest.raises(UnsupportedModelError, match="hidden_act 'gelu'"):
            count(*check_checkpoint(str(folder)))


def test_what_its_encoder_lacks_is_refused_for_every_family(tmp_path: Path) -> None:
    for family, part, changed in (
        (tiny_glm_asr, "audio_config", {"intermediate_size": 48}),
        (tiny_qwen3_asr, "audio_config", {"n_window_infer": 150}),
        (tiny_qwen2_5_omni, "audio_config", {"n_window": 75}),
        (tiny_granite_speech, None, {"downsample_rate": 4}),
    ):
        folder = family.STATES[0].write(tmp_path / family.__name__)
        path = folder / "config.json"
        config = json.loads(path.read_text())
        (config[part] if part else config).update(changed)
        path.write_text(json.dumps(config))
        with pytest.raises(UnsupportedModelError, match=f"{next(iter(changed))} .*export knows"):
            count(*check_checkpoint(str(folder)))


def test_a_dry_run_cuts_as_export_does(tmp_path: Path) -> None:
    found, family = check_checkpoint(str(write_checkpoint(tmp_path / "checkpoint", Tiny())))
    with pytest.raises(ExportError, match="--cut-after 10000 leaves no layer above the cut"):
        print_estimate(found, family, "fp32", "cpu", 10_000)


def test_an_encoder_of_long_windows_takes_more_to_compare() -> None:
    counts = Counts(encoder_matrices=10**9, encoder_others=0, decoder_matrices=1, decoder_others=1,
                    hidden=32, vocab=10, heads=1, head_dim=32, context=8)  # fmt: skip
    longer = replace(counts, window_seconds=300.0)
    brief, long = (estimate(of, "cpu")[0] for of in (counts, longer))
    assert long.seconds > 2 * brief.seconds
    assert long.memory > brief.memory + 5e9


def test_without_a_folder_nothing_is_exported(tmp_path: Path) -> None:
    done = run("export", tmp_path)
    assert done.returncode == 2
    assert "--dry-run" in done.stderr
    with pytest.raises(ExportError, match="--overwrite is for the folder to write"):
        export(str(tmp_path), overwrite=True, dry_run=True)


def test_a_tied_head_is_written_once_where_it_has_8_bits() -> None:
    counts = Counts(encoder_matrices=1, encoder_others=1, decoder_matrices=1, decoder_others=1,
                    hidden=32, vocab=10, heads=1, head_dim=32, context=8, tied=True)  # fmt: skip
    sizes = {e.precision: e.graphs[EMBED_TOKENS] for e in estimate(counts, "cpu")}
    assert sizes == {"fp32": 1280, "fp16": 640, "int8": 0, "w8a8": 0, "int4": 0}
    apart = {e.graphs[EMBED_TOKENS] for e in estimate(replace(counts, tied=False), "cpu")}
    assert apart == {1280, 640}
    assert all(e.graphs[EMBED_TOKENS] == 640 for e in estimate(counts, "cuda"))
