"""``speechprune-ort batch``: a file of questions in, a file of answers out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.cli.options import (
    HEARD,
    AllowSilence,
    Candidates,
    Channel,
    Device,
    MaxChannels,
    MaxDecodedMb,
    MaxSeconds,
    MaxStreamMb,
    Method,
    Plugins,
    ProviderOption,
    SilenceDbfs,
    Threads,
    load_plugins,
    provider_options,
    pruning_rate_of,
)
from speechprune_ort.cli.progress import Bar
from speechprune_ort.errors import OptionError
from speechprune_ort.options import (
    DEFAULT_METHOD,
    AttentionForm,
    GenerationOptions,
    LongAudio,
    Positions,
    PruningOptions,
)

__all__ = ["batch"]


def batch(
    bundle: Annotated[Path, typer.Argument(help="Folder that export wrote.")],
    requests: Annotated[
        Path, typer.Argument(help='JSONL of {"audio": ..., "question": ..., "id": ...}.')
    ],
    out: Annotated[
        Path,
        typer.Argument(
            help="JSONL of answers. An interrupted run goes on; answers of another bundle, of "
            "other options or questions are never replaced."
        ),
    ],
    method: Method = DEFAULT_METHOD,
    pruning_rate: Annotated[
        str,
        typer.Option(
            help="Share of the budget that is removed, 0 <= rate < 1; or auto: as many tokens as "
            "fit the context and the targets."
        ),
    ] = "0.2",
    latency_target: Annotated[
        float | None, typer.Option(help="For auto: seconds that reading the prompt may take.")
    ] = None,
    memory_target_mb: Annotated[
        float | None, typer.Option(help="For auto: what cache and activations may take.")
    ] = None,
    long_audio: Annotated[
        LongAudio,
        typer.Option(help="Longer than the model's window: prune, truncate to it, or error."),
    ] = "prune",
    memory_budget_mb: Annotated[
        float, typer.Option(help="Of audio embeddings; the rest goes to a temporary file.")
    ] = 192.0,
    budget: Annotated[int | None, typer.Option(help="Tokens that phase 1 leaves.")] = None,
    candidates: Candidates = None,
    frame_temperature: Annotated[
        float | None, typer.Option(help="Of phase 1's softmax; the bundle's by default.")
    ] = None,
    attention: Annotated[AttentionForm, typer.Option(help="Form of phase 2.")] = "binarized",
    single_head: Annotated[
        bool, typer.Option("--single-head", help="Phase 2 over the whole width.")
    ] = False,
    positions: Annotated[Positions, typer.Option(help="Of kept tokens.")] = "renumbered",
    max_new_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus, with temperature above 0.")] = 1.0,
    stop: Annotated[
        list[str] | None, typer.Option(help="End the answer before this text; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of sampling, random and crop.")] = 0,
    channel: Channel = None,
    max_seconds: MaxSeconds = HEARD.max_seconds,
    max_channels: MaxChannels = HEARD.max_channels,
    max_decoded_mb: MaxDecodedMb = HEARD.max_decoded_mb,
    max_stream_mb: MaxStreamMb = HEARD.max_stream_mb,
    silence_dbfs: SilenceDbfs = HEARD.silence_dbfs,
    allow_silence: AllowSilence = False,
    deadline: Annotated[
        float | None,
        typer.Option(help="Seconds that a recording and that an answer may take; else it fails."),
    ] = None,
    engine: Annotated[str, typer.Option(help="local, or ray: workers on a cluster.")] = "local",
    address: Annotated[str | None, typer.Option(help="Of the Ray cluster.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Workers on the Ray cluster.")] = 2,
    device: Device = "auto",
    threads: Threads = None,
    provider_option: ProviderOption = None,
    plugin: Plugins = None,
) -> None:
    """Answer a file of questions; each recording is encoded once for neighbouring lines.

    A line that is no request, or cannot be answered, has an "error" in OUT and ends nothing: the
    exit code is then 1. The same command tries those lines again.
    """
    from speechprune_ort.batch import BatchTask, read_requests, run_batch
    from speechprune_ort.ray_workers import RayWorkers

    if engine not in ("local", "ray"):
        raise OptionError(f"--engine takes local or ray, not {engine!r}.")
    if address is not None and engine != "ray":
        raise OptionError("--address is of --engine ray: give both or none.")
    load_plugins(plugin)
    pruning = PruningOptions(
        method=method,
        pruning_rate=pruning_rate_of(pruning_rate),
        budget=budget,
        candidates=candidates,
        frame_temperature=frame_temperature,
        attention=attention,
        single_head=single_head,
        seed=seed,
        positions=positions,
        latency_target=latency_target,
        memory_target_mb=memory_target_mb,
    )
    generation = GenerationOptions(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_p=top_p,
        seed=seed,
        stop=tuple(stop or ()),
    )
    task = BatchTask(
        bundle=bundle,
        questions=tuple(read_requests(requests)),
        pruning=pruning,
        generation=generation,
        device=device,
        threads=threads,
        provider_options=provider_options(provider_option) or {},
        plugins=tuple(plugin or ()),
        long_audio=long_audio,
        memory_budget_mb=memory_budget_mb,
        audio_options=AudioOptions(
            channel=channel,
            max_seconds=max_seconds,
            max_channels=max_channels,
            max_decoded_mb=max_decoded_mb,
            max_stream_mb=max_stream_mb,
            silence_dbfs=silence_dbfs,
            allow_silence=allow_silence,
        ),
        deadline=deadline,
    )
    ray = RayWorkers(address, workers) if engine == "ray" else None
    console = Console(stderr=True, markup=False, soft_wrap=True)
    with Bar(console, "questions") as bar:
        outcome = run_batch(task, out, requests, ray, bar)
    there = "" if outcome.new else ", all of them from an earlier run"
    console.print(f"{outcome.answered} answers in {out}{there}")
    if outcome.failed:
        console.print(f"{outcome.failed} lines failed: each has its error there")
        raise typer.Exit(1)
