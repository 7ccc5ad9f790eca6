#!/usr/bin/env python3
"""Set the pruning of audio tokens beside transcribing: the same language model, as many tokens.

    scripts/research/text_baselines BUNDLE DATA [--out RESULTS]     # makes the environments, too
    python -m research.text_baselines BUNDLE DATA --out RESULTS --transcriber PYTHON

DATA is what ``speechprune-ort eval`` reads. Two settings join its methods in one table:

- ``transcript@RATE``: Whisper's transcript stands in the audio's place, as the language model's own
  token embeddings, cut to as many tokens as a method keeps at that rate;
- ``sentences@RATE``: those of its sentences that are most like the question (TF-IDF), as many as
  fit into so many tokens, in their order.

Both have their own time: Whisper's, beside the bundle's encoder's, recording by recording in turns,
with the same number of threads. RESULTS gets what ``eval`` writes, ``transcripts.jsonl``, and in
the report the medians of both times. An interrupted run goes on.

Needs ``pip install -e '.[cpu,eval]'`` and, in an environment of its own, faster-whisper.
"""

from __future__ import annotations

import shlex
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Literal

import numpy as np
import typer
from numpy.typing import NDArray
from research.transcripts import WORKER, Transcriber, retrieved, sentences, whisper_base
from rich.console import Console
from user_errors import one_sentence

from speechprune_ort.evaluation.costs import Cost, measure_costs
from speechprune_ort.evaluation.executor import Judged
from speechprune_ort.evaluation.judge import EVERYTHING, Judge
from speechprune_ort.evaluation.perturbation import CLEAN, Perturbation
from speechprune_ort.evaluation.plan import Plan, Work
from speechprune_ort.evaluation.report import Report
from speechprune_ort.evaluation.rows import Rows, judge_all
from speechprune_ort.evaluation.samples import Sample, shuffled
from speechprune_ort.evaluation.scoring import Chooser
from speechprune_ort.evaluation.settings import Setting, settings_of
from speechprune_ort.evaluation.summary import Summary, summarize
from speechprune_ort.evaluation.tasks import read_given
from speechprune_ort.journal import Journal
from speechprune_ort.machine import machine_words
from speechprune_ort.model import SpeechLLM
from speechprune_ort.models.store import cache_folder
from speechprune_ort.numbers import numbers_in
from speechprune_ort.options import PruningOptions
from speechprune_ort.progress import Bar
from speechprune_ort.recording import Recording
from speechprune_ort.runtime.answering.prompt import Prompt

KINDS: tuple[Literal["transcript"], Literal["sentences"]] = ("transcript", "sentences")

console = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class TextSetting(Setting):
    """A transcript in the audio's place, of as many tokens as ``options`` keep of the audio.

    Attributes:
        kind: the beginning of the transcript, or sentences of it.
    """

    kind: Literal["transcript", "sentences"] = "transcript"

    @property
    def name(self) -> str:
        """``transcript@0.2``."""
        return f"{self.kind}@{self.options.rate:g}"


def text_settings(rates: Sequence[float]) -> list[Setting]:
    """Both kinds at every rate."""
    return [
        TextSetting(PruningOptions(method="truncate", pruning_rate=rate), kind=kind)
        for rate in rates
        for kind in KINDS
    ]


def words_for(
    model: SpeechLLM, kind: str, text: str, question: str, most: int
) -> NDArray[np.floating[Any]]:
    """Token embeddings (tokens, hidden) of what of a transcript is read for a question.

    Args:
        model: the bundle.
        kind: of ``TextSetting``.
        text: the transcript.
        question: what is asked.
        most: tokens.
    """
    if kind == "sentences" and (said := sentences(text)):
        sizes = [len(model.embed_text(f" {sentence}")) for sentence in said]
        text = " ".join(said[index] for index in retrieved(question, said, sizes, most))
    return model.embed_text(text)[:most]


class TextJudge(Judge):
    """Judges settings of text beside those of audio.

    Args:
        plan: what to do.
        transcriber: gives the words of a recording.
    """

    def __init__(self, plan: Plan, transcriber: Transcriber) -> None:
        super().__init__(plan)
        self._transcriber = transcriber

    def result(
        self,
        chooser: Chooser,
        recording: Recording,
        setting: Setting,
        sample: Sample,
        perturbation: Perturbation,
    ) -> dict[str, Any]:
        """See ``Judge``; of text also the seconds of listening, transcribing and choosing."""
        if not isinstance(setting, TextSetting):
            return super().result(chooser, recording, setting, sample, perturbation)
        said = self._transcriber(sample.audio)
        window = self.model.manifest.dimensions.window_tokens
        most = setting.options.kept_tokens(recording.tokens, window)
        started = perf_counter()
        embeds = words_for(self.model, setting.kind, said.text, sample.question, most)
        spent = perf_counter() - started
        choice = chooser(self.model.recall(embeds), EVERYTHING)
        return {
            "seeds": list(setting.seeds),
            "chosen": [choice.index],
            "kept": len(embeds),
            "seconds": {
                "listen": recording.timings.total,
                "transcribe": said.seconds,
                "choose": spent,
            },
        }


@dataclass(frozen=True)
class TextExecutor:
    """In this process, with a transcriber beside it."""

    transcriber: Transcriber

    def run(self, plan: Plan, works: Sequence[Work]) -> Iterator[Judged]:
        """See ``Executor``."""
        if not works:
            return
        judge = TextJudge(plan, self.transcriber)
        for work in works:
            yield work.index, judge.rows(work)


def median_seconds(rows: Rows, name: str) -> dict[str, float]:
    """Medians over the recordings of the seconds that a setting of text took."""
    found = [
        row[CLEAN.name]["settings"][name]["seconds"]
        for row in rows
        if name in row[CLEAN.name].get("settings", {})
    ]
    return {key: statistics.median(part[key] for part in found) for key in found[0]}


def costs_of(plan: Plan, summary: Summary, transcriber: Transcriber) -> dict[str, Cost]:
    """Time to choose and to read the prompt, of one recording and the mean numbers of tokens."""
    model = SpeechLLM(plan.bundle, plan.device, plan.threads)
    shown = next(sample for sample in plan.samples if sample.name not in summary.failed)
    recording, said = model.listen(shown.audio), transcriber(shown.audio)
    window = model.manifest.dimensions.window_tokens
    choose: dict[str, Any] = {}
    for setting in plan.settings:
        if isinstance(setting, TextSetting):
            most = setting.options.kept_tokens(recording.tokens, window)
            choose[setting.name] = partial(
                words_for, model, setting.kind, said.text, shown.question, most
            )
        elif setting.options.method != "none":
            choose[setting.name] = partial(recording.prune, shown.question, setting.options)
    lines = summary.subsets[CLEAN.name][0].settings
    kept = {line.name: round(line.kept or 0) for line in lines}
    prompt = Prompt.of(model.engine, shown.question)
    return measure_costs(model, kept, len(prompt.ids), choose=choose)


def main(
    bundle: Annotated[Path, typer.Argument(help="Bundle to judge.")],
    data: Annotated[Path, typer.Argument(help="Recordings with choices, as eval reads them.")],
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("results"),
    transcriber: Annotated[
        Path, typer.Option(help="Python of the environment that has faster-whisper.")
    ] = Path(".venv-faster-whisper/bin/python"),
    whisper: Annotated[
        Path | None, typer.Option(help="Whisper in CTranslate2's format; by default the base one.")
    ] = None,
    methods: Annotated[
        str, typer.Option(help="Methods beside it; may be empty.")
    ] = "none,passages,speechprune",
    pruning_rates: Annotated[str, typer.Option(help="Pruning rates.")] = "0.2,0.6,0.8",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first samples.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Of both, within an operator.")] = 2,
    beam: Annotated[int, typer.Option(min=1, help="Width of Whisper's beam.")] = 1,
) -> None:
    """Judge methods and transcripts on the same recordings."""
    with one_sentence(console):
        rates = numbers_in("--pruning-rates", pruning_rates)
        given = read_given(data)
        folder = whisper or whisper_base(cache_folder(), console.print)
        names = [name for name in methods.split(",") if name]
        beside = settings_of(names, rates, [0]) if names else []
        settings = beside + text_settings(rates)
        samples = tuple(shuffled(sample, 0) for sample in given.samples[:limit])
        plan = Plan(bundle, samples, tuple(settings), threads=threads, controls=bool(names))
        command = [transcriber, WORKER, folder, "--threads", threads, "--beam", beam]
        about = {"whisper": folder.name, "beam": beam, "threads": threads}
        cure = "give another folder with --out"
        with Journal(out / "transcripts.jsonl", about, cure) as journal:
            by = Transcriber(list(map(str, command)), journal)
            with Bar(console, "samples") as bar:
                rows = judge_all(plan, out, TextExecutor(by), bar)
            compared = [name for name in names if name != "none"]
            summary = summarize(rows, settings, compared)
            measured = costs_of(plan, summary, by)
            by.close()
        seconds = median_seconds(rows, settings[-1].name)
        report = Report(
            summary,
            measured,
            {
                "command": shlex.join(["text_baselines", *sys.argv[1:]]),
                "data": f"{data.name}, {len(samples)} samples, {len(summary.failed)} not used",
                "transcriber": f"{folder.name}, int8, beam {beam}",
                "threads": threads,
                "median seconds to hear a recording": f"{seconds['listen']:.2f}",
                "median seconds to transcribe a recording": f"{seconds['transcribe']:.2f}",
                "machine": machine_words(),
            },
        )
        report.write(out)
    terminal = Console(markup=False, width=None if sys.stdout.isatty() else 150)
    for table in report.tables():
        terminal.print(table)
    print(f"a recording is heard in {seconds['listen']:.2f} s and transcribed in "
          f"{seconds['transcribe']:.2f} s (medians)")  # fmt: skip


if __name__ == "__main__":
    typer.run(main)
