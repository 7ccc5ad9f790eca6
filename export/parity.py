"""Verifies each graph: names, then axes, then shapes, then values, against torch in float32.

A comparison outside its tolerance fails the export and says which tensor, what was expected
and what was found. The figures go into the manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.contract.manifest import Parity
from speechprune_ort.contract.specs import GraphSpec
from speechprune_ort.errors import DeviceError, ParityError
from speechprune_ort.providers import CPU_PROVIDER, StrictSession, cuda_problem, cuda_provider

__all__ = [
    "EXACT",
    "Arrays",
    "Cases",
    "Checked",
    "checked",
    "compare",
    "open_graph",
    "verify_graph",
]

Arrays = Mapping[str, NDArray[Any]]
Cases = Mapping[str, tuple[Arrays, Arrays]]
"""Inputs of a graph and torch's outputs, by a name for the manifest."""

EXACT = 1 - 1e-9
"""Least cosine of graphs that only reorder sums."""

# Float32 graphs reorder sums; nothing more. Relative to the largest value of torch's result.
EXACT_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Checked:
    """What verification of one graph found.

    Attributes:
        parity: the comparisons, all within tolerance.
        unverified: why values could not be compared, or None.
    """

    parity: tuple[Parity, ...]
    unverified: str | None = None


def open_graph(path: Path, spec: GraphSpec, target: str) -> tuple[ort.InferenceSession, str | None]:
    """Open a graph and compare names, dtypes and axes with its spec.

    Returns:
        The session; and what keeps it from running on the target, or None where it does. A graph
        for CUDA is opened on the CPU where CUDA cannot be used: most of them run there, too, only
        slowly. Where CUDA can be used, the graph runs on it or not at all.

    Raises:
        ParityError: the graph does not load, or differs from its spec.
        DeviceError: CUDA can be used and did not take the graph.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    problem = cuda_problem() if target == "cuda" else None
    on_gpu = target == "cuda" and problem is None
    try:
        session = StrictSession(path, options, [cuda_provider() if on_gpu else CPU_PROVIDER])
    except DeviceError:
        raise
    except Exception as error:  # onnxruntime raises several classes of its own
        raise ParityError(
            f"{path.name} does not load in ONNX Runtime ({str(error).strip().splitlines()[0]}): "
            "this is a defect of export, report it."
        ) from error
    mismatch = spec.mismatch(session.get_inputs(), session.get_outputs())
    if mismatch:
        raise ParityError(f"{path.name}: {mismatch}: this is a defect of export, report it.")
    # Without the cure: that is for users who want to run it here.
    return session, problem and problem.partition(": ")[0]


def checked(graph: str, problem: str | None, figures: Callable[[], list[Parity]]) -> Checked:
    """Compare values; a graph that cannot run off its target stays unverified, and says so.

    Args:
        graph: name for messages.
        problem: what keeps it from running on its target, as ``open_graph`` says.
        figures: runs the graph and compares.

    Raises:
        DeviceError: the GPU has no room, or fails.
        ParityError: the values differ, or the graph does not run where it must.
    """
    try:
        return Checked(
            tuple(figures()), problem and f"compared on the CPU: no CUDA here ({problem})"
        )
    except (DeviceError, ParityError, MemoryError):
        raise
    except Exception as error:  # onnxruntime raises several classes of its own
        reason = str(error).strip().splitlines()[0]
        if problem is None:
            raise ParityError(
                f"{graph} does not run in ONNX Runtime ({reason[:400]}): the checkpoint uses what "
                "its operators do not do; report it."
            ) from error
        return Checked(
            (), f"not run: no CUDA here ({problem}), and the CPU cannot ({reason[:160]})"
        )


def compare(
    graph: str,
    case: str,
    tensor: str,
    expected: NDArray[Any],
    found: NDArray[Any],
    min_cosine: float,
) -> list[Parity]:
    """Compare one tensor with torch's.

    Args:
        graph: name of the graph, for the message.
        case: what went in.
        tensor: name of the output.
        expected: torch's values.
        found: the graph's values.
        min_cosine: least cosine over the whole tensor; at 0.999999 and above also the largest
            absolute error, relative to the largest torch value, must be at most 1e-4.

    Raises:
        ParityError: shape or values differ.
    """
    label = f"{case}: {tensor}"
    if expected.shape != found.shape:
        raise ParityError(
            f"{graph}, {label} has shape {found.shape}, expected {expected.shape}: report the "
            "checkpoint."
        )
    a, b = expected.astype(np.float64).ravel(), found.astype(np.float64).ravel()
    exact = min_cosine >= 0.999999
    if not np.isfinite(a).all():
        raise ParityError(
            f"{graph}, {label} is not finite in torch either: the checkpoint's weights hold NaN or "
            "infinity; download it again."
        )
    cure = "report the checkpoint" if exact else "use a wider --precision, or report the checkpoint"
    if not np.isfinite(b).all():
        raise ParityError(f"{graph}, {label} is not finite: {cure}.")
    scale = np.abs(a).max() or 1.0
    error = float(np.abs(a - b).max() / scale)
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    # Zeros are like zeros, and like nothing else.
    cosine = float(a @ b / norms) if norms else float(not a.any() and not b.any())
    figures = [
        Parity(label, "max_relative_error", error, EXACT_TOLERANCE if exact else float("inf")),
        Parity(label, "cosine", cosine, min_cosine),
    ]
    if cosine < min_cosine or (exact and error > EXACT_TOLERANCE):
        raise ParityError(
            f"{graph}, {label}: cosine to torch {cosine:.6f} (at least {min_cosine}), largest "
            f"error {error:.2e} of the largest value: {cure}."
        )
    # JSON has no infinity: a figure without a bound of its own is recorded with the cosine's.
    return figures if exact else figures[1:]


def verify_graph(
    path: Path,
    spec: GraphSpec,
    target: str,
    cases: Cases,
    min_cosine: float,
    heard: Mapping[str, Sequence[int]] | None = None,
) -> Checked:
    """Run a graph on each case and compare every output with torch's.

    Args:
        path: the graph.
        spec: its spec.
        target: ``cpu`` or ``cuda``.
        cases: name to (inputs, torch's outputs).
        min_cosine: see ``compare``.
        heard: by case, how many tokens of each window are compared, from the first on: the others
            are padding. None compares everything.
    """
    session, problem = open_graph(path, spec, target)

    def figures() -> list[Parity]:
        found: list[Parity] = []
        for case, (inputs, outputs) in cases.items():
            names = list(outputs)
            for name, values in zip(names, session.run(names, dict(inputs)), strict=True):
                pair = outputs[name], values
                if heard is not None and outputs[name].shape == values.shape:
                    pair = _first(pair[0], heard[case]), _first(pair[1], heard[case])
                found += compare(path.stem, case, name, *pair, min_cosine)
        return found

    return checked(path.name, problem, figures)


def _first(windows: NDArray[Any], counts: Sequence[int]) -> NDArray[Any]:
    """The first tokens of each window, one window after the other."""
    return np.concatenate([window[:count] for window, count in zip(windows, counts, strict=True)])
