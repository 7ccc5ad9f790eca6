#!/usr/bin/env python3
"""A server under load: several clients upload and ask at once, and no request may be lost.

    scripts/bench/bench_serve BUNDLE RECORDING [--clients 8] [--minutes 30] [--questions 10]

RECORDING is repeated to ``--minutes``, of which each client uploads a part of its own and then asks
its questions, one after the other. Who is told to come back (429) does so. An answer that differs
from the one that the same question about the same part got before counts as wrong: answers must
not be mixed up. Half of the answers are streamed.

``scripts/bench/bench_serve`` makes the environment. Exit code 1: a request was lost, or an answer
was wrong.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import soundfile
import typer
from research.join_recordings import join
from rich.console import Console
from rich.table import Table

from speechprune_ort.profiling.distribution import Distribution

LIMIT = 3600.0  # seconds that a client waits for one answer
QUESTIONS = ("What was said about the money?", "Who was late?", "What was decided?")
BOUNDARY = "a-boundary-that-no-recording-holds"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
console = Console(stderr=True)


@dataclass
class Seen:
    """What the clients saw.

    Attributes:
        seconds: of every request that was answered, by its kind.
        told: how often each status came back.
        texts: answers, by client and question.
        wrong: answers that differ from an earlier one to the same question.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    told: Counter[int] = field(default_factory=Counter)
    texts: dict[tuple[int, str], str] = field(default_factory=dict)
    wrong: int = 0


def send(seen: Seen, kind: str, url: str, body: bytes, content_type: str) -> bytes | None:
    """Send a request until it is taken; None where it failed. Its time includes being sent away."""
    begun = time.perf_counter()
    while True:
        request = Request(url, body, {"Content-Type": content_type})  # noqa: S310 - our server
        try:
            with urlopen(request, timeout=LIMIT) as response:  # noqa: S310 - our server
                content: bytes = response.read()
            seen.told[response.status] += 1
            seen.seconds.setdefault(kind, []).append(time.perf_counter() - begun)
            return content
        except HTTPError as error:
            seen.told[error.code] += 1
            if error.code != 429:
                console.print(error.read().decode())
                return None
            time.sleep(float(error.headers["retry-after"]))
        except OSError as error:
            console.print(f"{kind}: {error}")
            return None


def form(content: bytes) -> bytes:
    """A multipart form with one file."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="a.flac"\r\n\r\n'
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def text_of(content: bytes, streamed: bool) -> str | None:
    """The text of an answer; None where it has no end."""
    if not streamed:
        return str(json.loads(content)["choices"][0]["message"]["content"])
    lines = [line[6:] for line in content.decode().split("\n\n") if line]
    if not lines or lines.pop() != "[DONE]":
        return None
    chunks = [json.loads(line) for line in lines]
    if any("error" in chunk for chunk in chunks):
        return None
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)


def client(number: int, url: str, part: bytes, questions: int, seen: Seen) -> int:
    """Upload a part and ask about it; returns the number of requests that were lost."""
    multipart = f"multipart/form-data; boundary={BOUNDARY}"
    content = send(seen, "upload", f"{url}/v1/files", form(part), multipart)
    if content is None:
        return 1 + questions
    file, lost = json.loads(content)["id"], 0
    for asked in range(questions):
        question, streamed = QUESTIONS[asked % len(QUESTIONS)], asked % 2 == 1
        parts = [
            {"type": "text", "text": question},
            {"type": "file", "file": {"file_id": file}},
        ]
        body: dict[str, Any] = {
            "model": "loaded",
            "messages": [{"role": "user", "content": parts}],
            "max_tokens": 16,
            "stream": streamed,
        }
        target = f"{url}/v1/chat/completions"
        raw = send(seen, "question", target, json.dumps(body).encode(), "application/json")
        text = None if raw is None else text_of(raw, streamed)
        if text is None:
            lost += 1
        elif seen.texts.setdefault((number, question), text) != text:
            seen.wrong += 1
    return lost


def parts_of(recording: Path, minutes: float, clients: int, folder: Path) -> list[bytes]:
    """A part of the recording, as FLAC, for each client."""
    joined = folder / "joined.wav"
    join([recording], joined, minutes)
    sound, rate = soundfile.read(joined, dtype="int16")
    parts = []
    for number, piece in enumerate(np.array_split(sound, clients)):
        path = folder / f"{number}.flac"
        soundfile.write(path, piece, rate)
        parts.append(path.read_bytes())
    return parts


@app.command()
def load(
    bundle: Path,
    recording: Path,
    clients: Annotated[int, typer.Option(min=1)] = 8,
    minutes: Annotated[float, typer.Option(help="Of recordings, all clients together.")] = 30.0,
    questions: Annotated[int, typer.Option(min=1, help="Of each client.")] = 10,
    queue: Annotated[int, typer.Option(help="Most requests that wait.")] = 4,
    threads: Annotated[int, typer.Option(min=1, help="Threads within an operator.")] = 2,
) -> None:
    """Print times and what was lost."""
    seen = Seen()
    command = [
        sys.executable, "-m", "speechprune_ort", "serve", str(bundle), "--port", "0",
        "--name", "loaded", "--device", "cpu", "--threads", str(threads), "--queue", str(queue),
        "--timeout", str(LIMIT),
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="speechprune-bench-") as folder:
        parts = parts_of(recording, minutes, clients, Path(folder))
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert server.stderr is not None  # noqa: S101 - for the type checker
            found = None
            while found is None and (line := server.stderr.readline()):
                found = re.search(r"serving \S+ at (\S+)", line)
            if found is None:
                raise typer.Exit(2)
            url, begun = found[1], time.perf_counter()
            with ThreadPoolExecutor(clients) as pool:
                lost = sum(
                    pool.map(lambda n: client(n, url, parts[n], questions, seen), range(clients))
                )
            took = time.perf_counter() - begun
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    table = Table("request", "answered", "median s", "p95 s", "longest s")
    for kind, seconds in seen.seconds.items():
        taken = Distribution.of(seconds)
        shown = (f"{value:.2f}" for value in (taken.p50, taken.p95, taken.max))
        table.add_row(kind, str(taken.n), *shown)
    printed = Console(width=100)
    printed.print(table)
    printed.print(
        f"{clients} clients, {minutes:g} minutes of recordings, {took:.1f} s; {lost} lost, "
        f"{seen.wrong} wrong; statuses {dict(sorted(seen.told.items()))}"
    )
    if lost or seen.wrong:
        raise typer.Exit(1)


if __name__ == "__main__":
    app()
