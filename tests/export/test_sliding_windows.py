"""Text models whose layers slide: exact in slots of the cache, or refused by what contradicts."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import tiny_audio_flamingo3
import tiny_qwen2_5_omni
from command import run
from numpy.typing import NDArray
from references import RATE, Reference, greedy_ids, pruned_ids, until_stop
from transformers import MistralConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen3Config

from speechprune_ort import (
    ExportError,
    ParityError,
    PruningOptions,
    SpeechLLM,
    UnsupportedModelError,
)
from speechprune_ort.contract.specs import graph_specs
from speechprune_ort.export import decoder
from speechprune_ort.export.checkpoint_config import windows_of
from speechprune_ort.export.families import load_checkpoint
from speechprune_ort.export.pipeline import export_bundle
from speechprune_ort.export.precision import Precision, Target, plan
from speechprune_ort.export.work import Work, export_graph
from speechprune_ort.options import Positions

QUESTION, NEXT = "Who owns the budget?", "And who was late?"
BETWEEN = "<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
NEW_TOKENS = 32
FULL, SLIDING = "full_attention", "sliding_attention"


@dataclass(frozen=True)
class State:
    """A tiny checkpoint whose layers slide.

    Attributes:
        write: writes it; with False the same weights without a window.
        open: opens it by its own class.
        windows: of its layers.
    """

    write: Callable[[Path, bool], Path]
    open: Callable[[Path], Reference]
    windows: tuple[int | None, ...]


def flamingo(text: type[Any], slides: dict[str, Any], **both: Any) -> Callable[[Path, bool], Path]:
    """Writes an Audio Flamingo 3 checkpoint of a text model, with its window or without."""
    off = {"sliding_window": None}
    return lambda folder, window: tiny_audio_flamingo3.write(
        folder, text, **(both | (slides if window else off))
    )


LATER: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}
STATES: Mapping[str, State] = {
    "mistral": State(
        flamingo(MistralConfig, {"sliding_window": 40}, head_dim=16),
        tiny_audio_flamingo3.opened,
        (40, 40),
    ),
    "qwen2, later layers": State(
        flamingo(Qwen2Config, LATER), tiny_audio_flamingo3.opened, (None, 12)
    ),
    "qwen3, by turns": State(
        flamingo(
            Qwen3Config,
            {
                "use_sliding_window": True,
                "sliding_window": 24,
                "layer_types": [SLIDING, FULL, SLIDING],
            },
            head_dim=48,
            num_hidden_layers=3,
        ),
        tiny_audio_flamingo3.opened,
        (24, None, 24),
    ),
    "qwen2.5-omni": State(
        lambda folder, window: tiny_qwen2_5_omni.write(folder, text=LATER if window else None),
        tiny_qwen2_5_omni.opened,
        (None, 12),
    ),
}


@dataclass(frozen=True)
class Made:
    """A state's bundle, and its checkpoint by its own class, with the window and without."""

    checkpoint: Path
    model: SpeechLLM
    reference: Reference
    unwindowed: Reference

    def same(self, ids: tuple[int, ...], expected: list[int], without: list[int]) -> None:
        """The ids of an answer are those expected, which the window has a part in."""
        assert list(ids) == until_stop(expected, self.model.manifest.stop_token_ids)
        assert len(set(expected)) >= 8, "these weights repeat themselves: they would prove little"
        assert expected != without, "the window changes nothing: this would prove little"


@pytest.fixture(scope="module", params=STATES)
def state(request: pytest.FixtureRequest) -> State:
    return STATES[request.param]


@pytest.fixture(scope="module")
def made(state: State, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("sliding")
    checkpoint = state.write(folder / "checkpoint", True)
    export_bundle(str(checkpoint), folder / "bundle")
    without = state.write(folder / "without", False)
    model = SpeechLLM(folder / "bundle", "cpu")
    return Made(checkpoint, model, state.open(checkpoint), state.open(without))


@pytest.mark.parametrize("seconds", [12.3, 41.0, 75.0])
def test_ids_equal_those_of_generate(made: Made, tone: NDArray[np.float32], seconds: float) -> None:
    samples = tone[: int(seconds * RATE)]
    expected, without = (
        greedy_ids(reference, samples, QUESTION, NEW_TOKENS)
        for reference in (made.reference, made.unwindowed)
    )
    answer = made.model.ask(
        samples, QUESTION, sampling_rate=RATE, method="none", max_new_tokens=NEW_TOKENS
    )
    made.same(answer.token_ids, expected, without)


@pytest.mark.parametrize("positions", ["renumbered", "original"])
def test_a_pruned_conversation_has_the_ids_of_the_kept_tokens(
    made: Made, tone: NDArray[np.float32], positions: Positions
) -> None:
    samples = tone[: 41 * RATE]
    recording = made.model.listen(samples, sampling_rate=RATE)
    options = PruningOptions(method="speechprune", pruning_rate=0.5, positions=positions)
    kept = recording.prune(QUESTION, options).indices.tolist()
    chat = recording.chat(pruning=options, max_new_tokens=NEW_TOKENS)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(made.checkpoint)
    then: list[int] = []
    for question in (QUESTION, NEXT):
        if chat.answers:
            between = tokenizer.encode(BETWEEN.format(question), add_special_tokens=False)
            then += [*chat.answers[-1].token_ids, *between]
        expected, without = (
            pruned_ids(
                reference, samples, QUESTION, kept, positions == "original", NEW_TOKENS, then
            )
            for reference in (made.reference, made.unwindowed)
        )
        made.same(chat.ask(question).token_ids, expected, without)


def test_answers_decoded_together_are_those_of_one_at_a_time(
    made: Made, tone: NDArray[np.float32]
) -> None:
    recording = made.model.listen(tone[: 12 * RATE], sampling_rate=RATE)
    questions = (QUESTION, NEXT, "Why? " * 9, QUESTION)  # of several lengths, and one twice
    alone = [recording.ask(question, max_new_tokens=12).token_ids for question in questions]
    together = recording.ask_many(questions, max_new_tokens=12)
    assert [answer.token_ids for answer in together] == alone


def test_a_bundle_tells_of_its_windows(state: State, made: Made) -> None:
    windows = [window for window in state.windows if window]
    told = f"In {len(windows)} of {len(state.windows)} layers a token attends to {windows[0]} "
    assert any(note.startswith(told) for note in made.model.manifest.notes)


def test_a_dry_run_tells_of_them_and_refuses_those_that_contradict(tmp_path: Path) -> None:
    folder = STATES["mistral"].write(tmp_path / "checkpoint", True)
    done = run("export", folder, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "In 2 of 2 layers a token attends to 40 tokens" in " ".join(done.stdout.split())
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["text_config"]["layer_types"] = [FULL, SLIDING]
    path.write_text(json.dumps(config))
    done = run("export", folder, "--dry-run")
    assert done.returncode == 2
    assert "contradicts sliding_window 40" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("precision", "target"),
    [
        ("fp16", "cpu"),
        ("int8", "cpu"),
        ("w8a8", "cpu"),
        ("int4", "cpu"),
        ("fp16", "cuda"),
        ("bf16", "cuda"),
        ("int4", "cuda"),
    ],
)
def test_every_precision_slides(tmp_path: Path, precision: Precision, target: Target) -> None:
    folder = tiny_audio_flamingo3.write(
        tmp_path / "checkpoint",
        MistralConfig,
        head_dim=16,
        sliding_window=24,
        initializer_range=0.1,  # in 4 bits, wide weights are another model
    )
    loaded = load_checkpoint(str(folder), None, False)
    chosen = plan(precision, target)
    work = Work(loaded, chosen, target)
    work.embeds["speech"] = work.random.normal(size=(60, 64)).astype(np.float32)
    dtypes = {"float_dtype": chosen.float_dtype, "cache_dtype": chosen.cache_dtype}
    spec = graph_specs(loaded.dimensions, short_windows=True, **dtypes)["decoder"]
    # The verification of every export: prompts longer than the window, gaps in positions.
    assert export_graph(decoder.GRAPH, work, spec, tmp_path).entry.parity
    loaded.language_model.get_decoder().config.sliding_window = None
    with pytest.raises(ParityError, match="cosine to torch"):
        decoder.GRAPH.verify(work, spec, tmp_path / "decoder.onnx")
    graph = ir.load(tmp_path / "decoder.onnx").graph
    attention = [node for node in graph if node.op_type == "GroupQueryAttention"]
    assert [node.attributes.get_int("local_window_size", -1) for node in attention] == [24, 24]
    # The whole cache stays, as the runtime takes conversations back.
    assert not any(node.attributes.get_int("sliding_window_cache", 0) for node in attention)


TAKEN: Mapping[str, tuple[dict[str, Any], tuple[int | None, ...]]] = {
    "llama": ({"model_type": "llama"}, (None, None)),
    "qwen2": ({"model_type": "qwen2"}, (None, None)),
    "qwen2, switched off": ({"model_type": "qwen2", "sliding_window": 8}, (None, None)),
    "qwen2, beyond its layers": (
        {"model_type": "qwen2", "use_sliding_window": True, "max_window_layers": 2},
        (None, None),
    ),
    "qwen3, a width left out": (
        {"model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 0},
        (4096, 4096),
    ),
    "mistral": ({"model_type": "mistral", "sliding_window": None}, (None, None)),
    "mistral, a width left out": ({"model_type": "mistral"}, (4096, 4096)),
    "mistral, by layers, too": (
        {"model_type": "mistral", "sliding_window": 8, "layer_types": [SLIDING, SLIDING]},
        (8, 8),
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_windows_are_read_as_transformers_reads_them(name: str) -> None:
    text, windows = TAKEN[name]
    assert windows_of("x", {"num_hidden_layers": 2, **text}) == windows
    config = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "mistral": MistralConfig}.get(
        text["model_type"]
    )
    if config is not None:
        completed = config(num_hidden_layers=2, **text)
        assert windows_of("x", completed.to_dict()) == windows


REFUSED: Mapping[str, tuple[dict[str, Any], type[ExportError], str]] = {
    "llama": (
        {"model_type": "llama", "sliding_window": 8},
        UnsupportedModelError,
        "sliding_window .* asks for a sliding window, which transformers' llama does not have",
    ),
    "granite by layers": (
        {"model_type": "granite", "layer_types": [FULL, SLIDING]},
        UnsupportedModelError,
        "layer_types .* asks for a sliding window, which transformers' granite does not have",
    ),
    "mistral by turns": (
        {"model_type": "mistral", "sliding_window": 8, "layer_types": [FULL, SLIDING]},
        UnsupportedModelError,
        "contradicts sliding_window 8: a mistral slides in every layer",
    ),
    "mistral, switched off in one place": (
        {"model_type": "mistral", "sliding_window": 8, "layer_types": [FULL, FULL]},
        UnsupportedModelError,
        "contradicts sliding_window 8",
    ),
    "qwen2, switched off": (
        {"model_type": "qwen2", "sliding_window": 8, "layer_types": [FULL, SLIDING]},
        UnsupportedModelError,
        "names sliding_attention, and no window is in use: set use_sliding_window",
    ),
    "chunks": (
        {"model_type": "qwen2", "layer_types": [FULL, "chunked_attention"]},
        UnsupportedModelError,
        "names 'chunked_attention', which the decoder graph does not have",
    ),
    "no name": ({"layer_types": [FULL, 3]}, UnsupportedModelError, "names 3, which"),
    "layers left over": ({"layer_types": [FULL] * 3}, ExportError, "3 layers, and num_hidden"),
    "no list": ({"layer_types": "full"}, ExportError, "layer_types or max_window_layers"),
    "no layer to begin at": (
        {"use_sliding_window": True, "max_window_layers": None},
        ExportError,
        "layer_types or max_window_layers",
    ),
    "of one": (
        {"model_type": "mistral", "sliding_window": 1},
        ExportError,
        "sliding_window .* is 1, not a whole number of at least 2",
    ),
    "of a text": (
        {"model_type": "mistral", "sliding_window": "8"},
        ExportError,
        "sliding_window .* is '8', not",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_windows_that_are_none_are_named(name: str) -> None:
    text, error, message = REFUSED[name]
    with pytest.raises(error, match=message) as caught:
        windows_of("x", {"num_hidden_layers": 2, **text})
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
