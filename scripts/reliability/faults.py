#!/usr/bin/env python3
"""What stands after a kill, on a full disk, or without memory, for every command that writes.

    scripts/faults [--kills 50] [--only export,batch] [--kinds kills,changes,disk,memory,signals]
                   [--first 0] [--bundle B]

Everything is tiny and made here. Each command runs once undisturbed, which tells what it changes on
the disk around its result, and when: files opened for writing, synced, renamed, removed. Then it is
killed (SIGKILL, SIGTERM and SIGINT in turn): after a change that is drawn at random, at a random
moment until the next, so that short steps get as many kills as long ones; only kills that it was
there to receive are counted. Then by SIGKILL ahead of every one of its changes (of an export, which
takes long: ahead of every rename and removal, and of every folder that it makes); then it runs with
files that may not grow (RLIMIT_FSIZE), on a tmpfs that is too small where mounting is permitted,
with stdout on /dev/full, and with address spaces that are too small (RLIMIT_AS). After each, what
stands under the result's name must be what was there before, nothing where nothing was, or the
whole result; a journal must not have lost a line; and after one undisturbed run nothing may lie
beside it.

Kills are numbered, and each has a moment of its own: with --first a run goes on where another was
ended. Commands that are killed are forked from a process that has imported what they need, and of
an export traced what is to be written: what a signal does meanwhile is tried by the kind signals.

Signals are tried on commands that only read, too: SIGINT and SIGTERM in turn at random moments,
from the first statement of the command on, imports included. It must end with exit code 130 or 143,
say nothing but notes, and leave no process behind.

The table on stdout is Markdown. Exits with 1 where anything was broken.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer
from reliability.warm import CHECKPOINT, Change, Warm, preload
from rich.console import Console

from speechprune_ort.markdown import markdown_table

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
TRIES = 4  # times as many kills as are wanted, of which some come when the command has ended
ANSWERING = (
    "huggingface_hub", "onnxruntime", "soundfile", "speechprune_ort.batch",
    "speechprune_ort.cli.app", "speechprune_ort.evaluation.calibration",
    "speechprune_ort.evaluation.evaluate",
    "speechprune_ort.explain.page", "speechprune_ort.model", "speechprune_ort.models.hub",
    "speechprune_ort.profiling.run",
)  # fmt: skip
"""Modules that a command needs."""
EXPORTING = (
    "onnxscript.optimizer", "onnxscript.rewriter", "onnxscript.version_converter",
    "reliability.traced", "speechprune_ort.export.pipeline", "torch._functorch.aot_autograd",
    "torch.export._trace",
    "transformers.models.qwen2_audio.modeling_qwen2_audio",
    "transformers.models.qwen2_audio.processing_qwen2_audio",
)  # fmt: skip
"""Those that ``export`` needs besides."""
KINDS = ("kills", "changes", "disk", "memory", "signals")
ENDING = (signal.SIGINT, signal.SIGTERM)
SLOW = 5.0  # seconds after a signal that are too many even on a busy machine; one is promised
SERVED = 6.0  # seconds of a server's life within which it is ended
LEFT = 30.0  # seconds after a command within which the processes that it started end
LONGEST = 600  # seconds that one run may take
SAVE = """
import sys
from speechprune_ort import SpeechLLM, SpeechPruneError

try:
    SpeechLLM(sys.argv[1], "cpu").listen(sys.argv[2]).save(sys.argv[3])
except SpeechPruneError as error:
    sys.exit(f"error: {error}")
"""

console = Console(stderr=True, soft_wrap=True)


@dataclass(frozen=True)
class Command:
    """A command that writes.

    Attributes:
        name: for the table.
        arguments: of ``speechprune-ort``, or of python where ``code`` is given.
        out: what it writes.
        standing: the state of ``out``; raises where it is broken.
        before: puts the earlier state there.
        kept: how much of an unfinished run's work is on disk.
        refuses: whether it refuses to replace what it wrote.
        code: a program of its own.
        reads: whether it writes nothing, and is tried with signals alone.
        ends: whether it ends by itself.
    """

    name: str
    arguments: tuple[str, ...]
    out: Path
    standing: Callable[[Path], str]
    before: Callable[[], object] = lambda: None
    kept: Callable[[], int] = lambda: 0
    refuses: bool = False
    code: str | None = None
    reads: bool = False
    ends: bool = True

    @property
    def line(self) -> list[str]:
        """Program and arguments."""
        program = ["-m", "speechprune_ort"] if self.code is None else ["-c", self.code]
        return [sys.executable, *program, *self.arguments]

    def warm(self, **options: Any) -> Warm:
        """Start it in a process whose imports are done."""
        return Warm(self.line, self.out.parent, **options)


@dataclass
class Tally:
    """What came of one kind of fault.

    Attributes:
        ends: how often each end was seen.
        broken: what must not be.
    """

    ends: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)


def bundle_state(out: Path) -> str:
    """Which checkpoint a whole bundle is of, or that there is none."""
    if not os.path.lexists(out):
        return "nothing"
    from speechprune_ort.contract.manifest import Manifest
    from speechprune_ort.runtime.ort.bundle import verify_files

    manifest = Manifest.read(out)
    verify_files(out, manifest)
    return manifest.source


def lines_state(out: Path) -> str:
    """How many whole lines a file has."""
    if not out.exists():
        return "nothing"
    lines = out.read_text(encoding="utf-8").split("\n")
    return f"{len([json.loads(line) for line in lines if line])} lines"


def results_state(out: Path) -> str:
    """Whether a results folder is finished."""
    if not (out / "results.json").exists():
        return "nothing"
    json.loads((out / "results.json").read_text())
    return "finished"


def page_state(out: Path) -> str:
    """Whether a page is whole."""
    if not out.exists():
        return "nothing"
    text = out.read_text(encoding="utf-8")
    if not text.rstrip().endswith("</html>"):
        raise ValueError(f"{len(text)} characters and no end")
    return "earlier" if "<!-- earlier -->" in text else "whole"


def json_state(out: Path) -> str:
    """Whether a JSON file is whole."""
    if not out.exists():
        return "nothing"
    return str(json.loads(out.read_text(encoding="utf-8")).get("method", "earlier"))


def recording_state(bundle: str, out: Path) -> str:
    """Whether a saved recording is whole."""
    if not out.exists():
        return "nothing"
    _model(bundle).load_recording(out)
    return "whole"


@lru_cache(maxsize=1)
def _model(bundle: str) -> Any:
    from speechprune_ort import SpeechLLM

    return SpeechLLM(bundle, "cpu", 1)


def journal_lines(path: Path) -> int:
    """How many whole lines a journal has."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def prepared(work: Path, bundle: str, models: str) -> list[Command]:
    """Recordings, and the commands that are tried on them.

    Args:
        work: where they are made; the checkpoint that is exported lies in ``new``.
        bundle: a tiny one, of another checkpoint.
        models: name of a bundle that the stand-in for the hub has.
    """
    # Of the tests; scripts/faults says where they lie.
    from signals import speech_like

    wavs = []
    for number in range(4):
        wavs.append(str(work / f"{number}.wav"))
        soundfile.write(wavs[-1], speech_like(6.0 + number, seed=number), 16_000)
    asked = [{"audio": wav, "question": q} for wav in wavs for q in ("Who?", "What was said?")]
    (work / "requests.jsonl").write_text("".join(json.dumps(line) + "\n" for line in asked))
    choices = [
        {"id": str(n), "audio": wav, "question": "Who?", "choices": ["A", "B", "C", "D"],
         "answer": "ABCD"[n], "key": [0, 1]}
        for n, wav in enumerate(wavs)
    ]  # fmt: skip
    (work / "set.jsonl").write_text("".join(json.dumps(line) + "\n" for line in choices))
    out, data = work / "out", str(work / "set.jsonl")

    def page() -> None:
        (out / "page.html").write_text("<!-- earlier --></html>")

    new = str(work / "new")
    return [
        Command("export", ("export", new, str(out / "fresh")), out / "fresh", bundle_state,
                refuses=True),
        Command("export --overwrite", ("export", new, str(out / "over"), "--overwrite"),
                out / "over", bundle_state, lambda: shutil.copytree(bundle, out / "over")),
        Command("batch", ("batch", bundle, str(work / "requests.jsonl"), str(out / "answers.jsonl"),
                          "--max-new-tokens", "4"), out / "answers.jsonl", lines_state,
                kept=partial(journal_lines, out / "answers.jsonl.partial")),
        Command("eval", ("eval", bundle, "--data", data, "--out", str(out / "results"),
                         "--methods", "none,random", "--pruning-rates", "0.4", "--no-costs",
                         "--no-plots"), out / "results", results_state,
                kept=partial(journal_lines, out / "results" / "rows.jsonl")),
        Command("calibrate", ("calibrate", bundle, data, "--method", "speechprune", "--out",
                              str(out / "found.json"), "--candidates", "2"),
                out / "found.json", json_state, lambda: (out / "found.json").write_text("{}"),
                partial(journal_lines, out / "found.json.partial" / "rows.jsonl")),
        Command("get", ("get", models, "--to", str(out / "got")), out / "got", bundle_state,
                refuses=True),
        Command("profile --html", ("profile", bundle, "--audio", wavs[0], "--repeats", "1",
                                   "--warmup", "0", "--loads", "1", "--new-tokens", "2", "--html",
                                   str(out / "profile.html")), out / "profile.html", page_state),
        Command("ask --explain", ("ask", bundle, wavs[0], "Who?", "--max-new-tokens", "2",
                                  "--explain", str(out / "page.html")),
                out / "page.html", page_state, page),
        Command("Recording.save", (bundle, wavs[0], str(out / "kept.spr")), out / "kept.spr",
                partial(recording_state, bundle), code=SAVE),
        *reading(work, bundle, wavs),
    ]  # fmt: skip


def reading(work: Path, bundle: str, wavs: list[str]) -> list[Command]:
    """Commands that write nothing."""
    long = str(work / "long.wav")
    noise = np.random.default_rng(0).integers(-3000, 3000, 16_000 * 600, np.int16)
    soundfile.write(long, noise, 16_000)
    out, options = work / "out" / "nothing", ("--device", "cpu", "--max-new-tokens", "16")
    lines = {
        "ask": ("ask", bundle, wavs[0], "Who?", *options),
        "ask ten minutes": ("ask", bundle, long, "Who?", *options),
        "ask about several": ("ask", bundle, *wavs, "-q", "Who?", *options),
        "doctor": ("doctor",),
        "tasks": ("tasks",),
        "serve": ("serve", bundle, "--device", "cpu", "--port", "0"),
        "eval --engine ray": ("eval", bundle, "--data", str(work / "set.jsonl"), "--out",
                              str(work / "out" / "by-ray"), "--methods", "none", "--no-costs",
                              "--no-plots", "--engine", "ray"),
    }  # fmt: skip
    return [
        Command(name, line, out, lambda _: "nothing", reads=True, ends=name != "serve")
        for name, line in lines.items()
        if "ray" not in name or find_spec("ray")
    ]


def cleared(command: Command) -> str:
    """Empty the folder of results and put the earlier state there; what that is."""
    shutil.rmtree(command.out.parent, ignore_errors=True)
    command.out.parent.mkdir()
    command.before()
    return command.standing(command.out)


def put_back(command: Command) -> None:
    """Put the earlier state there, and leave what lies beside it."""
    if command.out.is_dir():
        shutil.rmtree(command.out)
    else:
        command.out.unlink(missing_ok=True)
    command.before()


def ended(code: int | None, errors: str) -> str:
    """How a run ended, in a word or two."""
    if "Traceback" in errors:
        return "traceback"
    if code in (1, 2) and sum(line.startswith("error:") for line in errors.splitlines()) == 1:
        return "one sentence"
    if code is not None and code < 0:
        return f"died of {signal.Signals(-code).name}"
    return "done" if code == 0 else f"exit {code}"


def once(command: Command, **options: Any) -> str:
    """Run a command to its end, warm; how it ended."""
    process = command.warm(**options)
    errors = process.end(LONGEST)
    return ended(process.code, errors)


def cold(command: Command, address_space: int | None = None) -> str:
    """Run a command to its end in a new interpreter; how it ended.

    Args:
        command: the command.
        address_space: bytes that it may have; None for any number.
    """

    def limited() -> None:
        if address_space is not None:
            resource.setrlimit(resource.RLIMIT_AS, (address_space, address_space))

    run = subprocess.run(
        command.line, text=True, check=False, timeout=LONGEST, preexec_fn=limited,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    return ended(run.returncode, run.stderr)


def look(command: Command, allowed: set[str], tally: Tally, when: str) -> str:
    """Count what stands, and note it where it must not be; what that is."""
    try:
        found = command.standing(command.out)
    except Exception as error:  # whatever a broken file makes its reader raise
        tally.broken.append(f"{command.name}, {when}: {type(error).__name__}: {error}")
        return "something broken"
    tally.ends[f"{found} stands"] += 1
    if found not in allowed:
        tally.broken.append(f"{command.name}, {when}: {found} stands")
    return found


def beside(command: Command) -> list[str]:
    """What lies around a result and is none."""
    return sorted(
        str(path.relative_to(command.out.parent))
        for path in command.out.parent.rglob("*")
        if ".partial" in path.name or path.name.endswith((".lock", ".previous"))
    )


def afterwards(command: Command, whole: str, tally: Tally) -> None:
    """One undisturbed run: it must end well and leave nothing beside its result."""
    if command.refuses and command.standing(command.out) == whole:
        end = once(command)  # it clears up even so
        if end != "one sentence" or beside(command):
            tally.broken.append(f"{command.name}, once more: {end}, beside it {beside(command)}")
        shutil.rmtree(command.out)
    end = once(command)
    if end != "done" or command.standing(command.out) != whole or beside(command):
        tally.broken.append(f"{command.name}, the run after: {end}, beside it {beside(command)}")


def kills(
    command: Command, whole: str, changes: Sequence[Change], ends: float, numbers: range, seed: int
) -> Tally:
    """Kill a command at random moments of its writing, without clearing up between.

    Args:
        command: the command.
        whole: the state after an undisturbed run.
        changes: those of that run.
        ends: when it ended, on their clock.
        numbers: of the kills; they go on after the last if some came when it had ended.
        seed: of the moments.
    """
    tally, landed, number = Tally(), 0, numbers.start
    found = old = cleared(command)
    moments = [change.seconds for change in changes] + [ends]
    while landed < len(numbers) and number < numbers.start + TRIES * len(numbers):
        if found not in (old, "nothing"):
            put_back(command)  # nothing is left to do
        draw = random.Random(f"{seed} {command.name} {number}")  # noqa: S311 - moments, no secrets
        at, kind = draw.randrange(len(changes)), SIGNALS[number % len(SIGNALS)]
        delay = draw.uniform(0, moments[at + 1] - moments[at])
        kept, process = command.kept(), command.warm()
        hit = process.change(at, time.monotonic() + LONGEST)
        if hit:
            process.pause(delay)
            hit = process.send(kind)
        reached, errors = len(process.changes), process.end(60)
        when = f"{kind.name} {1000 * delay:.1f} ms after change {at} of {len(changes)}"
        if hit:
            landed += 1
            tally.ends[f"after {process.changes[reached - 1].what}"] += 1
            tally.ends[kind.name] += 1
            wanted = {-kind} if command.code or kind == signal.SIGKILL else {128 + kind}
            # What had just ended has its own code, and Python itself ends what is closing.
            if process.code not in {*wanted, -kind, 0} and not command.code:
                tally.broken.append(f"{command.name}, {when}: exit code {process.code}, {errors}")
        if "Traceback" in errors and not command.code:
            tally.broken.append(f"{command.name}, {when}: {errors}")
        found = look(command, {old, whole}, tally, when)
        if command.kept() < kept and found != whole:
            tally.broken.append(f"{command.name}, {when}: {kept} lines became {command.kept()}")
        console.print(
            f"{command.name}, kill {number}: {when}, it had made {reached}; ended with "
            f"{process.code}, {found} stands, broken {len(tally.broken)}"
        )
        number += 1
    tally.ends["ended before the kill came"] = number - numbers.start - landed
    if landed < len(numbers):
        tally.broken.append(f"{command.name}: only {landed} kills came before its end")
    if found not in (old, whole):
        put_back(command)
    afterwards(command, whole, tally)
    return tally


def each_change(command: Command, whole: str, first: int) -> Tally:
    """Kill a command ahead of each of its changes."""
    tally, step = Tally(), first
    while True:
        old = cleared(command)
        # An export opens a hundred files in a folder that has no name yet.
        process = command.warm(dies=step, of_names=command.name.startswith("export"))
        process.end(LONGEST)
        look(command, {old, whole}, tally, f"killed ahead of change {step}")
        console.print(f"{command.name}, change {step}: {process.code}, {tally.broken}")
        if process.code != -signal.SIGKILL:
            break
        if command.name.startswith("export"):
            # The next one puts back and clears up before it refuses or works: enough to look at.
            from speechprune_ort.errors import ExportError
            from speechprune_ort.export.atomic_folder import check_place

            try:
                check_place(command.out, overwrite=True)
            except ExportError as error:
                tally.broken.append(f"{command.name}, change {step}: {error}")
        else:
            afterwards(command, whole, tally)
        if beside(command):
            tally.broken.append(f"{command.name}, change {step}: {beside(command)} is left")
        step += 1
    tally.ends["killed"] = step - first
    return tally


def disk(command: Command, whole: str) -> Tally:
    """Too little room: files that may not grow, a small tmpfs, and stdout on /dev/full."""
    tally = Tally()

    def tried(what: str, allowed: set[str], **options: Any) -> None:
        end = once(command, **options)
        tally.ends[f"{what}: {end}"] += 1
        if end == "traceback" and not command.code:
            tally.broken.append(f"{command.name}, {what}: {end}")
        look(command, allowed, tally, what)

    for size in (0, 100, 4_000, 60_000, 300_000):
        old = cleared(command)
        tried(f"files of {size} bytes", {old, whole}, largest=size)
    for size in (8, 64, 512):
        cleared(command)
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", command.out.parent],
            check=False, capture_output=True,
        )  # fmt: skip
        if mounted.returncode:
            tally.ends["tmpfs: not permitted here"] += 1
            break
        try:
            tried(f"tmpfs of {size} KiB", {"nothing", whole})
        finally:
            subprocess.run(["umount", command.out.parent], check=True)
    old = cleared(command)
    tried("stdout full", {old, whole}, output="/dev/full")
    return tally


def memory(command: Command, whole: str) -> Tally:
    """Too little address space."""
    tally = Tally()
    for mebibytes in (300, 600, 1200, 2400, 4800):
        old = cleared(command)
        end = cold(command, mebibytes * 2**20)
        tally.ends[f"{mebibytes} MiB: {end}"] += 1
        if end == "traceback" and not command.code:
            tally.broken.append(f"{command.name}, {mebibytes} MiB: {end}")
        look(command, {old, whole}, tally, f"{mebibytes} MiB")
    afterwards(command, whole, tally)
    return tally


def is_ready(process: subprocess.Popen[str]) -> bool:
    """Whether a command catches SIGTERM yet: before that, Python itself is starting."""
    status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt"))
    return bool(int(caught, 16) >> signal.SIGTERM - 1 & 1)


def marked(mark: str) -> list[str]:
    """Processes that still run with a mark in their environment, and the names of them."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (folder / "environ").read_bytes():
                found.append((folder / "comm").read_text().strip())
    return found


def signals(command: Command, count: int, seed: int) -> Tally:
    """End a command at random moments."""
    tally, draw = Tally(), random.Random(f"{seed} {command.name} signals")  # noqa: S311 - moments
    cleared(command)
    started = time.perf_counter()
    if command.ends and (end := cold(command)) != "done":
        tally.broken.append(f"{command.name}: undisturbed, it ends with {end}")
        return tally
    seconds = time.perf_counter() - started if command.ends else SERVED
    longest = outlived = 0.0
    for number in range(count):
        cleared(command)
        mark, kind = f"FAULTS_MARK={number}-{time.time_ns()}", ENDING[number % 2]
        process = subprocess.Popen(
            command.line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **dict([mark.split("=")])},
        )  # fmt: skip
        while process.poll() is None and not is_ready(process):
            time.sleep(0.005)
        at = draw.uniform(0, seconds)
        try:
            process.wait(at)
            process.communicate()
            tally.ends["done before the signal"] += 1
            continue
        except subprocess.TimeoutExpired:
            process.send_signal(kind)
        sent = time.perf_counter()
        _, errors = process.communicate(timeout=LONGEST)
        took, code = time.perf_counter() - sent, process.returncode
        longest = max(longest, took)
        when = f"{command.name}, {kind.name} after {at:.2f} s"
        # What had ended by then has its own exit code; a server ends as one that was asked to.
        # And once Python is closing, its handlers are gone: a shell says the same of that end.
        wanted = {128 + kind, -kind, *([0] if took < 1 or not command.ends else [])}
        tally.ends[f"{kind.name}: exit code {code}"] += 1
        tally.ends["over a second"] += took > 1
        if code not in wanted or "Traceback" in errors or "error" in errors or took > SLOW:
            tally.broken.append(f"{when}: {code} after {took:.2f} s, {errors[-300:]!r}")
        started = time.monotonic()
        while (left := marked(mark)) and time.monotonic() - started < LEFT:
            time.sleep(0.05)
        outlived = max(outlived, time.monotonic() - started)
        if left:
            tally.broken.append(f"{when}: {', '.join(left)} left behind")
        console.print(f"{when}: {code}, {took:.2f} s")
    tally.ends[f"longest {longest:.2f} s, processes of its own {outlived:.2f} s more"] = 1
    return tally


@contextmanager
def stood_in(folder: Path) -> Iterator[str]:
    """A stand-in for the hub on this machine that has a bundle; the name of it there."""
    from hub_server import hub

    name = "someone/tiny"
    with hub({name: folder}) as found:
        # Its client reads these as it is imported.
        os.environ.update(HF_ENDPOINT=found.address, HF_HUB_OFFLINE="0", HF_HUB_DISABLE_XET="1")
        yield name


def main(
    kill_count: Annotated[int, typer.Option("--kills", help="Kills of each command.")] = 50,
    only: Annotated[str, typer.Option(help="Commands, comma-separated; all by default.")] = "",
    kinds: Annotated[str, typer.Option(help="Of faults, comma-separated.")] = ",".join(KINDS),
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    first: Annotated[int, typer.Option(help="Number of the first kill, random or ahead of.")] = 0,
    bundle: Annotated[Path | None, typer.Option(help="A tiny one; otherwise one is made.")] = None,
) -> None:
    """Try them all and print the table."""
    wanted = kinds.split(",")
    if not set(wanted) <= set(KINDS):
        console.print(f"error: --kinds takes {', '.join(KINDS)}, not {kinds}.")
        raise typer.Exit(2)
    work = Path(tempfile.mkdtemp(prefix="faults-"))
    os.environ["XDG_CACHE_HOME"] = str(work / "cache")
    numbers, rows, broken = range(first, first + kill_count), [], []
    with ExitStack() as cleanup:
        cleanup.callback(shutil.rmtree, work, ignore_errors=True)
        exports = not only or "export" in only
        if exports or bundle is None:
            from tiny import TINY, write_checkpoint

            for number, name in enumerate(("old", "new")):
                write_checkpoint(work / name, TINY[number])
        if bundle is None:
            bundle = work / "kept"
            made = [
                sys.executable,
                "-m",
                "speechprune_ort",
                "export",
                str(work / "old"),
                str(bundle),
            ]
            subprocess.run(made, check=True, capture_output=True)
        bundle = bundle.resolve()
        commands = prepared(work, str(bundle), cleanup.enter_context(stood_in(bundle)))
        names = only.split(",") if only else [command.name for command in commands]
        if unknown := set(names) - {command.name for command in commands}:
            console.print(f"error: --only: there is no command {min(unknown)!r}.")
            raise typer.Exit(2)
        os.environ[CHECKPOINT] = str(work / "new")
        preload((*ANSWERING, *(EXPORTING if exports else ())))
        for command in (c for c in commands if c.name in names):
            for kind, tally in tried(command, wanted, numbers, seed):
                broken += tally.broken
                counts = "; ".join(f"{end} {n}" for end, n in sorted(tally.ends.items()) if n)
                rows.append((command.name, kind, counts, len(tally.broken)))
                console.print(*rows[-1], sep=", ")
    heads = ("command", "fault", "what happened, how often", "broken")
    print("\n".join(markdown_table(heads, rows)))
    for line in broken:
        print(f"- broken: {line}")
    raise typer.Exit(1 if broken else 0)


def tried(
    command: Command, kinds: Sequence[str], numbers: range, seed: int
) -> Iterator[tuple[str, Tally]]:
    """Try a command with some kinds of faults, one after the other."""
    if "signals" in kinds:
        yield "signals", signals(command, len(numbers), seed)
    if command.reads or not set(kinds) - {"signals"}:
        return
    cleared(command)
    process = command.warm()
    errors, ends = process.end(LONGEST), time.monotonic()
    whole, changes = command.standing(command.out), process.changes
    if (end := ended(process.code, errors)) != "done" or beside(command):
        yield (
            "none",
            Tally(broken=[f"{command.name}: {end}, beside it {beside(command)}, {errors}"]),
        )
        return
    seconds = ends - changes[0].seconds
    console.print(f"{command.name}: {len(changes)} changes within {seconds:.1f} s")
    if "kills" in kinds:
        yield "kills", kills(command, whole, changes, ends, numbers, seed)
    if "changes" in kinds:
        yield "changes", each_change(command, whole, numbers.start)
    if "disk" in kinds:
        yield "disk", disk(command, whole)
    if "memory" in kinds:
        yield "memory", memory(command, whole)


if __name__ == "__main__":
    typer.run(main)
