"""The order of what runs on a device, and copies in it.

ONNX Runtime gives every session a CUDA stream of its own, which nothing else is ordered with, so it
waits for the GPU after every run, and after every copy. Sessions on one stream need no waiting:
a token goes up, graphs run and logits come down one after the other, and the host waits once, for
the logits. On the CPU everything is done when its call returns.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.errors import DeviceError
from speechprune_ort.providers import CUDA_LIBRARIES, gpu_failure
from speechprune_ort.runtime.ort.device import Device

__all__ = ["CudaStream", "Stream", "copy_rows", "open_stream"]

NON_BLOCKING = 1  # of a stream: not ordered with the default one, which other threads use
ANY_TO_ANY = 4  # kind of a copy: where each side lies is told by its address
SPARE: defaultdict[int, list[int]] = defaultdict(list)
"""Streams that were made and are not used now, by GPU."""
UNWAITED = {"disable_synchronize_execution_providers": "1"}


class Stream:
    """On the CPU, and for sessions on CUDA that wait for themselves.

    Attributes:
        provider_options: of the sessions that are to run on it.
        settings: of their runs on bound values, which on CUDA are not waited for.
    """

    provider_options: Mapping[str, str] = {}
    settings: Mapping[str, str] = {}

    def turn(self) -> AbstractContextManager[None]:
        """Keep other threads from giving it work within the block.

        What is given to it need not be done at the block's end, unless an error ends it or ``down``
        was called.
        """
        return nullcontext()

    def up(self, array: NDArray[Any], value: ort.OrtValue) -> None:
        """Copy a contiguous host array to the beginning of a value, in turn.

        On the CPU the value shares the array's memory, and nothing is copied.

        Raises:
            DeviceError: the copy failed on the GPU.
        """

    def down(self, value: ort.OrtValue, array: NDArray[Any]) -> None:
        """Copy the beginning of a value to a contiguous host array, once everything before is done.

        On the CPU the value shares the array's memory, and nothing is copied.

        Raises:
            DeviceError: what ran before, or the copy, failed on the GPU.
        """


class CudaStream(Stream):
    """A stream of a GPU.

    Args:
        index: number of the GPU.

    Raises:
        DeviceError: the GPU has no room for it, or fails.
    """

    settings = UNWAITED

    def __init__(self, index: int) -> None:
        self._library = _library()
        spare = SPARE[index]
        try:
            self._handle = spare.pop()
        except IndexError:
            self._handle = _made(index)
        # Never destroyed but used again: sessions that run on it may outlive this object.
        weakref.finalize(self, spare.append, self._handle).atexit = False
        self._lock = threading.RLock()
        self.provider_options = {"user_compute_stream": str(self._handle)}

    @contextmanager
    def turn(self) -> Iterator[None]:
        """See ``Stream``."""
        with self._lock:
            try:
                yield
            except BaseException:
                # What was begun still uses buffers that the caller is about to let go.
                self._library.cudaStreamSynchronize(ctypes.c_void_p(self._handle))
                raise

    def up(self, array: NDArray[Any], value: ort.OrtValue) -> None:
        """See ``Stream``; the array may be changed as soon as this returns."""
        self._copy(value.data_ptr(), array.ctypes.data, array.nbytes)

    def down(self, value: ort.OrtValue, array: NDArray[Any]) -> None:
        """See ``Stream``."""
        # To memory that may be paged out, the copy returns when it is done.
        self._copy(array.ctypes.data, value.data_ptr(), array.nbytes)

    def _copy(self, target: int, source: int, size: int) -> None:
        pointer = ctypes.c_void_p
        code = self._library.cudaMemcpyAsync(
            pointer(target), pointer(source), ctypes.c_size_t(size), ANY_TO_ANY,
            pointer(self._handle),
        )  # fmt: skip
        _check(code, "decoding")  # what failed may have begun before the copy


def open_stream(device: Device) -> Stream:
    """A stream of a device, for sessions that follow each other.

    Raises:
        DeviceError: the GPU has no room for it, or fails.
    """
    return CudaStream(device.index) if device.name == "cuda" else Stream()


def copy_rows(
    source: int, source_step: int, target: int, target_step: int, width: int, rows: int
) -> None:
    """Copy rows of bytes between addresses of the host or a GPU, and wait until they are there.

    Args:
        source: address of the first row.
        source_step: bytes from row to row.
        target: address of the first row's copy.
        target_step: bytes from row to row.
        width: bytes of a row, at most a step.
        rows: how many.

    Raises:
        DeviceError: the copy failed.
    """
    library, pointer, size = _library(), ctypes.c_void_p, ctypes.c_size_t
    to, come_from = pointer(target), pointer(source)
    if width == source_step == target_step:
        code = library.cudaMemcpyAsync(to, come_from, size(rows * width), ANY_TO_ANY, None)
    else:
        code = library.cudaMemcpy2DAsync(
            to, size(target_step), come_from, size(source_step), size(width), size(rows),
            ANY_TO_ANY, None,
        )  # fmt: skip
    _check(code or library.cudaStreamSynchronize(None), f"a copy of {rows * width} bytes")


@functools.cache
def _library() -> ctypes.CDLL:
    """CUDA's runtime, which the provider has loaded by then."""
    library = ctypes.CDLL(CUDA_LIBRARIES[0])
    library.cudaGetErrorName.restype = ctypes.c_char_p
    return library


def _made(index: int) -> int:
    library, before, made = _library(), ctypes.c_int(0), ctypes.c_void_p()
    library.cudaGetDevice(ctypes.byref(before))
    code = library.cudaSetDevice(index) or library.cudaStreamCreateWithFlags(
        ctypes.byref(made), NON_BLOCKING
    )
    library.cudaSetDevice(before)
    _check(code, "a stream")
    return made.value or 0


def _check(code: int, what: str) -> None:
    if code:
        error = RuntimeError(f"CUDA failure {code}: {_library().cudaGetErrorName(code).decode()}")
        raise gpu_failure(what, error) or DeviceError(str(error))
