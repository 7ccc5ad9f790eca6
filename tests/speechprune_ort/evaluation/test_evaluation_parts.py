"""Parts of ``eval`` that need no model: reading, drawing, intervals, noise, the journal."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from speechprune_ort import DataError, OptionError, PruningOptions
from speechprune_ort.evaluation import plan_of, plots, report, run
from speechprune_ort.evaluation.perturbation import CLEAN, Perturbation, parse_noise, perturb
from speechprune_ort.evaluation.plan import Plan
from speechprune_ort.evaluation.rows import check_row
from speechprune_ort.evaluation.samples import (
    Sample,
    read_samples,
    read_set,
    sample_by_kind,
    shuffled,
)
from speechprune_ort.evaluation.scoring import choice_in, letter_prompt
from speechprune_ort.evaluation.settings import settings_of
from speechprune_ort.evaluation.summary import summarize
from speechprune_ort.journal import Journal
from speechprune_ort.statistics import difference, proportion

RATE = 16_000


def spiral_entry(name: str, kind: str = "lecture") -> dict[str, Any]:
    return {
        "transcript": [{"speaker": "spk_1", "text": ["One.", "The bus is red."]}],
        "original_key_sentence": "The bus is red.",
        "test_question": {
            "question": "What colour is the bus?",
            "choices": ["A. Blue", "B. Red", "C. Green", "D. White"],
            "correct_answer": "B. Red",
        },
        "metadata": {"id": name, "transcript_type": kind},
        "audio_data": {
            "combined": {
                "audio_files": [f"{name}.wav"],
                "audio_folder": "spiral/wavs",
                "sentences": ["One.", "The bus is red."],
            }
        },
    }


def write_lines(path: Path, entries: list[Any]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return path


def samples(count: int, kinds: tuple[str, ...] = ("lecture", "meeting")) -> list[Sample]:
    return [
        Sample(f"s{i}", Path("a.wav"), "Who?", ("Ann", "Bob", "Cid"), i % 3, kinds[i % len(kinds)])
        for i in range(count)
    ]


def test_spirals_own_format_is_read(tmp_path: Path) -> None:
    write_lines(tmp_path / "data.jsonl", [spiral_entry("a"), spiral_entry("b", "meeting")])
    write_lines(tmp_path / "data_h.jsonl", [spiral_entry("b", "meeting"), spiral_entry("c")])
    (tmp_path / "key_times.json").write_text(json.dumps({"a": [1.0, 2.5]}))
    found = {sample.name: sample for sample in read_samples(tmp_path)}
    assert list(found) == ["a", "b", "c"]
    assert found["a"].choices == ("Blue", "Red", "Green", "White")
    assert found["a"].answer == 1
    assert found["a"].key == (1.0, 2.5)
    assert found["a"].audio == tmp_path / "wavs" / "a.wav"
    assert found["b"].kind == "meeting"
    assert found["b"].transcript == "One. The bus is red."
    assert [found[name].hard for name in "abc"] == [False, True, True]


def test_the_published_place_of_the_audio_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "spiral"
    (folder / "wavs").mkdir(parents=True)
    text = tmp_path / "text"
    text.mkdir()
    write_lines(text / "data.jsonl", [spiral_entry("a")])
    (folder / "wavs" / "a.wav").touch()
    assert read_samples(text)[0].audio == folder / "wavs" / "a.wav"


@pytest.mark.parametrize(
    ("answer", "index"), [("Red", 1), ("B", 1), ("(B) Red", 1), (0, 0), ("Green", 2)]
)
def test_a_plain_set_is_read(tmp_path: Path, answer: str | int, index: int) -> None:
    entry = {
        "audio": "x/a.wav", "question": " What? ", "choices": ["Blue", "B. Red", "(C) Green"],
        "answer": answer, "key": [1, 2],
    }  # fmt: skip
    (sample,) = read_samples(write_lines(tmp_path / "set.jsonl", [entry]))
    assert sample.answer == index
    assert sample.choices == ("Blue", "Red", "Green")
    assert sample.audio == tmp_path / "x" / "a.wav"
    assert (sample.name, sample.question, sample.key) == ("1", "What?", (1.0, 2.0))


GOOD = {"audio": "a.wav", "question": "Q?", "choices": ["a", "b"], "answer": 0}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([GOOD, {**GOOD, "answer": "z"}], "Line 2 .* is not one of the choices"),
        ([{**GOOD, "answer": 2}], "no choice 2"),
        ([{**GOOD, "choices": ["a"]}], "at least two"),
        ([{"audio": "a.wav"}], "Line 1 .*choices"),
        ([{**GOOD, "question": "  "}], "question is empty"),
        ([{**GOOD, "id": "x"}, {**GOOD, "id": "x"}], "the id 'x' of line 1"),
        ([], "holds no sample"),
        ([[1]], "Line 1"),
        ([{**GOOD, "key": [1, 2, 3]}], "'key' must be"),
        ([{**GOOD, "key": [3, 1]}], "'key' must be"),
        ([{**GOOD, "key": [0, 10**400]}], "'key' must be"),
        ([{**GOOD, "key": [0, True]}], "'key' must be"),
        ([{**GOOD, "key": [0, float("nan")]}], "NaN is not a JSON number"),
        ([{**GOOD, "transcript": 5}], "'transcript' must be text"),
        ([{**GOOD, "transcript": "\ud83d"}], "'transcript' holds half"),
        ([{**GOOD, "audio": ["a.wav"]}], "'audio' must be a path, not list"),
        ([{**GOOD, "audio": "a\0.wav"}], "NUL"),
        ([{**GOOD, "audio": "a" * 300}], "too long"),
        ([{**GOOD, "choices": "ab"}], "list of texts"),
        ([{**GOOD, "choices": ["a", 5]}], "A choice must be text"),
        ([{**GOOD, "choices": [f"c{i}" for i in range(27)]}], "at most 26"),
        ([{**GOOD, "answer": True}], "'answer' must be text"),
        ([{**GOOD, "answer": 1.0}], "'answer' must be text"),
        ([{**GOOD, "answer": None}], "'answer' must be text"),
        ([{**GOOD, "id": [1]}], "'id' must be text"),
        ([{**GOOD, "kind": {}}], "'kind' must be text"),
        ([{**GOOD, "group": 1.5}], "'group' must be text"),
    ],
)
def test_what_is_no_set_is_one_sentence(tmp_path: Path, lines: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_samples(write_lines(tmp_path / "set.jsonl", lines))


def test_a_line_that_is_no_sample_is_named_and_ends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "set.jsonl"
    raw = [
        json.dumps(GOOD).encode(), b"", b'{"question": "caf\xe9"}', b"[" * 100_000, b"   \r",
        json.dumps({**GOOD, "question": "Who\u2028\u0085 is it?"}, ensure_ascii=False)
        .replace("a.wav", "caf\\udce9.wav").encode(),
    ]  # fmt: skip
    path.write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(raw))
    found = read_set(path)
    assert [sample.question for sample in found.samples] == ["Q?", "Who\u2028\u0085 is it?"]
    assert os.fsencode(found.samples[1].audio.name) == b"caf\xe9.wav"  # a name like any other
    assert list(found.refused) == ["line 3", "line 4"]
    assert "byte 0xe9 at 17 is not UTF-8" in found.refused["line 3"]
    assert "nested too deeply" in found.refused["line 4"]
    with pytest.raises(DataError, match="Line 3"):
        read_samples(path)


@pytest.mark.parametrize(
    "content", [b"[]", b"\xff", b'{"a": 5}', b'{"a": [1]}', b'{"a": [NaN, 2]}', b'{"a": [2, 1]}']
)
def test_times_that_are_none_are_one_sentence(tmp_path: Path, content: bytes) -> None:
    write_lines(tmp_path / "data.jsonl", [spiral_entry("a")])
    (tmp_path / "key_times.json").write_bytes(content)
    with pytest.raises(DataError, match=r"key_times\.json"):
        read_samples(tmp_path)


def test_samples_of_one_recording_are_one_piece_of_evidence(tmp_path: Path) -> None:
    (tmp_path / "a.wav").touch()
    (tmp_path / "link.wav").symlink_to(tmp_path / "a.wav")

    def sample(name: str, audio: str, group: str = "") -> Sample:
        return Sample(name, tmp_path / audio, "Who?", ("Ann", "Bob"), 0, group=group)

    plan = Plan(
        tmp_path,
        (
            sample("q1", "a.wav"), sample("q2", "../" + tmp_path.name + "/a.wav"),
            sample("q3", "link.wav", "g"), sample("q4", "b.wav", "g"), sample("q5", "c.wav"),
        ),
        (),
    )  # fmt: skip
    assert plan.clusters == ("q1", "q1", "q1", "q1", "q5")
    assert list(plan.others(0, 1)) == [4]
    assert list(plan.others(4, len(plan.samples) - 1)) == [3, 0, 1, 2]
    # The control of the second question is another recording: its row depends on that.
    changed = replace(plan, samples=(*plan.samples[:4], sample("q5", "d.wav")))
    assert plan.key(1, "clean") != changed.key(1, "clean")


def test_a_folder_without_data_says_what_is_wanted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither data\.jsonl"):
        read_samples(tmp_path)


def test_shuffling_keeps_the_right_text_and_spreads_it_evenly() -> None:
    many = [
        Sample(str(i), Path("a"), "Q", ("right", "b", "c", "d"), 0, "lecture") for i in range(400)
    ]
    drawn = [shuffled(sample, seed=3) for sample in many]
    assert all(s.choices[s.answer] == "right" for s in drawn)
    assert drawn == [shuffled(sample, seed=3) for sample in many]
    assert drawn != [shuffled(sample, seed=4) for sample in many]
    counts = np.bincount([s.answer for s in drawn], minlength=4)
    assert counts.min() > 60


def test_a_stratified_subset_keeps_shares_and_order() -> None:
    every = samples(90, ("lecture", "lecture", "meeting"))
    drawn = sample_by_kind(every, 31, seed=1)
    assert len(drawn) == len({s.name for s in drawn}) == 31
    assert sum(s.kind == "meeting" for s in drawn) in (10, 11)
    assert [s for s in every if s in drawn] == drawn
    assert drawn == sample_by_kind(every, 31, seed=1)
    assert sample_by_kind(every, 100, seed=1) == every


def test_an_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(60):
        found = proportion((random.random(80) < 0.6).astype(float).tolist(), seed=trial)
        covered += found.low <= 0.6 <= found.high
    assert 50 <= covered <= 60
    paired = difference([1.0] * 5 + [0.0] * 5)
    assert paired.low < 0.5 < paired.high


@pytest.mark.parametrize("truth", [0.5, 0.9, 1.0])
@pytest.mark.parametrize("n", [1, 2, 5, 9])
def test_few_samples_say_little_and_agreement_is_no_certainty(n: int, truth: float) -> None:
    def chance_of(right: int) -> float:
        return math.comb(n, right) * truth**right * (1 - truth) ** (n - right)

    covered = 0.0
    for right in range(n + 1):
        found = proportion([1.0] * right + [0.0] * (n - right))
        assert 0 <= found.low <= found.mean <= found.high <= 1
        assert found.high - found.low > 0.25
        covered += chance_of(right) * (found.low <= truth <= found.high)
    assert covered > 0.85


def test_error_bars_do_not_vanish_at_the_ends() -> None:
    for n in (2, 10, 200):
        none, every = proportion([0.0] * n), proportion([1.0] * n)
        assert (none.low, every.high) == (0.0, 1.0)
        assert 1 / n < none.high == pytest.approx(1 - every.low)
        same = difference([0.0] * n)
        assert same.low == -same.high < -1 / n
        won = difference([1.0] * n)
        assert won.high == 1.0
        assert won.low == pytest.approx(1 - 2 * none.high)
    # A dialogue in a hundred voices is one trial, and chance is known, not found.
    assert proportion([1.0] * 100, ["a"] * 100).low == proportion([1.0]).low
    settings = settings_of(["speechprune"], [0.2], [0])
    rows = [judged(str(i), {s.name: [0] for s in settings}) for i in range(2)]
    subset = summarize(rows, settings).subsets["clean"][0]
    (chance,) = (line.accuracy for line in subset.controls if line.name == "chance")
    assert (chance.low, chance.high) == (0.25, 0.25)
    assert subset.settings[1].accuracy.low < 0.5


def test_settings_are_the_grid_with_seeds_where_chance_decides() -> None:
    found = {s.name: s for s in settings_of(["none", "crop", "speechprune"], [0.2, 0.4], [1, 2])}
    assert list(found) == [
        "none", "truncate@0", "crop@0.2", "speechprune@0.2", "crop@0.4", "speechprune@0.4",
    ]  # fmt: skip
    assert found["crop@0.4"].seeds == (1, 2)
    assert found["speechprune@0.4"].seeds == (0,)
    with pytest.raises(OptionError, match="at least one"):
        settings_of([], [0.2], [0])
    with pytest.raises(OptionError, match="None of the methods reads candidates"):
        settings_of(["crop"], [0.2], [0], candidates=[2])
    for wrong in (3, "crop", None):
        with pytest.raises(OptionError, match="methods takes a list"):
            settings_of(wrong, [0.2], [0])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise": ""}, "--noise takes"),
        ({"speed": ""}, "--speed takes"),
        ({"fields": ""}, "--map takes"),
        ({"limit": "3"}, "limit must be"),
        ({"scoring": "lettr"}, "scoring must be one of"),
        ({"settings": [3]}, "settings takes a Setting"),
    ],
)
def test_a_plan_ignores_nothing(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    entry = {"audio": "a.wav", "question": "Q?", "choices": ["a", "b"], "answer": 0}
    data = write_lines(tmp_path / "set.jsonl", [entry])
    options = {"settings": settings_of(["crop"], [0.2], [0]), **options}
    with pytest.raises(OptionError, match=message):
        plan_of(tmp_path, data, **options)


def test_one_is_no_plural_and_names_cannot_control_a_terminal() -> None:
    assert report.power(1, 1, 0).startswith("1 sample in 1 group;")
    settings = settings_of(["crop"], [0.2], [0])
    rows = [judged(name, {s.name: [0] for s in settings}) for name in "ab"]
    for row, kind in zip(rows, ("talk", "a\nb\x1b[31m"), strict=True):
        row["clean"] |= {"kind": kind, "group": "g"}
    titles = [str(table.title) for table in report.terminal_tables(summarize(rows, settings), {})]
    assert any("n = 2 in 1 group," in title for title in titles)
    assert any("recordings, a\\nb\\x1b[31m, n = 1" in title for title in titles)
    assert all(title.isprintable() for title in titles)


@pytest.mark.parametrize(
    ("text", "index"),
    [("B", 1), ("B.", 1), ("(B) Bob", 1), ("A. Ann", 0), ("I think it was Cid", 2),
     ("Ann or Bob", None), ("A man", None), ("", None), ("nobody", None)],
)  # fmt: skip
def test_a_choice_is_found_in_an_answer_or_not_at_all(text: str, index: int | None) -> None:
    sample = samples(1)[0]
    assert choice_in(text, sample) == index
    assert all(f"{letter}. " in letter_prompt(sample) for letter in "ABC")


def signal(seconds: float = 2.0, hz: float = 440.0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.sin(2 * np.pi * hz * np.arange(int(seconds * RATE)) / RATE).astype(np.float32)


def power(x: Any) -> float:
    return float(np.mean(np.square(x, dtype=np.float64)))


@pytest.mark.parametrize("ratio", [20.0, 0.0])
@pytest.mark.parametrize("kind", ["white", "babble"])
def test_noise_has_the_ratio_that_it_says(kind: str, ratio: float) -> None:
    samples = signal()

    def other(number: int) -> Any:
        return signal(0.7, 300.0 + 50 * number)

    harder = perturb(samples, Perturbation(kind, ratio), RATE, 1, other)
    added = harder - samples
    assert 10 * np.log10(power(samples) / power(added)) == pytest.approx(ratio, abs=0.01)
    again = perturb(samples, Perturbation(kind, ratio), RATE, 1, other)
    np.testing.assert_array_equal(harder, again)
    assert (perturb(samples, Perturbation(kind, ratio), RATE, 2, other) != harder).any()


def test_a_telephone_keeps_its_band_alone_and_a_room_the_level() -> None:
    low, inside = signal(hz=100.0), signal(hz=1000.0)
    heard = perturb(low + inside, Perturbation("telephone"), RATE, 0, lambda _: low)
    spectrum = np.abs(np.fft.rfft(heard))
    hz = np.fft.rfftfreq(len(heard), 1 / RATE)
    assert spectrum[np.argmin(abs(hz - 100))] < 1e-3 * spectrum[np.argmin(abs(hz - 1000))]
    room = perturb(inside, Perturbation("room"), RATE, 0, lambda _: low)
    assert len(room) == len(inside)
    assert power(room) == pytest.approx(power(inside), rel=1e-3)
    assert np.abs(room - inside).max() > 0.01


def test_speed_changes_length_and_pitch_and_clean_nothing() -> None:
    samples = signal()
    faster = perturb(samples, Perturbation("speed", 1.25), RATE, 0, lambda _: samples)
    assert len(faster) == pytest.approx(len(samples) / 1.25, abs=2)
    peak = np.fft.rfftfreq(len(faster), 1 / RATE)[np.abs(np.fft.rfft(faster)).argmax()]
    assert peak == pytest.approx(550, abs=1)
    assert perturb(samples, CLEAN, RATE, 0, lambda _: samples) is samples


@pytest.mark.parametrize("text", ["20,10", "snr=", "snr=a", "db=3"])
def test_noise_that_cannot_be_read_says_its_form(text: str) -> None:
    with pytest.raises(OptionError, match="snr=20,10,5,0"):
        parse_noise(text)


@pytest.mark.parametrize("ratio", [1e308, -5000.0, float("nan"), 10**400, np.ones(2), None, "3"])
def test_what_is_no_ratio_or_speed_is_one_sentence(ratio: Any) -> None:
    for kind in ("white", "babble", "speed"):
        with pytest.raises(OptionError, match="must be from") as raised:
            Perturbation(kind, ratio)
        assert len(str(raised.value)) < 100
    with pytest.raises(OptionError, match="kind must be one of clean, white"):
        Perturbation(ratio)


@pytest.mark.parametrize("ratio", [-100, 100])
def test_noise_of_the_extreme_ratios_is_finite(ratio: float) -> None:
    samples = np.sin(np.arange(999, dtype=np.float32))
    harder = perturb(samples, Perturbation("white", ratio), 16_000, 0, lambda _: samples)
    assert np.isfinite(harder).all()


ODD = [3, b"x", {}, {1}, object(), float("nan"), np.array([[1, 2]]), np.array("x"), 10**400]
"""What no argument of a plan may be."""


@pytest.mark.parametrize("given", ODD)
def test_what_is_no_list_of_settings_is_one_sentence(given: Any) -> None:
    for arguments in ((given, [0.2], [0]), (["random"], given, [0]), (["random"], [0.2], given)):
        with pytest.raises(OptionError):
            settings_of(*arguments)
    with pytest.raises(OptionError, match="seed must be"):
        settings_of(["random"], [0.2], [0, -1])
    wanted = settings_of(["random"], [0.2, 0.4], [0, 1])
    arrays = np.array(["random"]), np.array([0.2, 0.4]), np.array([0, 1])
    assert settings_of(*arrays) == wanted  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ODD)
def test_what_is_no_argument_of_a_plan_is_one_sentence(given: Any, tmp_path: Path) -> None:
    settings = settings_of(["random"], [0.2], [0])
    with pytest.raises(OptionError, match="settings"):
        plan_of(tmp_path, tmp_path / "a.jsonl", given)
    with pytest.raises(DataError, match="path of the samples"):
        plan_of(tmp_path, given, settings)
    for name in ("limit", "sample", "seed"):
        with pytest.raises(OptionError, match=f"{name} must be at most|{name} must be a whole"):
            plan_of(tmp_path, "a.jsonl", settings, **{name: -1 if given is ODD[0] else given})
    for name in ("task", "fields", "noise", "speed"):
        with pytest.raises(OptionError, match=f"{name} takes a str"):
            plan_of(tmp_path, "a.jsonl", settings, **{name: given})
    for name in ("shuffle", "telephone"):
        with pytest.raises(OptionError, match=f"{name} must be True or False"):
            plan_of(tmp_path, "a.jsonl", settings, **{name: given})
    for name in ("scoring", "device"):
        with pytest.raises(OptionError, match=f"{name} must be one of"):
            Plan(tmp_path, (), tuple(settings), **{name: given})
    with pytest.raises(OptionError, match="plan takes a Plan"):
        run(given, tmp_path)
    plan = Plan(tmp_path, (), tuple(settings))
    for name in ("compare", "executor", "costs", "plots", "command", "progress"):
        with pytest.raises(OptionError, match=name):
            run(plan, tmp_path, **{name: given})
    assert list(tmp_path.iterdir()) == []


def test_a_journal_goes_on_after_a_cut_line_and_refuses_another_plan(tmp_path: Path) -> None:
    path = tmp_path / "out" / "rows.jsonl"
    with journal_of(path) as journal:
        journal.add("a", {"x": 1})
        journal.add("b", {"x": 2})
        with pytest.raises(DataError, match="written by another run"):
            journal_of(path)
    os.truncate(path, path.stat().st_size - 4)  # as a kill would leave it
    with journal_of(path) as again:
        assert again.rows == {"a": {"x": 1}}
        again.add("b", {"x": 2})
        again.add("b", {"y": {"z": 3}, "error": "no disk"})
        again.add("b", {"y": {"w": 4}})
    whole = {"a": {"x": 1}, "b": {"x": 2, "y": {"z": 3, "w": 4}}}
    with journal_of(path) as last:
        assert last.rows == whole  # an error is over once it went well
    with pytest.raises(OptionError, match="other seed: use the same, or give another"):
        journal_of(path, 2)
    os.truncate(path, 3)  # not even the first line is whole
    with journal_of(path, 2) as new:
        assert new.rows == {}
    path.write_text('{"seed": 2}\nnonsense\n')
    with pytest.raises(DataError, match="damaged"):
        journal_of(path, 2)


def journal_of(path: Path, seed: int = 1) -> Journal:
    return Journal(path, {"seed": seed}, "give another")


def test_a_row_that_no_judge_has_written_is_refused(tmp_path: Path) -> None:
    settings = settings_of(["random"], [0.4], [0])
    plan = Plan(tmp_path, tuple(samples(2)), tuple(settings), controls=False)
    good = {
        "row": plan.key(0, "clean"), "sample": "s0", "kind": "lecture", "group": "s0",
        "hard": False, "seconds": 4.0, "tokens": 100, "answer": 0, "choices": 4, "longest": 1,
        "settings": {s.name: {"seeds": [0], "chosen": [1], "kept": 60} for s in settings},
    }  # fmt: skip
    failed = {"row": plan.key(1, "clean"), "sample": "s1", "error": "s1.wav is silent."}
    path, about = tmp_path / "rows.jsonl", {"seed": 1}

    def read(row: dict[str, Any]) -> Journal:
        lines = (about, row, failed)
        path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return Journal(path, about, "give another", check_row)

    with read(good) as journal:
        assert len(journal.rows) == 2
    whole, first = good["settings"], settings[0].name
    assert isinstance(whole, dict)
    wrong = [{n: v for n, v in good.items() if n != name} for name in good]
    wrong += [good | {name: value} for name in good for value in (None, [], 1e400)]
    wrong += [
        good | {"settings": whole | {first: whole[first] | change}}
        for change in ({"seeds": [0, 1]}, {"chosen": ["0"]}, {"chosen": [4]}, {"kept": 101})
    ]
    wrong += [good | {"sample": "s1"}, good | {"answer": 4}, good | {"error": 3}]
    for row in wrong:
        with pytest.raises(DataError, match=r"is damaged .*: remove it to start again"):
            read(json.loads(json.dumps(row)))


@pytest.mark.parametrize(
    "content",
    [b"notes", b"notes\n", b'{"seed"', b"\xff\xfe\n", b"[1]\n", b"{}\nx", b"[" * 9000 + b"\n"],
)
def test_a_file_that_is_no_journal_is_refused_and_left_as_it_is(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    if b'{"seed": 1}'.startswith(content):
        journal_of(path).close()  # ours, cut in its first line
        return
    with pytest.raises(OptionError, match="something other than results of this run"):
        journal_of(path)
    assert path.read_bytes() == content


def test_what_cannot_be_a_journal_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    with pytest.raises(OptionError, match="is a file: give the name of a folder"):
        journal_of(file / "rows.jsonl")
    with pytest.raises(OptionError, match="not a file of results"):
        journal_of(tmp_path)
    with pytest.raises(OptionError, match="too long"):
        journal_of(tmp_path / ("x" * 300))
    with journal_of(tmp_path / "rows.jsonl") as journal:
        journal.add("a", {"x": 1})

        def full(_: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(DataError, match="No space left"):
            journal.add("b", {"x": 2})
    assert file.read_text() == "kept"


def judged(name: str, chosen: dict[str, list[int]], answer: int = 0, hard: bool = False) -> Any:
    return {
        "clean": {
            "sample": name, "kind": "lecture", "group": name, "hard": hard, "seconds": 80.0,
            "tokens": 2000,
            "answer": answer, "choices": 4, "longest": 1,
            "settings": {n: {"chosen": c, "kept": 600} for n, c in chosen.items()},
            "controls": {"question": 0},
        }
    }  # fmt: skip


def test_a_summary_counts_seeds_pairs_and_failures_right() -> None:
    settings = settings_of(["crop", "speechprune"], [0.2], [0, 1])
    rows = [
        judged("a", {"truncate@0": [1], "crop@0.2": [0, 1], "speechprune@0.2": [0]}, hard=True),
        judged("b", {"truncate@0": [0], "crop@0.2": [1, 1], "speechprune@0.2": [0]}),
        {"clean": {"sample": "c", "error": "c.wav is empty."}},
    ]
    summary = summarize(rows, settings)
    assert summary.failed == {"c": "c.wav is empty."}
    every, spiral_h, own = summary.subsets["clean"]
    lines = {line.name: line for line in every.settings}
    assert lines["crop@0.2"].accuracy.mean == 0.25
    assert lines["speechprune@0.2"].accuracy.mean == 1.0
    assert lines["speechprune@0.2"].versus["crop@0.2"].mean == 0.75
    assert lines["speechprune@0.2"].versus["truncate@0"].mean == 0.5
    assert lines["crop@0.2"].kept_share == pytest.approx(0.3)
    assert spiral_h.settings[0].accuracy.n == 1
    assert "one model" in spiral_h.note
    # The bundle's own hard subset is what it fails on when the recording is cut.
    assert own.settings[0].accuracy == proportion([0.0])
    controls = {line.name: line.accuracy.mean for line in every.controls}
    assert controls == {
        "question only": 1.0, "longest choice": 0.0, "always A": 1.0, "chance": 0.25,
    }  # fmt: skip
    with pytest.raises(DataError, match="Of 1 sample none could be used"):
        summarize(rows[2:], settings)


def test_a_dialogue_in_several_voices_is_one_piece_of_evidence() -> None:
    settings = settings_of(["speechprune"], [0.2], [0])
    right = {"truncate@0": [1], "speechprune@0.2": [0]}
    wrong = {"truncate@0": [1], "speechprune@0.2": [1]}
    rows = [judged(f"{voice}{d}", right if d % 2 else wrong) for voice in "abc" for d in range(10)]
    alone = summarize(rows, settings).subsets["clean"][0]
    for row in rows:
        row["clean"]["group"] = row["clean"]["sample"][1:]
    together = summarize(rows, settings).subsets["clean"][0]
    assert (alone.groups, together.groups) == (30, 10)
    for one, other in ((alone.settings, together.settings), (alone.controls, together.controls)):
        assert [line.accuracy.mean for line in one] == [line.accuracy.mean for line in other]
    narrow, wide = (part.settings[1] for part in (alone, together))
    # Three voices that agree say as much as one: the interval is wider by the root of three.
    for a, b in (
        (narrow.accuracy, wide.accuracy),
        *zip(narrow.versus.values(), wide.versus.values(), strict=True),
    ):
        assert (b.high - b.low) / (a.high - a.low) == pytest.approx(3**0.5, rel=0.15)


@pytest.mark.parametrize("missing", ["matplotlib", "sklearn"])
def test_what_plots_need_is_said_before_anything_is_judged(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plots.require_plots()
    monkeypatch.setitem(sys.modules, missing, None)  # as if it were not installed
    with pytest.raises(OptionError, match=rf"Plots need {missing}: pip .*\[eval\].* --no-plots"):
        plots.require_plots()


def test_of_a_long_recording_some_dropped_tokens_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plots, "MOST_DROPPED", 20)
    drawn: list[Any] = []
    figure, axes = plots._figure()
    scatter, title = axes.scatter, axes.set_title
    monkeypatch.setattr(axes, "scatter", lambda *a, **k: drawn.append(a) or scatter(*a, **k))
    monkeypatch.setattr(axes, "set_title", lambda t, **k: drawn.append(t) or title(t, **k))
    monkeypatch.setattr(plots, "_figure", lambda: (figure, axes))
    embeds = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32)
    path = plots.draw_tokens(
        tmp_path / "a.png", embeds, np.arange(30, 40), embeds[:3], "Who? $x_{$"
    )
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert [len(points[0]) for points in drawn[:3]] == [18, 10, 3]
    assert drawn[3] == "Who? $x_{$ (28 of 100 tokens drawn)"


def test_methods_are_compared_with_every_other_at_the_same_rate() -> None:
    settings = settings_of(["none", "crop", "coverage"], [0.2, 0.6], [0])
    row = judged("a", {s.name: [0] for s in settings})
    lines = {
        s.name: s for s in summarize([row], settings, ["coverage"]).subsets["clean"][0].settings
    }
    assert set(lines["coverage@0.2"].versus) == {"none", "truncate@0", "crop@0.2"}
    assert set(lines["crop@0.2"].versus) == {"none", "truncate@0"}


def test_places_of_the_key_sentence_are_subsets() -> None:
    settings = settings_of(["crop"], [0.2], [0])
    rows = [judged(str(n), {s.name: [0] for s in settings}) for n in range(4)]
    for row, start in zip(rows, (0.0, 30.0, 79.9, 80.0), strict=True):
        row["clean"]["key"] = [start, start + 2]
    subsets = {s.name: s for s in summarize(rows, settings).subsets["clean"]}
    assert [subsets[f"key {p}"].settings[0].accuracy.n for p in ("early", "middle", "late")] == [
        1, 1, 2,
    ]  # fmt: skip
    # All in one place: no table says what "all" says.
    assert [s.name for s in summarize(rows[2:], settings).subsets["clean"]][-1] != "key late"


def test_the_balance_of_the_phases_is_of_methods_that_have_two() -> None:
    found = settings_of(["crop", "speechprune"], [0.6], [0], candidates=[1, 2.5])
    assert [s.name for s in found] == [
        "truncate@0", "crop@0.6", "speechprune@0.6x1", "speechprune@0.6x2.5",
    ]  # fmt: skip
    assert found[-1].candidates == 2.5


def test_options_of_methods_come_with_the_base_or_by_name() -> None:
    base = PruningOptions("speechprune", frame_temperature=0.5)
    found = settings_of(["crop", "speechprune"], [0.6], [0], base, own={"single_head": True})
    own = found[-1].options.to_dict()
    assert (own["frame_temperature"], own["single_head"]) == (0.5, True)
    assert "single_head" not in found[-2].options.to_dict()
    with pytest.raises(OptionError, match="None of the methods reads step"):
        settings_of(["crop"], [0.6], [0], own={"step": 3})
    with pytest.raises(OptionError, match="method must be one of"):
        settings_of(["nobody"], [0.6], [0])
