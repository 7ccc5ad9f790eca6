"""What ``ask --explain`` writes: the data, a page and a picture, all of the same answer."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from command import run
from numpy.typing import NDArray

from speechprune_ort import OptionError, SpeechLLM
from speechprune_ort.explain import explain, read_transcript, write_explanation

QUESTION = 'Who said "x < y" & why?'


@pytest.fixture(scope="module")
def wav(tmp_path_factory: pytest.TempPathFactory, tone: NDArray[np.float32]) -> Path:
    path = tmp_path_factory.mktemp("explain") / "recording.wav"
    soundfile.write(path, tone[: 40 * 16_000], 16_000, subtype="FLOAT")
    return path


@pytest.fixture(scope="module")
def transcript(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("transcript") / "said.json"
    lines = [{"start": 0, "end": 20, "text": "First <b>half</b>"}, {"start": 20, "end": 40,
             "text": "Second"}]  # fmt: skip
    path.write_text(json.dumps(lines))
    return path


@pytest.fixture(scope="module")
def explanation(bundle: Path, wav: Path, transcript: Path) -> Any:
    answer = SpeechLLM(bundle, "cpu").ask(
        wav, QUESTION, method="speechprune", pruning_rate=0.4, max_new_tokens=4
    )
    return explain(answer, wav, transcript=transcript)


def test_curves_say_what_they_are(
    explanation: Any, bundle: Path, wav: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out.html"
    write_explanation(explanation, path)
    assert "attention received" in path.read_text()
    passages = SpeechLLM(bundle, "cpu").ask(wav, QUESTION, method="passages", max_new_tokens=1)
    write_explanation(explain(passages, wav), path)
    page = path.read_text()
    assert "unlikeness to the recording" in page
    assert "words of the question spoken around it, in standard deviations" in page
    assert "attention received" not in page
    assert "similarity to the question" not in page
    assert "standard deviations" in explain(passages, wav).to_dict()["score_names"][0]


def test_the_data_has_every_score_and_the_waveform(
    explanation: Any, tmp_path: Path, tone: NDArray[np.float32]
) -> None:
    path = tmp_path / "out.json"
    write_explanation(explanation, path)
    content = json.loads(path.read_text())
    assert len(content["similarity"]) == content["pruning"]["total"] == 1000
    assert len(content["attention"]) == len(content["candidates"]) == 750
    assert set(content["pruning"]["indices"]) <= set(content["candidates"])
    assert sum(content["attention"]) == pytest.approx(1, abs=1e-3)
    low, high = content["waveform"]["low"], content["waveform"]["high"]
    assert len(low) == len(high) <= 1201
    assert max(high) == pytest.approx(tone[: 40 * 16_000].max(), abs=1e-3)
    assert min(low) == pytest.approx(tone[: 40 * 16_000].min(), abs=1e-3)


def test_the_page_is_whole_and_what_is_said_cannot_break_it(
    explanation: Any, tmp_path: Path
) -> None:
    path = tmp_path / "out.html"
    write_explanation(explanation, path)
    page = path.read_text()
    assert "First &lt;b&gt;half" in page
    assert "x &lt; y" in page
    assert "http" not in page, "the page must need nothing else"
    svg = ElementTree.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])  # noqa: S314
    kept = [node for node in svg if node.get("class") == "kept"]
    assert len(kept) == len(explanation.answer.pruning.spans)
    assert [node.tag for node in svg if node.get("class") in ("curve", "dots", "wave")] == [
        "polygon", "polyline", "path",
    ]  # fmt: skip


def test_the_picture_is_one_and_other_endings_are_refused(explanation: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_explanation(explanation, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(OptionError, match=r"must end in \.html, \.png, \.json"):
        write_explanation(explanation, tmp_path / "out.pdf")
    with pytest.raises(OptionError, match="cannot be written"):
        write_explanation(explanation, tmp_path / "no" / "out.html")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.png"]


def test_the_command_line_explains_every_question(
    bundle: Path, wav: Path, transcript: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.html"
    options = ("--device", "cpu", "--max-new-tokens", "4", "--explain", out)
    result = run("ask", bundle, wav, "Who?", *options, "--transcript", transcript)
    assert result.returncode == 0, result.stderr
    assert "Second" in out.read_text()
    assert result.stdout == run("ask", bundle, wav, "Who?", *options[:4]).stdout != "\n"
    result = run("ask", bundle, wav, "Who?", "Why?", *options)
    assert result.returncode == 0, result.stderr
    assert "<h1>Who?</h1>" in (tmp_path / "out-1.html").read_text()
    assert "<h1>Why?</h1>" in (tmp_path / "out-2.html").read_text()
    for wrong in (
        ("ask", bundle, wav, "Who?", "--transcript", transcript),
        ("ask", bundle, wav, "Who?", *options, "--transcript", wav),
        ("ask", bundle, wav, "Who?", *options[:-1], tmp_path / "out.pdf"),
    ):
        result = run(*wrong)
        assert result.returncode == 2
        assert result.stderr.count("error: ") == 1
        assert not result.stdout, "it is said before the recording is heard"


def test_several_questions_are_answered_from_one_encoding(bundle: Path, wav: Path) -> None:
    options = ("--device", "cpu", "--max-new-tokens", "4", "--json")
    content = json.loads(run("ask", bundle, wav, "Who?", "Why?", *options).stdout)
    assert [entry["question"] for entry in content] == ["Who?", "Why?"]
    assert all("encoder" not in entry["timings"] for entry in content)
    alone = json.loads(run("ask", bundle, wav, "Why?", *options).stdout)
    assert content[1]["token_ids"] == alone["token_ids"]


def test_a_question_about_money_is_drawn_as_it_is(
    explanation: Any, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    answer = replace(explanation.answer, question="Was it $5_ or $^6$?", text="\x18 你 \\frac{")
    write_explanation(replace(explanation, answer=answer), tmp_path / "page.png")
    assert (tmp_path / "page.png").read_bytes().startswith(b"\x89PNG")
    assert not recwarn.list


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
@pytest.mark.parametrize("ending", [".png", ".html", ".json"])
def test_a_device_that_takes_nothing_is_one_sentence(
    ending: str, explanation: Any, tmp_path: Path
) -> None:
    link = tmp_path / f"page{ending}"
    link.symlink_to("/dev/full")
    with pytest.raises(OptionError, match="takes no more"):
        write_explanation(explanation, link)
    assert not Path("/dev/full.png").exists()


@pytest.mark.parametrize("time", ['"nan"', "1e300", "true", "null", '"1"', "-1e12"])
def test_a_time_that_is_none_is_no_transcript(time: str, tmp_path: Path) -> None:
    path = tmp_path / "said.json"
    path.write_text(f'[{{"start": {time}, "end": 2, "text": "Hello."}}]')
    with pytest.raises(OptionError, match="is not a transcript"):
        read_transcript(path)
