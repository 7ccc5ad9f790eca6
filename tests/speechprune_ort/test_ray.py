"""Evaluation and batch on a local Ray cluster of two workers: as in one process, and tougher."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from speechprune_ort import Cancel, CancelledError, DataError, DeviceError
from speechprune_ort.batch import BatchTask, answer_all, read_requests
from speechprune_ort.cancel import Limits
from speechprune_ort.evaluation.executor import LocalExecutor
from speechprune_ort.evaluation.plan import Plan
from speechprune_ort.evaluation.rows import judge_all
from speechprune_ort.evaluation.samples import read_samples
from speechprune_ort.evaluation.settings import settings_of
from speechprune_ort.methods import METHODS, load_plugins
from speechprune_ort.options import GenerationOptions, PruningOptions
from speechprune_ort.ray_workers import RayWorkers

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def workers() -> Iterator[RayWorkers]:
    # Workers do not have this file on their path.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield RayWorkers(None, 2)
    ray.shutdown()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, tone: NDArray[np.float32]) -> Path:
    folder = tmp_path_factory.mktemp("ray-set")
    lines = []
    for index in range(4):
        soundfile.write(folder / f"{index}.wav", tone[index * 16_000 :][: 5 * 16_000], 16_000)
        lines.append(
            {"audio": f"{index}.wav", "question": f"Who {index}?", "choices": ["a", "b cat"],
             "answer": index % 2}
        )  # fmt: skip
    path = folder / "set.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_rows_are_those_of_one_process(
    workers: RayWorkers, bundle: Path, data: Path, tmp_path: Path
) -> None:
    from speechprune_ort.evaluation.ray_executor import RayExecutor

    settings = settings_of(["none", "random", "speechprune"], [0.4], [0])
    plan = Plan(bundle, tuple(read_samples(data)), tuple(settings), device="cpu", threads=1)
    spread = judge_all(plan, tmp_path / "ray", RayExecutor(None, 2))
    assert spread == judge_all(plan, tmp_path / "local", LocalExecutor())


def test_batch_answers_are_those_of_one_process(
    workers: RayWorkers, bundle: Path, data: Path
) -> None:
    task = BatchTask(
        bundle, tuple(read_requests(data)), PruningOptions(),
        GenerationOptions(max_new_tokens=4), "cpu", 1,
    )  # fmt: skip
    spread = sorted(answer_all(task, (), workers), key=lambda line: line["id"])
    assert spread == list(answer_all(task, ()))


class Fragile:
    """Items that kill their worker the first time they are done, or each time."""

    uses_cuda = False
    plugins: tuple[Path, ...] = ()

    def __init__(self, folder: Path, always: bool = False) -> None:
        self.folder, self.always = folder, always

    def open(self) -> Callable[[int], int]:
        return self.square

    def square(self, item: int) -> int:
        mark = self.folder / str(item)
        if item % 3 == 1 and (self.always or not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item * item


class Wrong:
    uses_cuda = False
    plugins: tuple[Path, ...] = ()

    def open(self) -> Any:
        raise DataError("Nothing is here.")


PLUGIN = """
from dataclasses import dataclass
import numpy as np
from speechprune_ort.methods import MethodOptions, Selection, method

@dataclass(frozen=True)
class Strided(MethodOptions):
    step: int = 2

@method("strided", summary="every n-th token", options=Strided)
def strided(request):
    order = np.argsort(np.arange(request.tokens) % request.own.step, kind="stable")
    return Selection(np.sort(order[: request.n_keep]))
"""


def test_options_of_a_plugin_reach_the_workers(
    workers: RayWorkers, bundle: Path, data: Path, tmp_path: Path
) -> None:
    from speechprune_ort.evaluation.ray_executor import RayExecutor

    plugin = tmp_path / "strided.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    load_plugins([plugin])
    try:
        samples = tuple(read_samples(data))
        settings = tuple(settings_of(["strided"], [0.4], [0], own={"step": 3}))
        plan = Plan(bundle, samples, settings, controls=False, device="cpu", threads=1,
                    plugins=(plugin,))  # fmt: skip
        rows = judge_all(plan, tmp_path / "ray", RayExecutor(None, 2))
        assert rows == judge_all(plan, tmp_path / "local", LocalExecutor())
        assert settings[-1].options.to_dict()["step"] == 3
    finally:
        del METHODS["strided"]


def test_a_killed_worker_costs_its_item_nothing(workers: RayWorkers, tmp_path: Path) -> None:
    found = dict(workers.map(Fragile(tmp_path), range(8)))
    assert found == {item: item * item for item in range(8)}
    assert {path.name for path in tmp_path.iterdir()} == {"1", "4", "7"}


def test_an_item_that_kills_every_worker_is_named(workers: RayWorkers, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="workers died over item 1"):
        dict(workers.map(Fragile(tmp_path, always=True), [0, 1, 2]))


class Long:
    """Tells the process that it is in, and stays there."""

    uses_cuda = False
    plugins: tuple[Path, ...] = ()

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self) -> Callable[[int], int]:
        return self.stay

    def stay(self, item: int) -> int:
        (self.folder / str(os.getpid())).touch()
        time.sleep(600)
        return item


def test_what_is_cancelled_ends_its_workers_too(workers: RayWorkers, tmp_path: Path) -> None:
    token, before = Cancel(), time.monotonic()

    def ended() -> None:
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() - before < 60:
            time.sleep(0.05)
        token.cancel()

    threading.Thread(target=ended).start()
    with pytest.raises(CancelledError), Limits(token).held():
        dict(workers.map(Long(tmp_path), range(4)))
    at_work = [Path("/proc", path.name) for path in tmp_path.iterdir()]
    assert len(at_work) == 2
    until = time.monotonic() + 20
    while any(map(is_running, at_work)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_running, at_work))


def is_running(process: Path) -> bool:
    try:
        return ") Z " not in (process / "stat").read_text()
    except OSError:
        return False


def test_signals_stay_what_they_were_and_while_a_cluster_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def init(**_: Any) -> None:
        ray._private.utils.set_sigterm_handler(lambda *_: None)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

    with monkeypatch.context() as patched:
        patched.setattr(ray, "is_initialized", lambda: False)
        patched.setattr(ray, "init", init)
        RayWorkers(None, 2)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_while_a_cluster_starts_the_system_ends_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    # Ray connects in C code that lets no handler of Python run.
    both, within = (signal.SIGINT, signal.SIGTERM), []

    def of_command(*_: Any) -> None:
        pytest.fail("no signal was sent")

    before = [signal.signal(number, of_command) for number in both]
    try:
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setattr(
            ray, "init", lambda **_: within.extend(signal.getsignal(number) for number in both)
        )
        RayWorkers(None, 2)
        assert within == [signal.SIG_DFL] * 2
        assert [signal.getsignal(number) for number in both] == [of_command] * 2
    finally:
        for number, handler in zip(both, before, strict=True):
            signal.signal(number, handler)


def test_what_a_task_raises_on_purpose_reaches_the_caller(workers: RayWorkers) -> None:
    with pytest.raises(DataError, match="Nothing is here"):
        dict(workers.map(Wrong(), [0]))
