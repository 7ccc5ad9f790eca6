"""What ONNX Runtime's own profiler says of a graph: every operator, its shapes, its provider."""

from __future__ import annotations

import json
import tempfile
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.contract.specs import BFLOAT16, GraphSpec
from speechprune_ort.errors import OutputError
from speechprune_ort.providers import StrictSession, ort_type
from speechprune_ort.runtime.ort.engine import Engine

__all__ = ["feeds_of", "placements", "traced"]

Event = Mapping[str, Any]

BITS = np.dtype(np.uint16)
TOKENS = 8
SMALL = {
    "batch": 1, "single": 1, "windows": 1, "tokens": TOKENS, "rows": TOKENS, "before": 2, "kept": 4,
    "after": 2, "past": 3 * TOKENS, "slots": 3 * TOKENS, "total": TOKENS,
}  # fmt: skip
"""Sizes of axes that a graph leaves open, for a run that only has to happen."""


def feeds_of(spec: GraphSpec, sizes: Mapping[str, int]) -> dict[str, NDArray[Any]]:
    """Inputs of a graph that stand for no particular content.

    Args:
        spec: the graph's spec.
        sizes: sizes of the axes that it leaves open.

    Returns:
        By name; what is bfloat16 as uint16, the bits of its numbers.
    """
    feeds: dict[str, NDArray[Any]] = {}
    for tensor in spec.inputs:
        axes = zip(tensor.axes, tensor.shape, strict=True)
        shape = [sizes[axis] if size is None else size for axis, size in axes]
        feeds[tensor.name] = np.zeros(shape, BITS if tensor.dtype == BFLOAT16 else tensor.dtype)
    if "attention_mask" in feeds:
        feeds["attention_mask"][:] = 1
    if "feature_lengths" in feeds:
        feeds["feature_lengths"][:] = feeds["input_features"].shape[-1]
    return feeds


def traced(
    engine: Engine, name: str, runs: Sequence[Mapping[str, NDArray[Any]]]
) -> list[list[Event]]:
    """The operators of each run of a graph, in a session of its own.

    Args:
        engine: the bundle's engine.
        name: name of the graph.
        runs: the inputs of each run.

    Raises:
        OutputError: the trace cannot be kept in the folder for temporary files.
    """
    try:
        events = _events(engine, name, runs)
    except (OSError, ValueError) as error:  # a file that ends in the middle is not JSON
        raise OutputError(
            f"ONNX Runtime's trace of {name} cannot be kept in a temporary file ({error}): free "
            "some space, lift the limit of file sizes, or set TMPDIR to another folder."
        ) from None
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    found: list[list[Event]] = [[] for _ in runs]
    for event in events:
        if event.get("cat") == "Node" and "input_type_shape" in event.get("args", {}):
            found[bisect_right(starts, event["ts"]) - 1].append(event)
    return found


def _events(
    engine: Engine, name: str, runs: Sequence[Mapping[str, NDArray[Any]]]
) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory(prefix="speechprune-trace-") as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "run")
        session = StrictSession(engine.path(name), options, engine.device.providers())
        # By values of ONNX Runtime's own: numpy lacks bfloat16.
        names = [tensor.name for tensor in session.get_outputs()]
        for feeds in runs:
            session.run_with_ort_values(names, {n: _value(array) for n, array in feeds.items()})
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_bytes())
        return events


def _value(array: NDArray[Any]) -> ort.OrtValue:
    if array.dtype != BITS:
        return ort.OrtValue.ortvalue_from_numpy(array)
    kind, _ = ort_type(BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, kind)


def placements(engine: Engine) -> dict[str, dict[str, int]]:
    """Operators by the provider that ran them, for every graph of a bundle.

    More than one provider means that nodes run on another than the one asked for, as those that
    compute shapes do on a GPU.

    Args:
        engine: the bundle's engine.
    """
    sizes = SMALL | {"frames": engine.manifest.dimensions.frames}
    counts = {}
    for name, entry in engine.manifest.graphs.items():
        (events,) = traced(engine, name, [feeds_of(entry.spec, sizes)])
        by_provider = Counter(event["args"].get("provider", "unknown") for event in events)
        counts[name] = dict(by_provider.most_common())
    return counts
