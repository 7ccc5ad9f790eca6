"""Ending work from outside: deadlines, tokens, signals, and a standard output that fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray
from typer.main import get_command

from speechprune_ort import Cancel, CancelledError, DeadlineError, OptionError, SpeechLLM, cli
from speechprune_ort.cancel import Limits, checkpoint
from speechprune_ort.cli.app import app
from speechprune_ort.cli.streams import BROKEN_PIPE

QUESTION = "Who?"


@pytest.fixture(scope="module")
def model(bundle: Path) -> SpeechLLM:
    return SpeechLLM(bundle, "cpu", 1)


@pytest.fixture(scope="module")
def noise() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal(65 * 16_000).astype(np.float32) / 10


def same(first: Any, second: Any) -> bool:
    return bool(
        first.token_ids == second.token_ids
        and np.array_equal(first.pruning.indices, second.pruning.indices)
        and np.array_equal(first.pruning.scores[0].values, second.pruning.scores[0].values)
    )


def test_after_a_cancelled_answer_the_next_equals_a_fresh_one(
    model: SpeechLLM, bundle: Path, noise: NDArray[np.float32]
) -> None:
    options: dict[str, Any] = {"sampling_rate": 16_000, "max_new_tokens": 16}
    fresh = SpeechLLM(bundle, "cpu", 1).ask(noise, QUESTION, **options)
    # One token for every place at which an answer may end: windows, phases, prompt, steps.
    ended = 0
    for delay in (0.0, 0.02, 0.05, 0.1, 0.15, 0.2):
        token = Cancel()
        timer = threading.Timer(delay, token.cancel)
        timer.start()
        try:
            assert same(model.ask(noise, QUESTION, cancel=token, **options), fresh)
        except CancelledError:
            ended += 1
        timer.join()
        assert same(model.ask(noise, QUESTION, **options), fresh)
    assert ended


def test_a_stream_ends_between_its_pieces_and_tells_so_again(
    model: SpeechLLM, noise: NDArray[np.float32]
) -> None:
    recording = model.listen(noise, sampling_rate=16_000)
    token = Cancel()
    generation: dict[str, Any] = {"max_new_tokens": 32, "ignore_stop": True}
    whole = recording.ask(QUESTION, **generation)
    stream = recording.stream(QUESTION, cancel=token, **generation)
    first = next(stream)
    token.cancel()
    with pytest.raises(CancelledError):
        next(stream)
    with pytest.raises(CancelledError):
        _ = stream.answer
    again = recording.ask(QUESTION, **generation)
    assert again.text.startswith(first)
    assert same(again, whole)


def test_a_deadline_that_passes_is_an_error_and_one_that_does_not_is_nothing(
    model: SpeechLLM, noise: NDArray[np.float32]
) -> None:
    with pytest.raises(DeadlineError, match=r"deadline of 0\.01 seconds"):
        model.ask(noise, QUESTION, sampling_rate=16_000, deadline=0.01)
    plain = model.ask(noise, QUESTION, sampling_rate=16_000, max_new_tokens=2)
    before = threading.active_count()
    assert same(
        model.ask(noise, QUESTION, sampling_rate=16_000, max_new_tokens=2, deadline=600), plain
    )
    time.sleep(0.05)
    assert threading.active_count() <= before  # nobody waits for it any more


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"deadline": 0}, "deadline must be"),
        ({"deadline": float("nan")}, "deadline must be"),
        ({"deadline": float("inf")}, "deadline must be"),
        ({"deadline": True}, "deadline must be"),
        ({"deadline": "1"}, "deadline must be"),
        ({"cancel": threading.Event()}, "cancel takes"),
    ],
)
def test_what_is_no_limit_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Limits(**given)


def test_limits_hold_for_their_own_call_alone() -> None:
    token = Cancel()
    token.cancel()
    with pytest.raises(CancelledError), Limits(token).held():
        pytest.fail("it was ended before")
    checkpoint()


def endless(path: Path) -> Path:
    """A graph whose single run does not end for hours."""
    from onnx import TensorProto, helper, numpy_helper, save

    def value(name: str, kind: int) -> Any:
        return helper.make_tensor_value_info(name, kind, [])

    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["on"]),
            helper.make_node("Sin", ["before"], ["after"]),
        ],
        "body",
        [value("i", TensorProto.INT64), value("go", TensorProto.BOOL),
         value("before", TensorProto.FLOAT)],
        [value("on", TensorProto.BOOL), value("after", TensorProto.FLOAT)],
    )  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("Loop", ["times", "true", "x"], ["y"], body=body)],
        "endless",
        [value("x", TensorProto.FLOAT)],
        [value("y", TensorProto.FLOAT)],
        [
            numpy_helper.from_array(np.array(10**12), "times"),
            numpy_helper.from_array(np.array(True), "true"),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return path


def test_a_run_ends_in_the_middle_of_its_graph(tmp_path: Path) -> None:
    import onnxruntime as ort

    from speechprune_ort.runtime.ort.endable import EndableSession

    path = endless(tmp_path / "endless.onnx")
    session = EndableSession(path, ort.SessionOptions(), ["CPUExecutionProvider"])
    limits = Limits(deadline=0.3)
    started = time.perf_counter()
    with pytest.raises(DeadlineError), limits.held():
        session.run(None, {"x": np.array(1, np.float32)})
    assert time.perf_counter() - started < 5


RUN_ENDLESS = """
import sys, numpy as np, onnxruntime as ort
from speechprune_ort.cli import signals
signals.install()
from speechprune_ort.runtime.ort.endable import EndableSession
session = EndableSession(sys.argv[1], ort.SessionOptions(), ["CPUExecutionProvider"])
print("here", flush=True)
session.run(None, {"x": np.array(1, np.float32)})
"""

DEEP_IN_C = """
import hashlib, sys
from pathlib import Path
from speechprune_ort.cancel import UNFINISHED
from speechprune_ort.cli import signals
signals.install()
UNFINISHED.add(Path(sys.argv[1]))
print("here", flush=True)
hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)
"""

IN_AN_IMPORT = """
import sys
from speechprune_ort.cli import signals
signals.install()
sys.path.insert(0, sys.argv[1])
import slow
"""

SLOW_TO_CLOSE = """
import time
from speechprune_ort import cli
class Slow:
    def __del__(self, sleep=time.sleep):
        sleep(20)
slow = Slow()
def work():
    print("here", flush=True)
    time.sleep(20)
cli._run = work
cli.main()
"""

LOST = """
import sys, time
from speechprune_ort.cli import signals
signals.install()
class Slow:
    def __del__(self):
        print("here", flush=True)
        time.sleep(10)
slow = Slow()
del slow
time.sleep(10)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("name", ["a graph", "a library", "an import", "a destructor", "closing"])
def test_a_signal_ends_a_command_within_a_second_wherever_it_is(
    name: str, number: int, tmp_path: Path
) -> None:
    code, given = DEEP_IN_C, tmp_path / "unfinished"
    if name == "a graph":
        code, given = RUN_ENDLESS, endless(tmp_path / "endless.onnx")
    elif name == "an import":
        code, given = IN_AN_IMPORT, tmp_path
        # As extension modules do: what is raised in theirs never arrives.
        (tmp_path / "slow.py").write_text(
            "import time\nprint('here', flush=True)\n"
            "try:\n    time.sleep(10)\nexcept BaseException: pass\ntime.sleep(10)\n"
        )
    elif name in ("a destructor", "closing"):
        code = LOST if name == "a destructor" else SLOW_TO_CLOSE
    else:
        given.mkdir()
        (given / "half.onnx").write_text("half")
    process = subprocess.Popen(
        [sys.executable, "-c", code, given], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"here\n"
    time.sleep(0.1)
    started = time.perf_counter()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert time.perf_counter() - started < 5  # a second, and a busy machine
    assert process.returncode == 128 + number

    assert errors == b""
    if name == "a library":
        assert not given.exists()


def command(*args: object) -> list[str]:
    return [sys.executable, "-m", "speechprune_ort", *map(str, args)]


@pytest.fixture(scope="module")
def long_wav(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "long.wav"
    samples = np.random.default_rng(0).integers(-3000, 3000, 16_000 * 1200, np.int16)
    soundfile.write(path, samples, 16_000)
    return path


@pytest.mark.parametrize("after", [0.25, 0.6, 1.5])
def test_an_interrupted_ask_says_nothing(after: float, bundle: Path, long_wav: Path) -> None:
    process = subprocess.Popen(
        command("ask", bundle, long_wav, QUESTION, "--device", "cpu", "--method", "attention"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    time.sleep(after)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    started = time.perf_counter()
    out, errors = process.communicate(timeout=30)
    assert time.perf_counter() - started < 5
    assert (process.returncode, out, errors) == (130, b"", b"")


# Every command that writes there; B is the bundle, A a recording, S a set, O a place for results.
WRITERS = (
    "doctor", "--help", "ask --help", "--version", "families", "tasks", "validate S",
    "ask B A Who? --device cpu", "ask B A Who? --device cpu --json",
    "ask B A A -q Who? --device cpu --max-new-tokens 1",
    "ask B A A -q Who? --device cpu --max-new-tokens 1 --json",
    "eval B --data S --out O --device cpu --methods none --no-plots --no-costs",
    "calibrate B S --out O --device cpu --method speechprune --pruning-rate 0.5",
    "profile B --audio A --repeats 1 --warmup 0 --loads 1 --new-tokens 1 --device cpu",
)  # fmt: skip
COMMANDS = ("ask", "batch", "serve", "get", "export", "families", "eval", "calibrate", "tasks",
            "validate", "profile", "doctor")  # fmt: skip


def test_every_command_is_tried() -> None:
    assert set(COMMANDS) == set(get_command(app).commands)  # type: ignore[attr-defined]
    # These write their results to files and to stderr; get's name of a folder needs the network.
    silent = {"batch", "serve", "get", "export"}
    assert {line.split()[0] for line in WRITERS} >= set(COMMANDS) - silent


@pytest.mark.parametrize("line", WRITERS)
@pytest.mark.parametrize("where", ["full", "closed", "pipe"])
def test_a_standard_output_that_fails_is_one_sentence_or_a_quiet_end(
    line: str, where: str, bundle: Path, tone_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "set.jsonl").write_text(
        json.dumps({"id": "a", "audio": str(tone_file), "question": QUESTION,
                    "choices": ["One.", "Two."], "answer": "A"}) + "\n"
    )  # fmt: skip
    given = {"B": bundle, "A": tone_file, "S": tmp_path / "set.jsonl", "O": tmp_path / "out"}
    args = [given.get(word, word) for word in line.split()]
    read, write = os.pipe()
    os.close(read)
    if where == "full":
        os.close(write)
        write = os.open("/dev/full", os.O_WRONLY)
    run = command(*args)
    if where == "closed":
        # Both, as the next two files that are opened get the numbers of standard streams.
        run = ["sh", "-c", 'exec "$@" <&- >&-', "sh", *run]
    try:
        done = subprocess.run(run, stdout=write, stderr=subprocess.PIPE, check=False, timeout=60)
    finally:
        os.close(write)
    if where == "pipe":
        assert done.returncode == BROKEN_PIPE
        assert b"Traceback" not in done.stderr
        assert b"error" not in done.stderr
        return
    errors = [line for line in done.stderr.splitlines() if line.startswith(b"error: ")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1
    assert b"Standard output cannot be written" in errors[0]
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.fixture(scope="module")
def tone_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tone") / "tone.wav"
    soundfile.write(path, np.sin(np.arange(16_000) / 9) / 4, 16_000)
    return path


def test_a_closed_error_output_costs_no_answer(bundle: Path, tone_file: Path) -> None:
    line = command("ask", bundle, tone_file, QUESTION, "--device", "cpu", "--max-new-tokens", 4)
    shell = ["sh", "-c", 'exec "$@" 2>&-', "sh", *line]
    done = subprocess.run(shell, stdout=subprocess.PIPE, check=False, timeout=60)
    assert done.returncode == 0
    assert done.stdout


@pytest.mark.parametrize(
    "error",
    [
        "MemoryError()",
        "ImportError('x.so: failed to map segment from shared object')",
        "ImportError('Exception caught: std::bad_alloc')",
        "OSError(12, 'Cannot allocate memory')",
        'RuntimeError("can\'t start new thread")',
    ],
)
def test_too_little_memory_for_a_library_is_one_sentence(
    error: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        try:
            raise eval(error)  # noqa: S307 - ours
        except Exception as reason:
            raise ImportError("The library cannot be imported.") from reason

    assert cli._finished(work) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: There is not enough memory")
    assert said.count("\n") == 1


@pytest.mark.parametrize("mebibytes", [30, 90, 380, 410])
def test_an_address_space_that_libraries_do_not_fit_into_is_refused_before_them(
    mebibytes: int, bundle: Path
) -> None:
    # OpenBLAS fails in its own words in the second of these, and never ends in the others.
    line = command("eval", bundle, "--data", "none.jsonl", "--methods", "none")
    shell = ["sh", "-c", f'ulimit -v {mebibytes << 10}; exec "$@"', "sh", *line]
    done = subprocess.run(shell, capture_output=True, check=False, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: There is not enough memory")
    assert done.stderr.count(b"\n") == 1


def test_signals_are_set_before_anything_heavy_is_loaded() -> None:
    code = (
        "import sys; from speechprune_ort.cli import main, signals, streams\n"
        "print('numpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"False\n"


def test_another_failing_import_keeps_its_traceback() -> None:
    def work() -> None:
        raise ImportError("No module named 'x'")

    with pytest.raises(ImportError):
        cli._finished(work)


def test_in_a_folder_that_was_deleted_a_command_says_so(bundle: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    (tmp_path / "in.jsonl").write_text('{"audio": "a.wav", "question": "Who?"}\n')
    command = (
        f"rmdir {gone} && exec {sys.executable} -m speechprune_ort batch {bundle} "
        f"{tmp_path / 'in.jsonl'} out.jsonl"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=gone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: The working folder was deleted")
    assert "Traceback" not in done.stderr


def test_an_error_is_one_line_and_commands_no_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise OptionError("No file a\nb\x1b[2J\udcff: give one.")

    assert cli._finished(fail) == 2
    assert capsys.readouterr().err == "error: No file a\\nb\\x1b[2J\\udcff: give one.\n"
