#!/usr/bin/env python3
"""Altered inputs: each gives an answer or an error of this project, or is a finding.

    scripts/fuzz [--inputs 2000] [--seconds S] [--seed 0] [--kinds audio,manifest] [--bundle B]

Inputs are made from a seed and a number, so that each can be made again. They run in processes of
their own, with a limit of memory and of time, so that a crash or a hang is caught. A finding is
kept with its input under --out. Prints a table; exit status 1 where there is a finding.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from speechprune_ort.markdown import markdown_table

SHARES = {
    "audio": 40, "manifest": 10, "tokenizer": 10, "onnx": 10, "recording": 10, "jsonl": 15,
    "cli": 5,
}  # fmt: skip
"""Kinds of input, and their shares of all in per cent."""
KEPT = 3  # findings of one kind and reason that are kept; the rest are counted
BUSY = 4.0  # times as long as it may compute, an input may take
START_SECONDS = 120.0  # for a worker to open the bundle


class Worker:
    """A process that tries inputs of one kind, one line of JSON each."""

    def __init__(self, kind: str, bundle: Path, seed: int, first: int, memory_mb: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix=f"fuzz-{kind}-"))
        target = Path(__file__).with_name("fuzz_targets.py")
        self.process = subprocess.Popen(
            [sys.executable, target, kind, bundle, str(seed), str(first), self.folder,
             str(memory_mb)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=False,
            env=os.environ | {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(self.folder / "cache")},
            start_new_session=True,
        )  # fmt: skip
        self._rest = b""

    def next(self, seconds: float) -> dict[str, Any] | None:
        """The next line; an empty one where it hangs, None where the process has ended.

        Args:
            seconds: of computing that it may take. On a busy machine, time passes without it.
        """
        assert self.process.stdout is not None  # noqa: S101 - it is a pipe
        until, computed = time.monotonic() + BUSY * seconds, self._computed() + seconds
        while b"\n" not in self._rest:
            if not select.select([self.process.stdout], [], [], 0.2)[0]:
                if time.monotonic() > until or self._computed() > computed:
                    return {}
                continue
            block = os.read(self.process.stdout.fileno(), 1 << 16)
            if not block:
                return None
            self._rest += block
        line, self._rest = self._rest.split(b"\n", 1)
        found: dict[str, Any] = json.loads(line)
        return found

    def _computed(self) -> float:
        """Seconds of a processor that it has taken."""
        try:
            text = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8")
        except OSError:  # it has ended
            return 0.0
        user, system = text.rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def end(self) -> str:
        """End it, and say how it had ended by itself."""
        ended = self.process.poll()
        if ended is None:
            try:
                ended = self.process.wait(0.5)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()
        if ended is not None and ended < 0:
            return f"crash: {signal.Signals(-ended).name}"
        return f"the process ended with {ended}"

    def input(self, number: int | None = None) -> bytes:
        """What it was trying; or what gave the finding of a number."""
        path = self.folder / ("input" if number is None else f"finding-{number}")
        return path.read_bytes() if path.exists() else b""


def run_kind(
    kind: str, bundle: Path, seed: int, numbers: range, until: float, limits: tuple[float, int],
    out: Path,
) -> dict[str, Any]:  # fmt: skip
    """Try inputs of one kind and count what became of them."""
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    number, worker, started = numbers.start, None, time.monotonic()
    while number < numbers.stop and time.monotonic() < until:
        if worker is None:
            worker = Worker(kind, bundle, seed, number, limits[1])
            ready = worker.next(START_SECONDS)
            if not ready:
                errors = worker.process.stderr.read() if worker.process.stderr else b""
                raise SystemExit(f"the worker of {kind} does not start: {errors[-2000:].decode()}")
        found = worker.next(limits[0])
        if not found:
            content, hangs = worker.input(), found is not None
            ended = worker.end()
            reason = "hang" if hangs else ended
            found = {"outcome": "finding", "reason": reason, "trace": reason}
            worker = None
        else:
            content = worker.input(number) if found["outcome"] == "finding" else b""
        counts[found["outcome"]] += 1
        if found["outcome"] == "finding":
            reasons[found["reason"]] += 1
            if reasons[found["reason"]] <= KEPT:
                keep(out, kind, seed, number, found, content)
        number += 1
    if worker is not None:
        worker.end()
    return {
        "kind": kind, "inputs": number - numbers.start, **counts,
        "seconds": time.monotonic() - started, "reasons": dict(reasons),
    }  # fmt: skip


def keep(
    out: Path, kind: str, seed: int, number: int, found: dict[str, Any], content: bytes
) -> None:
    """Write a finding and its input."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{kind}-{number}.input").write_bytes(content)
    about = {"kind": kind, "seed": seed, "number": number, **found}
    (out / f"{kind}-{number}.json").write_text(json.dumps(about, indent=1) + "\n", "utf-8")


def tiny_bundle(folder: Path) -> Path:
    """Export the tests' tiny checkpoint; ``scripts/fuzz`` says where the tests lie."""
    from tiny import TINY, write_checkpoint

    from speechprune_ort.export.pipeline import export_bundle

    export_bundle(str(write_checkpoint(folder / "checkpoint", TINY[0])), folder / "bundle")
    return folder / "bundle"


def main(
    inputs: Annotated[int, typer.Option(min=1, help="Of all kinds together.")] = 2000,
    seconds: Annotated[float, typer.Option(min=1, help="For all kinds together.")] = 1e9,
    seed: Annotated[int, typer.Option(help="Of all inputs.")] = 0,
    first: Annotated[int, typer.Option(min=0, help="Number of the first input of a kind.")] = 0,
    kinds: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(SHARES),
    bundle: Annotated[Path | None, typer.Option(help="Otherwise a tiny one is made.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for findings.")] = Path(".fuzz"),
    input_seconds: Annotated[float, typer.Option(help="Of computing for one input.")] = 20.0,
    memory_mb: Annotated[int, typer.Option(help="Address space of a worker.")] = 6000,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Try altered inputs and print what became of them."""
    chosen = kinds.split(",")
    unknown = [kind for kind in chosen if kind not in SHARES]
    if unknown:
        raise SystemExit(f"--kinds takes {', '.join(SHARES)}, not {unknown[0]!r}.")
    total = sum(SHARES[kind] for kind in chosen)
    with tempfile.TemporaryDirectory(prefix="fuzz-bundle-") as folder:
        used = (bundle or tiny_bundle(Path(folder))).resolve()
        rows, until = [], time.monotonic() + seconds
        for place, kind in enumerate(chosen):
            count = max(1, round(inputs * SHARES[kind] / total))
            left = (until - time.monotonic()) / (len(chosen) - place)  # each its part of the rest
            numbers = range(first, first + count)
            ends = time.monotonic() + left
            limits = (input_seconds, memory_mb)
            rows.append(run_kind(kind, used, seed, numbers, ends, limits, out))
    if as_json:
        sys.stdout.write(json.dumps(rows, indent=1) + "\n")
    else:
        heads = ("kind", "inputs", "answers", "refused in a sentence", "findings", "seconds")
        cells = [
            (row["kind"], row["inputs"], row.get("answer", 0), row.get("refused", 0),
             row.get("finding", 0), f"{row['seconds']:.0f}")
            for row in rows
        ]  # fmt: skip
        print("\n".join(markdown_table(heads, cells)))
        for row in rows:
            for reason, times in row["reasons"].items():
                print(f"\n{row['kind']}, {times} times: {reason}", end="")
        print()
    sys.exit(any(row.get("finding") for row in rows))


if __name__ == "__main__":
    typer.run(main)
