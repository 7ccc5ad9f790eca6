"""Time and memory against length, pruning rate and number of answers, as tables and a picture.

    scripts/bench/bench_scaling BUNDLE AUDIO OUT
        [--durations 30,90,300,1200,3600,10800] [--pruning-rates none,0.2,0.8]
        [--answers 1,2,4,8,16] [--threads 2] [--rounds 3] [--seconds 120]

AUDIO is repeated to each length as a file. Each point of the curves hears it and answers one
question in a process of its own, so that its peak of memory is its own, too. A point has
``--rounds`` processes, but no further one once they took ``--seconds`` together; the tables say how
many there were. What does not fit into the model's context is named. Several answers are prompts of
150 random tokens and 64 tokens each, decoded together. An empty list leaves its part out.

Writes OUT.json, OUT.md and OUT.png. A point is in OUT.json as soon as it is measured, and the same
command goes on behind it after an interruption; once all are there, it measures anew.
``scripts/bench/bench_scaling`` makes the environment.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer
from bench.apart import apart, measured
from rich.console import Console
from rich.progress import track

if TYPE_CHECKING:
    from matplotlib.axes import Axes

QUESTION = "How large is the budget that the city council has approved?"
TOKENS = 16
PROMPT, STEPS = 150, 64
COLOURS: Mapping[str, str] = {"none": "#222222", "0.2": "#0072b2", "0.8": "#d55e00"}

console = Console(stderr=True, highlight=False, soft_wrap=True)


def numbers(option: str, text: str) -> list[int]:
    """Positive numbers, separated by commas; none of nothing.

    Raises:
        typer.BadParameter: it is something else.
    """
    from speechprune_ort.errors import OptionError
    from speechprune_ort.numbers import numbers_in

    try:
        found = [int(number) for number in numbers_in(option, text, int)] if text else []
    except OptionError as error:
        raise typer.BadParameter(str(error)) from None
    if any(number < 1 for number in found):
        raise typer.BadParameter(f"{option} {text}: give positive numbers.")
    return found


def measure_answer(point: Mapping[str, Any]) -> dict[str, Any]:
    """Hear a file and answer once: seconds, and bytes at the peak."""
    from speechprune_ort import GenerationOptions, PromptError, PruningOptions, SpeechLLM
    from speechprune_ort.meters import resident

    model = SpeechLLM(point["bundle"], "cpu", point["threads"])
    rate = point["rate"]
    pruning = PruningOptions("none") if rate == "none" else PruningOptions(pruning_rate=float(rate))
    generation = GenerationOptions(max_new_tokens=TOKENS, ignore_stop=True)
    started = perf_counter()
    recording = model.listen(point["audio"])
    heard = perf_counter()
    try:
        said = recording.ask(QUESTION, pruning=pruning, generation=generation)
    except PromptError as error:
        return {"skipped": str(error)}
    return {
        "hearing": heard - started,
        "asking": perf_counter() - heard,
        "first_token": heard - started + said.timings.first_token,
        "kept": said.pruning.kept,
        "tokens": recording.tokens,
        "peak": resident("VmHWM"),
    }


def measure_batch(point: Mapping[str, Any]) -> dict[str, Any]:
    """Read prompts and decode behind them together: seconds, and bytes at the peak."""
    from bench.bench_batch import random_prompts, said

    from speechprune_ort import SpeechLLM
    from speechprune_ort.meters import resident

    model = SpeechLLM(point["bundle"], "cpu", point["threads"])
    prompts = random_prompts(model, [PROMPT] * point["answers"])
    said(model, prompts, 2)  # warms up
    _, reading, decoding = said(model, prompts, STEPS)
    return {
        "reading": reading[0],
        "decoding": decoding[0],
        "rate": point["answers"] * (STEPS - 1) / decoding[0],
        "peak": resident("VmHWM"),
    }


def measure(point: dict[str, Any]) -> dict[str, Any]:
    """A point of either part."""
    return measure_batch(point) if "answers" in point else measure_answer(point)


def rounds_of(point: Mapping[str, Any], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """What up to ``rounds`` processes found.

    Raises:
        typer.Exit: one failed.
    """
    found: list[dict[str, Any]] = []
    started = perf_counter()
    while len(found) < rounds and (not found or perf_counter() - started < seconds):
        found.append(apart(point))
        if "skipped" in found[-1]:
            break
    return found


class Points:
    """What is measured, in a file that has each point as soon as it is there.

    Args:
        path: the file.
        common: what holds for every point; a file of others is not gone on with.
    """

    def __init__(self, path: Path, common: Mapping[str, Any]) -> None:
        self.path = path
        self.content: dict[str, Any] = {**common, "complete": False, "lengths": [], "batches": []}
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if before.get("complete") is False and all(before.get(k) == common[k] for k in common):
            self.content = before

    def found(self, part: str, point: Mapping[str, Any]) -> list[dict[str, Any]] | None:
        """The rounds of a point; None where it is still to be measured."""
        return next(
            (p["rounds"] for p in self.content[part] if all(p[k] == point[k] for k in point)), None
        )

    def add(self, part: str, point: Mapping[str, Any], rounds: Sequence[Any]) -> None:
        """A point, into the file."""
        self.content[part].append({**point, "rounds": rounds})
        self.write()

    def write(self) -> None:
        """The file as a whole."""
        from speechprune_ort.files import write_json

        write_json(self.path, self.content)


def repeated(audio: Path, seconds: int, folder: Path) -> Path:
    """A recording repeated to a length, as a file."""
    import numpy as np
    import soundfile

    from speechprune_ort.runtime.hearing.audio import SAMPLING_RATE, load_audio

    samples = load_audio(audio)
    path = folder / f"{seconds}.wav"
    left = seconds * SAMPLING_RATE
    with soundfile.SoundFile(path, "w", SAMPLING_RATE, 1, "PCM_16") as file:
        while left:
            part = np.clip(samples[:left], -1, 1)
            file.write(part)
            left -= len(part)
    return path


def middle(found: Sequence[Mapping[str, Any]], name: str) -> float:
    """Median of a figure over the rounds."""
    return float(median(one[name] for one in found))


def tables(content: Mapping[str, Any]) -> str:
    """Markdown of all points."""
    from speechprune_ort.markdown import markdown_table

    lengths = []
    for point in content["lengths"]:
        found = point["rounds"]
        if "skipped" in found[0]:
            cells: list[object] = ["", "does not fit", "", "", ""]
        else:
            cells = [
                f"{found[0]['kept']:,} of {found[0]['tokens']:,}",
                f"{middle(found, 'hearing'):,.1f}", f"{middle(found, 'first_token'):,.1f}",
                f"{middle(found, 'asking'):,.1f}", f"{middle(found, 'peak') / 1e6:,.0f}",
            ]  # fmt: skip
        lengths.append([f"{point['seconds']:,}", point["rate"], *cells, len(found)])
    heads = ["seconds of audio", "pruning rate", "tokens kept", "hearing, s", "first token, s",
             f"a further question, {TOKENS} tokens, s", "peak MB", "rounds"]  # fmt: skip
    batches = [
        [
            point["answers"], f"{middle(found, 'reading'):,.2f}",
            f"{middle(found, 'decoding'):,.2f}", f"{middle(found, 'rate'):,.1f}",
            f"{middle(found, 'peak') / 1e6:,.0f}", len(found),
        ]
        for point in content["batches"] for found in [point["rounds"]]
    ]  # fmt: skip
    heads_of_batches = ["answers at once", "reading, s", f"decoding {STEPS} tokens each, s",
                        "tokens a second, all together", "peak MB", "rounds"]  # fmt: skip
    parts = [(heads, lengths), (heads_of_batches, batches)]
    return "\n\n".join("\n".join(markdown_table(*part)) for part in parts if part[1]) + "\n"


def draw(content: Mapping[str, Any], path: Path) -> None:
    """Time and memory against length, tokens a second and memory against answers."""
    from matplotlib.figure import Figure

    from speechprune_ort.files import save_figure

    lengths = [p for p in content["lengths"] if "skipped" not in p["rounds"][0]]
    batches = content["batches"]
    rows = bool(lengths) + bool(batches)
    figure = Figure(figsize=(8, 3.4 * rows), dpi=140, layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False)
    if lengths:
        _draw_lengths(lengths, *grid[0])
    if batches:
        answers = [point["answers"] for point in batches]
        for axes, name, unit, title in (
            (grid[-1][0], "rate", 1, "tokens a second, all together"),
            (grid[-1][1], "peak", 1e9, "peak of memory, GB"),
        ):
            figures = [middle(point["rounds"], name) / unit for point in batches]
            axes.plot(answers, figures, marker="o", markersize=4, color=COLOURS["none"])
            axes.set_ylim(0, 1.1 * max(figures))
            axes.set_xticks(answers)
            axes.set_xlabel("answers at once")
            axes.set_title(title, fontsize=10)
    for axes in grid.flat:
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path, ".png")


def _draw_lengths(points: Sequence[Mapping[str, Any]], time: Axes, memory: Axes) -> None:
    for rate in dict.fromkeys(point["rate"] for point in points):
        of_rate = [point for point in points if point["rate"] == rate]
        x = [point["seconds"] for point in of_rate]
        label = "every token" if rate == "none" else f"pruning rate {rate}"
        for axes, name, unit in ((time, "first_token", 1), (memory, "peak", 1e9)):
            figures = [middle(point["rounds"], name) / unit for point in of_rate]
            axes.plot(x, figures, marker="o", markersize=4, color=COLOURS.get(rate), label=label)
    seconds = sorted({point["seconds"] for point in points})
    for axes, title in ((time, "first token, s"), (memory, "peak of memory, GB")):
        axes.set_xscale("log")
        axes.set_xticks(seconds, [f"{s:,}" for s in seconds], fontsize=7)
        axes.minorticks_off()
        axes.set_xlabel("seconds of audio")
        axes.set_title(title, fontsize=10)
    time.set_yscale("log")
    time.yaxis.set_major_formatter("{x:g}")
    memory.set_ylim(0, 1.1 * max(middle(point["rounds"], "peak") / 1e9 for point in points))
    time.legend(fontsize=8, frameon=False)


def main(
    bundle: Annotated[Path, typer.Argument(help="Folder that export wrote.")],
    audio: Annotated[Path, typer.Argument(help="Recording that is repeated.")],
    out: Annotated[Path, typer.Argument(help="What is written, without ending.")],
    durations: Annotated[str, typer.Option(help="Seconds.")] = "30,90,300,1200,3600,10800",
    pruning_rates: Annotated[str, typer.Option(help="Rates, or none.")] = "none,0.2,0.8",
    answers: Annotated[str, typer.Option(help="Answers at once.")] = "1,2,4,8,16",
    threads: Annotated[int, typer.Option(min=1, help="Threads of a process.")] = 2,
    rounds: Annotated[int, typer.Option(min=1, help="Processes of a point.")] = 3,
    seconds: Annotated[float, typer.Option(help="After which none is added.")] = 120,
) -> None:
    """Measure, and write the tables and the picture."""
    if measured(measure):
        return
    from speechprune_ort.files import write_whole
    from speechprune_ort.machine import machine, machine_words

    lengths, several = numbers("--durations", durations), numbers("--answers", answers)
    opened = {"bundle": str(bundle), "threads": threads}
    points = Points(out.with_suffix(".json"), {
        "machine": machine(), "threads": threads, "bundle": bundle.name, "audio": audio.name,
        "asked": {
            "durations": durations, "pruning_rates": pruning_rates, "answers": answers,
            "rounds": rounds, "seconds": seconds,
        },
    })  # fmt: skip
    too_long: dict[str, list[dict[str, Any]]] = {}  # what no longer recording fits either
    with tempfile.TemporaryDirectory() as folder:
        for length in track(sorted(lengths), "lengths", console=console):
            file: Path | None = None
            for rate in pruning_rates.split(","):
                point: dict[str, Any] = {"seconds": length, "rate": rate}
                made = points.found("lengths", point)
                if made is None:
                    file = file or repeated(audio, length, Path(folder))
                    asked = {**opened, **point, "audio": str(file)}
                    made = too_long.get(rate) or rounds_of(asked, rounds, seconds)
                    points.add("lengths", point, made)
                if "skipped" in made[0]:
                    too_long[rate] = made
            if file:
                file.unlink()
    for count in track(several, "answers", console=console):
        if points.found("batches", {"answers": count}) is None:
            made = rounds_of({**opened, "answers": count}, rounds, seconds)
            points.add("batches", {"answers": count}, made)
    points.content["complete"] = True
    points.write()
    write_whole(out.with_suffix(".md"), tables(points.content))
    draw(points.content, out.with_suffix(".png"))
    print(f"{bundle.name}, {threads} threads; load average {os.getloadavg()[0]:.1f}")
    print(f"on {machine_words()}")
    print(tables(points.content))


if __name__ == "__main__":
    typer.run(main)
