"""The methods beside SpeechPrune: what each keeps, and a user's own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from paths import ROOT

from speechprune_ort import OptionError, PruningOptions, SpeechLLM
from speechprune_ort.contract.contained import refuse_silent_exits
from speechprune_ort.evaluation.drawing import colour_of
from speechprune_ort.explain.explanation import curves_of
from speechprune_ort.methods import (
    METHODS,
    MethodOptions,
    Request,
    Scores,
    Selection,
    Work,
    load_plugins,
    method,
    needs_encoder,
)
from speechprune_ort.methods import Selection as Kept
from speechprune_ort.numbers import whole
from speechprune_ort.runtime.choosing.methods.merging import (
    merged,
    neighbour_cosines,
    starts_of_groups,
)
from speechprune_ort.runtime.choosing.methods.segments import keep_by_segments
from speechprune_ort.runtime.choosing.scoring import NumpyScorer
from speechprune_ort.runtime.choosing.selection import operations_of, select
from speechprune_ort.runtime.hearing.embeddings import HostEmbeds

DOCS = ROOT / "docs"


def random_rows(tokens: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((tokens, 6)).astype(np.float32)


def _never(_: NDArray[Any], __: str) -> Any:
    raise AssertionError("no projection is needed")


def choose(
    name: str,
    audio: NDArray[np.float32],
    rate: float = 0.5,
    candidates: float | None = None,
    **given: Any,
) -> Kept:
    scorer = NumpyScorer(HostEmbeds(audio), random_rows(3, seed=1), _never)
    options = PruningOptions(method=name, pruning_rate=rate, candidates=candidates)
    return select(options, scorer, window_tokens=20, frame_tokens=5, **given)


@given(st.integers(1, 200), st.integers(1, 40), st.floats(0.01, 1), st.integers(0, 5))
@settings(max_examples=300, deadline=None)
def test_segments_keep_their_best_and_all_together_exactly_as_many(
    tokens: int, segments: int, share: float, seed: int
) -> None:
    scores = np.random.default_rng(seed).random(tokens, np.float32)
    n_keep = max(1, round(share * tokens))
    kept = keep_by_segments(scores, n_keep, segments)
    assert len(kept) == n_keep
    assert (np.diff(kept) > 0).all()
    count = min(segments, tokens)
    bounds = np.arange(count + 1) * tokens // count
    for start, stop in pairwise(bounds):
        chosen = kept[(kept >= start) & (kept < stop)]
        left = np.setdiff1d(np.arange(start, stop), chosen)
        if len(chosen) and len(left):
            assert scores[chosen].min() >= scores[left].max()
        assert abs(len(chosen) - (stop - start) * n_keep / tokens) <= 2


def test_groups_end_where_neighbours_are_least_alike() -> None:
    word, other, silence = np.eye(3, 6, dtype=np.float32)
    audio = np.stack([silence, silence, word, silence, silence, silence, other, silence])
    found = choose("affinity-pooling", np.concatenate([audio, audio[:2]]), rate=0.5)
    assert found.indices.tolist() == [0, 2, 3, 6, 7]
    np.testing.assert_allclose(found.embeds, [silence, word, silence, other, silence])


def test_attention_weighs_what_is_merged() -> None:
    audio = np.zeros((4, 6), np.float32)
    audio[:, 0], audio[3, 1] = (1, 3, 2, 0), 1
    attention = np.array([3, 1, 0, 1], np.float32)
    found = choose("fastadasp", audio, encoder_attention=attention)
    assert found.indices.tolist() == [0, 3]
    np.testing.assert_allclose(found.embeds[0, 0], (3 * 1 + 1 * 3) / 4)  # type: ignore[index]


@given(st.integers(1, 80), st.floats(0.01, 1), st.integers(0, 5))
@settings(max_examples=200, deadline=None)
def test_means_of_groups(tokens: int, share: float, seed: int) -> None:
    embeds = random_rows(tokens, seed)
    weights = np.random.default_rng(seed + 1).random(tokens).astype(np.float32)
    n_keep = max(1, round(share * tokens))
    starts = starts_of_groups(neighbour_cosines(embeds), n_keep)
    assert len(starts) == n_keep
    means = merged(embeds, starts, weights)
    for row, start, stop in zip(means, starts, [*starts[1:], tokens], strict=True):
        expected = np.average(embeds[start:stop], axis=0, weights=weights[start:stop])
        np.testing.assert_allclose(row, expected, rtol=1e-4, atol=1e-5)


def test_a_group_without_attention_counts_each_token_alike() -> None:
    embeds = np.array([[1.0], [3.0]], np.float32)
    assert merged(embeds, np.zeros(1, np.int64), np.zeros(2, np.float32)).tolist() == [[2.0]]


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.encoder_attention])
def test_attention_that_was_not_recorded_is_an_error(name: str) -> None:
    assert needs_encoder(PruningOptions(method=name))
    with pytest.raises(OptionError, match=f"{name} needs the audio encoder's attention"):
        choose(name, random_rows(40))


def test_the_encoders_attention_is_that_of_transformers(
    checkpoints: Any, bundle: Path, tone: NDArray[np.float32], tmp_path: Path
) -> None:
    import torch
    from tiny import TINY
    from transformers import AutoProcessor, Qwen2AudioForConditionalGeneration

    from speechprune_ort.export.pipeline import export_bundle

    tiny, samples = TINY[0], tone[: 11 * 16_000]
    folder = checkpoints(tiny)
    theirs = Qwen2AudioForConditionalGeneration.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    seen: list[Any] = []
    tower = theirs.model.audio_tower
    tower.layers[-1].self_attn.register_forward_hook(lambda *given: seen.append(given[2][1]))
    processor = AutoProcessor.from_pretrained(folder)
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "audio", "audio_url": "x"}]}], tokenize=False
    )
    inputs = processor(text=text, audio=[samples], sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        theirs(**inputs)
    export_bundle(str(folder), tmp_path / "bundle", encoder_attention=True)
    model = SpeechLLM(tmp_path / "bundle", "cpu")
    recording = model.listen(samples, sampling_rate=16_000, encoder_attention=True)
    found = recording.encoder_attention
    assert found is not None
    heard = 2 * recording.tokens
    shares = seen[0][0].mean(0)[:heard, :heard]  # of the frames that are heard
    expected = shares.sum(0).reshape(-1, 2).mean(1).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert abs(found.mean() - 1) < 0.01
    assert np.ptp(found) > 1e-3, "even attention would prove nothing"
    assert model.listen(samples, sampling_rate=16_000).encoder_attention is None

    # The command line listens as the method needs it.
    soundfile.write(tmp_path / "a.wav", samples, 16_000)
    wav = str(tmp_path / "a.wav")
    for folder, status in ((tmp_path / "bundle", 0), (bundle, 2)):
        for line in (
            ["ask", str(folder), wav, "Who?", "--max-new-tokens", "1"],
            ["profile", str(folder), "--audio", wav, "--pruning-rates", "0.5", "--repeats", "1",
             "--warmup", "0", "--loads", "1", "--new-tokens", "1"],
        ):  # fmt: skip
            command = [sys.executable, "-m", "speechprune_ort", *line, "--method", "fastadasp"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert done.returncode == status, done.stderr
            assert ("--encoder-attention" in done.stderr) == bool(status)

    # Windows that run together, a file of it, and methods that go by it.
    recording.save(tmp_path / "recording")
    again = model.load_recording(tmp_path / "recording")
    np.testing.assert_array_equal(again.encoder_attention, found)
    long = np.concatenate([tone, tone[::-1]])
    alone = model.listen(long, sampling_rate=16_000, encoder_attention=True)
    model.ear.windows_at_once = 3
    together = model.listen(long, sampling_rate=16_000, encoder_attention=True)
    assert together.encoder_attention is not None
    assert together.encoder_attention.shape == (together.tokens,)
    np.testing.assert_allclose(
        together.encoder_attention, alone.encoder_attention, rtol=1e-4, atol=1e-5
    )
    for name in ("segment-attention", "fastadasp"):
        options = {"method": name, "pruning_rate": 0.6, "max_new_tokens": 3}
        answer = model.ask(tone, "Who?", sampling_rate=16_000, **options)
        assert answer.pruning.kept == 300
        assert (
            answer.token_ids
            == model.listen(tone, sampling_rate=16_000, encoder_attention=True)
            .ask("Who?", **options)
            .token_ids
        )
    with pytest.raises(OptionError, match="export with --encoder-attention"):
        SpeechLLM(bundle, "cpu").ask(tone, "Who?", sampling_rate=16_000, method="fastadasp")


WRONG: dict[str, Any] = {
    "too-many": lambda request: Kept(np.arange(request.n_keep + 1)),
    "unordered": lambda request: Kept(np.arange(request.n_keep)[::-1]),
    "outside": lambda request: Kept(np.arange(request.n_keep) + request.tokens),
    "narrow": lambda request: Kept(np.arange(request.n_keep), embeds=request.embeds[:, :2]),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_a_users_method_gives_is_checked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speechprune_ort.runtime.choosing.methods.base.METHODS", METHODS)
    method(name, summary="wrong")(WRONG[name])
    try:
        with pytest.raises(OptionError, match=f"The method '{name}' gave"):
            choose(name, random_rows(40))
    finally:
        del METHODS[name]


def test_a_users_scores_have_their_names_in_curves_and_a_colour_of_their_own(
    bundle: Path, tone: NDArray[np.float32]
) -> None:
    @method("sizes", summary="the largest of the first half")
    def sizes(request: Request) -> Kept:
        half = np.arange(request.tokens // 2)
        values = np.linalg.norm(request.embeds, axis=1).astype(np.float32)
        kept = half[np.sort(np.argsort(-values[half], kind="stable")[: request.n_keep])]
        return Kept(kept, (Scores("size", values), Scores("again", values[half], half, True)))

    try:
        recording = SpeechLLM(bundle, "cpu").listen(tone[: 4 * 16_000], sampling_rate=16_000)
        answer = recording.ask("Who?", method="sizes", budget=50, max_new_tokens=1)
        assert colour_of("sizes") not in {colour_of(name) for name in METHODS if name != "sizes"}
    finally:
        del METHODS["sizes"]
    # Where the method is not registered any more, an answer still says what its scores are.
    whole, half = curves_of(answer, answer.pruning.recordings[0])
    assert (whole.name, whole.whole, len(whole.values)) == ("size", True, recording.tokens)
    assert (half.name, half.whole, len(half.values)) == ("again", False, recording.tokens // 2)
    np.testing.assert_allclose(half.values, whole.values[: len(half.values)] * len(half.values))


def test_names_are_taken_once() -> None:
    with pytest.raises(OptionError, match="There is a method 'random' already"):

        @method("random", summary="another")
        def mine(request: Request) -> Kept:
            return Kept(np.arange(request.n_keep))

    with pytest.raises(OptionError, match=r"method must be one of .*speechprune"):
        PruningOptions(method="mine")


def test_a_file_that_registers_nothing_useful_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("1 / 0\n")
    for path, reason in (
        (broken, "ZeroDivisionError"),
        (tmp_path / "none.py", "not a Python file"),
    ):
        with pytest.raises(OptionError, match=f"{path.name}.*{reason}"):
            load_plugins([path])


def test_the_example_of_the_docs_works(bundle: Path, tone: Any, tmp_path: Path) -> None:
    import soundfile

    page = (DOCS / "guide" / "add-a-method.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python[^\n]*\n(.*?)```", page, re.DOTALL)
    wav = tmp_path / "tone.wav"
    soundfile.write(wav, tone[: 35 * 16_000], 16_000)
    own = {
        "loudest": [],
        "loudest-of": ["--method-option", "power=2"],
        "loudest-counted": [],
    }
    plugins = [block for block in blocks if "@method" in block]
    for (name, options), text in zip(own.items(), plugins, strict=True):
        plugin = tmp_path / f"{name}.py"
        plugin.write_text(text, encoding="utf-8")
        command = [sys.executable, "-m", "speechprune_ort", "ask", bundle, wav, "Who?", "--json",
                   "--plugin", plugin, "--method", name, *options,
                   "--max-new-tokens", "4"]  # fmt: skip
        result = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        used = json.loads(result.stdout)["pruning"]["options"]
        assert used["method"] == name
        assert used.get("power") == (2 if options else None)


def test_the_balance_goes_from_one_phase_alone_to_the_other() -> None:
    audio = random_rows(40)
    assert choose("passages", audio, 0.75, 1).indices.tolist() == choose(
        "coverage", audio, 0.75
    ).indices.tolist()  # fmt: skip
    common = NumpyScorer(HostEmbeds(audio), audio[:1], _never).commonness()
    least_common = np.sort(np.argsort(common, kind="stable")[:5])
    assert choose("passages", audio, 0.75, 100).indices.tolist() == least_common.tolist()
    assert choose("speechprune", audio, 0.75, 1).indices.tolist() == choose(
        "similarity", audio, 0.75
    ).indices.tolist()  # fmt: skip


def test_passages_keep_what_stands_out_where_the_question_is_spoken() -> None:
    # Five tokens a second: a passage of 10 s has 50, and 64 are left to the second phase.
    audio = np.tile(np.array([1.0, 0, 0, 0, 0, 0], np.float32), (400, 1))
    audio[200:220:4] = np.eye(6, dtype=np.float32)[1]  # the question's word, near 200 to 216
    audio[[30, 222]] = np.eye(6, dtype=np.float32)[2]  # stands out: far away, and beside it
    scorer = NumpyScorer(HostEmbeds(audio), np.eye(6, dtype=np.float32)[[1]], _never)
    options = PruningOptions(method="passages", pruning_rate=0.5, budget=32)
    kept = select(options, scorer, window_tokens=20, frame_tokens=5).indices
    assert set(kept) >= {200, 204, 208, 212, 216, 222}
    assert 30 not in kept


PLUGINS = {
    "raises": ("raise ValueError('two\\nlines')", "fails .ValueError: two lines"),
    "raises ours": ("request.scorer.similarity() * 0; raise OptionError('no')", "fails .Opti"),
    "leaves": ("sys.exit(0)", "asked the process to end .exit code 0"),
    "leaves at once": ("os._exit(0)", "asked the process to end .exit code 0"),
    "bare": ("raise BaseException('x')", "fails .BaseException: x"),
    "generator": ("raise GeneratorExit", "fails .GeneratorExit"),
    "deep": ("return deep()", "fails .RecursionError"),
    "another's stage": (
        "request.measure('encoder')",
        "fails .OptionError: A method measures phase_1 and phase_2, not 'encoder'",
    ),
    "None": ("return None", "gave None: it must return a Selection"),
    "text": ("return 'all'", "gave a str"),
    "list": ("return Selection([0, 1])", "gave a list as indices"),
    "2-D": ("return Selection(np.zeros((2, 2), int))", "int64 and shape .2, 2. as indices"),
    "floats": ("return Selection(np.arange(n) * 1.0)", "float64 and shape"),
    "NaN": ("return Selection(np.full(n, np.nan))", "float64 and shape"),
    "bools": ("return Selection(np.ones(n, bool))", "an array of bool"),
    "too few": ("return Selection(np.arange(n - 1))", "tokens: it must give"),
    "none": ("return Selection(np.arange(0))", "gave 0 tokens"),
    "twice": ("return Selection(np.zeros(n, int))", "each once, in time order"),
    "behind": ("return Selection(np.arange(n) + 10**9)", "each once, in time order"),
    "huge": ("return Selection(np.arange(n).astype(object))", "an array of object"),
    "unsigned": ("return Selection(np.arange(n, dtype=np.uint64)[::-1])", "each once"),
    "bare scores": ("return Selection(np.arange(n), np.zeros(t))", "as scores: .* tuple of Scores"),
    "no scores": ("return Selection(np.arange(n), (np.zeros(t),))", "gave a tuple as scores"),
    "nameless": ("return Selection(np.arange(n), (Scores('', np.zeros(t)),))", "scores 1 no name"),
    "scores": ("return Selection(np.arange(n), (Scores('x', np.zeros(3)),))", "as scores 1"),
    "NaN scores": (
        "return Selection(np.arange(n), [Scores('x', np.full(t, np.nan))])",
        "NaN or infinity in scores 1",
    ),
    "of none": (
        "return Selection(np.arange(n), (Scores('x', np.zeros(0), np.arange(0)),))",
        "tokens of scores 1 out of range",
    ),
    "of two": (
        "return Selection(np.arange(n), (Scores('x', np.zeros(t), np.arange(2)),))",
        "as scores 1",
    ),
    "outside": (
        "return Selection(np.arange(n), (Scores('x', np.zeros(1), np.array([t])),))",
        "out of range",
    ),
    "wide": ("return Selection(np.arange(n), embeds=np.zeros((n, 1)))", "as embeds"),
    "NaN rows": ("return Selection(np.arange(n), embeds=np.full((n, 6), np.nan))", "in embeds"),
}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"encoder": 1}, "counts operations of 'encoder': it may count phase_1 and phase_2"),
        ({"phase_1": 1, 2: 3}, "counts operations of 2: it may"),
        ({"phase_2": -1}, "counts -1 operations of phase_2: it must be a whole number"),
        ({"phase_1": 1.5}, "counts 1.5 operations of phase_1"),
        ({"phase_1": "many"}, "counts 'many' operations of phase_1"),
        (3, "gave a int as operations"),
        (None, "gave None as operations"),
        (ZeroDivisionError("no tokens"), "fails .ZeroDivisionError: no tokens"),
    ],
)
def test_a_users_method_counts_its_own_operations_alone(
    given: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def counts(_: Work) -> Any:
        if isinstance(given, Exception):
            raise given
        return given

    work = Work(MethodOptions(), 100, 50, 75, 5, 8, 2, 4, projection=lambda tokens: tokens)
    monkeypatch.setattr("speechprune_ort.runtime.choosing.methods.base.METHODS", METHODS)
    method("counted", summary="counted", operations=counts)(lambda _: Kept(np.arange(1)))
    try:
        with pytest.raises(OptionError, match=f"The method 'counted' {message}"):
            operations_of("counted", work)
    finally:
        del METHODS["counted"]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_counts_what_it_measures(name: str) -> None:
    tokens = 60
    measured: list[str] = []

    @contextmanager
    def measure(phase: str) -> Iterator[None]:
        measured.append(phase)
        yield

    audio = random_rows(tokens)

    def one_head(rows: NDArray[Any], _: str) -> tuple[NDArray[Any], NDArray[Any]]:
        return rows[:, None], rows[:, None]

    scorer = NumpyScorer(HostEmbeds(audio), random_rows(4, 1), one_head)
    options = PruningOptions(name) if name == "none" else PruningOptions(name, 0.5, 40)
    select(
        options,
        scorer,
        window_tokens=40,
        frame_tokens=5,
        encoder_attention=np.ones(tokens, np.float32),
        decoder_attention=np.ones(tokens, np.float32),
        measure=measure,
    )
    work = Work(options.own, tokens, 20, 40, 4, 6, 1, 6, projection=lambda count: count)
    counted = operations_of(name, work)
    # What only compares and sorts multiplies nothing.
    assert list(counted) == ([] if name in ("segment-attention", "fastv") else measured)
    assert all(count > 0 for count in counted.values())


@pytest.mark.parametrize("name", PLUGINS)
def test_whatever_a_plugin_does_is_one_sentence_with_its_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body, message = PLUGINS[name]
    path = tmp_path / "odd.py"
    path.write_text(
        "import os, sys\nimport numpy as np\n"
        "from speechprune_ort import OptionError\n"
        "from speechprune_ort.methods import Request, Scores, Selection, method\n"
        "def deep(): return deep()\n"
        "@method('odd', summary='odd')\n"
        f"def odd(request):\n    n, t = request.n_keep, request.tokens\n    {body}\n"
    )
    monkeypatch.setattr(os, "_exit", os._exit)  # given back after the test
    refuse_silent_exits()
    load_plugins([path])
    try:
        with pytest.raises(OptionError, match=f"The method 'odd' .*{message}") as found:
            choose("odd", random_rows(40))
    finally:
        METHODS.pop("odd")
    assert "\n" not in str(found.value)


@pytest.mark.parametrize(
    "text",
    ["import sys; sys.exit(0)", "import os; os._exit(0)", "1 +", "raise BaseException", "\0"],
)
def test_a_plugin_that_cannot_be_loaded_is_one_sentence(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "broken.py"
    path.write_text(text)
    monkeypatch.setattr(os, "_exit", os._exit)
    refuse_silent_exits()
    with pytest.raises(OptionError, match=r"The plugin .*broken\.py"):
        load_plugins([path])


CHECKS = {
    "raises": ("raise ValueError('no')", "The check of the options Odd fails .ValueError: no"),
    "leaves": ("sys.exit(0)", "The check of the options Odd asked the process to end"),
    "deep": ("self.check()", "The check of the options Odd fails .RecursionError"),
    "says": ("return self.step > 0", "The check of the options Odd gave a bool: it must raise"),
    "refuses": ("raise OptionError('step must be odd.')", "^step must be odd.$"),
    "a set": (
        "object.__setattr__(self, 'step', {1})",
        "The option step of the method 'odd' .* set",
    ),
}
COUNTS = {
    "raises": ("raise ValueError('no')", "fails .ValueError: no"),
    "leaves": ("sys.exit(0)", "asked the process to end"),
    "no size": ("return {'phase_1': work.nothing}", "fails .AttributeError"),
}


def odd(folder: Path, check: str = "pass", count: str = "return {}", more: str = "") -> None:
    """Load a plugin whose method is sound, and whose hooks need not be."""
    path = folder / "odd.py"
    path.write_text(
        "import sys\nfrom dataclasses import dataclass, field\nimport numpy as np\n"
        "from speechprune_ort import OptionError\n"
        "from speechprune_ort.methods import MethodOptions, Selection, method\n"
        f"def fails(): raise KeyError('x')\ndef count(work):\n    {count}\n"
        "@dataclass(frozen=True)\nclass Odd(MethodOptions):\n    step: int = 1\n"
        f"    {more}\n    def check(self):\n        {check}\n"
        "@method('odd', summary='odd', options=Odd, operations=count)\n"
        "def odd(request): return Selection(np.arange(request.n_keep))\n"
    )
    load_plugins([path])


@pytest.fixture
def without_odd() -> Iterator[None]:
    yield
    METHODS.pop("odd", None)


@pytest.mark.parametrize("name", CHECKS)
def test_whatever_a_plugins_check_does_is_one_sentence(
    name: str, tmp_path: Path, without_odd: None
) -> None:
    check, message = CHECKS[name]
    odd(tmp_path, check)
    with pytest.raises(OptionError, match=message):
        PruningOptions("odd", step=3)  # type: ignore[call-arg]


def test_a_plugins_options_that_cannot_be_made_are_one_sentence(
    tmp_path: Path, without_odd: None
) -> None:
    odd(tmp_path, more="at: int = field(default_factory=fails)")
    with pytest.raises(
        OptionError, match=r"The class Odd of options of the method 'odd' fails .Key"
    ):
        PruningOptions("odd")


@pytest.mark.parametrize("name", COUNTS)
def test_whatever_a_plugins_count_of_operations_does_is_one_sentence(
    name: str, tmp_path: Path, without_odd: None
) -> None:
    count, message = COUNTS[name]
    odd(tmp_path, count=count)
    sizes = dict.fromkeys(("tokens", "kept", "budget", "words", "hidden", "heads", "head_dim"), 1)
    work = Work(own=MethodOptions(), projection=lambda tokens: tokens, **sizes)
    with pytest.raises(OptionError, match="The method 'odd' " + message):
        operations_of("odd", work)


def test_profile_says_what_a_plugins_count_does(
    bundle: Path, tone: NDArray[np.float32], tmp_path: Path
) -> None:
    odd(tmp_path, count="return 5")
    METHODS.pop("odd")
    soundfile.write(tmp_path / "a.wav", tone[:64_000], 16_000)
    done = subprocess.run(
        [sys.executable, "-m", "speechprune_ort", "profile", bundle, "--audio", tmp_path / "a.wav",
         "--plugin", tmp_path / "odd.py", "--method", "odd", "--pruning-rates", "0.5",
         "--repeats", "1", "--warmup", "0", "--loads", "1", "--new-tokens", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "The method 'odd' gave a int as operations" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"summary": None}, "The summary of the method 'seeded' must be a text"),
        ({"source": 5}, "The source of the method 'seeded' must be a text"),
        ({"random": "yes"}, "random of the method 'seeded' must be True or False"),
        ({"operations": {}}, "The operations of the method 'seeded' must be a function"),
    ],
)
def test_what_a_method_cannot_be_registered_with_is_named(
    changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(OptionError, match=message):
        method("seeded", **{"summary": "", **changed})


def test_options_that_define_what_they_inherit_are_refused() -> None:
    @dataclass(frozen=True)
    class Named(MethodOptions):
        @classmethod
        def names(cls) -> tuple[str, ...]:
            raise ValueError

    with pytest.raises(OptionError, match="define names, which MethodOptions has"):
        method("seeded", summary="", options=Named)


@dataclass(frozen=True)
class Stride(MethodOptions):
    step: int = 2

    def check(self) -> None:
        whole("step", self.step, 1)


@pytest.fixture
def strides() -> Iterator[None]:
    """A plugin's method with an option of its own."""

    @method("strides", summary="every n-th token", options=Stride)
    def strides(request: Request[Stride]) -> Selection:
        order = np.argsort(np.arange(request.tokens) % request.own.step, kind="stable")
        return Selection(np.sort(order[: request.n_keep]))

    yield
    del METHODS["strides"]


def test_a_plugin_has_options_of_its_own(strides: None) -> None:
    options = PruningOptions(Stride(step=4), pruning_rate=0.5)
    assert options == PruningOptions("strides", 0.5, own=Stride(4))
    assert options == PruningOptions(method="strides", pruning_rate=0.5, step=4)
    assert options.to_dict()["step"] == 4
    scorer = NumpyScorer(HostEmbeds(random_rows(40)), random_rows(3, seed=1), _never)
    kept = select(options, scorer, window_tokens=20, frame_tokens=5)
    assert kept.indices.tolist() == list(range(0, 40, 4))
    assert replace(options, own=Stride(2)).own.names() == ("step",)
    assert (
        options.for_method("random").to_dict().keys() == PruningOptions("random").to_dict().keys()
    )


def test_options_of_another_method_are_refused(strides: None) -> None:
    for options, message in (
        ({"method": "random", "step": 4}, "random does not read step: .*strides"),
        ({"method": "strides", "step": 0}, "step must be a whole number of at least 1"),
        ({"method": "strides", "candidates": 2}, "Its options are step"),
        ({"method": "random", "own": Stride()}, "own= of the method random must be MethodOptions"),
        ({"method": Stride(), "own": Stride()}, "given twice"),
        ({"method": MethodOptions()}, "MethodOptions are options of several methods"),
        ({"method": "random", "nonsense": 1}, "random does not read nonsense: leave it out"),
    ):
        with pytest.raises(OptionError, match=message):
            PruningOptions(**options)


def test_what_is_no_class_of_options_cannot_be_registered() -> None:
    for options in (("seed",), MethodOptions(), int, type("Bare", (), {})):
        with pytest.raises(OptionError, match="must be a frozen dataclass"):
            method("seeded", summary="", options=options)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="must be a text"):
        method(3, summary="")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "method", "message"),
    [
        (0.9, "speechprune", "candidates must be at least 1"),
        (float("inf"), "speechprune", "candidates must be at least 1"),
        (True, "passages", "candidates must be at least 1"),
        (2, "coverage", "coverage does not read candidates: .*.passages, speechprune."),
    ],
)
def test_a_balance_that_makes_no_sense_is_refused(value: Any, method: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        PruningOptions(method=method, candidates=value)
