"""The runtime beside what people would use instead: same weights, same input, in turns.

    scripts/bench/bench_peers CHECKPOINT WORK [--prompts 150,750,2200] [--steps 32]
                              [--repeats 7] [--threads 2] [--only NAME,...]
                              [--cases NAME,...] [--json FILE] [--markdown FILE]

CHECKPOINT is a Qwen2-Audio folder whose language model is a Llama or Qwen2 (the embedded default
model); WORK keeps what is made of it for each contender. Every contender is a process with the
same threads on the same cores, and they take turns: one order each a round, in rotating order, the
first round not counted. Between orders all of them sleep, and a machine may page out what sleeps:
each is given a short untimed order ahead of a timed one. ``--only`` and ``--cases`` take parts of
the names of contenders and of tables: a checkpoint of 7 billion parameters' dimensions and a few
layers (``make_random_checkpoint --layers``) is raced with ``--cases text``.

``scripts/bench/bench_peers`` makes the environments. Exit code 1: a contender failed (it is named,
and the others' figures stand); 2: the arguments cannot be used.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, cast

import numpy as np
import soundfile
import typer
from bench.peers.models import ct2_folder, genai_folder, gguf_file, language_model, our_bundle
from bench.peers.tables import tables_of
from rich.console import Console
from rich.progress import Progress

from speechprune_ort.errors import OptionError, SpeechPruneError
from speechprune_ort.files import write_json, write_whole
from speechprune_ort.machine import machine
from speechprune_ort.runtime.hearing.audio import load_audio

ROOT = Path(__file__).parents[2]
WORKER = Path(__file__).parent / "peers" / "worker.py"
RECORDING = ROOT / "scripts" / "research" / "recording" / "meeting.ogg"
QUESTIONS = RECORDING.with_name("questions.json")
SEVERAL = 8  # questions at once
SEVERAL_TOKENS = 150  # of each prompt: what pruning rate 0.8 leaves of a window
WINDOW_SECONDS = 30
RATE = 16_000
WARM_TOKENS = 32
REST = 0.2  # seconds between orders, in which threads stop spinning
PRECISIONS = ("fp32", "int8", "int4")  # that everyone has
OURS = ("fp32", "int8", "w8a8", "int4")
USER_ERROR = 2

console = Console(stderr=True, highlight=False, soft_wrap=True)


@dataclass(frozen=True)
class Contender:
    """Who takes part.

    Attributes:
        name: in the tables.
        kind: of the worker.
        precision: of the weights.
        python: interpreter of its environment.
        model: makes its model in the work folder, and gives the path.
        orders: which it takes.
    """

    name: str
    kind: str
    precision: str
    python: Path
    model: Any
    orders: tuple[str, ...]


def contenders(checkpoint: Path, work: Path) -> list[Contender]:
    """Everyone, the reference of each precision first."""
    here = Path(sys.executable)
    text, whole = ("text",), ("text", "encode", "answer", "answers")
    llama = ROOT / ".venv-llama" / "bin" / "python"
    whisper = ROOT / ".venv-faster-whisper" / "bin" / "python"

    def made(make: Any, precision: str) -> Any:
        return lambda: make(checkpoint, precision, work)

    found = [
        Contender(f"speechprune-ort {p}", "ours", p, here, made(our_bundle, p), whole) for p in OURS
    ]
    for dtype, precision in (("float32", "fp32"), ("bfloat16", "bf16")):
        name, kind = f"transformers sdpa {precision}", f"torch-{dtype}"
        found.append(Contender(name, kind, precision, here, lambda: checkpoint, whole))
    for p in PRECISIONS:
        name = f"onnxruntime-genai {p}"
        found.append(Contender(name, "genai", p, here, made(genai_folder, p), text))
    for p in PRECISIONS:
        found.append(Contender(f"llama.cpp {p}", "llama", p, llama, made(gguf_file, p), text))
    for dtype, precision in (("float32", "fp32"), ("int8", "int8")):
        name, kind = f"faster-whisper {precision}", f"faster-whisper-{dtype}"
        make = lambda: ct2_folder(checkpoint, whisper, work)  # noqa: E731
        found.append(Contender(name, kind, precision, whisper, make, ("encode",)))
    return found


class Worker:
    """A contender's process.

    Args:
        contender: who.
        threads: within an operator; the process is kept to as many cores.

    Raises:
        RuntimeError: it could not start.
    """

    def __init__(self, contender: Contender, threads: int) -> None:
        self.contender = contender
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
        cores = sorted(os.sched_getaffinity(0))[:threads]
        command = [contender.python, WORKER, contender.kind, contender.model(),
                   "--threads", threads]  # fmt: skip
        self._process = subprocess.Popen(
            list(map(str, command)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        self._orders = cast("IO[str]", self._process.stdin)
        self._answers = cast("IO[str]", self._process.stdout)
        ready = self._answer()
        self.version = f"{ready['ready']} {ready['version']}"

    def do(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """Give an order and wait for the answer.

        Raises:
            RuntimeError: it failed.
        """
        self._orders.write(json.dumps(order) + "\n")
        self._orders.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line:
            raise RuntimeError(f"its process ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


@dataclass
class Case:
    """One row group of the tables: an order that some contenders take.

    Attributes:
        name: of it.
        order: itself.
        seconds: per contender and figure, one value a round.
        ids: what each said in its last round.
    """

    name: str
    order: Mapping[str, Any]
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    ids: dict[str, list[int]] = field(default_factory=dict)

    def keep(self, contender: str, answer: Mapping[str, Any], counted: bool) -> None:
        """Take an answer's figures."""
        if "ids" in answer:
            self.ids[contender] = answer["ids"]
        if not counted:
            return
        for name, value in answer.items():
            if name.endswith("_s"):
                self.seconds.setdefault(contender, {}).setdefault(name, []).append(value)


def cases(prompts: Sequence[int], steps: int, window: Path, vocabulary: int) -> list[Case]:
    """All orders."""
    random = np.random.default_rng(0)
    found = [
        Case(
            f"text, {count} tokens",
            {"do": "text", "prompts": random.integers(0, vocabulary, (1, count)).tolist(),
             "steps": steps},
        )
        for count in prompts
    ]  # fmt: skip
    several = random.integers(0, vocabulary, (SEVERAL, SEVERAL_TOKENS)).tolist()
    found.append(
        Case(
            f"{SEVERAL} sequences of {SEVERAL_TOKENS} tokens at once",
            {"do": "text", "prompts": several, "steps": steps},
        )
    )
    found.append(Case("audio encoder, 30 s", {"do": "encode", "audio": str(window)}))
    questions = [one["question"] for one in json.loads(QUESTIONS.read_text())["questions"]]
    for rate in (None, 0.8):
        kept = "all tokens" if rate is None else f"pruning rate {rate:g}"
        order = {"audio": str(window), "steps": steps, "pruning_rate": rate}
        one = {**order, "do": "answer", "question": questions[0]}
        many = {**order, "do": "answers", "questions": questions[:SEVERAL]}
        found.append(Case(f"answer from 30 s of audio, {kept}", one))
        found.append(Case(f"{SEVERAL} answers from 30 s of audio, {kept}", many))
    return found


def takes(contender: Contender, case: Case) -> bool:
    """Whether a contender can do this: only ours prunes."""
    pruned = case.order.get("pruning_rate") is not None
    return case.order["do"] in contender.orders and (contender.kind == "ours" or not pruned)


def warm_up(worker: Worker, case: Case) -> None:
    """Give short orders that touch the weights which a case takes.

    Raises:
        RuntimeError: one failed.
    """
    if "audio" in case.order:
        worker.do({"do": "encode", "audio": case.order["audio"]})
    if "text" in worker.contender.orders and case.order["do"] != "encode":
        worker.do({"do": "text", "prompts": [list(range(1, WARM_TOKENS + 1))], "steps": 2})


def race(
    workers: dict[str, Worker], found: Sequence[Case], repeats: int
) -> Iterator[tuple[str, str]]:
    """Let everyone do everything in turns; gives failures as they happen, by name."""
    with Progress(console=console) as display:
        task = display.add_task("rounds", total=len(found) * (repeats + 1))
        for case in found:
            for turn in range(repeats + 1):
                names = [n for n, worker in workers.items() if takes(worker.contender, case)]
                for place in range(len(names)):
                    name = names[(turn + place) % len(names)]
                    time.sleep(REST)
                    try:
                        warm_up(workers[name], case)
                        answer = workers[name].do(case.order)
                    except RuntimeError as error:
                        workers.pop(name).close()
                        yield name, str(error)
                        continue
                    case.keep(name, answer, counted=turn > 0)
                display.advance(task)


def matrix_rate(threads: int) -> float:
    """Operations a second of a large float32 matrix product in ONNX Runtime, best of several."""
    import onnxruntime as ort
    from onnx import TensorProto, helper

    size = 2048
    shape = [size, size]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["a", "b"], ["c"])],
        "product",
        [value("a", TensorProto.FLOAT, shape), value("b", TensorProto.FLOAT, shape)],
        [value("c", TensorProto.FLOAT, shape)],
    )
    opset = [helper.make_opsetid("", 20)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model.SerializeToString(), options)
    feed = dict.fromkeys("ab", np.ones(shape, np.float32))
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        session.run(None, feed)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def agreement(case: Case) -> dict[str, float]:
    """Share of tokens that each contender says as ours does at fp32, up to the first other one."""
    ours = case.ids.get("speechprune-ort fp32")
    if not ours:
        return {}
    found = {}
    for name, ids in case.ids.items():
        same = 0
        for a, b in zip(ours, ids, strict=False):
            if a != b:
                break
            same += 1
        found[name] = same / len(ours)
    return found


def cut_window(work: Path) -> Path:
    """The first 30 seconds of the bundled recording as a file that everyone can read."""
    path = work / "window.wav"
    samples = load_audio(RECORDING)[: WINDOW_SECONDS * RATE]
    soundfile.write(path, samples, RATE, "FLOAT")
    return path


def main(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of the embedded default model.")],
    work: Annotated[Path, typer.Argument(help="Folder for the contenders' models.")],
    prompts: Annotated[str, typer.Option(help="Tokens, comma-separated.")] = "150,750,2200",
    steps: Annotated[int, typer.Option(min=2, help="Tokens to generate.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Rounds that count.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="Threads and cores of everyone.")] = 2,
    only: Annotated[str, typer.Option(help="Parts of names, comma-separated.")] = "",
    only_cases: Annotated[
        str, typer.Option("--cases", help="Parts of tables' names, comma-separated.")
    ] = "",
    json_file: Annotated[Path | None, typer.Option("--json", help="All samples.")] = None,
    markdown_file: Annotated[Path | None, typer.Option("--markdown", help="The tables.")] = None,
) -> None:
    """Print the tables."""
    try:
        counts = [int(part) for part in prompts.split(",")]
    except ValueError:
        console.print(f"Error: --prompts takes numbers separated by commas, not {prompts!r}.")
        raise typer.Exit(USER_ERROR) from None
    work.mkdir(parents=True, exist_ok=True)
    workers: dict[str, Worker] = {}
    failures: dict[str, str] = {}
    try:
        wanted = only.split(",")
        everyone = [
            c for c in contenders(checkpoint, work) if any(part in c.name for part in wanted)
        ]
        if not everyone:
            raise OptionError(f"--only {only!r} is part of no contender's name.")
        config = json.loads((language_model(checkpoint, work) / "config.json").read_text())
        rate = matrix_rate(threads)
        for contender in everyone:
            console.print(f"start {contender.name}", markup=False)
            try:
                workers[contender.name] = Worker(contender, threads)
            except (RuntimeError, OSError) as error:
                failures[contender.name] = str(error)
        versions = {name: worker.version for name, worker in workers.items()}
        every = cases(counts, steps, cut_window(work), config["vocab_size"])
        found = [case for case in every if any(part in case.name for part in only_cases.split(","))]
        if not found:
            raise OptionError(f"--cases {only_cases!r} is part of no table's name.")
        failures.update(race(workers, found, repeats))
    except SpeechPruneError as error:
        console.print(f"Error: {error}", markup=False)
        raise typer.Exit(USER_ERROR) from error
    finally:
        for worker in workers.values():
            worker.close()
    for name, reason in failures.items():
        console.print(f"failed: {name}: {reason}", markup=False)
    content = {
        "machine": machine(), "threads": threads, "repeats": repeats, "versions": versions,
        "matrix_flops": rate, "failed": failures,
        "cases": [
            {"name": case.name, "steps": steps, "seconds": case.seconds,
             "same_as_ours": agreement(case)}
            for case in found
        ],
    }  # fmt: skip
    tables = tables_of(content)
    typer.echo(tables)
    typer.echo(f"float32 matrix product of the machine: {rate / 1e9:.0f} GFLOP/s")
    if json_file:
        write_json(json_file, content)
    if markdown_file:
        write_whole(markdown_file, tables)
    if failures:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
