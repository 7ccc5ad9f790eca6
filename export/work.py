"""What the graphs of one export share, and one graph's way into the bundle."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from speechprune_ort.contract.manifest import GraphEntry
from speechprune_ort.contract.specs import GraphSpec
from speechprune_ort.export.course import Course
from speechprune_ort.export.families.base import Checkpoint
from speechprune_ort.export.memory import give_back_memory
from speechprune_ort.export.parity import Checked
from speechprune_ort.export.precision import Plan, Target

__all__ = ["ExportedGraph", "Graph", "Work", "export_graph"]


@dataclass(slots=True)
class Work:
    """Checkpoint, plan and test inputs of one export.

    Attributes:
        checkpoint: what is exported.
        plan: how weights are stored.
        target: ``cpu`` or ``cuda``.
        random: draws the test inputs of every graph, in the order of the graphs.
        embeds: audio embeddings (tokens, hidden) that the encoder's verification leaves for the
            other graphs, by its cases.
        course: its progress through its steps.
    """

    checkpoint: Checkpoint
    plan: Plan
    target: Target
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    embeds: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    course: Course = field(default_factory=lambda: Course(lambda _, __: None))

    def rounded(self) -> dict[str, NDArray[np.floating]]:
        """The audio embeddings in the dtype in which they pass between graphs, by case."""
        dtype = np.dtype(self.plan.float_dtype)
        return {case: embeds.astype(dtype) for case, embeds in self.embeds.items()}

    def rows(self, ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """Rows (ids, hidden) of the token embedding."""
        table = self.checkpoint.language_model.get_input_embeddings().weight.detach()
        rows: NDArray[np.float32] = table[torch.from_numpy(ids)].float().numpy()
        return rows


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph of a bundle: how it is written, and what it is then compared on.

    Attributes:
        name: name of the graph; its file is ``NAME.onnx``.
        precision: words for how its weights are stored.
        write: writes the file.
        verify: compares the file with torch.
        parameters: number of weights, for those parts that costs are counted from.
        slow: whether its verification is reported as a step of its own.
    """

    name: str
    precision: Callable[[Work], str]
    write: Callable[[Work, GraphSpec, Path], None]
    verify: Callable[[Work, GraphSpec, Path], Checked]
    parameters: Callable[[Checkpoint], int] | None = None
    slow: bool = False


@dataclass(frozen=True, slots=True)
class ExportedGraph:
    """A row of the summary.

    Attributes:
        name: name of the graph.
        entry: what the manifest says of it.
        bytes: size of the graph and its weights.
        seconds: seconds spent on writing and verifying it.
    """

    name: str
    entry: GraphEntry
    bytes: int
    seconds: float


def export_graph(graph: Graph, work: Work, spec: GraphSpec, folder: Path) -> ExportedGraph:
    """Write a graph and compare it with torch.

    Args:
        graph: the graph.
        work: what the graphs share.
        spec: inputs and outputs that it must have.
        folder: folder of the bundle.

    Raises:
        ParityError: the graph does not compute what torch computes.
    """
    work.course.begin(f"export {graph.name}")
    give_back_memory()
    started = time.perf_counter()
    path = folder / f"{graph.name}.onnx"
    graph.write(work, spec, path)
    if graph.slow:
        give_back_memory()
        work.course.begin(f"verify {graph.name}")
    checked = graph.verify(work, spec, path)
    entry = GraphEntry(
        path.name,
        graph.precision(work),
        spec,
        checked.parity,
        checked.unverified,
        graph.parameters and graph.parameters(work.checkpoint),
    )
    size = sum(p.stat().st_size for p in folder.glob(f"{path.name}*"))
    return ExportedGraph(graph.name, entry, size, time.perf_counter() - started)
