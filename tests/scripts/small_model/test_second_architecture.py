"""The recipe in Voxtral's layout: projector, language model, checkpoint, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_model.assemble import ENCODER, Parts
from small_model.delta import Delta, record_of
from small_model.language_model import LanguageModel
from small_model.training.encoder import WIDTH, pooled, seeded_encoder
from small_model.training.features import Lower
from small_model.training.layouts import VOXTRAL
from small_model.training.speech import Heard
from small_model.training.spelling import Cutter
from small_model.training.stacking import Stacker
from small_model.training.writer import Writer
from small_model.voxtral import WINDOW_TOKENS, as_llama, write_voxtral
from tiny_recipe import HIDDEN, byte_level, settings, text_weights, tiny_qwen
from tokenizers import Tokenizer
from transformers import (
    PreTrainedTokenizerFast,
    VoxtralForConditionalGeneration,
    WhisperFeatureExtractor,
)
from typer.testing import CliRunner

from speechprune_ort.errors import PartError
from speechprune_ort.export.families import load_checkpoint

pytestmark = pytest.mark.export

QUESTION = "Who is it?"


def trained() -> tuple[Any, Stacker]:
    """A seeded encoder, and a projector on it."""
    encoder = seeded_encoder()
    for name, values in encoder.named_parameters():
        if "layer_norm" in name:
            torch.nn.init.normal_(values, mean=1.0, std=0.3)
        elif "conv" in name:  # so that frames differ by more than bfloat16 rounds off
            torch.nn.init.normal_(values, std=0.1)
    return encoder, Stacker(Writer(encoder, HIDDEN))


def test_a_llama_with_qwens_weights_gives_its_logits() -> None:
    qwen = tiny_qwen()
    ids = torch.randint(0, 250, (2, 20))
    with torch.no_grad():
        expected = qwen(input_ids=ids).logits
        found = as_llama(qwen)(input_ids=ids).logits
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_projector_begins_as_the_best_linear_map_of_half_its_rank() -> None:
    _, stacker = trained()
    torch.manual_seed(1)
    inputs = torch.randn(3000, 4 * WIDTH) + 0.5
    low = torch.randn(WIDTH, HIDDEN // 2) @ torch.randn(HIDDEN // 2, HIDDEN) / WIDTH**0.5
    wanted = inputs.unflatten(1, (4, WIDTH)).mean(1) @ low
    stacker.fit(inputs, wanted)
    with torch.no_grad():
        found = stacker.project(inputs)
        assert (found - wanted).square().mean() / wanted.var() < 1e-3
        # It is linear.
        torch.testing.assert_close(stacker.project(3 * inputs), 3 * found, atol=1e-2, rtol=1e-2)


def test_the_projector_begins_as_the_mean_of_two_tokens_of_the_default_layout() -> None:
    _, stacker = trained()
    features = np.random.default_rng(3).standard_normal((8, 400, WIDTH)).astype(np.float16)
    stacker.start([Heard(one, "") for one in features])
    with torch.no_grad():
        batch = torch.from_numpy(features).float()
        found, tokens = stacker(batch), stacker.writer(batch)
    wanted = tokens.unflatten(1, (-1, 2)).mean(2)
    assert found.shape == wanted.shape == (8, 100, HIDDEN)
    # Nothing of half the rank can come nearer than what is beyond it.
    beyond = torch.linalg.svdvals(wanted.flatten(0, 1))[HIDDEN // 2 :].norm()
    assert (found - wanted).norm() < 1.3 * beyond


def test_each_two_frames_are_pooled_and_one_that_is_left_is_not() -> None:
    frames = torch.arange(10.0).reshape(1, 5, 2)
    assert pooled(frames).tolist() == [[[1.0, 2.0], [5.0, 6.0]]]


def test_silence_fills_the_last_window_as_voxtral_hears_it() -> None:
    pytest.importorskip("peft")
    from small_model.training.reading import Ear

    encoder, stacker = trained()

    def written(parts: list[Heard], model: Writer | Stacker) -> torch.Tensor:
        audio, ends = Ear(model, Cutter(())).written(parts)
        assert not ends
        return audio

    one = Heard(np.random.default_rng(2).standard_normal((201, WIDTH)).astype(np.float16), "")
    assert written([one], stacker).shape == (50, HIDDEN)
    stacker.hear_silence(Lower(encoder))
    padded = written([one, one], stacker)
    assert padded.shape == (50 + WINDOW_TOKENS, HIDDEN)
    assert stacker.silence is not None
    assert torch.equal(padded[100:], stacker.silence[50:])
    assert written([one], stacker.writer).shape == (100, HIDDEN)  # which has a mask


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, Stacker]:
    """A checkpoint of tiny sizes, the encoder and reader that are in it, and the projector."""
    pytest.importorskip("peft")
    from small_model.training.reader import SCALE, Reader, factors_of

    folder = tmp_path_factory.mktemp("voxtral")
    encoder, stacker = trained()
    qwen = tiny_qwen()
    below = {n: v.detach().numpy() for n, v in encoder.state_dict().items()}
    # The LayerNorm that is trained is the writer's own.
    norm = {f"layer_norm.{n}": v.numpy() for n, v in stacker.writer.norm.state_dict().items()}
    changed = {ENCODER + n: v for n, v in {**below, **norm}.items()}
    reader = Reader(as_llama(qwen), None, VOXTRAL)
    reader.load({n: torch.randn_like(v) * 0.05 for n, v in reader.state().items()})
    new = {**stacker.tensors(), **factors_of(reader.state())}
    tensors = {**changed, **{name: values.numpy() for name, values in new.items()}}
    delta = Delta(tensors, record_of(SCALE, ["tiny"]))
    parts = Parts(below, LanguageModel(text_weights(qwen), settings(), byte_level()))
    write_voxtral(parts, delta, folder, print)
    return folder, (encoder, reader), stacker


def test_the_checkpoint_hears_what_training_heard(made: tuple[Path, Any, Stacker]) -> None:
    folder, (encoder, _), stacker = made
    model, info = VoxtralForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(info.values())
    rng = np.random.default_rng(1)
    samples = (rng.standard_normal(480_000) * np.linspace(0, 0.2, 480_000)).astype(np.float32)
    extract = WhisperFeatureExtractor.from_pretrained(folder)
    mel = extract(samples, sampling_rate=16_000, return_tensors="pt")["input_features"]
    features = torch.from_numpy(Lower(encoder)(samples)).float()[None]
    with torch.no_grad():
        heard = model.get_audio_features(mel).pooler_output
        expected = stacker(features)[0]
    assert heard.shape == expected.shape == (WINDOW_TOKENS, HIDDEN)
    # Training stores half precision and goes through layers in bfloat16.
    around = expected - expected.mean(0)
    assert (heard - expected).norm() / around.norm() < 0.1


def test_the_checkpoint_is_asked_as_in_training(made: tuple[Path, Any, Stacker]) -> None:
    folder, (_, reader), _ = made
    loaded = load_checkpoint(str(folder), None, False)
    tokenizer = loaded.tokenizer
    reader.tokenizer = own_tokenizer()

    def ids(pieces: Any) -> list[int]:
        texts = {"query": tokenizer.encode(QUESTION, add_special_tokens=False), "audio": [-1]}
        return [i for piece in pieces for i in piece.ids or texts[piece.kind]]

    asked = VOXTRAL.behind + QUESTION + VOXTRAL.asked
    assert ids(loaded.prompt) == [*reader.ids(VOXTRAL.before), -1, *reader.ids(asked)]
    further = VOXTRAL.end + VOXTRAL.further + QUESTION + VOXTRAL.asked
    assert ids(loaded.further_turn) == reader.ids(further)


def commands() -> Any:
    """Of training, which needs more packages."""
    pytest.importorskip("peft")
    from small_model.training.train import app

    return app


def own_tokenizer() -> Any:
    """That of the language model in training, with its tokens' own names."""
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(byte_level())))


@pytest.mark.parametrize(
    ("arguments", "there", "message"),
    [
        (["stack"], (), "pieces.safetensors is missing: run the command pieces"),
        (["stack", "--start", "{work}/none"], (), "none has no delta.safetensors: give"),
        (["read", "--layout", "voxtral"], (), "pieces.safetensors is missing"),
        (
            ["read", "--layout", "voxtral"],
            ("pieces.safetensors",),
            "stack.safetensors is missing: run the command stack first.",
        ),
        (
            ["assemble", "--layout", "voxtral"],
            ("reader.safetensors", "pieces.safetensors", "stack.safetensors"),
            "reader-voxtral.safetensors is missing: run the command read --layout voxtral first.",
        ),
        (
            ["assemble", "--layout", "voxtral"],
            ("reader-voxtral.safetensors", "pieces.safetensors"),
            "stack.safetensors is missing: run the command stack first.",
        ),
    ],
)
def test_a_step_that_lacks_the_one_before_it_names_it(
    tmp_path: Path, arguments: list[str], there: tuple[str, ...], message: str
) -> None:
    app = commands()
    for name in there:
        save_file({}, tmp_path / name)
    command, *rest = (part.format(work=tmp_path) for part in arguments)
    spiral = [] if command == "assemble" else ["--spiral", str(tmp_path)]
    found = CliRunner().invoke(app, [command, str(tmp_path), *spiral, *rest])
    assert isinstance(found.exception, PartError)
    assert message in str(found.exception)


def test_an_unknown_layout_is_refused(tmp_path: Path) -> None:
    found = CliRunner().invoke(commands(), ["assemble", str(tmp_path), "--layout", "whisper"])
    assert found.exit_code == 2
    assert "qwen2_audio" in found.output
