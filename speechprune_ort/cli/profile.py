"""``speechprune-ort profile``: time, memory and arithmetic of a bundle on this machine."""

from __future__ import annotations

import functools
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from speechprune_ort.cli.grouped import grouped
from speechprune_ort.cli.help import given_options
from speechprune_ort.cli.options import (
    HEARD,
    Device,
    Heard,
    Method,
    Plugins,
    ProviderOption,
    Threads,
    load_plugins,
    provider_options,
)
from speechprune_ort.cli.quiet import tell_error
from speechprune_ort.errors import OptionError
from speechprune_ort.files import cannot_write, whole_file
from speechprune_ort.numbers import check_number
from speechprune_ort.options import DEFAULT_METHOD, DeviceName
from speechprune_ort.outputs import check_out, check_out_folder
from speechprune_ort.progress import Line
from speechprune_ort.ranges import use_nvtx
from speechprune_ort.text import check_text, counted, printable

if TYPE_CHECKING:
    from speechprune_ort.profiling.compare import Change
    from speechprune_ort.profiling.run import Profile

__all__ = ["profile"]

FAILED = 1
REPEATS, SPARE_ROUNDS = 5, 2
OF_COMPARE = ("compare", "fail_over", "quiet")  # options that --compare leaves a meaning
BUSY = 0.1  # share of the processors' time that others may take without a warning


@grouped
def profile(
    bundles: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="BUNDLE [BUNDLE]",
            help="Folder that export wrote; two bundles are measured in turns, and the second is "
            "compared with the first. Leave it out with --compare.",
        ),
    ] = None,
    audio: Annotated[
        list[Path] | None, typer.Option(help="Recording to measure with; may be repeated.")
    ] = None,
    durations: Annotated[
        str | None,
        typer.Option(
            help="Lengths of speech to generate instead of --audio, in seconds, such as 30,90,600."
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
    repeats: Annotated[
        int | None,
        typer.Option(
            help="Number of measurements of every figure. [default: 5; for two bundles, as many "
            "as it takes to tell them apart]"
        ),
    ] = None,
    warmup: Annotated[int, typer.Option(help="Rounds to run before those that are measured.")] = 1,
    loads: Annotated[
        int, typer.Option(help="Number of times to open the bundle, to measure loading.")
    ] = 3,
    audio_options: Heard = HEARD,
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
    html: Annotated[
        Path | None, typer.Option(help="HTML page to write; needs the extra [profile].")
    ] = None,
    ort_profile: Annotated[
        Path | None,
        typer.Option(
            help="Folder for traces by ONNX Runtime's own profiler, of extra answers that are not "
            "measured."
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
            help="With two bundles or --compare: exit with 1 if a ratio is above this and "
            "significantly above 1."
        ),
    ] = None,
) -> None:
    """Measure every stage of answering, with and without pruning, on this machine.

    Each round goes through all recordings and rates. Figures are medians; --format json has every
    sample. Two bundles are measured in turns and compared.
    """
    from speechprune_ort.profiling.compare import COMPARED, rounds_needed
    from speechprune_ort.profiling.report import FORMATS, PAIR_FORMATS, render, tables

    if fail_over is not None:
        check_number("--fail-over", fail_over, lambda ratio: ratio >= 1, "a ratio of at least 1")
    if compare is not None:
        vain = [name for key, name in given_options().items() if key not in OF_COMPARE]
        if bundles or vain:
            what = "a bundle" if bundles else vain[0]
            raise OptionError(f"--compare measures nothing: leave out {what}.")
        _compare(compare, fail_over)
        return
    if not bundles:
        raise OptionError("profile needs a bundle, or --compare BEFORE AFTER: give one of them.")
    if len(bundles) > 2:
        raise OptionError(f"profile takes one bundle or two, not {len(bundles)}.")
    paired = len(bundles) == 2
    if fail_over is not None and not paired:
        raise OptionError(
            "--fail-over needs two bundles, or --compare: give them, or leave out --fail-over."
        )
    forms = PAIR_FORMATS if paired else FORMATS
    if form not in forms:
        raise OptionError(f"--format takes {', '.join(forms)} here, not {form!r}.")
    for name, value in (("--plot", plot), ("--html", html), ("--ort-profile", ort_profile)):
        if paired and value is not None:
            raise OptionError(
                f"{name} is for one bundle: leave it out, or profile the bundles one by one."
            )

    from speechprune_ort.model import SpeechLLM
    from speechprune_ort.profiling.condition import ProfileOptions
    from speechprune_ort.profiling.page import check_picture, draw, page, require_matplotlib
    from speechprune_ort.profiling.run import profile_in_turns, write_traces
    from speechprune_ort.profiling.workload import QUESTION, parse_rates, sounds_of

    if plot is not None or html is not None:
        require_matplotlib()
    if plot is not None:
        check_picture(plot)
    used = [*bundles, *(audio or ()), *(plugin or ())]
    for name, path in (("--plot", plot), ("--html", html)):
        if path is not None:
            check_out(path, name, used)
            used.append(path)
    load_plugins(plugin)
    settings = parse_rates(pruning_rates, method)
    sounds = sounds_of(audio or [], durations)
    chosen = provider_options(provider_option)
    if repeats is None:
        figures = len(sounds) * len(settings) * len(COMPARED)
        repeats = rounds_needed(figures) + SPARE_ROUNDS if paired else REPEATS
    options = ProfileOptions(
        QUESTION if question is None else question,
        new_tokens,
        repeats,
        warmup,
        loads,
        audio_options,
    )
    if ort_profile is not None:
        check_text(str(ort_profile), "--ort-profile", OptionError)  # as ONNX Runtime takes it
        check_out_folder(ort_profile, "--ort-profile", used)
    if nvtx:
        use_nvtx()
    console = Console(stderr=True, markup=False)
    traces: list[Path] = []
    taken: dict[Path, DeviceName] = {}

    def opened(bundle: Path, traces_to: Path | None = None) -> SpeechLLM:
        model = SpeechLLM(bundle, taken.get(bundle, device), threads, chosen, traces_to)
        taken[bundle] = model.device.name  # what auto takes is said at the first opening
        return model

    with Line() as line:
        profiles = profile_in_turns(
            [functools.partial(opened, bundle) for bundle in bundles],
            sounds,
            settings,
            options,
            line,
        )
        if ort_profile is not None:
            line("writing traces")
            traces = write_traces(opened(bundles[0], ort_profile), sounds[0], settings, options)
    for path in traces:
        console.print(printable(f"trace: {path}"))
    for each in profiles:
        each.about["command"] = shlex.join(["speechprune-ort", *sys.argv[1:]])
        each.about["threads"] = threads
    found, busy = profiles[0], profiles[0].about["busy"]
    if busy is not None and busy > BUSY:
        console.print(
            f"warning: other programs took {busy:.0%} of the processors' time while this was "
            "measured: measure again on a quiet machine."
        )
    skipped = {c.name: c.skipped for each in profiles for c in each.conditions if c.skipped}
    for name, reason in skipped.items():
        tell_error(f"{name} was not measured: {reason}")
    if paired:
        _show_pair(profiles, form, fail_over)
        return
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


def _show_pair(profiles: Sequence[Profile], form: str, limit: float | None) -> None:
    """Print how the second of two profiles of one run compares with the first."""
    from speechprune_ort.profiling.compare import compare_in_pairs, regressions, rounds_needed
    from speechprune_ort.profiling.report import render_pair

    changes = compare_in_pairs(profiles[0].conditions, profiles[1].conditions)
    worse = [] if limit is None else regressions(changes, limit)
    needed, rounds = rounds_needed(len(changes)), profiles[0].about["repeats"]
    if rounds < needed:
        sys.stderr.write(
            f"warning: {counted(rounds, 'round')} cannot tell "
            f"{counted(len(changes), 'figure')} apart: give --repeats {needed} or more.\n"
        )
    if form == "table":
        _show_changes(changes, worse, limit)
        return
    sys.stdout.write(render_pair(profiles, changes, worse, form))
    _fail_over(worse, limit)


def _write(path: Path, content: Callable[[Path], object]) -> None:
    try:
        with whole_file(path) as partial:
            content(partial)
    except OSError as error:
        raise OptionError(cannot_write(path, error)) from None


def _compare(paths: tuple[Path, Path], limit: float | None) -> None:
    from speechprune_ort.profiling.compare import compare, read_profile, regressions

    changes = compare(*(read_profile(path) for path in paths))
    _show_changes(changes, [] if limit is None else regressions(changes, limit), limit)


def _show_changes(changes: Sequence[Change], worse: Sequence[Change], limit: float | None) -> None:
    from speechprune_ort.profiling.report import changes_table

    terminal = Console(markup=False, width=None if sys.stdout.isatty() else 150)
    terminal.print(changes_table(changes, worse))
    _fail_over(worse, limit)


def _fail_over(worse: Sequence[Change], limit: float | None) -> None:
    if worse:
        are = "is" if len(worse) == 1 else "are"
        tell_error(f"{counted(len(worse), 'figure')} {are} above {limit:g} times what they were")
        raise typer.Exit(FAILED)
