"""``threads=1`` is one thread: of ONNX Runtime, and of the library behind numpy's products."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from threadpoolctl import ThreadpoolController

from speechprune_ort.runtime.ort.threads import numpy_threads

WORK = """
import sys
from pathlib import Path
import numpy as np
from speechprune_ort import SpeechLLM

def others():
    # Nanoseconds on a processor, of all threads but the one that asks.
    tasks = [task for task in Path("/proc/self/task").iterdir() if task.name != own]
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)

own = Path("/proc/thread-self").resolve().name
samples = np.random.default_rng(0).standard_normal(75 * 16_000).astype(np.float32)
model = SpeechLLM(sys.argv[1], "cpu", int(sys.argv[2]))
before = others()
model.ask(samples, "Who?", sampling_rate=16_000, method="speechprune", pruning_rate=0.2,
          max_new_tokens=4)
print(others() - before)
"""


def blas() -> list[int]:
    found = ThreadpoolController().select(user_api="blas").info()
    return [library["num_threads"] for library in found]


@pytest.fixture
def before() -> Iterator[list[int]]:
    """Threads outside of all blocks, at least two where the machine has them."""
    libraries = ThreadpoolController().select(user_api="blas")
    if not libraries.lib_controllers:
        pytest.skip("threadpoolctl does not know the library behind numpy here")
    with libraries.limit(limits=2):
        yield blas()


def test_a_limit_holds_within_its_block_and_never_widens(before: list[int]) -> None:
    with numpy_threads(64):
        assert blas() == before
        with numpy_threads(1):
            assert set(blas()) == {1}
            with numpy_threads(None), numpy_threads(2):
                assert set(blas()) == {1}
        assert blas() == before
    assert blas() == before


def test_blocks_of_several_threads_may_end_in_any_order(before: list[int]) -> None:
    first, second = numpy_threads(1), numpy_threads(1)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert set(blas()) == {1}, "the second block is still open"
    second.__exit__(None, None, None)
    assert blas() == before


def test_a_limit_ends_with_an_error(before: list[int]) -> None:
    with pytest.raises(KeyError), numpy_threads(1):
        raise KeyError
    assert blas() == before


@pytest.mark.skipif(
    not Path("/proc/self/schedstat").exists(), reason="the kernel does not count threads' time"
)
def test_one_thread_means_one(bundle: Path) -> None:
    environment = {n: v for n, v in os.environ.items() if not n.endswith("_NUM_THREADS")}
    environment["OPENBLAS_NUM_THREADS"] = "2"

    def spent_by_others(threads: int) -> int:
        command = [sys.executable, "-c", WORK, str(bundle), str(threads)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert spent_by_others(2) > 10_000_000, "the measurement sees nothing"
    assert spent_by_others(1) < 1_000_000
