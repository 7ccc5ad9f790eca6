"""A bundle as a small device runs it: one process and one thread, from its start to an answer.

    scripts/bench/bench_edge BUNDLE AUDIO [--threads 1] [--pruning-rate 0.8] [--rounds 5]

Each round is a process of its own: it imports the package, opens the bundle, and answers one
question about AUDIO. The page cache is warm and the bundle's checksums are known, as from the
second start on: the first round does not count. Medians, and the least and the most, of the seconds
to import, to load, to the first token (the recording read, heard, pruned and its prompt read), of
the tokens a second behind it, and of the resident memory at its peak.

``scripts/bench/bench_edge`` makes the environment.
"""

from __future__ import annotations

import os
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Annotated, Any

import typer
from bench.apart import apart, measured

QUESTION = "How large is the budget that the city council has approved?"
TOKENS = 32
FIGURES = {
    "import": "import, s",
    "load": "load, s",
    "first_token": "first token, s",
    "decode": "tokens a second",
    "peak": "peak memory, MB",
}


def answer(point: dict[str, Any]) -> dict[str, Any]:
    """One round, in a process that has imported nothing yet."""
    started = perf_counter()
    from speechprune_ort import GenerationOptions, SpeechLLM
    from speechprune_ort.meters import resident

    imported = perf_counter()
    model = SpeechLLM(point["bundle"], "cpu", point["threads"])
    loaded = perf_counter()
    said = model.ask(
        point["audio"], QUESTION, pruning_rate=point["rate"],
        generation=GenerationOptions(max_new_tokens=TOKENS, ignore_stop=True),
    )  # fmt: skip
    return {
        "import": imported - started,
        "load": loaded - imported,
        "first_token": said.timings.first_token,
        "decode": (len(said.token_ids) - 1) / said.timings.seconds["decode"],
        "peak": resident("VmHWM") / 1e6,
    }


def main(
    bundle: Annotated[Path, typer.Argument(help="Folder that export wrote.")],
    audio: Annotated[Path, typer.Argument(help="Recording to ask about.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads of the process.")] = 1,
    pruning_rate: Annotated[float, typer.Option(help="Of one window.")] = 0.8,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 5,
) -> None:
    """Print the table."""
    if measured(answer):
        return
    from speechprune_ort.machine import machine_words
    from speechprune_ort.markdown import markdown_table

    point = {
        "bundle": str(bundle), "audio": str(audio), "threads": threads, "rate": pruning_rate,
    }  # fmt: skip
    found = [apart(point) for _ in range(rounds + 1)][1:]
    rows = []
    for figure, title in FIGURES.items():
        values = [one[figure] for one in found]
        digits = 0 if figure == "peak" else 2
        cells = (median(values), min(values), max(values))
        rows.append((title, *(f"{value:,.{digits}f}" for value in cells)))
    print(f"{bundle.name}, {threads} threads, rate {pruning_rate:g}, {rounds} rounds;")
    print(f"load average {os.getloadavg()[0]:.1f} on {machine_words()}")
    print("\n".join(markdown_table(("", "median", "least", "most"), rows)))


if __name__ == "__main__":
    typer.run(main)
