"""``speechprune-ort profile``: time, memory and arithmetic of a bundle on this machine."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from speechprune_ort.audio_options import AudioOptions
from speechprune_ort.cli.options import (
    HEARD,
    AllowSilence,
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
)
from speechprune_ort.errors import OptionError
from speechprune_ort.files import cannot_write, make_folder, whole_file
from speechprune_ort.options import DEFAULT_METHOD
from speechprune_ort.ranges import use_nvtx

__all__ = ["profile"]

FAILED = 1


def profile(
    bundle: Annotated[
        Path | None,
        typer.Argument(help="Bundle: the folder that export wrote; leave it out with --compare."),
    ] = None,
    audio: Annotated[
        list[Path] | None, typer.Option(help="Recording to measure with; may be repeated.")
    ] = None,
    durations: Annotated[
        str | None,
        typer.Option(
            help="Lengths of speech to make in the place of --audio, in seconds, such as 30,90,600."
        ),
    ] = None,
    pruning_rates: Annotated[
        str, typer.Option(help="Pruning rates, separated by commas; none keeps every token.")
    ] = "none,0,0.2,0.4,0.6,0.8",
    method: Method = DEFAULT_METHOD,
    question: Annotated[
        str | None, typer.Option(help="Question to ask about every recording.")
    ] = None,
    new_tokens: Annotated[int, typer.Option(help="Length of every answer, in tokens.")] = 32,
    repeats: Annotated[int, typer.Option(help="Number of measurements of every figure.")] = 5,
    warmup: Annotated[
        int, typer.Option(help="Rounds before the measurements that do not count.")
    ] = 1,
    loads: Annotated[
        int, typer.Option(help="How many times the bundle is opened, to measure that.")
    ] = 3,
    channel: Channel = None,
    max_seconds: MaxSeconds = HEARD.max_seconds,
    max_channels: MaxChannels = HEARD.max_channels,
    max_decoded_mb: MaxDecodedMb = HEARD.max_decoded_mb,
    max_stream_mb: MaxStreamMb = HEARD.max_stream_mb,
    silence_dbfs: SilenceDbfs = HEARD.silence_dbfs,
    allow_silence: AllowSilence = False,
    device: Device = "auto",
    threads: Threads = None,
    provider_option: ProviderOption = None,
    plugin: Plugins = None,
    form: Annotated[
        str,
        typer.Option(
            "--format", help="Format of the figures on stdout: table, md, csv, json or jsonl."
        ),
    ] = "table",
    plot: Annotated[
        Path | None, typer.Option(help="Picture to write; needs the extra [profile].")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="HTML page to write.")] = None,
    ort_profile: Annotated[
        Path | None,
        typer.Option(
            help="Folder for traces by ONNX Runtime's own profiler, of answers that do not count."
        ),
    ] = None,
    nvtx: Annotated[
        bool,
        typer.Option(
            "--nvtx", help="Mark the stages for Nsight Systems; needs the extra [profile]."
        ),
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="BEFORE AFTER", help="Compare two JSON profiles; nothing is measured."
        ),
    ] = None,
    fail_over: Annotated[
        float | None,
        typer.Option(
            help="With --compare: exit with 1 if a ratio is above this and surely above 1."
        ),
    ] = None,
) -> None:
    """Measure every stage of answering, with and without pruning, on this machine.

    Rounds pass through all recordings and rates in turn. Figures are medians; --format json has
    every sample.
    """
    from speechprune_ort.profiling.report import FORMATS, render, tables

    if compare is not None:
        _compare(compare, fail_over)
        return
    if fail_over is not None:
        raise OptionError("--fail-over needs --compare: give both, or leave out --fail-over.")
    if bundle is None:
        raise OptionError("profile needs a bundle, or --compare BEFORE AFTER: give one of them.")
    if form not in FORMATS:
        raise OptionError(f"--format takes {', '.join(FORMATS)}, not {form!r}.")
    counts = (("--new-tokens", new_tokens), ("--repeats", repeats), ("--loads", loads))
    for name, number in counts:
        if number < 1:
            raise OptionError(f"{name} must be at least 1, not {number}.")
    if warmup < 0:
        raise OptionError(f"--warmup must be at least 0, not {warmup}.")

    from speechprune_ort.model import SpeechLLM
    from speechprune_ort.profiling.condition import ProfileOptions
    from speechprune_ort.profiling.page import check_picture, draw, page, require_matplotlib
    from speechprune_ort.profiling.run import profile as measure
    from speechprune_ort.profiling.run import write_traces
    from speechprune_ort.profiling.workload import QUESTION, parse_rates, sounds_of

    if plot is not None:
        require_matplotlib()
        check_picture(plot)
    for path in (plot, html):
        if path is not None and not path.parent.is_dir():
            raise OptionError(f"{path.parent} is not a folder: create it, or write elsewhere.")
    if ort_profile is not None:
        make_folder(ort_profile)
    if nvtx:
        use_nvtx()
    load_plugins(plugin)
    settings = parse_rates(pruning_rates, method)
    sounds = sounds_of(audio or [], durations)
    chosen = provider_options(provider_option)
    heard = AudioOptions(
        channel=channel,
        max_seconds=max_seconds,
        max_channels=max_channels,
        max_decoded_mb=max_decoded_mb,
        max_stream_mb=max_stream_mb,
        silence_dbfs=silence_dbfs,
        allow_silence=allow_silence,
    )
    options = ProfileOptions(question or QUESTION, new_tokens, repeats, warmup, loads, heard)
    console = Console(stderr=True, markup=False)
    with console.status("starting") as status:
        found = measure(
            lambda: SpeechLLM(bundle, device, threads, chosen),
            sounds,
            settings,
            options,
            lambda words: status.update(words),
        )
        if ort_profile is not None:
            status.update("writing traces")
            model = SpeechLLM(bundle, device, threads, chosen, ort_profile)
            for path in write_traces(model, sounds[0], settings, options):
                console.print(f"trace: {path}")
    found.about["command"] = shlex.join(["speechprune-ort", *sys.argv[1:]])
    found.about["threads"] = threads
    if plot is not None:
        _write(plot, lambda partial: draw(found, partial, plot.suffix))
    if html is not None:
        _write(
            html,
            lambda partial: partial.write_bytes(page(found).encode("utf-8", "backslashreplace")),
        )
    if form != "table":
        sys.stdout.write(render(found, form))
        return
    terminal = Console(markup=False, width=None if sys.stdout.isatty() else 170)
    for table in tables(found):
        terminal.print(table)


def _write(path: Path, content: Callable[[Path], object]) -> None:
    try:
        with whole_file(path) as partial:
            content(partial)
    except OSError as error:
        raise OptionError(cannot_write(path, error)) from None


def _compare(paths: tuple[Path, Path], limit: float | None) -> None:
    from speechprune_ort.profiling.compare import compare, read_profile, regressions
    from speechprune_ort.profiling.report import changes_table

    if limit is not None and not limit >= 1:
        raise OptionError(f"--fail-over takes a ratio of at least 1, not {limit:g}.")
    changes = compare(*(read_profile(path) for path in paths))
    worse = [] if limit is None else regressions(changes, limit)
    terminal = Console(markup=False, width=None if sys.stdout.isatty() else 150)
    terminal.print(changes_table(changes, worse))
    if worse:
        sys.stderr.write(f"{len(worse)} figures are above {limit:g} times what they were\n")
        raise typer.Exit(FAILED)
