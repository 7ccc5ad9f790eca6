"""``research/text_baselines.py``: transcripts in the audio's place, at as many tokens."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
from numpy.typing import NDArray
from research.text_baselines import TextExecutor, median_seconds, text_settings, words_for
from research.transcripts import Transcriber, retrieved

from speechprune_ort import AudioError, DataError, SpeechLLM
from speechprune_ort.evaluation.plan import Plan
from speechprune_ort.evaluation.rows import judge_all
from speechprune_ort.evaluation.samples import Sample
from speechprune_ort.evaluation.settings import settings_of
from speechprune_ort.evaluation.summary import summarize
from speechprune_ort.journal import Journal

SAID = "The pump costs nine hundred dollars. Walls will be yellow. Lunch is at noon."
# Speaks as whisper_worker.py does, and counts the orders that it took.
ANSWERS = f"""
import json, pathlib, sys
for line in sys.stdin:
    audio = json.loads(line)["audio"]
    with open(sys.argv[1], "a") as log:
        log.write(audio + "\\n")
    answer = {{"text": {SAID!r}, "seconds": 2.5}}
    if "bad" in audio:
        answer = {{"error": "ValueError: noise"}}
    print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def transcriber(tmp_path: Path) -> Any:
    """Makes a transcriber that has a log of the recordings that it was given."""

    def make() -> Transcriber:
        journal = Journal(tmp_path / "transcripts.jsonl", {"whisper": "made"}, "give another")
        return Transcriber([sys.executable, "-c", ANSWERS, str(tmp_path / "log")], journal)

    return make


def test_sentences_like_the_question_are_taken_as_far_as_they_fit() -> None:
    said = [part + "." for part in SAID.rstrip(".").split(". ")]
    question = "What will the walls look like, and when is lunch?"
    assert retrieved(question, said, [7, 5, 5], 10) == (1, 2)
    assert retrieved(question, said, [7, 5, 5], 9) == (1,)
    # The best one is taken where not even it fits; no word in common leaves the order of the text.
    assert retrieved(question, said, [7, 5, 5], 1) == (1,)
    assert retrieved("?", said, [7, 5, 5], 12) == (0, 1)


def test_words_are_the_models_own_embeddings(bundle: Path) -> None:
    model = SpeechLLM(bundle, device="cpu")
    walls = model.embed_text("Walls will be yellow.")
    found = words_for(model, "sentences", SAID, "What will the walls be?", len(walls) + 1)
    assert (found == walls).all()
    assert (words_for(model, "transcript", SAID, "Who?", 5) == model.embed_text(SAID)[:5]).all()
    assert len(words_for(model, "sentences", "", "Who?", 5)) == 0


def test_transcripts_are_kept_and_a_bad_recording_is_named(
    transcriber: Any, tmp_path: Path
) -> None:
    for name in ("good.wav", "bad.wav"):
        (tmp_path / name).write_bytes(name.encode())
    first = transcriber()
    assert first(tmp_path / "good.wav").text == SAID
    with pytest.raises(AudioError, match=r"bad\.wav cannot be transcribed \(ValueError: noise\)"):
        first(tmp_path / "bad.wav")
    first.close()
    first._journal.close()
    again = transcriber()
    assert again(tmp_path / "good.wav").seconds == 2.5
    assert len((tmp_path / "log").read_text().splitlines()) == 2
    with pytest.raises(DataError, match="has ended"):
        Transcriber([sys.executable, "-c", ""], again._journal)(tmp_path / "bad.wav")


def test_text_stands_in_the_same_table_as_audio(
    bundle: Path, tone: NDArray[Any], transcriber: Any, tmp_path: Path
) -> None:
    soundfile.write(tmp_path / "a.wav", tone[: 40 * 16_000], 16_000)
    samples = tuple(
        Sample(f"s{n}", tmp_path / "a.wav", "What will the walls be?", ("Yellow", "Red"), 0)
        for n in range(2)
    )
    settings = (*settings_of(["none", "truncate"], [0.9], [0]), *text_settings([0.9, 0.98]))
    plan = Plan(bundle, samples, settings, controls=False)
    by = transcriber()
    rows = judge_all(plan, tmp_path / "out", TextExecutor(by), None)
    by.close()
    summary = summarize(rows, settings, ("truncate",))
    kept = {line.name: line.kept for line in summary.subsets["clean"][0].settings}
    # 75 and 15 tokens of audio are kept, a letter each of text: a whole sentence fits into 75 only.
    assert kept["transcript@0.9"] == kept["truncate@0.9"] == 75
    assert kept["transcript@0.98"] == 15
    assert kept["sentences@0.9"] <= 75
    audio = next(x for x in summary.subsets["clean"][0].settings if x.name == "truncate@0.9")
    assert {"transcript@0.9", "sentences@0.9"} <= set(audio.versus)
    assert median_seconds(rows, "sentences@0.98")["transcribe"] == 2.5
    # One recording, transcribed once; and nothing is judged again.
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    assert judge_all(plan, tmp_path / "out", TextExecutor(by), None) == rows
