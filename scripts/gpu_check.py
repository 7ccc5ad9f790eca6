"""The last step of ``scripts/gpu_check.sh``: CPU and CUDA side by side, all figures in one JSON.

    python scripts/gpu_check.py WORK OUT.json

WORK has the bundles ``cpu-fp32``, ``cuda-fp16`` and ``cuda-int4`` of one checkpoint, and profiles.
Exit code 1: in half precision CUDA keeps other tokens than the CPU, or answers otherwise.
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from speechprune_ort import SpeechLLM
from speechprune_ort.profiling.run import machine

HERE = Path(__file__).parent
REFERENCE, HALF, INT4 = "cpu-fp32", "cuda-fp16", "cuda-int4"
SETTINGS = (("none", 0.0), *product(("speechprune", "passages"), (0.2, 0.6, 0.8)))
NEW_TOKENS = 16
SAME_KEPT, SAME_IDS = 0.97, 0.9  # least shares: half precision can turn what is nearly equal


def answers(bundle: Path, questions: list[str]) -> dict[str, Any]:
    """Kept tokens and ids of every question at every setting, by a name of both."""
    model = SpeechLLM(bundle, "cuda" if bundle.name.startswith("cuda") else "cpu")
    recording = model.listen(HERE / "recording" / "meeting.ogg")
    found = {}
    for (method, rate), question in product(SETTINGS, questions):
        answer = recording.ask(
            question, method=method, pruning_rate=rate, max_new_tokens=NEW_TOKENS
        )
        found[f"{question} {method}@{rate}"] = answer
    return found


def same_start(left: tuple[int, ...], right: tuple[int, ...]) -> float:
    """Share of ids that are the same up to the first other one."""
    pairs = list(zip(left, right, strict=False))
    equal = next((n for n, (a, b) in enumerate(pairs) if a != b), len(pairs))
    return equal / max(1, len(left), len(right))


def compare(reference: dict[str, Any], found: dict[str, Any]) -> dict[str, float]:
    """Mean agreement of two sets of answers."""
    kept, ids = [], []
    for name, answer in found.items():
        expected = reference[name]
        both = np.intersect1d(expected.pruning.indices, answer.pruning.indices)
        kept.append(len(both) / expected.pruning.kept)
        ids.append(same_start(expected.token_ids, answer.token_ids))
    return {"same_kept": float(np.mean(kept)), "same_ids": float(np.mean(ids)), "answers": len(ids)}


def main(
    work: Annotated[Path, typer.Argument(help="Folder of bundles and profiles.")],
    out: Annotated[Path, typer.Argument(help="JSON file to write.")],
) -> None:
    """Compare and write."""
    asked = json.loads((HERE / "recording" / "questions.json").read_text(encoding="utf-8"))
    questions = [item["question"] for item in asked["questions"]]
    reference = answers(work / REFERENCE, questions)
    equality = {n: compare(reference, answers(work / n, questions)) for n in (HALF, INT4)}
    profiles = {
        precision: json.loads((work / f"profile-{precision}.json").read_text(encoding="utf-8"))
        for precision in ("fp16", "int4")
    }
    about = profiles["fp16"]["about"]
    content = {"machine": machine(), "equality": equality, "profiles": profiles}
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    table = Table("bundle", "answers", "same tokens kept", "same ids", title="against the CPU")
    for name, found in equality.items():
        shares = (f"{found[key]:.1%}" for key in ("same_kept", "same_ids"))
        table.add_row(name, str(found["answers"]), *shares)
    console = Console()
    console.print(table)
    console.print(f"operators: {about['operators']}")
    console.print(f"written: {out}")
    half = equality[HALF]
    if half["same_kept"] < SAME_KEPT or half["same_ids"] < SAME_IDS:
        console.print(f"CUDA in half precision does not answer as the CPU does: {half}")
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
