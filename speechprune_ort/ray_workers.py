"""Work spread over a Ray cluster: one open model per worker, lost workers are replaced."""

from __future__ import annotations

import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from speechprune_ort.cancel import checkpoint
from speechprune_ort.errors import DeviceError, OptionError, SpeechPruneError
from speechprune_ort.methods import load_plugins

__all__ = ["RayWorkers", "Task"]

ATTEMPTS = 3  # of one item: what kills this many workers would kill them all
LOOK_S = 0.2  # between two looks at whether the work was ended


class Task(Protocol):
    """What a worker does; it is pickled to get there."""

    @property
    def uses_cuda(self) -> bool:
        """Whether a worker needs a GPU of its own."""
        ...

    @property
    def plugins(self) -> tuple[Path, ...]:
        """Files to run before it is unpickled: they define what it may hold."""
        ...

    def open(self) -> Callable[[int], Any]:
        """Load what is needed, once per worker, and return the function that does one item."""
        ...


class RayWorkers:
    """Actors on a cluster.

    Args:
        address: address of the cluster, such as ``auto`` or ``ray://host:10001``; None starts one
            on this machine.
        workers: number of actors.

    Raises:
        OptionError: Ray is not installed.
        DeviceError: the cluster cannot be reached.
    """

    def __init__(self, address: str | None, workers: int) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise OptionError(
                "--engine ray needs Ray: pip install 'speechprune-ort[ray]'."
            ) from None
        self._ray, self._workers = ray, workers
        if not ray.is_initialized():
            try:
                with _own_signals(ray):
                    ray.init(
                        address=address,
                        num_cpus=None if address else workers,
                        include_dashboard=None if address else False,
                        log_to_driver=False,
                        configure_logging=False,
                    )
            except (ConnectionError, RuntimeError, ValueError) as error:
                raise DeviceError(
                    f"The Ray cluster at {address or 'this machine'} cannot be used "
                    f"({error}): check --address."
                ) from None

    def map(self, task: Task, items: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Do every item; results come as they are ready.

        An item whose worker dies is done again by a new one, at most ``ATTEMPTS`` times.

        Raises:
            SpeechPruneError: what the task raises on purpose.
            CancelledError: the work was ended; so are the workers, whatever they are doing.
            DeviceError: workers died again and again over one item.
        """
        ray = self._ray
        actor = ray.remote(num_cpus=1, num_gpus=1 if task.uses_cuda else 0)(_Worker)
        waiting, attempts = list(reversed(items)), dict.fromkeys(items, 0)
        packed = ray.cloudpickle.dumps(task)
        idle = [actor.remote(packed, task.plugins) for _ in range(min(self._workers, len(items)))]
        running: dict[Any, tuple[Any, int]] = {}
        try:
            while waiting or running:
                while waiting and idle:
                    worker, item = idle.pop(), waiting.pop()
                    attempts[item] += 1
                    running[worker.do.remote(item)] = (worker, item)
                done, _ = ray.wait(list(running), num_returns=1, timeout=LOOK_S)
                checkpoint()
                if not done:
                    continue
                worker, item = running.pop(done[0])
                try:
                    result = ray.get(done[0])
                except ray.exceptions.ActorDiedError as error:
                    if attempts[item] == ATTEMPTS:
                        raise DeviceError(
                            f"{ATTEMPTS} workers died over item {item}: check their memory "
                            f"({error})."
                        ) from None
                    waiting.append(item)
                    idle.append(actor.remote(packed, task.plugins))
                    continue
                except ray.exceptions.RayTaskError as error:
                    cause = error.cause
                    if isinstance(cause, SpeechPruneError):
                        raise type(cause)(str(cause)) from None
                    raise
                idle.append(worker)
                yield item, result
        finally:  # whatever ended it: a worker that is at work would go on by itself
            for worker in (*idle, *(worker for worker, _ in running.values())):
                ray.kill(worker)


@contextmanager
def _own_signals(ray: Any) -> Iterator[None]:
    """While a cluster starts, let SIGINT and SIGTERM end a command as they do by default.

    Connecting to a cluster takes seconds during which Ray lets no Python thread run, so that no
    handler would be called. Nothing has been begun yet that would have to be cleaned up. Ray is
    also kept from handling SIGTERM itself, which it would answer with another exit code.
    """
    main = threading.current_thread() is threading.main_thread()  # no other may change them
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    # A program that uses this package and does not look at SIGTERM keeps its Ctrl-C.
    command = before[signal.SIGTERM] not in (signal.SIG_DFL, signal.SIG_IGN, None)
    utils = ray._private.utils  # noqa: SLF001
    taking = getattr(utils, "set_sigterm_handler", None)
    utils.set_sigterm_handler = lambda _: None
    try:
        if main and command:
            for number in before:
                signal.signal(number, signal.SIG_DFL)
        yield
    finally:
        utils.set_sigterm_handler = taking
        for number, handler in before.items():
            if main and handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)


class _Worker:
    """An actor's body."""

    def __init__(self, packed: bytes, plugins: Sequence[Path]) -> None:
        self._do: Callable[[int], Any] | None = None
        self._packed, self._plugins = packed, plugins

    def do(self, item: int) -> Any:
        # Opened with the first item: an error of opening then reaches the driver as it is.
        if self._do is None:
            load_plugins(self._plugins)
            task: Task = pickle.loads(self._packed)  # noqa: S301 - the driver's own
            self._do = task.open()
        return self._do(item)
