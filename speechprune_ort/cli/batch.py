"""``speechprune-ort batch``: a file of questions in, a file of answers out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from speechprune_ort.cli.options import (
    Candidates,
    Device,
    Method,
    Plugins,
    ProviderOption,
    Threads,
    load_plugins,
    provider_options,
)
from speechprune_ort.errors import OptionError
from speechprune_ort.options import DEFAULT_METHOD, GenerationOptions, PruningOptions

__all__ = ["batch"]


def batch(
    bundle: Annotated[Path, typer.Argument(help="Folder that export wrote.")],
    requests: Annotated[
        Path, typer.Argument(help='JSONL of {"audio": ..., "question": ..., "id": ...}.')
    ],
    out: Annotated[Path, typer.Argument(help="JSONL of answers; an interrupted run goes on.")],
    method: Method = DEFAULT_METHOD,
    pruning_rate: Annotated[float, typer.Option(help="Share of the budget removed.")] = 0.2,
    budget: Annotated[int | None, typer.Option(help="Tokens that phase 1 leaves.")] = None,
    candidates: Candidates = None,
    frame_temperature: Annotated[
        float | None, typer.Option(help="Of phase 1's softmax; the bundle's by default.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 128,
    engine: Annotated[str, typer.Option(help="local, or ray: workers on a cluster.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Workers on the Ray cluster.")] = 2,
    device: Device = "auto",
    threads: Threads = None,
    provider_option: ProviderOption = None,
    plugin: Plugins = None,
) -> None:
    """Answer a file of questions; each recording is encoded once for neighbouring lines."""
    from speechprune_ort.batch import BatchTask, answer_all, read_requests
    from speechprune_ort.ray_workers import RayWorkers

    if engine not in ("local", "ray"):
        raise OptionError(f"--engine takes local or ray, not {engine!r}.")
    load_plugins(plugin)
    task = BatchTask(
        bundle=bundle,
        requests=tuple(read_requests(requests)),
        pruning=PruningOptions(
            method=method,
            pruning_rate=pruning_rate,
            budget=budget,
            candidates=candidates,
            frame_temperature=frame_temperature,
        ),
        generation=GenerationOptions(max_new_tokens=max_new_tokens),
        device=device,
        threads=threads,
        provider_options=provider_options(provider_option) or {},
        plugins=tuple(plugin or ()),
    )
    order = [name for request in task.requests for name in request.ids]
    partial = out.with_name(f"{out.name}.partial")
    source = out if out.exists() else partial
    lines = _whole_lines(source)
    answers = {line["id"]: line for line in lines if line["id"] in set(order)}
    ray = RayWorkers(address, workers) if engine == "ray" else None
    groups = answer_all(task, list(answers), ray)
    console = Console(stderr=True, markup=False, soft_wrap=True)
    missing = sum(any(name not in answers for name in r.ids) for r in task.requests)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text("".join(json.dumps(line) + "\n" for line in answers.values()), "utf-8")
    with partial.open("a", encoding="utf-8") as stream:
        for group in track(groups, "recordings", total=missing, console=console):
            for line in group:
                answers[line["id"]] = line
                stream.write(json.dumps(line) + "\n")
            stream.flush()
    # In the order of the questions, whoever answered first.
    partial.write_text("".join(json.dumps(answers[name]) + "\n" for name in order), "utf-8")
    partial.replace(out)
    failed = sum("error" in line for line in answers.values())
    console.print(f"{len(order)} answers in {out}, {failed} of them errors")


def _whole_lines(path: Path) -> list[dict[str, str]]:
    """The lines of an earlier run, without errors and without one that a kill cut in two."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if "error" not in entry:
            lines.append(entry)
    return lines
