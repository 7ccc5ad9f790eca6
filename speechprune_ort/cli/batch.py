"""``speechprune-ort batch``: a file of questions in, a file of answers out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from speechprune_ort.cli.grouped import grouped
from speechprune_ort.cli.options import (
    GENERATED,
    HEARD,
    KEPT,
    WORDED,
    Address,
    Bundle,
    Device,
    Engine,
    Generated,
    Heard,
    Kept,
    LongRecordings,
    MemoryBudgetMb,
    ProviderOption,
    Samples,
    ShowEvidence,
    Threads,
    Worded,
    Workers,
    check_engine,
    provider_options,
)
from speechprune_ort.cli.quiet import tell_error
from speechprune_ort.progress import Bar
from speechprune_ort.text import counted, printable

__all__ = ["batch"]


@grouped
def batch(
    bundle: Bundle,
    requests: Annotated[
        Path,
        typer.Argument(help='Questions, one per line: {"audio": ..., "question": ..., "id": ...}.'),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="File of answers, one per line. An interrupted run goes on where it stopped; "
            "answers from another bundle, with other options or to other questions are never "
            "replaced."
        ),
    ],
    keeping: Kept = KEPT,
    long_audio: LongRecordings = "prune",
    memory_budget_mb: MemoryBudgetMb = 192.0,
    generation: Generated = GENERATED,
    samples: Samples = 1,
    wording: Worded = WORDED,
    audio_options: Heard = HEARD,
    deadline: Annotated[
        float | None,
        typer.Option(
            help="Seconds allowed for reading each recording and for each answer; whatever takes "
            "longer becomes an error line."
        ),
    ] = None,
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = 2,
    device: Device = "auto",
    threads: Threads = None,
    provider_option: ProviderOption = None,
    evidence: ShowEvidence = False,
) -> None:
    """Answer a file of questions; each recording is encoded once for neighbouring lines.

    A line that is not a request, or that cannot be answered, gets an "error" in OUT, and the other
    lines are answered; the exit code is then 1. The same command tries the failed lines again.
    """
    from speechprune_ort.batch import BatchTask, read_requests, run_batch
    from speechprune_ort.ray_workers import RayWorkers

    check_engine(engine, address)
    pruning = keeping.options(bundle, generation.seed)
    task = BatchTask(
        bundle=bundle,
        questions=tuple(read_requests(requests)),
        pruning=pruning,
        generation=generation,
        device=device,
        threads=threads,
        provider_options=provider_options(provider_option) or {},
        plugins=tuple(keeping.plugin or ()),
        long_audio=long_audio,
        memory_budget_mb=memory_budget_mb,
        audio_options=audio_options,
        deadline=deadline,
        wording=wording,
        samples=samples,
        evidence=evidence,
    )
    ray = RayWorkers(address, workers) if engine == "ray" else None
    console = Console(stderr=True, markup=False, soft_wrap=True)
    with Bar(console, "questions") as bar:
        outcome = run_batch(task, out, requests, ray, bar)
    there = "" if outcome.new else ", all of them from an earlier run"
    console.print(printable(f"{counted(outcome.answered, 'answer')} in {out}{there}"))
    if outcome.failed:
        tell_error(f'{counted(outcome.failed, "line")} failed: the file has the reasons as "error"')
        raise typer.Exit(1)
