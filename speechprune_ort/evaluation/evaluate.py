"""A whole evaluation: rows, summary, costs, pictures and reports."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from speechprune_ort import __version__
from speechprune_ort.choices import EVERY_TOKEN, check_choice, check_flag
from speechprune_ort.errors import OptionError
from speechprune_ort.evaluation.costs import Cost, measure_costs
from speechprune_ort.evaluation.executor import Executor, LocalExecutor
from speechprune_ort.evaluation.plan import Plan
from speechprune_ort.evaluation.plots import (
    PICTURES,
    TOKENS,
    draw_plots,
    draw_tokens,
    require_plots,
)
from speechprune_ort.evaluation.report import WRITTEN, Report, power
from speechprune_ort.evaluation.rows import ROWS_FILE, Rows, judge_all
from speechprune_ort.evaluation.samples import Sample
from speechprune_ort.evaluation.summary import Summary, comparisons, summarize
from speechprune_ort.evaluation.validate import recordings_digest
from speechprune_ort.machine import machine_words
from speechprune_ort.methods import METHODS, needs_cut, needs_encoder
from speechprune_ort.model import SpeechLLM
from speechprune_ort.options import PruningOptions
from speechprune_ort.outputs import check_apart, check_out_folder
from speechprune_ort.recording import Recording
from speechprune_ort.runtime.answering.prompt import Prompt
from speechprune_ort.runtime.choosing.methods.speechprune import PAPER_METHOD
from speechprune_ort.text import check_list, check_path, check_type, counted

__all__ = ["power_of", "run"]


def run(
    plan: Plan,
    out: str | Path,
    *,
    compare: Sequence[str] = (PAPER_METHOD,),
    executor: Executor | None = None,
    costs: bool = True,
    plots: bool = False,
    command: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Judge every sample of a plan, and write what was found.

    An interrupted run goes on where it stopped when it is called again.

    Args:
        plan: what to judge, from ``plan_of``.
        out: folder for the results.
        compare: methods that are compared with every other at the same rate, recording by
            recording.
        executor: where samples are judged; by default in this process.
        costs: whether to measure the time and memory that reading the prompts takes.
        plots: whether to draw pictures; they need the extra [eval].
        command: the command line, for the report.
        progress: called with the number of samples done and of all.

    Returns:
        The report, as it was written to ``out``.

    Raises:
        OptionError: a method is not known, an extra is missing, or ``out`` is a bundle, holds the
            results of another bundle or of other options, or files that would be written over.
        DataError: no sample could be used, or a file cannot be written; what is judged is kept.
        SpeechPruneError: the bundle cannot be opened.
    """
    check_type(plan, Plan, "plan")
    out = check_path(out, "The folder of results", OptionError)
    compare = check_list(compare, str, "compare")
    for name in compare:
        check_choice("compare", name, tuple(METHODS))
    for flag, value in (("costs", costs), ("plots", plots)):
        check_flag(flag, value)
    kinds: dict[str, tuple[object, Any]] = {
        "executor": (executor, Executor),
        "command": (command, str),
        "progress": (progress, Callable),
    }
    for name, (given, kind) in kinds.items():
        if given is not None:
            check_type(given, kind, name)
    if plots:
        require_plots()
    _check_folder(plan, out, plots)
    stated = power_of(plan, compare)
    rows = judge_all(plan, out, executor or LocalExecutor(), progress)
    summary = summarize(rows, plan.settings, compare)
    summary = replace(summary, failed={**plan.origin.refused, **summary.failed})
    measured, pictures = _looked_at(plan, out, summary, rows, costs, plots)
    about = _about(plan, summary, stated, command)
    report = Report(summary, measured, about, tuple(pictures))
    report.write(out)
    return report


def power_of(plan: Plan, compare: Sequence[str] = (PAPER_METHOD,)) -> str:
    """What a plan can find at all, in a sentence to say before it is run.

    Args:
        plan: what to judge.
        compare: as in ``run``.
    """
    groups = len(set(plan.clusters))
    return power(len(plan.samples), groups, comparisons(plan.settings, compare))


def _check_folder(plan: Plan, out: Path, plots: bool) -> None:
    """Refuse a folder in which something would be lost.

    Raises:
        OptionError: it is such a folder.
    """
    read = [*plan.origin.files, *(sample.audio for sample in plan.samples), *plan.plugins]
    check_out_folder(out, "--out", [plan.bundle, *read])
    begun = (out / ROWS_FILE).exists()
    for name in (*WRITTEN, *(PICTURES if plots else ())):
        path = out / name
        if not os.path.lexists(path):
            continue
        if not begun:
            raise OptionError(
                f"{out} holds {name}, which no run that goes on there has written: move it "
                "elsewhere, or give another --out."
            )
        check_apart(path, "--out", read)


def _looked_at(
    plan: Plan, out: Path, summary: Summary, rows: Rows, costs: bool, plots: bool
) -> tuple[Mapping[str, Cost], list[Path]]:
    """Costs and pictures, of the first recording that could be used."""
    if not costs and not plots:
        return {}, []
    model = SpeechLLM(plan.bundle, plan.device, plan.threads, dict(plan.provider_options) or None)
    shown = next(s for s in plan.samples if s.name not in summary.failed)
    recording = model.listen(
        shown.audio,
        encoder_attention=any(needs_encoder(setting.options) for setting in plan.settings),
        audio_options=plan.audio_options,
    )
    measured = _costs(plan, summary, model, recording, shown) if costs else {}
    if not plots:
        return measured, []
    pictures = draw_plots(out, summary, rows, plan.settings, measured)
    paper = (s.options for s in plan.settings if s.options.method == PAPER_METHOD)
    pruning = next(paper, PruningOptions(method=PAPER_METHOD))
    indices = recording.prune(shown.question, pruning).indices
    text_embeds = model.embed_text(shown.question)
    title = f"{shown.name}: {shown.question}"
    tokens = draw_tokens(out / TOKENS, recording.embeds, indices, text_embeds, title)
    return measured, [*pictures, tokens]


def _costs(
    plan: Plan, summary: Summary, model: SpeechLLM, recording: Recording, shown: Sample
) -> Mapping[str, Cost]:
    lines = next(iter(summary.subsets.values()))[0].settings
    kept = {line.name: round(line.kept or 0) for line in lines}
    text = Prompt.of(model.engine, shown.question)
    choose = {
        setting.name: partial(recording.prune, shown.question, setting.options)
        for setting in plan.settings
        if setting.options.method != EVERY_TOKEN and not needs_cut(setting.options)
    }
    whole = {s.name: recording.tokens for s in plan.settings if needs_cut(s.options)}
    return measure_costs(model, kept, len(text.ids), choose=choose, whole=whole)


def _about(plan: Plan, summary: Summary, stated: str, command: str | None) -> dict[str, Any]:
    used = [sample.audio for sample in plan.samples if sample.name not in summary.failed]
    origin = plan.origin
    return {
        **({"command": command} if command else {}),
        "version": __version__,
        "bundle": plan.bundle.name,
        "bundle digest": plan.about()["bundle"],
        "data": f"{origin.name}, {counted(len(plan.samples), 'sample')}, {len(summary.failed)} "
        "not used",
        **{f"sha256 of {path.name}": digest for path, digest in origin.files.items()},
        "sha256 over the recordings": recordings_digest(used),
        "power, stated before the run": stated,
        "scoring": plan.scoring,
        "choices": origin.order,
        **({"another recording": f"read as {plan.control.name}"} if plan.controls else {}),
        "machine": f"{machine_words()}, {plan.device}",
    }
