"""What ``ask --explain`` writes: the data, a page and a picture, all of the same answer."""

from __future__ import annotations

import html
import json
import re
import time
import warnings
from base64 import b64decode
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from browser import Browser, needs_chromium
from command import run
from numpy.typing import NDArray

from speechprune_ort import OptionError, Span, SpeechLLM
from speechprune_ort.explain import (
    explain,
    explain_all,
    read_transcript,
    write_explanation,
    write_page,
    writing,
)
from speechprune_ort.explain.page import asking_page
from speechprune_ort.methods import Scores
from speechprune_ort.parts import Part
from speechprune_ort.text import printable

QUESTION = 'Who said "x < y" & why?'


def views(path: Path) -> Any:
    """What a page draws."""
    found = re.search(
        r'<script type="application/json" id="content">(.*)</script>',
        path.read_text(encoding="utf-8"),
    )
    assert found is not None
    return json.loads(found[1])


def drawn(path: Path) -> Any:
    """What a page draws of the one recording of its first answer."""
    (found,) = views(path)[0]["recordings"]
    return found


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
    return explain(answer, wav, transcripts=[transcript])


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory, tone: NDArray[np.float32]) -> Path:
    path = tmp_path_factory.mktemp("second") / "second <b>.wav"
    soundfile.write(path, tone[50 * 16_000 : 57 * 16_000], 16_000, subtype="FLOAT")
    return path


@pytest.fixture(scope="module")
def both(bundle: Path, wav: Path, second: Path, transcript: Path, spoken: Path) -> Any:
    """An answer about two recordings in one prompt, with its passages."""
    model = SpeechLLM(bundle, "cpu")
    heard = model.listen(wav).beside(model.listen(second))
    asked = {"method": "speechprune", "pruning_rate": 0.4, "max_new_tokens": 4}
    answer = heard.with_evidence(heard.ask(QUESTION, **asked))
    return explain(answer, wav, second, transcripts=[transcript, spoken])


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is said in the second recording."""
    path = tmp_path_factory.mktemp("spoken") / "second.json"
    path.write_text('[{"start": 1, "end": 4, "text": "Of the second"}]')
    return path


def test_curves_say_what_they_are(
    explanation: Any, bundle: Path, wav: Path, tmp_path: Path
) -> None:
    path = tmp_path / "out.html"
    write_explanation(explanation, path)
    names = [curve["name"] for curve in drawn(path)["curves"]]
    assert any("attention received" in name for name in names)
    passages = SpeechLLM(bundle, "cpu").ask(wav, QUESTION, method="passages", max_new_tokens=1)
    write_explanation(explain(passages, wav), path)
    assert [curve["name"] for curve in drawn(path)["curves"]] == [
        "words of the question spoken around it, in standard deviations",
        "unlikeness to the recording's mean, the negative cosine",
    ]
    assert "standard deviations" in explain(passages, wav).to_dict()["scores"][0]["name"]


def test_other_recordings_are_refused(
    bundle: Path, wav: Path, second: Path, both: Any, transcript: Path
) -> None:
    model = SpeechLLM(bundle, "cpu")
    heard = model.listen(wav)
    short, _ = soundfile.read(wav, frames=5 * 16_000, dtype="float32")
    answer = heard.ask(QUESTION, max_new_tokens=1)
    with pytest.raises(OptionError, match=r"is about 40\.0 s of sound and .* lasts 5\.0 s"):
        explain(answer, short, sampling_rate=16_000)
    with pytest.raises(
        OptionError, match=r"is about 40\.0 s of sound, its recording 1, and .* 7\.0"
    ):
        explain(both.answer, second, wav)
    for given, said in (
        ([wav], "2 recordings and 1 recording was given: give one for each"),
        ([wav, second, wav], "2 recordings and 3 recordings were given"),
        ([], "2 recordings and 0 recordings were given"),
    ):
        with pytest.raises(OptionError, match=said):
            explain(both.answer, *given)
    for wrong, said in (
        ({"transcripts": [transcript]}, "2 recordings and 1 transcript was given"),
        ({"names": ["a", "b", "c"]}, "2 recordings and 3 names were given"),
    ):
        with pytest.raises(OptionError, match=said):
            explain(both.answer, wav, second, **wrong)
    with pytest.raises(OptionError, match="1 recording and 2 recordings were given"):
        explain_all([answer, both.answer], [wav, second])
    cut = model.ask(wav, QUESTION, long_audio="truncate", max_new_tokens=1)
    assert explain(cut, wav).answer is cut
    for nothing in ([], [None]):
        with pytest.raises(OptionError, match="answer"):
            explain_all(nothing, [wav])  # type: ignore[arg-type]


def test_each_recording_of_a_prompt_has_its_own_part_of_the_page(
    both: Any, wav: Path, second: Path, tmp_path: Path
) -> None:
    pruning = both.answer.pruning
    one, two = pruning.recordings
    assert (one.tokens, two.first, two.tokens) == (1000, 1000, 175)
    assert (two.start, two.end) == (40, 47)
    spans = [pruning.spans_in(part) for part in (one, two)]
    assert spans[0] + spans[1] == pruning.spans
    assert spans[1]
    assert all(40 <= span.start < span.end <= 47 for span in spans[1])
    path = tmp_path / "page.html"
    write_page([both], path)
    (view,) = views(path)
    first, other = view["recordings"]
    assert (first["name"], other["name"]) == (wav.name, second.name)
    assert (first["seconds"], other["seconds"]) == (40, 7)
    assert first["spans"] == [[span.start, span.end] for span in spans[0]]
    for shown, span in zip(other["spans"], spans[1], strict=True):
        assert shown == pytest.approx([span.start - 40, span.end - 40], abs=1e-3)
    joined = [(0, span) for span in first["merged"]] + [(40, span) for span in other["merged"]]
    for (start, span), found in zip(joined, pruning.merged_spans, strict=True):
        assert [end + start for end in span] == pytest.approx([found.start, found.end], abs=1e-3)
    whole, candidates = other["curves"]
    np.testing.assert_allclose(whole["values"], pruning.scores[0].values[1000:], atol=1e-4)
    np.testing.assert_allclose(whole["seconds"], (np.arange(175) + 0.5) / 25, atol=6e-3)
    among = pruning.scores[1].tokens
    own = among[among >= 1000] - 1000
    np.testing.assert_allclose(candidates["seconds"], (own + 0.5) / 25, atol=6e-3)
    assert len(first["curves"][1]["values"]) + len(own) == len(among)
    (line,) = other["transcript"]
    kept = pruning.indices - 1000
    share = ((kept >= 25) & (kept < 100)).sum() / 75
    assert (line["text"], line["share"]) == ("Of the second", pytest.approx(share, abs=1e-3))
    assert [line["text"] for line in first["transcript"]] == ["First <b>half</b>", "Second"]
    evidence = both.answer.evidence
    for shown, found in zip(view["evidence"], evidence, strict=True):
        start = pruning.recordings[shown["recording"]].start
        assert [shown["start"] + start, shown["end"] + start] == pytest.approx(
            [found.span.start, found.span.end], abs=2e-3
        )
    page = path.read_text()
    assert "<figcaption>second &lt;b&gt;.wav</figcaption>" in page
    sources = re.findall(r'src="data:audio/[a-z]+;base64,([^"]+)"', page)
    for source, file in zip(sources, (wav, second), strict=True):
        played, rate = soundfile.read(BytesIO(b64decode(source)))
        assert len(played) / rate == pytest.approx(soundfile.info(file).duration, abs=0.2)


def test_stretches_of_two_recordings_are_not_joined(both: Any) -> None:
    options = {"spans": (Span(39.5, 40.0), Span(40.0, 40.4), Span(41.0, 42.0))}
    pruning = replace(both.answer.pruning, **options)
    assert pruning.merged_spans == (Span(39.5, 40.0), Span(40.0, 42.0))
    content = replace(both.answer, pruning=pruning).to_dict()["pruning"]
    assert content["merged_spans"] == [[39.5, 40.0], [40.0, 42.0]]
    assert content["recordings"][1] == {"first": 1000, "tokens": 175, "start": 40, "seconds": 7}


def test_the_data_and_the_picture_hold_every_recording(both: Any, tmp_path: Path) -> None:
    write_explanation(both, tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())
    assert [sound["name"] for sound in content["sounds"]] == ["recording.wav", "second <b>.wav"]
    assert len(content["scores"][0]["values"]) == content["pruning"]["total"] == 1175
    assert content["sounds"][1]["transcript"] == [[1, 4, "Of the second"]]
    pytest.importorskip("matplotlib")
    pictures = {}
    for name, shown in (("both", both), ("alone", _alone(both))):
        write_explanation(shown, tmp_path / f"{name}.png")
        data = (tmp_path / f"{name}.png").read_bytes()
        pictures[name] = int.from_bytes(data[20:24], "big")  # its height in pixels
    assert pictures["both"] == 2 * pictures["alone"]


def _alone(both: Any) -> Any:
    """The first recording of an explanation as if it had been asked about by itself."""
    pruning = both.answer.pruning
    alone = replace(pruning, recordings=pruning.recordings[:1], spans=())
    return replace(both, answer=replace(both.answer, pruning=alone), sounds=both.sounds[:1])


@needs_chromium
def test_a_browser_plays_the_recording_that_is_clicked(both: Any, tmp_path: Path) -> None:
    write_page([both], tmp_path / "page.html")
    with Browser(tmp_path) as browser:
        browser.open((tmp_path / "page.html").as_uri())
        players = "[...document.querySelectorAll('audio')]"
        browser.until(f"{players}.length == 2 && {players}.every(n => n.readyState >= 1)")
        assert browser.get("[...document.querySelectorAll('h3')].map(n => n.textContent)") == [
            "recording.wav", "second <b>.wav",
        ]  # fmt: skip
        browser.click("section:last-child .tracks", x=0.5, y=0.3)
        browser.until(f"{players}[1].currentTime >= 3.4")
        assert browser.get(f"{players}[0].currentTime") == 0
        browser.until(
            "parseFloat(document.querySelector('section:last-child .head').style.left) >= 49"
        )
        assert browser.get("document.querySelector('.head').style.left") == "0px"
        browser.click("section .tracks", x=0.25, y=0.3)
        browser.until(f"{players}[0].currentTime >= 10")
        browser.until(f"{players}[1].paused")
        assert browser.errors == []


def test_the_data_has_every_score_and_the_waveform(
    explanation: Any, tmp_path: Path, tone: NDArray[np.float32]
) -> None:
    path = tmp_path / "out.json"
    write_explanation(explanation, path)
    content = json.loads(path.read_text())
    similarity, attention = content["scores"]
    assert len(similarity["values"]) == content["pruning"]["total"] == 1000
    assert (similarity["tokens"], similarity["of_one"]) == (None, False)
    assert len(attention["values"]) == len(attention["tokens"]) == 750
    assert set(content["pruning"]["indices"]) <= set(attention["tokens"])
    assert attention["of_one"]
    assert sum(attention["values"]) == pytest.approx(1, abs=1e-3)
    (sound,) = content["sounds"]
    assert sound["name"] == "recording.wav"
    low, high = sound["waveform"]["low"], sound["waveform"]["high"]
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
    title = re.search("<title>(.*)</title>", page)
    assert title is not None
    assert (html.unescape(title[1]), "<" in title[1]) == (QUESTION, False)
    assert not re.search(r"(?:src|href)=.(?!data:)|url\(|import ", page), "it needs nothing else"
    (view,) = views(path)
    assert (view["question"], view["text"]) == (QUESTION, answer.text)
    (shown,) = view["recordings"]
    assert shown["spans"] == [[s.start, s.end] for s in answer.pruning.spans]
    assert [line["text"] for line in shown["transcript"]] == ["First <b>half</b>", "Second"]
    kept = answer.pruning.indices < 500
    shares = [kept.sum() / 500, (~kept).sum() / 500]
    assert [line["share"] for line in shown["transcript"]] == pytest.approx(shares, abs=1e-3)
    first, second = shown["curves"]
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
    long = replace(
        pruning,
        total=100_000,
        scores=(Scores("similarity", scores),),
        token_seconds=40 / 100_000,
        recordings=(Part(0, 100_000, 0.0, 40.0),),
    )
    answer = replace(explanation.answer, pruning=long)
    write_explanation(replace(explanation, answer=answer), tmp_path / "out.html")
    (curve,) = drawn(tmp_path / "out.html")["curves"]
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
        browser.get("document.querySelector('tr:last-child').className = 'in'")
        shades = browser.get(
            "['tr:last-child', '.stretch'].map(name => { const node = document.querySelector(name);"
            " node.ariaCurrent = 'true'; return getComputedStyle(node).backgroundColor; })"
        )
        assert shades[0] == shades[1], "a line that was kept is marked as well while it is heard"
        assert browser.get("parseFloat(document.querySelector('.head').style.left)") >= 49
        assert browser.errors == []


TOP = 0.04  # of a plot's height: above most of the curve


def pixels(browser: Browser, plot: int, places: Sequence[tuple[float, float]]) -> list[list[int]]:
    """Red, green, blue and opacity of a plot, at shares of its width and height."""
    found: list[list[int]] = browser.get(
        f"(() => {{ const canvas = document.querySelectorAll('canvas')[{plot}];"
        " const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext('2d',"
        " {willReadFrequently: true}); copy.drawImage(canvas, 0, 0);"
        " const pixel = (x, y) => copy.getImageData("
        "Math.floor(x * canvas.width), Math.floor(y * canvas.height), 1, 1).data;"
        f" return {[list(place) for place in places]}.map(place => [...pixel(...place)]); }})()"
    )
    return found


def eventually(found: Callable[[], bool]) -> None:
    """Wait until something holds."""
    end = time.monotonic() + 60
    while not found():
        assert time.monotonic() < end
        time.sleep(0.05)


@needs_chromium
def test_a_browser_draws_what_was_kept_and_the_scores(explanation: Any, tmp_path: Path) -> None:
    pruning = explanation.answer.pruning
    step = Scores("a step", np.repeat(np.float32([0, 1]), 500))
    answer = replace(
        explanation.answer, pruning=replace(pruning, scores=(step, *pruning.scores[1:]))
    )
    write_explanation(replace(explanation, answer=answer), tmp_path / "page.html")
    (view,) = views(tmp_path / "page.html")
    (shown,) = view["recordings"]
    with Browser(tmp_path) as browser:
        browser.open((tmp_path / "page.html").as_uri())
        browser.until("document.querySelectorAll('canvas').length == 3")
        labels = browser.get("[...document.querySelectorAll('.plot')].map(n => n.ariaLabel)")
        assert labels == ["waveform; blue was kept", *(curve["name"] for curve in shown["curves"])]
        edges = [0.0, *(end for span in shown["spans"] for end in span), 40.0]
        # Wide enough to be pixels; kept and not kept alternate.
        middles = [
            ((start + end) / 2, bool(place % 2))
            for place, (start, end) in enumerate(pairwise(edges))
            if end - start > 0.3
        ]
        assert {kept for _, kept in middles} == {False, True}
        places = [(second / 40, TOP) for second, _ in middles]
        eventually(
            lambda: (
                [found[3] > 0 for found in pixels(browser, 0, places)]
                == [kept for _, kept in middles]
            )
        )

        def drawn(at: float, first: int, last: int) -> bool:
            column = pixels(browser, 1, [(at, (y + 0.5) / 94) for y in range(first, last)])
            return any(found[3] == 255 for found in column)

        assert [drawn(0.25, *rows) for rows in ((0, 10), (84, 94))] == [False, True]
        assert [drawn(0.75, *rows) for rows in ((0, 10), (84, 94))] == [True, False]
        browser.point(".plot", x=0.75, y=0.5)
        told = browser.until("document.querySelector('output').textContent")
        assert re.fullmatch(r"1 at (29\.9|30\.0|30\.1)", told)
        assert browser.get("document.querySelectorAll('output')[1].textContent") != "", "in all"
        assert browser.errors == []


@needs_chromium
def test_the_page_fits_a_telephone_in_the_dark(explanation: Any, tmp_path: Path) -> None:
    write_page([explanation, explanation], tmp_path / "page.html")
    with Browser(tmp_path, width=360, dark=True, phone=True) as browser:
        browser.open((tmp_path / "page.html").as_uri())
        browser.until("document.querySelectorAll('canvas').length == 6")
        assert browser.get("document.documentElement.scrollWidth") <= 360
        tops = browser.get(
            "[...document.querySelectorAll('article')].map(n => n.getBoundingClientRect().left)"
        )
        assert len(set(tops)) == 1, "below each other"
        color = browser.get("getComputedStyle(document.body).backgroundColor")
        assert max(map(int, re.findall(r"\d+", color)[:3])) < 60
        browser.until("document.querySelector('audio').readyState >= 1")
        browser.tap("article .tracks", x=0.5, y=0.3)
        browser.until("document.querySelector('audio').currentTime >= 20")
        browser.tap("article tr:first-child")
        browser.until("document.querySelector('audio').currentTime < 20")
        browser.until("document.querySelector('tr:first-child').ariaCurrent === 'true'")
        longest = max(explanation.answer.pruning.spans, key=lambda span: span.end - span.start)
        inside = [((longest.start + longest.end) / 80, TOP)]
        kept = pixels(browser, 0, inside)
        assert kept[0][3] > 0
        browser.darken(False)
        eventually(lambda: pixels(browser, 0, inside) != kept)
        assert browser.errors == []


@needs_chromium
def test_a_long_recording_is_zoomed_and_scrolled(explanation: Any, tmp_path: Path) -> None:
    pruning = explanation.answer.pruning
    long = replace(
        pruning,
        total=90_000,
        scores=(Scores("similarity", np.sin(np.arange(90_000, dtype=np.float32) / 99)),),
        recordings=(Part(0, 90_000, 0.0, 3600.0),),
        spans=(Span(3000.0, 3010.0),),
    )
    answer = replace(explanation.answer, pruning=long)
    write_explanation(replace(explanation, answer=answer), tmp_path / "page.html")
    with Browser(tmp_path, width=500) as browser:
        browser.open((tmp_path / "page.html").as_uri())
        browser.until("document.querySelectorAll('canvas').length == 2")
        browser.get(
            "(() => { const zoom = document.querySelector('[type=range]'); zoom.value = 64;"
            " zoom.dispatchEvent(new Event('input')); })()"
        )
        width = browser.get("document.querySelector('.tracks').offsetWidth")
        assert width > 64 * 400
        assert browser.get("document.querySelector('canvas').width") <= 500, "drawn as seen"
        # 3005 s in the middle of what is seen, which are 56 s.
        browser.get(
            "(() => { const n = document.querySelector('.scroll');"
            f" n.scrollLeft = {3005 / 3600 * width} - n.clientWidth / 2; }})()"
        )
        places = [(x, TOP) for x in (0.2, 0.5, 0.8)]
        eventually(
            lambda: [found[3] > 0 for found in pixels(browser, 0, places)] == [False, True, False]
        )
        assert browser.get("document.documentElement.scrollWidth") <= 500
        assert browser.errors == []


EVIL = "</script><img src=x onerror=window.evil=1><script>window.evil=1</script>{{ 1 }}&amp;<b>"


def test_the_name_of_a_model_cannot_break_the_page_of_a_server() -> None:
    page = asking_page(EVIL)
    assert EVIL not in page
    named = re.search("^const MODEL = (.*);$", page, re.MULTILINE)
    assert named is not None
    assert (json.loads(named[1]), "<" in named[1]) == (EVIL, False)


@needs_chromium
def test_markup_in_words_and_names_stays_text(explanation: Any, wav: Path, tmp_path: Path) -> None:
    said = tmp_path / "said.json"
    said.write_text(json.dumps([{"start": 0, "end": 20, "text": EVIL}]))
    answer = replace(explanation.answer, question=EVIL, text=EVIL, notes=(EVIL,))
    pruning = replace(answer.pruning, scores=(replace(answer.pruning.scores[0], name=EVIL),))
    answer = replace(answer, pruning=pruning)
    shown = explain(answer, wav, transcripts=[said], names=[f'"{EVIL}'])
    write_page([shown], tmp_path / "page.html")
    with Browser(tmp_path) as browser:
        browser.open((tmp_path / "page.html").as_uri())
        browser.until("document.querySelectorAll('canvas').length == 2")
        found = browser.get(
            "[document.title, ...['h2', '.answer', 'dd:last-of-type', 'td:last-child',"
            " '.label:nth-of-type(3) span'].map(n => document.querySelector(n).textContent)]"
        )
        assert found == [EVIL] * 6
        assert browser.get("document.querySelector('audio').ariaLabel") == f'"{EVIL}'
        assert browser.get("document.querySelectorAll('img, b').length") == 0
        assert browser.get("typeof window.evil") == "undefined"
        assert browser.errors == []


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
        ("ask", bundle, wav, "Who?", *options, *("--transcript", transcript) * 2),
    ):
        result = run(*wrong)
        assert result.returncode == 2
        assert result.stderr.count("error: ") == 1
        assert not result.stdout, "it is said before the recording is heard"


def test_the_command_line_explains_recordings_together(
    bundle: Path, wav: Path, second: Path, transcript: Path, spoken: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.html"
    given = (wav, second, "-q", "Who?", "-q", "Why?", "--max-new-tokens", "4", "--explain", out)
    said = ("--transcript", transcript, "--transcript", spoken, "--evidence")
    command = ("ask", bundle, *given, "--device", "cpu")
    result = run(*command, "--together", *said)
    assert result.returncode == 0, result.stderr
    for view, question in zip(views(out), ("Who?", "Why?"), strict=True):
        assert view["question"] == question
        assert [shown["name"] for shown in view["recordings"]] == [wav.name, second.name]
        assert view["recordings"][1]["transcript"][0]["text"] == "Of the second"
    out.unlink()
    for wrong, said_of_it in (
        (("--transcript", transcript), "--explain takes one recording"),
        (("--together", "--transcript", transcript), "once for each recording"),
    ):
        result = run(*command, *wrong)
        assert (result.returncode, result.stdout) == (2, "")
        assert said_of_it in " ".join(result.stderr.split())
        assert not out.exists()


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


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("$\\frac{1}{$ & # % <b>", "$_$"),
        ("x" * 3000, "W" * 500),
        ("Q\n" * 500, "你" * 300),
        ("a \x1b[31m\x07", ""),
    ],
)
def test_any_text_is_drawn_literally_and_in_lines(
    question: str, text: str, explanation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    save = writing.save_figure
    monkeypatch.setattr(
        writing, "save_figure", lambda figure, *more: (figures.append(figure), save(figure, *more))
    )
    scores = tuple(
        Scores(question[:99], one.values, one.tokens, one.of_one)
        for one in explanation.answer.pruning.scores
    )
    answer = replace(
        explanation.answer,
        question=question,
        text=text,
        pruning=replace(explanation.answer.pruning, scores=scores),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of a layout that does not fit
        write_explanation(replace(explanation, answer=answer), tmp_path / "page.png")
    (figure,) = figures
    title = figure.get_suptitle()
    start = printable(f"{question}  —  {text}")[:2000].split()
    assert "".join(title.split()).startswith("".join(start)[:1000])
    drawn = figure._suptitle.get_window_extent()
    assert 0 <= drawn.x0 < drawn.x1 <= figure.bbox.x1


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


@pytest.mark.parametrize(("start", "end"), [(3, 1), (-3, -1), (-1, 2)])
def test_a_line_that_is_no_stretch_of_a_recording_is_no_transcript(
    start: float, end: float, tmp_path: Path
) -> None:
    path = tmp_path / "said.json"
    path.write_text(json.dumps([{"start": start, "end": end, "text": "Hello."}]))
    with pytest.raises(OptionError, match="is no stretch of a recording"):
        read_transcript(path)


def test_arguments_of_another_type_are_one_sentence(
    explanation: Any, wav: Path, tmp_path: Path
) -> None:
    write_explanation(explanation, str(tmp_path / "page.json"))
    write_page([explanation], str(tmp_path / "page.html"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["page.html", "page.json"]
    for wrong in (None, 3, b"x.html", "", "\ud800.html", "a\0.html", "x" * 300 + ".html", []):
        with pytest.raises(OptionError, match="The path of an explanation"):
            write_explanation(explanation, wrong)  # type: ignore[arg-type]
    for wrong in (None, "x", explanation.answer):
        with pytest.raises(OptionError, match="takes a"):
            write_explanation(wrong, tmp_path / "x.html")
        with pytest.raises(OptionError, match="takes a"):
            write_page([wrong], tmp_path / "x.html")
        with pytest.raises(OptionError, match="takes a"):
            explain(explanation.answer, wav, names=wrong)
        with pytest.raises(OptionError, match="takes a"):
            explain(explanation.answer, wav, transcripts=wrong)
    with pytest.raises(OptionError, match="no answer to explain"):
        write_page([], tmp_path / "x.html")


@pytest.mark.parametrize("time", ['"nan"', "1e300", "true", "null", '"1"', "-1e12"])
def test_a_time_that_is_none_is_no_transcript(time: str, tmp_path: Path) -> None:
    path = tmp_path / "said.json"
    path.write_text(f'[{{"start": {time}, "end": 2, "text": "Hello."}}]')
    with pytest.raises(OptionError, match="is not a transcript"):
        read_transcript(path)
