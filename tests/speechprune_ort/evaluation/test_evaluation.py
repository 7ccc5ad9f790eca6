"""``eval`` from end to end, on a tiny bundle: resumed, repeated, spread out."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from speechprune_ort import AudioError, AudioOptions, OptionError, PruningOptions
from speechprune_ort.evaluation.evaluate import run as run_plan
from speechprune_ort.evaluation.executor import LocalExecutor
from speechprune_ort.evaluation.judge import Judge
from speechprune_ort.evaluation.perturbation import CLEAN, Perturbation
from speechprune_ort.evaluation.plan import Plan, Work
from speechprune_ort.evaluation.rows import judge_all
from speechprune_ort.evaluation.samples import read_samples
from speechprune_ort.evaluation.settings import ORIGINAL, settings_of
from speechprune_ort.evaluation.summary import summarize
from speechprune_ort.methods import METHODS, load_plugins
from speechprune_ort.recording import Recording

SAMPLES = 6
BROKEN = "s4"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tone: NDArray[np.float32]) -> Path:
    """Recordings of 32 to 42 s with choices, one of them not audio at all."""
    folder = tmp_path_factory.mktemp("set")
    lines = []
    for index in range(SAMPLES):
        name = f"s{index}"
        wav = folder / f"{name}.wav"
        if name == BROKEN:
            wav.write_text("no sound")
        else:
            soundfile.write(wav, tone[index * 16_000 :][: (32 + 2 * index) * 16_000], 16_000)
        lines.append(
            {
                "id": name, "audio": wav.name, "question": f"Who said {index}?",
                "choices": ["a tin", "a red cat", "on Monday", "nobody"], "answer": index % 4,
                "kind": ("lecture", "meeting")[index % 2], "transcript": "Nobody said it.",
                "key": [3.0, 6.0],
            }
        )  # fmt: skip
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def plan_of(bundle: Path, data: Path, **changes: Any) -> Plan:
    settings = settings_of(["none", "random", "speechprune"], [0.2, 0.6], [0, 1])
    return Plan(bundle, tuple(read_samples(data)), tuple(settings), device="cpu", **changes)


def work_of(plan: Plan, index: int) -> Work:
    work = plan.work(index)
    assert work
    return work


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "speechprune_ort", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=280, check=False
    )


def eval_arguments(bundle: Path, data: Path, out: Path, *more: object) -> list[object]:
    return [
        "eval", bundle, "--data", data, "--out", out, "--methods", "none,crop,speechprune",
        "--pruning-rates", "0.4", "--seeds", "0,1", "--device", "cpu", *more,
    ]  # fmt: skip


@pytest.mark.parametrize("scoring", ["likelihood", "letter", "generate"])
def test_every_scoring_judges_every_setting_and_control(
    scoring: Any, bundle: Path, data: Path
) -> None:
    plan = plan_of(bundle, data, scoring=scoring)
    judge = Judge(plan)
    row = judge.rows(work_of(plan, 1))["clean"]
    assert row["tokens"] == pytest.approx(34 * 25, abs=1)
    assert set(row["settings"]) == {
        "none", "truncate@0", "random@0.2", "speechprune@0.2", "random@0.6", "speechprune@0.6",
    }  # fmt: skip
    for name, result in row["settings"].items():
        assert len(result["chosen"]) == (2 if "random" in name else 1)
        assert all(chosen in (*range(4), None) for chosen in result["chosen"])
    assert row["settings"]["none"]["kept"] == row["tokens"]
    assert row["settings"]["none"]["key_kept"] == 1.0
    assert row["settings"]["truncate@0"]["kept"] == 750
    assert row["settings"]["speechprune@0.6"]["kept"] == 300
    assert set(row["controls"]) == {"question", "mismatched", "transcript"}


def test_another_recording_is_read_whole_only_where_nothing_is_pruned(
    bundle: Path, data: Path
) -> None:
    """Every token of a long recording takes longer than all else together, or does not fit."""
    both = plan_of(bundle, data)
    assert both.control.name == "random@0.2"
    whole = replace(both, settings=tuple(settings_of(["none"], [0.2], [0])))
    assert whole.control.name == "none"
    row = Judge(whole).rows(work_of(whole, 1))
    assert row["clean"]["another_read_as"] == "none"
    assert whole.work(1, row) is None
    older = {"clean": {k: v for k, v in row["clean"].items() if k != "another_read_as"}}
    assert whole.work(1, older) is None, "rows from before this was written down"

    def pruned(methods: list[str]) -> Plan:
        return replace(whole, settings=tuple(settings_of(methods, [0.6, 0.2], [0])))

    assert pruned(["random", "coverage"]).control.name == "coverage@0.6"
    assert replace(whole, settings=(ORIGINAL,)).control.name == "none"
    plan = pruned(["speechprune", "random"])
    assert plan.control.name == "speechprune@0.6"
    work = plan.work(1, row)
    assert work, "every token was read"
    assert work.controls
    judge, read = Judge(plan), list[str]()
    score = Recording.score

    def noted(recording: Recording, *given: Any, **options: Any) -> Any:
        if pruning := options.get("pruning"):
            read.append(pruning.method)
        return score(recording, *given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recording, "score", noted)
        controls = judge.rows(Work(1, {}, controls=True))
    assert read == ["speechprune", "none"], "another recording; the transcript is read whole"
    assert controls["clean"]["another_read_as"] == "speechprune@0.6"


def test_a_recording_is_encoded_once_for_all_settings(
    bundle: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(bundle, data)
    judge = Judge(plan)
    heard: list[Any] = []
    listen = type(judge.model).listen
    monkeypatch.setattr(
        type(judge.model), "listen", lambda self, *a, **k: heard.append(a) or listen(self, *a, **k)
    )
    judge.rows(work_of(plan, 0))  # its own, and its neighbour's for the mismatched control
    judge.rows(work_of(plan, 1))
    assert len(heard) == 3


def test_controls_and_babble_never_say_the_same_in_another_voice(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    def heard(groups: list[str]) -> tuple[set[int], dict[str, Any]]:
        lines = [
            json.loads(line)
            for line in data.read_text(encoding="utf-8").splitlines()[: len(groups)]
        ]
        grouped = tmp_path / "set.jsonl"
        entries = zip(lines, groups, strict=True)
        grouped.write_text(
            "".join(
                json.dumps(line | {"group": g, "audio": str(data.parent / line["audio"])}) + "\n"
                for line, g in entries
            )
        )
        judge = Judge(plan_of(bundle, grouped))
        others = {judge._other(3, step, lambda index: index) for step in range(len(groups))}
        return others, judge.rows(work_of(plan_of(bundle, grouped), 3))["clean"]

    others, row = heard(["x", "y", "x", "x"])
    assert others == {1}
    assert (row["group"], "mismatched" in row["controls"]) == ("x", True)
    with pytest.raises(AudioError, match="more than one group"):
        heard(["x"] * 4)


def test_of_two_samples_the_missing_one_alone_is_dropped(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()[:2]]
    lines[0]["audio"] = str(data.parent / lines[0]["audio"])
    lines[1]["audio"] = "gone.wav"
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    babble = (CLEAN, Perturbation("babble", 10.0))
    plan = plan_of(bundle, path, perturbations=babble)
    rows = judge_all(plan, tmp_path / "out", LocalExecutor())
    assert "mismatched" not in rows[0]["clean"]["controls"]
    summary = summarize(rows, plan.settings)
    assert {name: reason[:12] for name, reason in summary.failed.items()} == {
        "s1": "No recording", "s0 (babble 10 dB)": "No recording",
    }  # fmt: skip
    assert list(summary.subsets) == ["clean"]
    assert summary.subsets["clean"][0].settings[0].accuracy.n == 1
    # The recording is found again: it is judged, with what it kept the other from.
    soundfile.write(tmp_path / "gone.wav", np.sin(np.arange(48_000, dtype=np.float32)) / 9, 16_000)
    summary = summarize(judge_all(plan, tmp_path / "out", LocalExecutor()), plan.settings)
    assert not summary.failed
    assert [s[0].settings[0].accuracy.n for s in summary.subsets.values()] == [2, 2]


def test_a_recording_of_several_questions_is_no_other_to_itself(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    lines = [json.loads(line) for line in data.read_text(encoding="utf-8").splitlines()[:3]]
    for line in lines:
        line["audio"] = str(data.parent / ("s1.wav" if line["id"] == "s2" else "s0.wav"))
    path = tmp_path / "set.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plan = plan_of(bundle, path)
    judge = Judge(plan)
    heard: list[int] = []
    judge._other(1, 2, heard.append)
    assert heard == [2]
    row = judge.rows(work_of(plan, 1))["clean"]
    assert row["group"] == "s0"
    alone = Judge(plan_of(bundle, path, controls=False))
    assert alone._plan.clusters == ("s0", "s0", "s2")


def test_the_command_line_writes_every_report(bundle: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run(*eval_arguments(bundle, data, out, "--noise", "snr=10", "--telephone"))
    assert result.returncode == 0, result.stderr
    assert f"not used: {BROKEN}: " in result.stderr
    assert "speechprune@0.4" in result.stdout
    content = json.loads((out / "results.json").read_text())
    assert list(content["subsets"]) == ["clean", "white 10 dB", "babble 10 dB", "room", "telephone"]
    assert list(content["failed"]) == [BROKEN]
    clean = content["subsets"]["clean"][0]
    assert clean["settings"][0]["accuracy"]["n"] == SAMPLES - 1
    assert {line["name"] for line in clean["controls"]} >= {
        "question only", "another recording", "transcript as text", "longest choice", "chance",
    }  # fmt: skip
    costs = content["costs"]
    assert costs["none"]["tflops"] > costs["speechprune@0.4"]["tflops"] > 0
    assert all(cost["prefill_ms"] > 0 for cost in costs.values())
    assert costs["none"]["selection_ms"] is None
    assert costs["speechprune@0.4"]["selection_ms"] > 0
    assert "| speechprune@0.4 |" in (out / "report.md").read_text()
    assert (out / "results.csv").read_text().startswith("recordings,subset,setting")
    for picture in (
        "accuracy_over_kept_tokens",
        "accuracy_over_time",
        "accuracy_over_key_position",
        "tokens_tsne",
    ):
        assert (out / f"{picture}.png").read_bytes()[:4] == b"\x89PNG"


def test_killed_at_any_moment_it_ends_with_the_same_table(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    quick = ("--no-costs", "--no-plots")
    straight = tmp_path / "straight"
    assert run(*eval_arguments(bundle, data, straight, *quick)).returncode == 0
    wanted = (straight / "results.csv").read_text()
    out = tmp_path / "killed"
    random = np.random.default_rng(5)
    kills = 0
    for _ in range(4):
        process = subprocess.Popen(
            command(*eval_arguments(bundle, data, out, *quick)),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        rows = out / "rows.jsonl"
        before = rows.read_text().count("\n") if rows.exists() else 0
        # Until it has done something new, and then a random moment longer.
        while process.poll() is None and (
            not rows.exists() or rows.read_text().count("\n") <= max(before, 1)
        ):
            time.sleep(0.02)
        time.sleep(random.uniform(0, 0.2))
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        # Killed on its way out it has written all of the table, otherwise none of it.
        table = out / "results.csv"
        assert not table.exists() or table.read_text() == wanted
    assert kills
    assert run(*eval_arguments(bundle, data, out, *quick)).returncode == 0
    assert (out / "results.csv").read_text() == wanted
    other = run(*eval_arguments(bundle, data, out, *quick, "--seed", "9"))
    assert other.returncode == 2
    assert "begun with other" in other.stderr


def test_resuming_does_only_what_is_missing(bundle: Path, data: Path, tmp_path: Path) -> None:
    plan = plan_of(bundle, data)
    asked: list[list[int]] = []

    class Half(LocalExecutor):
        def run(self, plan: Plan, works: Any) -> Any:
            asked.append([work.index for work in works])
            yield from super().run(plan, works[:2])

    with pytest.raises(KeyError):
        judge_all(plan, tmp_path, Half())  # which leaves without having done all
    rows = judge_all(plan, tmp_path, LocalExecutor())
    assert asked == [list(range(SAMPLES))]
    assert [next(iter(row.values()))["sample"] for row in rows] == [f"s{i}" for i in range(SAMPLES)]
    judge_all(plan, tmp_path, Half())
    assert asked[1] == [int(BROKEN[1:])]  # what failed is tried again, in case it was mended


def test_more_settings_later_are_all_that_is_judged(
    bundle: Path, data: Path, tmp_path: Path
) -> None:
    asked: list[Work] = []

    class Noted(LocalExecutor):
        def run(self, plan: Plan, works: Any) -> Any:
            asked.extend(works)
            yield from super().run(plan, works)

    samples = tuple(read_samples(data))[:2]

    def plan(methods: list[Any], seeds: list[int], **changes: Any) -> Plan:
        settings = tuple(settings_of(methods, [0.6], seeds))
        return Plan(bundle, samples, settings, device="cpu", **changes)

    few = plan(["random"], [0], controls=False)
    rows = judge_all(few, tmp_path / "grown", Noted())
    assert {work.index for work in asked} == {0, 1}
    assert all("controls" not in row["clean"] for row in rows)
    asked.clear()
    telephone = (CLEAN, Perturbation("telephone"))
    many = plan(["none", "random"], [0, 1], perturbations=telephone)
    grown = judge_all(many, tmp_path / "grown", Noted())
    assert [dict(work.settings) for work in asked] == 2 * [
        {"clean": ("none", "random@0.6"), "telephone": ("none", "truncate@0", "random@0.6")}
    ]
    assert all(work.controls for work in asked)
    straight = judge_all(many, tmp_path / "straight", LocalExecutor())
    assert summarize(grown, many.settings) == summarize(straight, many.settings)
    # A recording more: it is judged, and the first, whose neighbour for the control it becomes.
    asked.clear()
    samples = tuple(read_samples(data))[:3]
    more = plan(["none", "random"], [0, 1], perturbations=telephone[:1])
    assert len(judge_all(more, tmp_path / "grown", Noted())) == 3
    assert [work.index for work in asked] == [0, 2]
    samples = samples[:2]
    # The smaller plan finds all it asks for, and sees nothing of the rest.
    asked.clear()
    smaller = plan(["none"], [0], controls=False)
    assert judge_all(smaller, tmp_path / "grown", Noted())[0].keys() == {"clean"}
    assert asked == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--scoring", "best"), "scoring must be one of likelihood, letter, generate"),
        (("--methods", "none,magic"), "not 'magic'"),
        (("--pruning-rates", "0.2,x"), "--pruning-rates takes numbers"),
        (("--pruning-rates", "1.2"), "pruning_rate must be"),
        (("--candidates", "0.5"), "candidates must be at least 1"),
        (("--compare", "magic"), "--compare takes all, "),
        (("--limit", "0"), "limit must be a whole number of at least 1"),
        (("--engine", "spark"), "--engine takes local or ray"),
        (("--address", "auto"), "--address needs --engine ray"),
        (("--speed", "9"), "A factor of speed must be from 0.25 to 4"),
        (("--noise", "snr=1e308"), "signal-to-noise ratio must be from -100 to 100 dB"),
        (("--noise", ""), "--noise takes snr="),
        (("--data", "/nowhere"), "/nowhere holds neither"),
        (("--data", "LATIN"), "byte 0xe9 at 17 is not UTF-8"),
        (("--out", "FILE"), "is a file: give the name of a folder"),
    ],
)
def test_a_wrong_option_is_one_sentence_and_writes_nothing(
    options: tuple[str, ...], message: str, bundle: Path, data: Path, tmp_path: Path
) -> None:
    latin, file = tmp_path / "latin.jsonl", tmp_path / "file"
    latin.write_bytes(b'{"question": "caf\xe9"}\n')
    file.write_text("kept")
    options = tuple({"LATIN": str(latin), "FILE": str(file)}.get(o, o) for o in options)
    result = run(
        "eval", bundle, "--data", data, "--out", tmp_path / "out", "--device", "cpu", *options
    )
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert file.read_text() == "kept"


def test_recordings_are_heard_as_the_plan_says(bundle: Path, tmp_path: Path) -> None:
    left = 0.3 * np.sin(np.arange(32_000) / 7)
    lines = []
    for name, other in (("a", -left), ("b", left), ("c", np.zeros(32_000))):
        soundfile.write(tmp_path / f"{name}.wav", np.stack([left, other], 1), 16_000)
        choices = {"choices": ["One.", "Two."], "answer": "A"}
        lines.append({"id": name, "audio": f"{name}.wav", "question": "Which?", **choices})
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    samples = tuple(read_samples(tmp_path / "set.jsonl"))
    settings = tuple(settings_of(["none"], [0.5], [0], PruningOptions(method="speechprune")))
    harder = (CLEAN, Perturbation("speed", 1.1))
    plan = Plan(bundle, samples, settings, perturbations=harder, controls=False, device="cpu")
    failed = [set(row) for row in judge_all(plan, tmp_path / "one", LocalExecutor())]
    assert failed == [{"clean", "speed 1.1"}] * 3
    first = judge_all(plan, tmp_path / "one", LocalExecutor())
    assert ["error" in row["clean"] for row in first] == [True, False, False]
    assert "audio" not in plan.about()  # rows of before go on
    heard = replace(plan, audio_options=AudioOptions(channel=0))
    assert not any("error" in part for row in judge_all(heard, tmp_path / "two", LocalExecutor())
                   for part in row.values())  # fmt: skip
    with pytest.raises(OptionError, match="begun with other audio"):
        judge_all(heard, tmp_path / "one", LocalExecutor())


def test_rows_are_completed_by_methods_that_have_options_of_their_own(bundle: Path) -> None:
    def about(*methods: str, budget: int | None = None, **own: Any) -> object:
        base = PruningOptions(budget=budget)
        settings = tuple(settings_of(methods, [0.5], [0], base, own=own))
        return Plan(bundle, (), settings, device="cpu").about()

    first = about("random")
    assert about("none", "random") == first
    assert about("speechprune", "similarity", "random") == first
    assert about("similarity", "fastadasp", "speechprune", "passages") == first
    assert about("random", "speechprune", attention="float") != first
    assert about("random", budget=400) == about("none", "random", budget=400) != first
    with_float = about("attention", attention="float")
    assert about("none", "speechprune", "attention", attention="float") == with_float


def test_a_folder_of_results_that_is_a_file_is_one_sentence(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "results").write_text("mine")
    settings = tuple(settings_of(["none"], [0.5], [0], PruningOptions(method="speechprune")))
    plan = Plan(bundle, (), settings, device="cpu")
    for out, message in (("results", "is a file: give"), ("results/a/b", "lies under a file")):
        with pytest.raises(OptionError, match=message):
            judge_all(plan, tmp_path / out, LocalExecutor())
    assert (tmp_path / "results").read_text() == "mine"
    for wrong in ("", None, 3):
        with pytest.raises(OptionError, match="The folder of results"):
            run_plan(plan, wrong)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="plan takes a Plan"):
        run_plan(None, tmp_path)  # type: ignore[arg-type]


def test_rows_are_those_of_a_recordings_content_a_methods_code_and_provider_options(
    bundle: Path, tmp_path: Path
) -> None:
    def made(level: float) -> None:
        soundfile.write(tmp_path / "a.wav", level * np.sin(np.arange(32_000) / 7), 16_000)

    made(0.3)
    line = {"id": "a", "audio": "a.wav", "question": "Which?", "choices": ["One.", "Two."],
            "answer": "A"}  # fmt: skip
    (tmp_path / "set.jsonl").write_text(json.dumps(line) + "\n")
    samples = tuple(read_samples(tmp_path / "set.jsonl"))
    plugin = tmp_path / "firsts.py"
    code = """from speechprune_ort.methods import Selection, method
import numpy as np

@method("firsts", summary="the first tokens")
def firsts(request):
    return Selection(np.arange(request.n_keep))
"""
    plugin.write_text(code)
    load_plugins([plugin])
    settings = tuple(settings_of(["firsts"], [0.5], [0]))

    def plan(**changes: Any) -> Plan:
        return Plan(bundle, samples, settings, controls=False, device="cpu", plugins=(plugin,),
                    **changes)  # fmt: skip

    try:
        judged: list[int] = []

        def judge(**changes: Any) -> None:
            done: list[int] = []
            judge_all(plan(**changes), tmp_path / "out", LocalExecutor(),
                      lambda at, _: done.append(at))  # fmt: skip
            judged.append(len(done) - 1)

        judge()
        judge()
        made(0.2)
        judge()
        assert judged == [1, 0, 1]
        with pytest.raises(OptionError, match="begun with other provider_options"):
            judge(provider_options={"arena_extend_strategy": "kSameAsRequested"})
        plugin.write_text(code + "# changed\n")
        with pytest.raises(OptionError, match="begun with other plugins"):
            judge()
    finally:
        del METHODS["firsts"]
