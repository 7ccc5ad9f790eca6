"""``speechprune-ort eval``: accuracy of a bundle on recordings with choices."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from speechprune_ort.cli.grouped import grouped
from speechprune_ort.cli.options import (
    DRAWING,
    HEARD,
    Address,
    Attention,
    Budget,
    Bundle,
    Device,
    Engine,
    FrameTemperature,
    Heard,
    KeptPositions,
    MethodOption,
    Plugins,
    ProviderOption,
    SingleHead,
    Threads,
    Workers,
    check_engine,
    load_plugins,
    own_options,
    provider_options,
)
from speechprune_ort.cli.quiet import tell_error
from speechprune_ort.cli.tasks import Map, Task
from speechprune_ort.errors import OptionError
from speechprune_ort.numbers import numbers_in
from speechprune_ort.options import PruningOptions
from speechprune_ort.progress import Bar
from speechprune_ort.runtime.choosing.methods.speechprune import COMPARISON, PAPER_METHOD
from speechprune_ort.text import printable

if TYPE_CHECKING:
    from speechprune_ort.evaluation.executor import Executor

__all__ = ["evaluate"]


def _methods(text: str, name: str) -> list[str]:
    from speechprune_ort.methods import METHODS

    methods = list(METHODS) if text == "all" else text.split(",")
    for method in methods:
        if method not in METHODS:
            raise OptionError(f"{name} takes all, or some of {', '.join(METHODS)}, not {method!r}.")
    return methods


@grouped
def evaluate(
    bundle: Bundle,
    data: Annotated[
        Path,
        typer.Option(
            help="Folder of the SPIRAL benchmark or of a task, or a JSONL or JSON file of "
            "recordings with choices."
        ),
    ],
    task: Task = None,
    fields: Map = None,
    out: Annotated[
        Path,
        typer.Option(help="Folder for the results; an interrupted run goes on where it stopped."),
    ] = (Path("results")),
    methods: Annotated[
        str, typer.Option(help="Methods to judge, separated by commas, or all.")
    ] = ",".join(COMPARISON),
    pruning_rates: Annotated[
        str, typer.Option(help="Pruning rates, separated by commas.")
    ] = "0.2,0.4,0.6,0.8",
    seeds: Annotated[
        str, typer.Option(help=f"Seeds for the methods {DRAWING}, separated by commas.")
    ] = "0",
    compare: Annotated[
        str,
        typer.Option(
            help="Methods that are compared with every other at the same rate, recording by "
            "recording; separated by commas, or all."
        ),
    ] = PAPER_METHOD,
    scoring: Annotated[
        str,
        typer.Option(
            help="How a choice is scored: by its likelihood, by the likeliest letter (letter), or "
            "by the letter in a generated answer (generate)."
        ),
    ] = "likelihood",
    shuffle_choices: Annotated[
        bool,
        typer.Option(
            "--shuffle-choices/--as-published",
            help="Order of the choices: shuffled by --seed, or as published.",
        ),
    ] = True,
    seed: Annotated[
        int, typer.Option(help="Seed for the order of the choices, for --sample and for noise.")
    ] = 0,
    limit: Annotated[
        int | None, typer.Option(help="Largest number of samples to judge, counted from the first.")
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(
            help="Judge a random subset of this size, stratified by the type of recording."
        ),
    ] = None,
    noise: Annotated[
        str | None,
        typer.Option(
            help="Signal-to-noise ratios in dB for white noise and babble, such as snr=20,10,5,0; "
            "also adds the reverberation of a room."
        ),
    ] = None,
    speed: Annotated[
        str | None,
        typer.Option(help="Speeds to play the recordings at, as factors such as 0.9,1.1."),
    ] = None,
    telephone: Annotated[
        bool,
        typer.Option(
            "--telephone",
            help="Also judge the recordings through a telephone's band, 300 to 3400 Hz.",
        ),
    ] = False,
    controls: Annotated[
        bool,
        typer.Option(
            help="Also judge without audio, with another recording, and with the transcript "
            "as text."
        ),
    ] = True,
    costs: Annotated[
        bool, typer.Option(help="Measure the time and memory that reading the prompts takes.")
    ] = True,
    plots: Annotated[bool, typer.Option(help="Draw pictures; needs the extra [eval].")] = True,
    budget: Budget = None,
    candidates: Annotated[
        str | None,
        typer.Option(
            help="Tokens that the first phase leaves to the second for each kept token, separated "
            "by commas; by default each method's own number."
        ),
    ] = None,
    frame_temperature: FrameTemperature = None,
    attention: Attention = None,
    single_head: SingleHead = False,
    method_option: MethodOption = None,
    positions: KeptPositions = "renumbered",
    audio_options: Heard = HEARD,
    engine: Engine = "local",
    address: Address = None,
    workers: Workers = 2,
    device: Device = "auto",
    threads: Threads = None,
    provider_option: ProviderOption = None,
    plugin: Plugins = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Score a bundle on recordings with choices, every accuracy with its interval."""
    from speechprune_ort.evaluation import plan_of, power_of, run, settings_of
    from speechprune_ort.evaluation.plots import require_plots

    if plots:
        require_plots()
    load_plugins(plugin)
    rivals = _methods(compare, "--compare")
    executor = _executor(engine, address, workers)
    base = PruningOptions(budget=budget, positions=positions)
    own = own_options(
        method_option,
        frame_temperature=frame_temperature,
        attention=attention,
        single_head=single_head,
    )
    settings = settings_of(
        _methods(methods, "--methods"),
        numbers_in("--pruning-rates", pruning_rates),
        [int(value) for value in numbers_in("--seeds", seeds, int)],
        base,
        () if candidates is None else numbers_in("--candidates", candidates),
        own,
    )
    plan = plan_of(
        bundle,
        data,
        settings,
        task=task,
        fields=fields,
        limit=limit,
        sample=sample,
        shuffle=shuffle_choices,
        seed=seed,
        noise=noise,
        speed=speed,
        telephone=telephone,
        scoring=scoring,  # type: ignore[arg-type]
        controls=controls,
        device=device,
        threads=threads,
        provider_options=provider_options(provider_option),
        plugins=plugin or (),
        audio_options=audio_options,
    )
    console = Console(stderr=True, markup=False, soft_wrap=True)
    told = iter([power_of(plan, rivals)])
    with Bar(console, "samples") as bar:

        def progress(done: int, every: int) -> None:
            for sentence in told:  # once, when the folder of results is known to be good
                console.print(sentence)
            bar(done, every)

        report = run(
            plan,
            out,
            compare=rivals,
            executor=executor,
            costs=costs,
            plots=plots,
            command=shlex.join(["speechprune-ort", *sys.argv[1:]]),
            progress=progress,
        )
    for name, reason in report.summary.failed.items():
        tell_error(f"not used: {name}: {reason}")
    if as_json:
        sys.stdout.write((out / "results.json").read_text(encoding="utf-8"))
        return
    # A file or a pipe gets the tables at full width.
    terminal = Console(markup=False, width=None if sys.stdout.isatty() else 150)
    for table in report.tables():
        terminal.print(table)
    written = "results.json, results.csv, results.tex, report.md"
    pictures = " and pictures" if report.plots else ""
    console.print(printable(f"{written}{pictures} are in {out}"))


def _executor(name: str, address: str | None, workers: int) -> Executor:
    from speechprune_ort.evaluation.executor import LocalExecutor

    if workers < 1:
        raise OptionError(f"--workers must be at least 1, not {workers}.")
    check_engine(name, address)
    if name == "local":
        return LocalExecutor()
    from speechprune_ort.evaluation.ray_executor import RayExecutor

    return RayExecutor(address, workers)
