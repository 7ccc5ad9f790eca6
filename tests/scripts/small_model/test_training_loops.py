"""Every command of training, a step or two of each, on made-up speech and a tiny language model."""

from __future__ import annotations

import copy
import itertools
import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file
from small_model.assemble import ENCODER
from small_model.delta import read_delta
from small_model.language_model import LanguageModel
from small_model.training import data, speech
from small_model.training.encoder import LOWER_LAYERS, seeded_encoder
from small_model.training.speech import make_shard, read_shard
from small_model.training.spelling import ALPHABET, SPACE
from small_model.training.text import TEST_IDS
from small_model.training.voices import RATE, Speaker
from tiny_recipe import HIDDEN, byte_level, settings, text_weights, tiny_qwen, write_spiral
from typer.testing import CliRunner

pytestmark = pytest.mark.export

WIDTH = 32  # of the encoder, in the place of 512
SECONDS_A_LETTER = 0.06
SYLLABLES = [a + b for a in "bdfghklmnprstvw" for b in "aeiou"]
Run = Callable[..., None]


def said(text: str) -> Any:
    """In the place of a voice: a tone as long as a text."""
    return (0.1 * np.sin(np.arange(int(len(text) * SECONDS_A_LETTER * RATE)) / 7)).astype("f4")


class Noise:
    """In the place of the encoder's lower half: features of the right number and size."""

    def __init__(self, *_: Any) -> None:
        self._rng = np.random.default_rng(1)

    def __call__(self, samples: Any) -> Any:
        return self._rng.standard_normal((len(samples) // 320, WIDTH)).astype(np.float16)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command in the folder ``work``; nothing is fetched, and two steps are a schedule."""
    pytest.importorskip("peft")
    from small_model.training import encoder, letters, loop, reading, stacking, train, writer

    joined = [(SPACE, letter) for letter in ALPHABET] + [(SPACE + "s", "o")]
    model = LanguageModel(
        text_weights(tiny_qwen(len(joined))), settings(len(joined)), byte_level(joined)
    )
    for module in (encoder, letters, loop, stacking, writer):
        monkeypatch.setattr(module, "WIDTH", WIDTH)
    tower = seeded_encoder()

    def fresh(*_: Any) -> Any:
        torch.manual_seed(1)
        return copy.deepcopy(tower)

    words = tmp_path / "words"
    words.write_text("so\nsob\nson\n", encoding="utf-8")
    spiral = write_spiral(
        tmp_path / "spiral", [TEST_IDS.read_text().split()[0], *(f"d{i}" for i in range(20))]
    )
    for module in (train, data):
        monkeypatch.setattr(module, "whisper_encoder", fresh)
        monkeypatch.setattr(module, "Lower", Noise)
    monkeypatch.setattr(train, "fetch_qwen", lambda *_: None)
    monkeypatch.setattr(train, "read_gguf", lambda _: model)
    monkeypatch.setattr(train, "FACTS_READ", 30)
    monkeypatch.setattr(train, "ASKED", 2)
    monkeypatch.setattr(data, "WORDS", words)
    monkeypatch.setattr(reading, "STEP_TOKENS", 60)
    monkeypatch.setattr(reading, "JOINED_TOKENS", (1, 60))
    monkeypatch.setattr(Speaker, "say", lambda _, text, *__, **___: said(text))
    threads = torch.get_num_threads()

    def run(command: str, *more: str) -> None:
        monkeypatch.setattr(time, "process_time", itertools.count(0, 1.5).__next__)
        arguments = [command, *([str(tmp_path / "work")] if command != "evaluate" else []), *more]
        arguments += [] if command == "assemble" else ["--spiral", str(spiral)]
        arguments += ["--minutes", "0.1"] if command in ("letters", "pieces", "read") else []
        found = CliRunner().invoke(train.app, arguments)
        assert found.exception is None, (found.exception, found.output)

    yield run
    torch.set_num_threads(threads)


def curve(work: Path, stage: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (work / "curve.jsonl").read_text().splitlines()]
    return [line for line in lines if line["stage"] == stage]


def same(left: dict[str, Any], right: dict[str, Any], begin: str = "") -> bool:
    names = {name for name in left if name.startswith(begin)}
    assert names
    return all(torch.equal(left[name], right[name]) for name in names)


def finite(tensors: dict[str, Any]) -> bool:
    return all(bool(values.isfinite().all()) for values in tensors.values())


def test_each_stage_learns_and_goes_on_from_the_one_before(
    recipe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from small_model.training import train

    work, start = tmp_path / "work", tmp_path / "start"
    features = work / "features"
    features.mkdir(parents=True)
    for name in ("synthetic-000", "actors-00", "test-slt", "test-people"):
        texts = ["so the tea", "a red sob is"][: 1 if name.startswith("test") else 2]
        make_shard(features / name, [(said(t), t, "nobody") for t in texts], Noise())

    recipe("letters")
    letters = load_file(work / "letters.safetensors")
    untrained = seeded_encoder().state_dict()
    name = f"layers.{LOWER_LAYERS}.fc1.weight"
    assert not torch.equal(letters[ENCODER + name], untrained[name].half())
    assert finite(letters)
    lines = curve(work, "letters")
    assert all(math.isfinite(line["letter_loss"]) for line in lines[:-1])
    assert [line.get("step") for line in lines] == [1, 2, None]
    assert set(lines[-1]) == {"stage", "slt", "people"}

    recipe("pieces", "--rate", "0")
    begun = load_file(work / "pieces.safetensors")
    assert same(letters, begun, ENCODER)
    assert same(letters, begun, "speller.head")
    assert not torch.equal(*(t["multi_modal_projector.linear.weight"] for t in (letters, begun)))
    recipe("pieces")
    pieces = load_file(work / "pieces.safetensors")
    assert not same(begun, pieces, f"{ENCODER}layers.7")
    assert finite(pieces)
    lines = curve(work, "pieces")
    assert all(math.isfinite(line["word_loss"] + line["piece_loss"]) for line in lines[3:-1])
    assert set(lines[-1]["people"]["pieces"]) == {"0.0", "3.0"}

    recipe("read", "--exact")
    exact = load_file(work / "reader.safetensors")
    assert finite(exact)
    assert any(bool(values.any()) for name, values in exact.items() if "lora_B" in name)
    lines = curve(work, "read-exact")
    assert all(math.isfinite(line["answer"]) for line in lines)
    assert lines[-1]["asked"]["of"] == 2
    recipe("read", "--rate", "0")
    assert same(exact, load_file(work / "reader.safetensors"))
    recipe("read")
    reader = load_file(work / "reader.safetensors")
    assert not same(exact, reader)
    lines = curve(work, "read")
    assert all(math.isfinite(line["heard"]) for line in lines)
    assert all(math.isfinite(line["slt"]["transcript"]) for line in lines)
    assert set(lines[-1]["people"]) == {"transcript", "repeated", "clips"}

    built: list[Any] = []

    def build(*arguments: Any) -> Path:
        built.append(arguments)
        return work / "curve.jsonl"

    for name in ("build", "build_voxtral"):
        monkeypatch.setattr(train, name, build)
    monkeypatch.setattr(train, "gather", lambda *_: None)
    recipe("assemble")
    delta = read_delta(work / "delta")
    assert delta.record["sha256"].keys() == {"delta", "result"}
    assert built[0][2] == work / "merged"
    assert {n for n in pieces if not n.startswith("speller.")} < set(delta.tensors)
    assert sum(name.endswith(".lora_a") for name in delta.tensors) == len(reader) // 2

    (work / "delta").rename(start)  # as a release has it
    (work / "reader.safetensors").unlink()
    recipe("pieces", "--rate", "0", "--start", str(start))
    assert same(pieces, load_file(work / "pieces.safetensors"))
    recipe("read", "--rate", "0", "--start", str(start))
    half = {name: values.half() for name, values in reader.items()}
    assert same(half, {n: v.half() for n, v in load_file(work / "reader.safetensors").items()})

    recipe("stack", "--start", str(start))
    stack = load_file(work / "stack.safetensors")
    assert stack["multi_modal_projector.linear_1.weight"].shape == (HIDDEN, 4 * WIDTH)
    assert finite(stack)
    recipe("read", "--layout", "voxtral")
    other = load_file(work / "reader-voxtral.safetensors")
    assert finite(other)
    assert not same(half, {n: v.half() for n, v in other.items()})
    assert curve(work, "read-voxtral")
    recipe("assemble", "--layout", "voxtral")
    tensors = built[1][1].tensors
    assert built[1][2] == work / "voxtral"
    assert {*stack, *(n for n in pieces if n.startswith(ENCODER))} < set(tensors)
    assert not any(name.startswith("speller.") for name in tensors)


def test_all_speech_is_made_once_and_read_back(
    recipe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "SYNTHETIC_TEXTS", 2)
    monkeypatch.setattr(data, "TEST_SENTENCES", 1)
    monkeypatch.setattr(data, "ACTOR_PACKS", 4)
    monkeypatch.setattr(data, "ACTORS", (("queen", "sky"),))
    monkeypatch.setattr(speech, "LONGEST_S", 12.0)
    for name in ("fetch_joe", "whisper_base"):
        monkeypatch.setattr(data, name, lambda *_: tmp_path)
    monkeypatch.setattr(data.actors, "fetch", lambda *_: tmp_path)

    def lines_of(name: str, _: Path) -> Iterator[Any]:
        yield from [said(name * 12)] * 12

    def transcribe(_: Path, packs: Sequence[Any]) -> Iterator[tuple[str, float, float]]:
        for number, pack in enumerate(packs):
            count = int(2 * len(pack) / RATE)
            yield " ".join((SYLLABLES * 2)[number : number + count]), -0.2, 0.01

    monkeypatch.setattr(data.actors, "lines_of", lines_of)
    monkeypatch.setattr(data.actors, "transcribe", transcribe)
    people = tmp_path / "people.jsonl"
    soundfile.write(tmp_path / "clip.wav", said("hello there"), RATE)
    entry = {"file": "clip.wav", "seconds": 1, "transcript": "Hello there.", "kind": "read"}
    people.write_text(json.dumps(entry) + "\n", encoding="utf-8")

    class Process(SimpleNamespace):
        """In the place of another process, in which nothing here would be a stand-in."""

        exitcode = 0

        def start(self) -> None:
            self.target(*self.args)

        def join(self) -> None:
            pass

    from small_model.training import train

    monkeypatch.setattr(train, "get_context", lambda _: SimpleNamespace(Process=Process))
    recipe("data", "--shards", "1", "--people", str(people))
    features = tmp_path / "work" / "features"
    shards = {path.stem: path.stat().st_mtime_ns for path in features.glob("*.npy")}
    assert {"synthetic-000", "actors-00", "test-slt", "test-awb", "test-heart", "test-people",
            "test-actors"} <= set(shards)  # fmt: skip
    made = list(read_shard(features / "synthetic-000"))
    assert 0 < len(made) <= 2
    assert all(len(one.features) % 2 == 0 and one.text for one in made)
    assert len(list(read_shard(features / "actors-00"))) > 3
    assert [one.text for one in read_shard(features / "test-people")] == ["Hello there."]
    recipe("data", "--shards", "1")
    kept = {path.stem: path.stat().st_mtime_ns for path in features.glob("[!t]*.npy")}
    assert kept == {name: at for name, at in shards.items() if not name.startswith("test")}


def test_a_bundle_is_judged_by_the_command(
    recipe: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from small_model.training import train

    heard = SimpleNamespace(
        seconds=2.0, ask=lambda *_, **__: SimpleNamespace(text=" Good morning.")
    )
    model = SimpleNamespace(listen=lambda *_, **__: heard)
    monkeypatch.setattr(train, "SpeechLLM", lambda *_, **__: model)
    (tmp_path / "tokenizer.json").write_text(
        json.dumps(byte_level([(SPACE, "s"), (SPACE + "s", "o")])), encoding="utf-8"
    )
    out = tmp_path / "results.json"
    recipe("evaluate", str(tmp_path), str(out), "--answers", "2", "--sentences", "1")
    found = json.loads(out.read_text())
    assert list(found) == [f"{kind} {voice}" for voice in ("flite:slt", "flite:awb")
                           for kind in ("answers", "words")]  # fmt: skip
    assert found["answers flite:slt"]["accuracy"]["n"] == 2
    assert found["words flite:awb"]["all"]["clips"] == 1
