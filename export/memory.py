"""Memory: computing in float32 with weights that stay as the checkpoint stores them.

Weights of a checkpoint in half precision are mapped from its files, not read: a language model of
7 billion parameters is 15 GB there and would be 30 GB in float32. What torch computes for
comparison is computed in float32 all the same, one layer's weights at a time.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from speechprune_ort.errors import ExportError
from speechprune_ort.export.course import Advance

__all__ = [
    "MappedWeights",
    "enough_memory",
    "give_back_memory",
    "in_float32",
    "libraries_left_out",
]

DONTNEED = 4  # MADV_DONTNEED


@contextlib.contextmanager
def in_float32(module: nn.Module, advance: Advance = lambda _: None) -> Iterator[None]:
    """Let a module compute in float32 within the block, whatever its weights are stored in.

    Each part that has weights of its own widens them for as long as it runs.

    Args:
        module: in eval mode.
        advance: told after each part how much of the narrow weights was used, where it runs once.
    """
    mapped = MappedWeights(module)
    held: dict[nn.Module, dict[str, nn.Parameter | None]] = {}

    def widen(part: nn.Module, _: Any) -> None:
        held[part] = dict(part._parameters)  # noqa: SLF001 - the one place where they are swapped
        for name, values in held[part].items():
            if values is not None:
                wide = nn.Parameter(values.detach().float(), requires_grad=False)
                part._parameters[name] = wide  # noqa: SLF001

    def put_back(part: nn.Module, _: Any, __: Any) -> None:
        part._parameters.update(held.pop(part))  # noqa: SLF001
        mapped.let_go(part)
        done[0] += _numel(part)
        advance(min(1.0, done[0] / whole))

    narrow = [
        part
        for part in module.modules()
        if any(p.dtype != torch.float32 for p in part.parameters(recurse=False))
    ]
    whole, done = sum(map(_numel, narrow)), [0]
    hooks = [part.register_forward_pre_hook(widen) for part in narrow]
    hooks += [part.register_forward_hook(put_back, always_call=True) for part in narrow]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _numel(part: nn.Module) -> int:
    return sum(p.numel() for p in part.parameters(recurse=False))


class MappedWeights:
    """Weights of a module that are mapped from files, and can leave our memory and come back.

    Otherwise, what was read once stays and counts as ours. Nothing is lost: only mappings of files
    in which no page was ever written are touched, and their pages are read again when used.

    Args:
        module: loaded, and not changed since.
    """

    def __init__(self, module: nn.Module) -> None:
        clean = _clean_file_mappings()
        self._inner: dict[int, tuple[int, int]] = {}
        for values in module.parameters():
            if values.device.type != "cpu":
                continue
            first, end = values.data_ptr(), values.data_ptr() + values.nbytes
            start = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
            length = end // mmap.PAGESIZE * mmap.PAGESIZE - start
            if length > 0 and any(low <= first and end <= high for low, high in clean):
                self._inner[id(values)] = start, length

    def __len__(self) -> int:
        """Number of weights that can be let go."""
        return len(self._inner)

    def let_go(self, module: nn.Module) -> None:
        """Let go of those weights that belong to a module, or to a part of it."""
        libc = ctypes.CDLL(None)
        for values in module.parameters():
            if id(values) in self._inner:
                start, length = self._inner[id(values)]
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(length), DONTNEED)


def _clean_file_mappings() -> list[tuple[int, int]]:
    """Address ranges of this process that are mapped from files and have no page of our own."""
    try:
        lines = Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux: nothing is let go
        return []
    found: list[tuple[int, int]] = []
    inside = False
    for line in lines:
        header = re.match(r"([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ (\d+)", line)
        if header and int(header[3]):
            found.append((int(header[1], 16), int(header[2], 16)))
            inside = True
        elif header:
            inside = False
        elif inside and line.startswith("Anonymous:") and int(line.split()[1]):
            found.pop()
            inside = False
    return found


@contextlib.contextmanager
def libraries_left_out() -> Iterator[None]:
    """Restrict garbage collection within the block to what is made in it.

    Torch and its dependencies are half a million objects. Looking through them takes half a second,
    or several next to other work, during which no Python thread runs and so no signal ends the
    export. Nothing is lost: what was there before is looked through after the block.
    """
    if gc.get_freeze_count():  # by whoever calls us, and not ours to thaw
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def give_back_memory() -> None:
    """Return what was freed to the system: otherwise the allocator keeps it, and it counts as ours.

    Within ``libraries_left_out`` what is still in use is left out of the next search, too:
    exporters import more as they go.
    """
    gc.collect()
    if gc.get_freeze_count():
        gc.freeze()
    with contextlib.suppress(OSError, AttributeError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def enough_memory() -> Iterator[None]:
    """Say in one sentence that memory ran out, whatever asked for it.

    Raises:
        ExportError: memory ran out.
    """
    words = ("can't allocate memory", "bad_alloc", "Failed to allocate memory", "Cannot allocate")
    try:
        yield
    except Exception as error:  # torch, ONNX Runtime and exporters have classes of their own
        if not isinstance(error, MemoryError) and not any(word in str(error) for word in words):
            raise
        raise ExportError(
            "Memory ran out during the export: close other programs, lift the limit (ulimit -v), "
            "or use a machine with more; nothing was left behind."
        ) from error
