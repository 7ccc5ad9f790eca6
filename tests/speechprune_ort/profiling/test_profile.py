"""``profile``: what is measured, how it is written, and what a comparison says."""

from __future__ import annotations

import csv
import io
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from speechprune_ort import SpeechLLM, ranges
from speechprune_ort.cli.app import app
from speechprune_ort.contract.specs import DECODER
from speechprune_ort.errors import AudioError, OptionError, PromptError
from speechprune_ort.evaluation.costs import prefill_tflops
from speechprune_ort.evaluation.settings import settings_of
from speechprune_ort.markdown import markdown_of
from speechprune_ort.meters import BusyMeter, EnergyMeter, MemoryMeter, Reading
from speechprune_ort.methods import METHODS, Selection, Work, method
from speechprune_ort.profiling.break_even import Trade, shortest_that_pays
from speechprune_ort.profiling.compare import (
    COMPARED,
    Change,
    compare,
    compare_in_pairs,
    read_profile,
    regressions,
    rounds_needed,
)
from speechprune_ort.profiling.condition import Condition, ProfileOptions
from speechprune_ort.profiling.distribution import Distribution
from speechprune_ort.profiling.operations import Operations
from speechprune_ort.profiling.page import PICTURES, draw, page
from speechprune_ort.profiling.report import FORMATS, changes_table, render, tables
from speechprune_ort.profiling.run import Profile, profile, profile_in_turns
from speechprune_ort.profiling.workload import parse_rates, sounds_of
from speechprune_ort.results import STAGES
from speechprune_ort.runtime.answering.prompt import Prompt
from speechprune_ort.statistics import ratio_of

SECONDS = ("5", "40")
OPTIONS = ProfileOptions("Who said that?", new_tokens=4, repeats=3, warmup=1, loads=2)


@pytest.fixture(scope="module")
def found(bundle: Path) -> Profile:
    return profile(
        lambda: SpeechLLM(bundle, "cpu", threads=1),
        sounds_of([], ",".join(SECONDS)),
        parse_rates("none,0,0.8", "speechprune"),
        OPTIONS,
    )


def test_every_recording_is_measured_at_every_setting(found: Profile) -> None:
    names = [(c.sound, c.setting) for c in found.conditions]
    assert names == [(f"{s} s", rate) for s in SECONDS for rate in ("none", "0", "0.8")]
    kept = {c.name: (c.kept, c.tokens) for c in found.conditions}
    assert kept["40 s @ none"] == (1000, 1000)
    assert kept["40 s @ 0"] == (750, 1000)
    assert kept["40 s @ 0.8"] == (150, 1000)
    assert kept["5 s @ 0.8"] == (25, 125)
    assert found.load.n == OPTIONS.loads
    for condition in found.conditions:
        assert {f.n for f in condition.figures.values()} == {OPTIONS.repeats}
        stages = sum(np.array(condition.figures[f"{s}_ms"].samples) for s in STAGES)
        whole = np.array(condition.figures["end_to_end_ms"].samples)
        np.testing.assert_allclose(whole, stages)
        first = np.array(condition.figures["ttft_ms"].samples)
        np.testing.assert_allclose(whole - first, condition.figures["decode_ms"].samples)
        rtf = np.array(condition.figures["rtf"].samples)
        np.testing.assert_allclose(rtf, whole / 1000 / condition.seconds)
        tpot = np.array(condition.figures["tpot_ms"].samples)
        np.testing.assert_allclose(3 * tpot, condition.figures["decode_ms"].samples)
        listened = np.array(condition.figures["ttft_embeds_ms"].samples)
        assert (listened < first).all()
        assert condition.figures["peak_rss_mb"].min > 50


def test_counted_operations_are_those_of_the_closed_form(bundle: Path, found: Profile) -> None:
    model = SpeechLLM(bundle, "cpu", threads=1)
    manifest, dims = model.manifest, model.manifest.dimensions
    for condition in found.conditions:
        tokens = condition.prompt_tokens
        closed = prefill_tflops(manifest, tokens)
        assert closed is not None
        # Half of the attention matrix has its diagonal besides.
        diagonal = 2 * tokens * dims.heads * dims.head_dim * dims.layers
        # Norms have weights, too, and multiply no matrices.
        assert condition.operations["prefill"] == pytest.approx(1e12 * closed + diagonal, rel=0.01)
        steps = range(tokens, tokens + OPTIONS.new_tokens - 1)
        totals = (
            [prefill_tflops(manifest, n + 1) for n in steps],
            [prefill_tflops(manifest, n) for n in steps],
        )
        # What a prompt needs of its last position alone, each step needs of its own.
        head = dims.hidden * dims.vocab
        projections = dims.hidden * (dims.heads + 2 * dims.kv_heads) * dims.head_dim
        parameters = manifest.graphs[DECODER].parameters or 0
        behind = (parameters - head) / dims.layers - projections
        alone = 2 * (head + behind)
        grown = sum(1e12 * (a - b) + alone for a, b in zip(*totals, strict=True) if a and b)
        assert condition.operations["decode"] == pytest.approx(grown, rel=0.02)
    by_name = {c.name: c.operations for c in found.conditions}
    assert by_name["40 s @ none"]["encoder"] == by_name["40 s @ 0.8"]["encoder"]
    assert by_name["40 s @ none"]["encoder"] > 5 * by_name["5 s @ none"]["encoder"]
    assert "phase_1" not in by_name["40 s @ none"]
    assert "phase_2" not in by_name["40 s @ 0"]  # phase 1 leaves as many as are wanted
    assert by_name["40 s @ 0.8"]["phase_1"] == 4 * 1000 * dims.hidden
    width = (dims.heads + dims.kv_heads) * dims.head_dim
    pairs = 2 * 750 * 750 * dims.heads * dims.head_dim
    assert by_name["40 s @ 0.8"]["phase_2"] == 2 * 750 * dims.hidden * width + pairs


def test_counted_operations_of_the_encoder_are_those_of_its_layers(bundle: Path) -> None:
    model = SpeechLLM(bundle, "cpu", threads=1)
    dims = model.manifest.dimensions
    width, inner, layers = 32, 64, 2  # tests/helpers/tiny.py
    for tokens in (dims.window_tokens, 100):
        frames, states = 4 * tokens, 2 * tokens
        convolutions = 2 * 3 * width * (frames * dims.mel_bins + states * width)
        linear = 2 * states * (4 * width * width + 2 * width * inner)
        attention = 4 * states * states * width
        projector = 2 * tokens * width * dims.hidden
        closed = convolutions + layers * (linear + attention) + projector
        assert Operations(model)._encoder(tokens) == pytest.approx(closed, rel=0.001)


def test_every_graph_says_who_ran_its_operators(bundle: Path, found: Profile) -> None:
    graphs = SpeechLLM(bundle, "cpu").manifest.graphs
    assert found.about["operators"].keys() == graphs.keys()
    for counts in found.about["operators"].values():
        assert counts.keys() == {"CPUExecutionProvider"}
        assert counts["CPUExecutionProvider"] >= 1
    assert "all by CPUExecutionProvider" in str(tables(found)[0].caption)
    found.about["operators"]["decoder"] |= {"CUDAExecutionProvider": 7}
    assert "7 by CUDAExecutionProvider" in str(tables(found)[0].caption)
    del found.about["operators"]["decoder"]["CUDAExecutionProvider"]


def test_traces_are_those_of_onnxruntime(bundle: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app,
        [
            "profile", str(bundle), "--durations", "5", "--pruning-rates", "0.8", "--repeats", "1",
            "--warmup", "0", "--loads", "1", "--new-tokens", "2", "--device", "cpu",
            "--ort-profile", str(tmp_path / "traces"),
        ],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    files = {path.stem for path in (tmp_path / "traces").iterdir()}
    assert {"audio_encoder", "embed_tokens", "first_layer_qk", "decoder"} <= files
    events = json.loads((tmp_path / "traces" / "decoder.json").read_text())
    # The template's beginning, which is read once per model, the rest of the prompt, and a step.
    assert sum(event["name"] == "model_run" for event in events) == 3


def test_stages_are_marked_where_nvtx_is_wanted(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []

    @contextmanager
    def annotate(name: str) -> Iterator[None]:
        opened.append(name)
        yield

    monkeypatch.setattr(ranges, "_open", ranges._open)  # put back afterwards
    monkeypatch.setitem(sys.modules, "nvtx", None)
    with pytest.raises(OptionError, match="pip install"):
        ranges.use_nvtx()
    monkeypatch.setitem(sys.modules, "nvtx", SimpleNamespace(annotate=annotate))
    ranges.use_nvtx()
    samples = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    SpeechLLM(bundle, "cpu").ask(samples, "Who?", sampling_rate=16_000, max_new_tokens=2)
    assert {f"speechprune-ort {stage}" for stage in ("encoder", "prefill")} <= set(opened)


def test_every_form_has_every_condition(found: Profile) -> None:
    texts = {form: render(found, form) for form in FORMATS if form != "table"}
    content = json.loads(texts["json"])
    assert [c["setting"] for c in content["conditions"]] == [c.setting for c in found.conditions]
    samples = content["conditions"][0]["figures"]["prefill_ms"]["samples"]
    assert samples == list(found.conditions[0].figures["prefill_ms"].samples)
    assert {row["setting"] for row in content["break_even"]} == {"0", "0.8"}
    lines = [json.loads(line) for line in texts["jsonl"].splitlines()]
    assert [line["sound"] for line in lines] == [c.sound for c in found.conditions]
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert {row["figure"] for row in rows} >= {f"{s}_ms" for s in STAGES} | {"ttft_ms", "rtf"}
    for text in (texts["md"], page(found)):
        for condition in found.conditions:
            assert condition.sound in text
    assert "<script" not in page(found)
    assert tables(found)[0].row_count == len(found.conditions)


def test_what_does_not_fit_is_skipped_by_name(bundle: Path) -> None:
    context = SpeechLLM(bundle, "cpu").manifest.dimensions.context
    seconds = f"{context / 25 + 5:g}"
    options = ProfileOptions("Who?", new_tokens=2, repeats=1, warmup=0, loads=1)
    made = profile(
        lambda: SpeechLLM(bundle, "cpu"),
        sounds_of([], seconds),
        parse_rates("none,0.8"),
        options,
    )
    whole, pruned = made.conditions
    assert whole.skipped is not None
    assert "positions" in whole.skipped
    assert pruned.skipped is None
    assert pruned.figures
    for text in (render(made, "md"), page(made).replace("&#x27;", "'")):
        assert f"{whole.name} was skipped: {whole.skipped}" in text


def test_the_command_writes_what_it_is_asked_for(bundle: Path, tmp_path: Path) -> None:
    wav = tmp_path / "a.wav"
    soundfile.write(wav, 0.1 * np.sin(np.arange(6 * 16_000) / 9), 16_000)
    plot, html = tmp_path / "out.png", tmp_path / "out.html"
    common = ["profile", str(bundle), "--device", "cpu", "--pruning-rates", "none,0.5",
              "--new-tokens", "2", "--repeats", "2", "--loads", "1"]  # fmt: skip
    done = CliRunner().invoke(
        app,
        [
            *common,
            "--audio",
            str(wav),
            "--format",
            "json",
            "--plot",
            str(plot),
            "--html",
            str(html),
        ],
    )
    assert done.exit_code == 0, done.output
    content = json.loads(done.stdout)
    assert [c["sound"] for c in content["conditions"]] == ["a.wav", "a.wav"]
    assert plot.read_bytes()[:4] == b"\x89PNG"
    assert "a.wav @ 0.5" in html.read_text()

    file = tmp_path / "one.json"
    file.write_text(done.stdout)
    same = CliRunner().invoke(app, ["profile", "--compare", str(file), str(file)])
    assert same.exit_code == 0
    assert "1.000" in same.stdout


def written(found: Profile, prefill: float) -> dict[str, Any]:
    """A profile as JSON in which only the prefill differs, whatever this machine measured."""
    content: dict[str, Any] = json.loads(render(found, "json"))
    for condition in content["conditions"]:
        for name in condition["figures"]:
            samples = [prefill * v if name == "prefill_ms" else v for v in (1.0, 1.1, 1.2)]
            condition["figures"][name] = Distribution.of(samples).to_dict()
    return content


def test_a_comparison_names_what_became_worse(found: Profile, tmp_path: Path) -> None:
    before, after = tmp_path / "before.json", tmp_path / "after.json"
    before.write_text(json.dumps(written(found, 1)))
    after.write_text(json.dumps(written(found, 2)))
    content, slower = read_profile(before), read_profile(after)
    assert not regressions(compare(content, content), 1.1)
    worse = regressions(compare(content, slower), 1.1)
    assert {change.figure for change in worse} == {"prefill_ms"}
    assert len(worse) == len(found.conditions)
    assert not regressions(compare(content, slower), 2.5)
    assert not regressions(compare(slower, content), 1.1)

    arguments = ["profile", "--compare", str(before), str(after)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    failed = CliRunner().invoke(app, [*arguments, "--fail-over", "1.1"])
    assert failed.exit_code == 1
    assert "WORSE" in failed.stdout


def paired(rounds: int, slower: float, seed: int) -> list[Change]:
    """Two conditions of two bundles in turns, on a machine that drifts and is interrupted."""
    rng = np.random.default_rng(seed)
    sides: tuple[list[Condition], list[Condition]] = ([], [])
    for setting in ("none", "0.8"):
        drift = np.exp(np.cumsum(rng.normal(0, 0.2, rounds)))
        for side, factor in zip(sides, (1.0, slower), strict=True):
            condition = Condition("a.wav", setting, 5.0, 125)
            for figure in COMPARED:
                samples = 10 * drift * np.exp(rng.exponential(0.05, rounds))
                scaled = samples * (factor if figure == "prefill_ms" else 1)
                condition.figures[figure] = Distribution.of([float(v) for v in scaled])
            side.append(condition)
    return compare_in_pairs(*sides)


def test_a_bundle_against_itself_is_no_different_in_19_of_20_runs() -> None:
    rounds = rounds_needed(2 * len(COMPARED)) + 2
    verdicts = [{change.verdict for change in paired(rounds, 1.0, seed)} for seed in range(60)]
    assert sum(found == {"no difference"} for found in verdicts) >= 58


def test_what_became_slower_is_found_though_the_machine_drifts() -> None:
    rounds = rounds_needed(2 * len(COMPARED)) + 2
    changes = paired(rounds, 1.3, 0)
    assert {c.figure for c in changes if c.verdict == "larger"} == {"prefill_ms"}
    assert {c.figure for c in regressions(changes, 1.1)} == {"prefill_ms"}
    assert not regressions(changes, 1.5)
    assert {c.figure for c in paired(rounds, 0.7, 0) if c.verdict == "smaller"} == {"prefill_ms"}


def test_two_bundles_are_measured_in_turns(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    opened, others = WeakSet[SpeechLLM](), list[int]()
    turned = iter((False, True))
    listen = SpeechLLM.listen

    class Named(SpeechLLM):
        def __init__(self, name: str) -> None:
            others.append(len(opened))
            super().__init__(bundle, "cpu", threads=1)
            opened.add(self)
            self.called = name
            order.append(name.upper())

        def listen(self, *arguments: Any, **options: Any) -> Any:
            order.append(self.called)
            return listen(self, *arguments, **options)

    profiles = profile_in_turns(
        [lambda: Named("a"), lambda: Named("b")],
        sounds_of([], "5"),
        parse_rates("0.8", "speechprune"),
        ProfileOptions("Who said that?", new_tokens=2, repeats=2, warmup=1, loads=1),
        draw=lambda order: order.reverse() if next(turned) else None,
    )
    # Each round closes both, opens them anew, warms them up and measures them, in its own order.
    assert "".join(order) == "AB" + "ABabab" + "BAbaba"
    assert others == [0, 1] * 3
    figures = [found.conditions[0].figures for found in profiles]
    assert all(found["end_to_end_ms"].n == found["cpu_ms"].n == 2 for found in figures)
    assert all(0 <= found.about["busy"] <= 1 for found in profiles)


def test_the_command_compares_two_bundles(bundle: Path) -> None:
    arguments = ["profile", str(bundle), str(bundle), "--durations", "5", "--pruning-rates", "0.8",
                 "--new-tokens", "2", "--repeats", "2", "--loads", "1"]  # fmt: skip
    done = CliRunner().invoke(app, [*arguments, "--format", "json", "--fail-over", "1"])
    assert done.exit_code == 0, done.stderr
    content = json.loads(done.stdout)
    assert {change["verdict"] for change in content["changes"]} == {"no difference"}
    assert content["before"]["about"]["bundle_digest"] == content["after"]["about"]["bundle_digest"]
    assert "give --repeats" in done.stderr


def test_a_comparison_in_turns_says_how_its_verdicts_were_found() -> None:
    changes = paired(rounds_needed(2 * len(COMPARED)) + 2, 1.3, 0)
    table = "\n".join(markdown_of(changes_table(changes, [])))
    assert table.count("larger") == sum(change.verdict == "larger" for change in changes) > 0
    assert table.count("no difference") == len(changes) - table.count("larger")
    assert "measured in turns: ratios round by round; verdicts at 1 % for all figures" in table


def test_what_others_take_of_the_processors_is_read_off(tmp_path: Path) -> None:
    (tmp_path / "stat").write_text("cpu 100 0 100 800 0 0 0 0 0 0\n")
    meter = BusyMeter(tmp_path)
    (tmp_path / "stat").write_text("cpu 40000 0 10100 50900 0 0 0 0 0 0\n")
    assert meter.share() == pytest.approx(0.499, abs=0.01)
    assert BusyMeter(tmp_path / "missing").share() is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "needs a bundle"),
        (["A", "B", "C"], "one bundle or two"),
        (["A", "B", "--durations", "5", "--html", "x.html"], "--html is for one bundle"),
        (["A", "B", "--durations", "5", "--format", "csv"], "--format takes table, md, json"),
        (["A", "--durations", "5", "--fail-over", "1.1"], "needs two bundles"),
        (["A", "B", "--durations", "5", "--fail-over", "0.5"], "at least 1, not 0.5"),
        (["B"], "--audio or --durations"),
        (["B", "--durations", "5", "--audio", "a.wav"], "--audio or --durations"),
        (["B", "--durations", "5,x"], "takes seconds"),
        (["B", "--durations", "0"], "takes seconds from"),
        (["B", "--durations", "5", "--pruning-rates", "0.2,half"], "numbers and none"),
        (["B", "--durations", "5", "--pruning-rates", "0.2,0.20"], "0.2 twice"),
        (["B", "--durations", "5", "--pruning-rates", "1.5"], "pruning_rate"),
        (["B", "--durations", "5", "--repeats", "0"], "repeats must be"),
        (["B", "--durations", "5", "--warmup", "-1"], "warmup must be"),
        (["B", "--durations", "5", "--format", "xml"], "--format"),
        (["B", "--durations", "5", "--fail-over", "1.1"], "--fail-over"),
        (["B", "--durations", "5", "--html", "nowhere/x.html"], "not a folder"),
        (["B", "--durations", "1e12"], "takes seconds from 0.1 to"),
        (["B", "--durations", "5", "--plot", "x.foo"], "--plot x.foo must end in"),
        (["B", "--durations", "5", "--plot", "x"], "--plot x must end in"),
        (["B", "--durations", "5", "--ort-profile", "pyproject.toml"], "is a file"),
        (["B", "--durations", "5", "--ort-profile", "tr\udcff"], "a byte that is not UTF-8"),
        (["B", "--durations", "", "--audio", "a.wav"], "--audio or --durations"),
        (["B", "--durations", "5", "--ort-profile", "pyproject.toml/x"], "lies under a file"),
        (["B", "--durations", "5", "--max-seconds", "-1"], "max_seconds"),
        (["--compare", "missing.json", "missing.json"], "No profile at"),
    ],
)
def test_mistakes_are_one_sentence(arguments: list[str], words: str) -> None:
    result = CliRunner().invoke(app, ["profile", *arguments])
    assert isinstance(result.exception, OptionError)
    assert words in str(result.exception)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
def test_a_picture_goes_where_it_was_said_or_is_refused(found: Profile, tmp_path: Path) -> None:
    for kind in PICTURES:
        draw(found, tmp_path / "no-ending", kind)
        assert (tmp_path / "no-ending").stat().st_size > 1000
    with pytest.raises(OSError, match="No space"):
        draw(found, Path("/dev/full"))
    assert not Path("/dev/full.png").exists()


def test_the_page_shows_the_picture_and_needs_matplotlib(
    found: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = replace(found, conditions=[replace(c, sound="a$x_{$\udce9") for c in found.conditions])
    shown = page(odd)
    picture = ElementTree.fromstring(  # noqa: S314 - our own
        shown[shown.index("<svg") : shown.index("</svg>") + 6]
    )
    assert {part.get("id") for part in picture.iter()} >= {"axes_1", "legend_1"}
    # Letters are drawn as paths, under comments that say them.
    assert "a$x_{$\\udce9 @" in shown[: shown.index("</svg>")]
    (first, *_) = tables(replace(odd, conditions=[replace(odd.conditions[0], sound="a\nb\x1b[2J")]))
    assert list(first.columns[0].cells) == ["a\\nb\\x1b[2J"]
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    command = ["profile", "B", "--durations", "5", "--html", str(tmp_path / "page.html")]
    refused = CliRunner().invoke(app, command)
    assert "--html need matplotlib" in str(refused.exception)


def test_a_silent_recording_is_measured_where_that_is_wanted(bundle: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "caf.wav", np.zeros(16_000), 16_000)
    silent = tmp_path / os.fsdecode(b"caf\xe9.wav")
    (tmp_path / "caf.wav").rename(silent)
    shown = tmp_path / "page.html"
    counts = "--pruning-rates none --new-tokens 1 --repeats 1 --warmup 0 --loads 1"
    options = [*counts.split(), "--format", "json", "--html", str(shown)]
    command = ["profile", str(bundle), "--audio", str(silent), *options]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, AudioError)
    assert "--allow-silence" in str(refused.exception)
    assert CliRunner().invoke(app, [*command, "--allow-silence"]).exit_code == 0
    assert "caf\\udce9" in shown.read_text(encoding="utf-8")


def test_a_file_that_is_no_profile_is_refused(found: Profile, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    whole = written(found, 1)
    (first, *_), figure = whole["conditions"], whole["conditions"][0]["figures"]["prefill_ms"]

    def with_figure(**changes: Any) -> dict[str, Any]:
        figures = first["figures"] | {"prefill_ms": figure | changes}
        return {"conditions": [first | {"figures": figures}]}

    wrong: list[Any] = [[], {}, {"conditions": 3}, {"conditions": None}, {"conditions": [{}]}]
    wrong += [{"conditions": [first, first]}]
    for name in ("sound", "figures"):
        wrong.append({"conditions": [{n: v for n, v in first.items() if n != name}]})
        wrong.append({"conditions": [first | {name: 3}]})
    wrong += [with_figure(samples=some) for some in ([], ["a"], [-1.0], [float("nan")], None)]
    for content in ["no json", "[" * 9000, "", *map(json.dumps, wrong)]:
        file.write_text(content.replace("NaN", "1e400"))
        with pytest.raises(OptionError, match="not a profile"):
            read_profile(file)
    with pytest.raises(OptionError, match="No profile at"):
        read_profile(tmp_path / "nothing.json")
    file.write_text("\ufeff" + json.dumps(whole))
    assert [c.name for c in read_profile(file)] == [c.name for c in found.conditions]
    with pytest.raises(OptionError, match="in common"):
        compare(read_profile(file), [])


def test_what_a_comparison_of_files_would_ignore_is_refused() -> None:
    for more, said in (
        (["--format", "json"], "leave out --format"),
        (["--html", "a.html", "--quiet"], "leave out --html"),
        (["bundle"], "leave out a bundle"),
    ):
        refused = CliRunner().invoke(app, ["profile", *more, "--compare", "a.json", "b.json"])
        assert said in str(refused.exception)


def test_nothing_measured_is_no_success(bundle: Path) -> None:
    sounds, settings = sounds_of([], "5"), parse_rates("none")
    for question, said in (("  ", "is empty"), ("x" * 10**6, "characters and the model")):
        with pytest.raises(PromptError, match=said):
            profile(
                lambda: SpeechLLM(bundle, "cpu"),
                sounds,
                settings,
                replace(OPTIONS, question=question),
            )
    long = replace(OPTIONS, new_tokens=10**6)
    with pytest.raises(PromptError, match="Nothing can be measured: "):
        profile(lambda: SpeechLLM(bundle, "cpu"), sounds, settings, long)


def test_recordings_and_lengths_have_names_of_their_own() -> None:
    paths = [Path("a/x.wav"), Path("b/x.wav"), Path("c.wav")]
    assert [sound.name for sound in sounds_of(paths, None)] == ["a/x.wav", "b/x.wav", "c.wav"]
    for audio, durations, said in ((paths[:1] * 2, None, "--audio"), ([], "1,1.0", "--durations")):
        with pytest.raises(OptionError, match=f"{said} .* twice"):
            sounds_of(audio, durations)


def test_distributions_are_what_their_names_say() -> None:
    values = np.random.default_rng(0).exponential(size=200)
    found = Distribution.of(list(values))
    assert found.stdev == pytest.approx(float(np.std(values, ddof=1)))
    assert found.p99 == pytest.approx(float(np.quantile(values, 0.99)))
    assert Distribution.of([4.0]).stdev == 0
    ratio = ratio_of(list(3 * values), list(values))
    assert ratio.value == pytest.approx(3)
    assert ratio.low < 3 < ratio.high


def test_break_even_is_where_gain_and_cost_meet() -> None:
    trades = [Trade("a", 10, "0.8", 1, 2), Trade("a", 10, "0", 5, 0), Trade("b", 20, "0", 5, 4)]
    assert shortest_that_pays(trades) == {"0.8": 10, "0": None}


def test_energy_counters_may_wrap_round(tmp_path: Path) -> None:
    zone = tmp_path / "intel-rapl:0"
    zone.mkdir()
    (zone / "energy_uj").write_text("900000")
    (zone / "max_energy_range_uj").write_text("1000000")
    (tmp_path / "intel-rapl:0:0").mkdir()  # a part of the other
    meter, reading = EnergyMeter("cpu", powercap=tmp_path), Reading()
    with meter.measure(reading):
        (zone / "energy_uj").write_text("400000")
    assert reading.values == {"package_j": 0.5}
    nothing = EnergyMeter("cpu", powercap=tmp_path / "absent")
    with nothing.measure(empty := Reading()):
        pass
    assert empty.values == {}
    assert nothing.notes["package_j"].startswith("not read")


def test_peak_memory_is_of_the_block(tmp_path: Path) -> None:
    meter, small, large = MemoryMeter("cpu"), Reading(), Reading()
    with meter.measure(small):
        pass
    # Pages of its own: an allocator may hand out those that an earlier test left resident.
    with meter.measure(large), mmap.mmap(-1, 160_000_000) as block:
        block.write(b"1" * len(block))
    assert large.values["peak_rss_mb"] > small.values["peak_rss_mb"] + 150
    absent = MemoryMeter("cpu", proc=tmp_path / "absent")
    with absent.measure(nothing := Reading()):
        pass
    assert nothing.values == {}
    assert absent.notes["peak_rss_mb"].startswith("not read")


@pytest.mark.parametrize("bytes_", [0, 2000])
def test_a_trace_that_the_disk_cuts_is_one_sentence(bytes_: int, bundle: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from speechprune_ort import SpeechLLM; "
        "from speechprune_ort.errors import OutputError; "
        "from speechprune_ort.profiling.trace import placements; "
        "engine = SpeechLLM(sys.argv[1], 'cpu').engine; "
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({bytes_}, {bytes_}))\n"
        "try: placements(engine)\n"
        "except OutputError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle)], capture_output=True, text=True, check=False
    )
    assert "set TMPDIR" in done.stdout, done.stderr


def test_a_users_method_is_counted_and_averaged_over_seeds_as_ours_are(bundle: Path) -> None:
    def count(work: Work) -> dict[str, int]:
        return {"phase_1": work.tokens * work.hidden * work.words + work.kept}

    register = method("drawn", summary="drawn", random=True, operations=count)
    register(lambda request: Selection(np.arange(request.n_keep)))
    try:
        settings = settings_of(["drawn", "passages"], [0.5], [4, 5])
        assert [(s.name, s.seeds) for s in settings[1:]] == [
            ("drawn@0.5", (4, 5)), ("passages@0.5", (0,)),
        ]  # fmt: skip
        model = SpeechLLM(bundle, "cpu", threads=1)
        condition = Condition("a", "0.5", 4.0, 100, kept=50, prompt_tokens=70)
        found = Operations(model).by_stage(condition, settings[1].options, OPTIONS)
        words = len(Prompt.of(model.engine, OPTIONS.question).query)
        assert found["phase_1"] == 100 * model.manifest.dimensions.hidden * words + 50
    finally:
        del METHODS["drawn"]
