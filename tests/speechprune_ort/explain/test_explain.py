"""What ``ask --explain`` writes: the data, a page and a picture, all of the same answer."""

from __future__ import annotations

import json
import re
from base64 import b64decode
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from browser import Browser, needs_chromium
from command import run
from numpy.typing import NDArray

from speechprune_ort import OptionError, SpeechLLM
from speechprune_ort.explain import (
    explain,
    explain_all,
    read_transcript,
    write_explanation,
    write_page,
)

QUESTION = 'Who said "x < y" & why?'


def views(path: Path) -> Any:
    """What a page draws."""
    found = re.search(
        r'<script type="application/json" id="content">(.*)</script>',
        path.read_text(encoding="utf-8"),
    )
    assert found is not None
    return json.loads(found[1])


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
    names = [curve["name"] for curve in views(path)[0]["curves"]]
    assert any("attention received" in name for name in names)
    passages = SpeechLLM(bundle, "cpu").ask(wav, QUESTION, method="passages", max_new_tokens=1)
    write_explanation(explain(passages, wav), path)
    assert [curve["name"] for curve in views(path)[0]["curves"]] == [
        "words of the question spoken around it, in standard deviations",
        "unlikeness to the recording's mean, the negative cosine",
    ]
    assert "standard deviations" in explain(passages, wav).to_dict()["score_names"][0]


def test_another_recording_or_several_are_refused(bundle: Path, wav: Path) -> None:
    model = SpeechLLM(bundle, "cpu")
    heard = model.listen(wav)
    short, _ = soundfile.read(wav, frames=5 * 16_000, dtype="float32")
    answer = heard.ask(QUESTION, max_new_tokens=1)
    together = replace(answer, seconds=80.0)
    for said, audio in ((answer, short), (together, wav)):
        with pytest.raises(OptionError, match=r"is about \d0\.0 s of sound .* lasts"):
            explain(said, audio, None if isinstance(audio, Path) else 16_000)
    cut = model.ask(wav, QUESTION, long_audio="truncate", max_new_tokens=1)
    assert explain(cut, wav).answer is cut
    for nothing in ([], [None]):
        with pytest.raises(OptionError, match="answer"):
            explain_all(nothing, wav)  # type: ignore[arg-type]


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
    explanation: Any, tmp_path: Path, wav: Path
) -> None:
    path = tmp_path / "out.html"
    answer = replace(explanation.answer, text="</script><script>alert(1)</script>")
    write_explanation(replace(explanation, answer=answer), path)
    page = path.read_text()
    assert "</script><script>alert" not in page
    assert "<title>Who said &quot;x &lt; y&quot; &amp; why?</title>" in page
    assert not re.search(r"(?:src|href)=.(?!data:)|url\(|import ", page), "it needs nothing else"
    (view,) = views(path)
    assert (view["question"], view["text"]) == (QUESTION, answer.text)
    assert view["spans"] == [[s.start, s.end] for s in answer.pruning.spans]
    assert [line["text"] for line in view["transcript"]] == ["First <b>half</b>", "Second"]
    kept = answer.pruning.indices < 500
    shares = [kept.sum() / 500, (~kept).sum() / 500]
    assert [line["share"] for line in view["transcript"]] == pytest.approx(shares, abs=1e-3)
    first, second = view["curves"]
    assert (first["whole"], second["whole"]) == (True, False)
    assert len(first["values"]) == 1000
    assert len(second["values"]) == 750
    source = re.search(r'src="data:(audio/[a-z]+);base64,([^"]+)"', page)
    assert source is not None
    played, rate = soundfile.read(BytesIO(b64decode(source[2])))
    assert len(played) / rate == pytest.approx(40, abs=0.2)
    heard, _ = soundfile.read(wav)
    second = heard[20 * rate : 21 * rate]
    alike = [
        np.corrcoef(played[20 * rate + late : 21 * rate + late], second)[0, 1]
        for late in range(0, rate // 10, 16)
    ]
    assert max(alike) > 0.9, "a tenth of a second late at most, as mp3s are"


def test_a_long_curve_is_drawn_by_its_highest_points(explanation: Any, tmp_path: Path) -> None:
    pruning = explanation.answer.pruning
    scores = np.zeros(100_000, np.float32)
    scores[[7, 70_001]] = 1, 2
    long = replace(pruning, total=100_000, similarity=scores, attention=None)
    answer = replace(explanation.answer, pruning=long)
    write_explanation(replace(explanation, answer=answer), tmp_path / "out.html")
    (curve,) = views(tmp_path / "out.html")[0]["curves"]
    assert 1000 < len(curve["values"]) <= 4000
    assert sorted(curve["values"])[-2:] == [1, 2]
    at = curve["seconds"][int(np.argmax(curve["values"]))]
    assert at == pytest.approx(70_001.5 * 40 / 100_000, abs=0.01)


@needs_chromium
def test_a_browser_plays_what_is_clicked(explanation: Any, tmp_path: Path) -> None:
    other = replace(explanation.answer, question="And who else?", text="Nobody")
    write_page([explanation, replace(explanation, answer=other)], tmp_path / "page.html")
    with Browser(tmp_path) as browser:
        browser.open((tmp_path / "page.html").as_uri())
        browser.until("document.querySelector('audio').readyState >= 1")
        assert browser.get("[...document.querySelectorAll('h2')].map(n => n.textContent)") == [
            QUESTION, "And who else?",
        ]  # fmt: skip
        boxes = "[...document.querySelectorAll('article')].map(n => n.getBoundingClientRect().top)"
        assert len(set(browser.get(boxes))) == 1, "side by side"
        assert browser.get("document.querySelectorAll('b').length") == 0, "text is text"
        browser.click("article .tracks", x=0.25, y=0.3)
        browser.until("document.querySelector('audio').currentTime >= 10")
        assert browser.get("document.querySelector('audio').currentTime") < 20
        start = explanation.answer.pruning.merged_spans[-1].start
        browser.click("article .stretch:last-child")
        browser.until(f"document.querySelector('audio').currentTime >= {start - 0.1}")
        browser.until("document.querySelector('.stretch:last-child').ariaCurrent === 'true'")
        browser.click("article tr:last-child")
        browser.until("document.querySelector('tr:last-child').ariaCurrent === 'true'")
        assert browser.get("parseFloat(document.querySelector('.head').style.left)") >= 49
        assert browser.errors == []


@needs_chromium
def test_the_page_fits_a_telephone_in_the_dark(explanation: Any, tmp_path: Path) -> None:
    write_page([explanation, explanation], tmp_path / "page.html")
    with Browser(tmp_path, width=360, dark=True, phone=True) as browser:
        browser.open((tmp_path / "page.html").as_uri())
        browser.until("document.querySelectorAll('article').length == 2")
        assert browser.get("document.documentElement.scrollWidth") <= 360
        color = browser.get("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, re.findall(r"\d+", color)[:3])) < 60


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
    assert [view["question"] for view in views(out)] == ["Who?", "Why?"], "on one page"
    data = ("--explain", tmp_path / "out.json")
    result = run("ask", bundle, wav, "Who?", "Why?", *options[:4], *data)
    assert result.returncode == 0, result.stderr
    asked = [json.loads((tmp_path / f"out-{n}.json").read_text())["question"] for n in (1, 2)]
    assert asked == ["Who?", "Why?"]
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
