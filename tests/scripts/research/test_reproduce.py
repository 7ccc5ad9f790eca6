"""``scripts/research/reproduce``: from a bundle and SPIRAL's folder to the paper's tables."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import soundfile
from numpy.typing import NDArray
from paths import ROOT
from research.reproduce import ACCURACY, COSTS, RATES, page, rates_of

from speechprune_ort import DataError, OptionError

RATE = 16_000


def entry(name: str, number: int) -> dict[str, Any]:
    choices = ["A. Ann", "B. Bob", "C. Cid", "D. Dora"]
    sentence = "Ann has the key."
    return {
        "transcript": [{"speaker": "Ann", "text": [sentence]}],
        "original_key_sentence": sentence,
        "test_question": {
            "question": "Who has the key?",
            "choices": choices,
            "correct_answer": choices[number % 4],
        },
        "metadata": {"transcript_type": "lecture", "id": name},
        "audio_data": {
            "combined": {
                "audio_files": [f"{name}.wav"],
                "audio_folder": "wavs",
                "sentences": [sentence],
            }
        },
    }


@pytest.fixture
def spiral(tone: NDArray[Any], tmp_path: Path) -> Path:
    """Three recordings of 40 s in SPIRAL's layout, the first of them hard."""
    folder = tmp_path / "spiral"
    (folder / "wavs").mkdir(parents=True)
    entries = [entry(f"lecture_{number}", number) for number in range(3)]
    for number, made in enumerate(entries):
        path = folder / "wavs" / f"{made['metadata']['id']}.wav"
        soundfile.write(path, tone[number * RATE : (40 + number) * RATE], RATE)
    for name, some in (("data.jsonl", entries), ("data_h.jsonl", entries[:1])):
        (folder / name).write_text("".join(json.dumps(made) + "\n" for made in some))
    return folder


def test_one_command_writes_every_table(bundle: Path, spiral: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [ROOT / "scripts" / "research" / "reproduce", bundle, spiral, out],
        env={**os.environ, "LIMIT": "2", "SCORING": "likelihood", "OPTIONS": "--no-controls"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    text = (out / "paper.md").read_text()
    assert text.strip() in done.stdout
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line[:3] != "|--"]
    original = next(row for row in rows if row[0].startswith("Original"))
    assert original[2].endswith("n = 2")
    assert original[3] == "60.38"
    assert original[4].endswith("n = 1")
    pruned = [row for row in rows if row[0] == "SpeechPrune"]
    assert [row[1] for row in pruned] == [f"{rate:g}" for rate in RATES["qwen2_audio"]] * 2
    cost = next(row for row in rows if row[0] == "0.8")
    assert float(cost[1]) > 0
    assert cost[2] == f"{COSTS[0.8][0]:g}"
    assert "| DREAM-TTS, over 60 s | not run | 53.69 | not run | 65.19 |" in text
    results = json.loads((out / "spiral" / "results.json").read_text())
    assert results["about"]["choices"] == "as published"
    judged = {line["name"] for line in results["subsets"]["clean"][0]["settings"]}
    # Whatever the paper gives a figure for was judged.
    assert set(ACCURACY["qwen2_audio"]) <= judged


def test_other_families_and_missing_results_are_refused(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match=r"holds no spiral/results\.json"):
        page(bundle, tmp_path)
    monkeypatch.delitem(RATES, "qwen2_audio")
    with pytest.raises(OptionError, match="of the family qwen2_audio, and the paper is about diva"):
        rates_of(bundle)
