#!/usr/bin/env python3
"""What a bundle of full size costs: loading, the paper's cost table, and an answer at every rate.

    scripts/bench/make_random_checkpoint CHECKPOINT                    # 17 GB, random weights
    speechprune-ort export CHECKPOINT BUNDLE --precision int4 --target cpu
    python scripts/bench/bench_full_size.py BUNDLE scripts/research/recording/meeting.ogg
    scripts/bench/make_random_checkpoint CHECKPOINT --remove

The table has the paper's columns (arXiv:2412.12009, table 2): a prompt of one window of audio
tokens and of what each pruning rate leaves of it, as ratios beside the paper's own.

Needs ``pip install -e '.[cpu]'``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from speechprune_ort import SpeechLLM
from speechprune_ort.evaluation.costs import measure_costs
from speechprune_ort.files import write_json
from speechprune_ort.meters import reset_peak, resident
from speechprune_ort.runtime.answering.prompt import Prompt

QUESTION = "How large is the budget that the city council has approved?"
NEW_TOKENS = 4
PAPER = {  # TFLOPs, prefill in ms, memory and activations in GB
    0.0: (12.20, 779, 13.40, 0.19),
    0.2: (10.06, 662, 13.32, 0.15),
    0.4: (7.93, 511, 13.24, 0.11),
    0.6: (5.79, 419, 13.17, 0.07),
    0.8: (3.66, 278, 13.09, 0.04),
}
HEADINGS = (
    "rate", "prompt tokens", "TFLOPs", "of rate 0", "paper", "prefill s", "of rate 0", "paper",
    "memory GB", "activations GB", "of rate 0", "paper",
)  # fmt: skip

console = Console(stderr=True)


def main(
    bundle: Annotated[Path, typer.Argument(help="Folder that export wrote.")],
    audio: Annotated[Path, typer.Argument(help="Recording to ask about.")],
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of prefill.")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="Threads within an operator.")] = 2,
    out: Annotated[Path | None, typer.Option("--json", help="File for all figures.")] = None,
) -> None:
    """Print what was found."""
    files = sum(path.stat().st_size for path in bundle.iterdir())
    before = resident("VmRSS")
    reset_peak()
    model = SpeechLLM(bundle, "cpu", threads)
    loaded, peak = (resident(name) - before for name in ("VmRSS", "VmHWM"))
    print(
        f"loading {files / 1e9:.2f} GB of files takes {loaded / 1e9:.2f} GB of memory "
        f"({loaded / files:.2f} times), at its peak {peak / 1e9:.2f} GB ({peak / files:.2f} times)"
    )
    window = model.manifest.dimensions.window_tokens
    prompt = Prompt.of(model.engine, QUESTION)
    kept = {str(rate): round(window * (1 - rate)) for rate in PAPER}
    with console.status("prefill"):
        costs = measure_costs(model, kept, len(prompt.ids), repeats)
    table = Table(*HEADINGS)
    whole, papers = costs["0.0"], PAPER[0.0]
    for rate, paper in PAPER.items():
        cost = costs[str(rate)]
        row = [str(rate), str(cost.prompt_tokens)]
        row += [f"{cost.tflops or 0:.2f}", f"{(cost.tflops or 0) / (whole.tflops or 1):.2f}"]
        row += [f"{paper[0] / papers[0]:.2f}", f"{cost.prefill_ms / 1000:.1f}"]
        row += [f"{cost.prefill_ms / whole.prefill_ms:.2f}", f"{paper[1] / papers[1]:.2f}"]
        row += [f"{cost.memory_gb or 0:.2f}", f"{cost.activation_gb or 0:.3f}"]
        row += [f"{(cost.activation_gb or 0) / (whole.activation_gb or 1):.2f}"]
        table.add_row(*row, f"{paper[3] / papers[3]:.2f}")
    Console(width=150).print(table)
    with console.status("listening"):
        recording = model.listen(audio)
    answers = {}
    for rate in PAPER:
        with console.status(f"an answer at {rate}"):
            answer = recording.ask(
                QUESTION, method="speechprune", pruning_rate=rate, max_new_tokens=NEW_TOKENS
            )
        stages = answer.timings.seconds
        pruning = stages.get("phase_1", 0.0) + stages.get("phase_2", 0.0)
        answers[str(rate)] = answer.to_dict()
        print(
            f"rate {rate}: {answer.pruning.kept} of {answer.pruning.total} tokens, pruning "
            f"{pruning:.2f} s, prefill {stages['prefill']:.1f} s, "
            f"{1 / answer.tokens_per_second if answer.tokens_per_second else 0:.2f} s a token: ids "
            f"{list(answer.token_ids)}"
        )
    if out is not None:
        content = {
            "files_bytes": files,
            "loaded_bytes": loaded,
            "loading_peak_bytes": peak,
            "costs": {name: cost.to_dict() for name, cost in costs.items()},
            "listening": recording.timings.seconds,
            "answers": answers,
        }
        write_json(out, content)


if __name__ == "__main__":
    typer.run(main)
