#!/usr/bin/env python3
"""What stands after a kill, on a full disk, or without memory, for every command that writes.

    scripts/faults [--kills 50] [--only export,batch] [--kinds kills,renames,disk,memory,signals]
                   [--warm] [--first 0] [--bundle B]

Everything is tiny and made here. Each command runs once undisturbed; then it is killed (SIGKILL,
SIGTERM and SIGINT in turn) at random moments, then by SIGKILL ahead of every change that it makes
to the names around its result; then it runs with files that may not grow (RLIMIT_FSIZE), on a tmpfs
that is too small where mounting is permitted, with stdout on /dev/full, and with address spaces
that are too small (RLIMIT_AS). After each, what stands under the result's name must be what was
there before, nothing where nothing was, or the whole result; and after one undisturbed run nothing
may lie beside it.

Kills are numbered, and each has a moment of its own: with --first a run goes on where another was
ended. With --warm commands are forked from a process that has imported what they need, so that
they are killed at their work and not at their imports.

Signals are tried on commands that only read, too: SIGINT and SIGTERM in turn at random moments,
from the first statement of the command on, imports included. It must end with exit code 130 or 143,
say nothing but notes, and leave no process behind.

The table on stdout is Markdown. Exits with 1 where anything was broken.
"""

from __future__ import annotations

import json
import multiprocessing
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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer
from rich.console import Console

from speechprune_ort.markdown import markdown_table

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
CHANGES = ("rename", "replace", "unlink", "rmdir", "mkdir", "link", "symlink")
PRELOADED = (
    "onnxruntime", "soundfile", "speechprune_ort.cli.app", "speechprune_ort.evaluation.evaluate",
    "speechprune_ort.export.pipeline", "speechprune_ort.explain.page", "speechprune_ort.model",
    "transformers.models.qwen2_audio.modeling_qwen2_audio",
    "transformers.models.qwen2_audio.processing_qwen2_audio",
)  # fmt: skip
"""Modules that a warm process has imported, for all the commands that write."""
KINDS = ("kills", "renames", "disk", "memory", "signals")
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
        code: a program of its own.
        reads: whether it writes nothing, and is tried with signals alone.
        ends: whether it ends by itself.
    """

    name: str
    arguments: tuple[str, ...]
    out: Path
    standing: Callable[[Path], str]
    before: Callable[[], None] = lambda: None
    code: str | None = None
    reads: bool = False
    ends: bool = True

    @property
    def line(self) -> list[str]:
        """Program and arguments."""
        program = ["-m", "speechprune_ort"] if self.code is None else ["-c", self.code]
        return [sys.executable, *program, *self.arguments]


class Warm:
    """A command in a process that has imported everything, with the methods of ``Popen``.

    Args:
        line: of the command.
        step: at which change it kills itself, as for ``dying``; None where it does not.
        folder: as for ``dying``.
    """

    def __init__(self, line: list[str], step: int | None = None, folder: str = "") -> None:
        with tempfile.NamedTemporaryFile(prefix="faults-errors-", delete=False) as file:
            self._errors = Path(file.name)
        context = multiprocessing.get_context("forkserver")
        self._process = context.Process(target=warmed, args=(line, self._errors, step, folder))
        self._process.start()

    @property
    def returncode(self) -> int | None:
        """As ``Popen`` gives it."""
        return self._process.exitcode

    def wait(self, seconds: float) -> None:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it has not come.
        """
        self._process.join(seconds)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired("speechprune-ort", seconds)

    def send_signal(self, kind: signal.Signals) -> None:
        """Send a signal to it."""
        os.kill(self._process.pid or 0, kind)

    def communicate(self, timeout: float) -> tuple[None, str]:
        """Wait for its end; what it said on stderr."""
        try:
            self.wait(timeout)
            return None, self._errors.read_text(encoding="utf-8")
        finally:
            self._errors.unlink()


def warmed(line: list[str], errors: Path, step: int | None, folder: str) -> None:
    """Run a command in a forked process; its outputs go to nowhere and to a file."""
    for number, place in ((1, Path(os.devnull)), (2, errors)):
        opened = os.open(place, os.O_WRONLY)
        os.dup2(opened, number)
        os.close(opened)
    dying(line, step, folder)


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


def recording_state(bundle: str, out: Path) -> str:
    """Whether a saved recording is whole."""
    if not out.exists():
        return "nothing"
    from speechprune_ort import SpeechLLM

    SpeechLLM(bundle, "cpu").load_recording(out)
    return "whole"


def prepared(work: Path, kept: Path | None) -> list[Command]:
    """Checkpoints, bundles and recordings, and the commands that are tried on them.

    Args:
        work: where they are made.
        kept: a tiny bundle that is there already, or None.
    """
    # Where the tiny checkpoints of the tests are made; scripts/faults says where they lie.
    from signals import speech_like
    from tiny import TINY, write_checkpoint

    for number, name in enumerate(("old", "new")):
        write_checkpoint(work / name, TINY[number])
    if kept is None:
        subprocess.run(
            [sys.executable, "-m", "speechprune_ort", "export", work / "old", work / "kept"],
            check=True, capture_output=True,
        )  # fmt: skip
    bundle = str(kept or work / "kept")
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
    out = work / "out"

    def replaced() -> None:
        shutil.copytree(bundle, out / "over")

    def page() -> None:
        (out / "page.html").write_text("<!-- earlier --></html>")

    new = str(work / "new")
    return [
        Command("export", ("export", new, str(out / "fresh")), out / "fresh", bundle_state),
        Command("export --overwrite", ("export", new, str(out / "over"), "--overwrite"),
                out / "over", bundle_state, replaced),
        Command("batch", ("batch", bundle, str(work / "requests.jsonl"), str(out / "answers.jsonl"),
                          "--max-new-tokens", "4"), out / "answers.jsonl", lines_state),
        Command("eval", ("eval", bundle, "--data", str(work / "set.jsonl"), "--out",
                         str(out / "results"), "--methods", "none,random", "--pruning-rates", "0.4",
                         "--no-costs", "--no-plots"), out / "results", results_state),
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
        "eval --engine ray": (
            *(
                "eval",
                bundle,
                "--data",
                str(work / "set.jsonl"),
                "--out",
                str(work / "out" / "by-ray"),
            ),
            *("--methods", "none", "--no-costs", "--no-plots", "--engine", "ray"),
        ),
    }
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


def ended(run: subprocess.CompletedProcess[str]) -> str:
    """How a run ended, in a word or two."""
    if "Traceback" in run.stderr:
        return "traceback"
    if run.returncode in (1, 2) and run.stderr.lstrip().startswith("error:"):
        return "one sentence"
    if run.returncode < 0:
        return f"died of {signal.Signals(-run.returncode).name}"
    return "done" if run.returncode == 0 else f"exit {run.returncode}"


def once(
    command: Command, limit: tuple[int, int] | None = None, warm: bool = False, **options: Any
) -> str:
    """Run a command to its end under a resource limit, or warm; how it ended."""
    if warm:
        process = Warm(command.line)
        _, errors = process.communicate(LONGEST)
        code = process.returncode or 0
        return ended(subprocess.CompletedProcess(command.line, code, None, errors))

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(limit[0], (limit[1], limit[1]))

    streams: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options}
    return ended(
        subprocess.run(
            command.line, text=True, check=False, timeout=LONGEST, preexec_fn=limited, **streams
        )
    )


def look(command: Command, allowed: set[str], tally: Tally, when: str) -> None:
    """Count what stands, and note it where it must not be."""
    try:
        found = command.standing(command.out)
    except Exception as error:  # whatever a broken file makes its reader raise
        tally.broken.append(f"{command.name}, {when}: {type(error).__name__}: {error}")
        return
    tally.ends[f"{found} stands"] += 1
    if found not in allowed:
        tally.broken.append(f"{command.name}, {when}: {found} stands")


def beside(command: Command) -> list[str]:
    """What lies around a result and is none."""
    return sorted(
        str(path.relative_to(command.out.parent))
        for path in command.out.parent.rglob("*")
        if ".partial" in path.name or path.name.endswith((".lock", ".previous"))
    )


def afterwards(command: Command, whole: str, tally: Tally, warm: bool = False) -> None:
    """One undisturbed run: it must end well and leave nothing beside its result."""
    if command.name == "export" and command.standing(command.out) == whole:
        shutil.rmtree(command.out)
    end = once(command, warm=warm)
    if end != "done" or command.standing(command.out) != whole or beside(command):
        tally.broken.append(f"{command.name}, the run after: {end}, beside it {beside(command)}")


def kills(
    command: Command, whole: str, seconds: float, numbers: range, seed: int, warm: bool
) -> Tally:
    """Kill a command at random moments, without clearing up between."""
    tally, old = Tally(), cleared(command)
    for number in numbers:
        if command.name in ("export", "eval") and command.standing(command.out) == whole:
            cleared(command)  # nothing is left to do
        process = Warm(command.line) if warm else subprocess.Popen(
            command.line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )  # fmt: skip
        draw = random.Random(f"{seed} {command.name} {number}")  # noqa: S311 - moments, no secrets
        at, kind = draw.uniform(0, 1.05 * seconds), SIGNALS[number % len(SIGNALS)]
        try:
            process.wait(at)
            tally.ends["done before the kill"] += 1
        except subprocess.TimeoutExpired:
            process.send_signal(kind)
        _, errors = process.communicate(timeout=60)
        if "Traceback" in errors:
            tally.ends[f"traceback after {kind.name}"] += 1
        look(command, {old, whole}, tally, f"{kind.name} after {at:.2f} s")
        console.print(
            f"{command.name}, kill {number}: {kind.name} after {at:.2f} s, ended with "
            f"{process.returncode}, {dict(tally.ends)}, broken {len(tally.broken)}"
        )
    afterwards(command, whole, tally, warm)
    return tally


def renames(command: Command, whole: str, first: int, warm: bool) -> Tally:
    """Kill a command ahead of each change that it makes to names around its result."""
    tally, step = Tally(), first
    while True:
        old, folder = cleared(command), str(command.out.parent)
        line = [sys.executable, __file__, "--dying", json.dumps([command.line, step, folder])]
        process = Warm(command.line, step, folder) if warm else subprocess.Popen(
            line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )  # fmt: skip
        process.communicate(timeout=LONGEST)
        look(command, {old, whole}, tally, f"killed ahead of change {step}")
        console.print(f"{command.name}, change {step}: {process.returncode}, {tally.broken}")
        if process.returncode != -signal.SIGKILL:
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
            afterwards(command, whole, tally, warm)
        if beside(command):
            tally.broken.append(f"{command.name}, change {step}: {beside(command)} is left")
        step += 1
    tally.ends["killed"] = step - first
    return tally


def dying(line: list[str], step: int | None, folder: str) -> None:
    """Run a command that kills itself.

    Args:
        line: of the command; its program is this process.
        step: how many changes it may make to names below the folder; None for all.
        folder: of results.
    """
    left = step

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*args: Any, **options: Any) -> Any:
            nonlocal left
            if any(folder in os.fspath(a) for a in args if isinstance(a, str | os.PathLike)):
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left = None if left is None else left - 1
            return call(*args, **options)

        return changed

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))
    from speechprune_ort import files

    files._rename = counted(files._rename)  # noqa: SLF001 - the call that exchanges
    sys.argv = ["speechprune-ort", *line[3:]]
    if line[1] == "-c":
        exec(line[2], {})  # noqa: S102 - SAVE, from above
    else:
        from speechprune_ort.cli import main as run

        run()


def disk(command: Command, whole: str) -> Tally:
    """Too little room: files that may not grow, a small tmpfs, and stdout on /dev/full."""
    tally = Tally()
    for size in (0, 100, 4_000, 60_000, 300_000):
        old = cleared(command)
        end = once(command, (resource.RLIMIT_FSIZE, size))
        tally.ends[f"files of {size} bytes: {end}"] += 1
        look(command, {old, whole}, tally, f"files of {size} bytes")
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
            end = once(command)
            tally.ends[f"tmpfs of {size} KiB: {end}"] += 1
            look(command, {"nothing", whole}, tally, f"tmpfs of {size} KiB")
        finally:
            subprocess.run(["umount", command.out.parent], check=True)
    old = cleared(command)
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        tally.ends[f"stdout full: {once(command, stdout=full)}"] += 1
    look(command, {old, whole}, tally, "stdout full")
    return tally


def memory(command: Command, whole: str) -> Tally:
    """Too little address space."""
    tally = Tally()
    for mebibytes in (300, 600, 1200, 2400, 4800):
        old = cleared(command)
        end = once(command, (resource.RLIMIT_AS, mebibytes * 2**20))
        tally.ends[f"{mebibytes} MiB: {end}"] += 1
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


def signals(command: Command, seconds: float, count: int, seed: int) -> Tally:
    """End a command at random moments."""
    tally, draw = Tally(), random.Random(f"{seed} {command.name} signals")  # noqa: S311 - moments
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


def main(
    kill_count: Annotated[int, typer.Option("--kills", help="Kills of each command.")] = 50,
    only: Annotated[str, typer.Option(help="Commands, comma-separated; all by default.")] = "",
    kinds: Annotated[str, typer.Option(help="Of faults, comma-separated.")] = ",".join(KINDS),
    seed: Annotated[int, typer.Option(help="Of the moments.")] = 0,
    first: Annotated[int, typer.Option(help="Number of the first kill, random or ahead of.")] = 0,
    bundle: Annotated[Path | None, typer.Option(help="A tiny one; otherwise one is made.")] = None,
    warm: Annotated[bool, typer.Option(help="Kill commands whose imports are done.")] = False,
) -> None:
    """Try them all and print the table."""
    wanted = kinds.split(",")
    if not set(wanted) <= set(KINDS):
        console.print(f"error: --kinds takes {', '.join(KINDS)}, not {kinds}.")
        raise typer.Exit(2)
    work = Path(tempfile.mkdtemp(prefix="faults-"))
    os.environ["XDG_CACHE_HOME"] = str(work / "cache")
    multiprocessing.set_forkserver_preload(["__main__", *PRELOADED])
    rows, broken = [], []
    try:
        commands = prepared(work, bundle)
        names = only.split(",") if only else [command.name for command in commands]
        numbers = range(first, first + kill_count)
        if warm:  # what is imported once is no part of the first command's time
            Warm([sys.executable, "-m", "speechprune_ort", "--version"]).communicate(LONGEST)
        for command in (c for c in commands if c.name in names):
            cleared(command)
            started = time.perf_counter()
            end = once(command, warm=warm) if command.ends else "not ended by itself"
            seconds = time.perf_counter() - started if command.ends else SERVED
            whole = command.standing(command.out)
            console.print(f"{command.name}: {end} in {seconds:.1f} s")
            if end != "done" and command.ends:
                broken.append(f"{command.name}: undisturbed, it ends with {end}")
                continue
            tried = {
                "kills": lambda: kills(command, whole, seconds, numbers, seed, warm),  # noqa: B023
                "renames": lambda: renames(command, whole, first, warm),  # noqa: B023
                "disk": lambda: disk(command, whole),  # noqa: B023
                "memory": lambda: memory(command, whole),  # noqa: B023
                "signals": lambda: signals(command, seconds, kill_count, seed),  # noqa: B023
            }
            for kind in [kind for kind in wanted if kind == "signals" or not command.reads]:
                tally = tried[kind]()
                broken += tally.broken
                ends = "; ".join(f"{end} {n}" for end, n in sorted(tally.ends.items()))
                rows.append((command.name, kind, ends, len(tally.broken)))
                console.print(*rows[-1], sep=", ")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    heads = ("command", "fault", "what happened, how often", "broken")
    print("\n".join(markdown_table(heads, rows)))
    for line in broken:
        print(f"- broken: {line}")
    raise typer.Exit(1 if broken else 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--dying"]:
        dying(*json.loads(sys.argv[2]))
    else:
        typer.run(main)
