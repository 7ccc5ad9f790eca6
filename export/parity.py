"""After each graph: names, then axes, then shapes, then values, against torch in float32.

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
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from speechprune_ort.contract.manifest import Parity
from speechprune_ort.contract.specs import Dimensions, GraphSpec, past_name, present_name
from speechprune_ort.errors import DeviceError, ParityError
from speechprune_ort.export.memory import in_float32
from speechprune_ort.export.rotary import rotary_rows
from speechprune_ort.providers import CPU_PROVIDER, StrictSession, cuda_problem, cuda_provider

__all__ = ["Checked", "compare", "open_graph", "verify_decoder", "verify_graph"]

Arrays = Mapping[str, NDArray[Any]]

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
    # Without the cure: that is for who wants to run it here.
    return session, problem and problem.partition(": ")[0]


def _checked(graph: str, problem: str | None, figures: Callable[[], list[Parity]]) -> Checked:
    """Compare values; a graph that cannot run off its target stays unverified, and says so."""
    try:
        return Checked(
            tuple(figures()), problem and f"compared on the CPU: no CUDA here ({problem})"
        )
    except (ParityError, MemoryError):
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
        raise ParityError(f"{graph}, {label} has shape {found.shape}, expected {expected.shape}.")
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
    # Nothing but zeros is like nothing but zeros, and like nothing else.
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
    cases: Mapping[str, tuple[Arrays, Arrays]],
    min_cosine: float,
) -> Checked:
    """Run a graph on each case and compare every output with torch's.

    Args:
        path: the graph.
        spec: its spec.
        target: ``cpu`` or ``cuda``.
        cases: name to (inputs, torch's outputs); outputs may be shorter than the graph's
            along the first two axes, where what lies beyond is padding.
        min_cosine: see ``compare``.
    """
    session, problem = open_graph(path, spec, target)

    def figures() -> list[Parity]:
        found: list[Parity] = []
        for case, (inputs, outputs) in cases.items():
            names = list(outputs)
            for name, values in zip(names, session.run(names, dict(inputs)), strict=True):
                found += compare(path.stem, case, name, outputs[name], values, min_cosine)
        return found

    return _checked(path.name, problem, figures)


def verify_decoder(
    path: Path,
    spec: GraphSpec,
    target: str,
    language_model: PreTrainedModel,
    dims: Dimensions,
    prompts: Mapping[str, NDArray[np.float32]],
    min_cosine: float,
    steps: int = 3,
) -> Checked:
    """Prefill and a few teacher-forced steps, compared with torch at every step.

    The graph is run on consecutive positions and, per prompt, once on positions with a gap,
    as pruned audio has them with ``positions="original"``.

    Args:
        path: the graph.
        spec: its spec.
        target: ``cpu`` or ``cuda``.
        language_model: torch's, float32.
        dims: sizes of the axes.
        prompts: name to input embeddings (tokens, hidden).
        min_cosine: see ``compare``.
        steps: decode steps after the prefill.
    """
    table = language_model.get_input_embeddings().weight.detach()
    # All of torch before the session opens: both at once need not fit in memory.
    references = []
    for case, embeds in prompts.items():
        count = len(embeds)
        gap = np.arange(count) + np.where(np.arange(count) >= count // 2, 7, 0)
        for name, positions in ((case, np.arange(count)), (f"{case}, gapped positions", gap)):
            expected, ids = _torch_logits(language_model, embeds, positions, steps)
            following = table[torch.from_numpy(ids)].float().numpy()
            rows = rotary_rows(
                language_model,
                np.append(positions, positions[-1] + 1 + np.arange(steps)),
                next(t.dtype for t in spec.inputs if t.name == "cos"),
            )
            references.append((name, embeds, rows, expected, following))
    session, problem = open_graph(path, spec, target)

    def figures() -> list[Parity]:
        found: list[Parity] = []
        for name, embeds, turned, expected, following in references:
            logits = _graph_logits(session, spec, dims, embeds, turned, following)
            found += compare(path.stem, name, "logits", expected, logits, min_cosine)
            same = float(expected[0].argmax() == logits[0].argmax())
            found.append(Parity(f"{name}: logits", "first_token", same, 0.0))
        return found

    return _checked(path.name, problem, figures)


def _torch_logits(
    language_model: PreTrainedModel, embeds: NDArray[Any], positions: NDArray[Any], steps: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Last-position logits (1 + steps, vocab) and the greedy ids (steps,) that lead there."""
    rows, ids = [], []
    step: Any = torch.from_numpy(np.asarray(embeds, np.float32))[None]
    at = torch.from_numpy(np.asarray(positions, np.int64))[None]
    cache = None
    with torch.no_grad(), in_float32(language_model):
        for _ in range(steps + 1):
            out = language_model(
                inputs_embeds=step,
                position_ids=at,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = out.past_key_values
            rows.append(out.logits[0, -1].float().numpy())
            ids.append(int(rows[-1].argmax()))
            step = language_model.get_input_embeddings()(torch.tensor([[ids[-1]]]))
            at = at[:, -1:] + 1
    return np.stack(rows), np.array(ids[:-1], np.int64)


def _graph_logits(
    session: ort.InferenceSession,
    spec: GraphSpec,
    dims: Dimensions,
    embeds: NDArray[Any],
    turned: Arrays,
    following: NDArray[Any],
) -> NDArray[np.float32]:
    """The same from the graph, cache through numpy: slow, and independent of the runtime."""
    dtype = np.dtype(next(t.dtype for t in spec.inputs if t.name == "inputs_embeds"))
    layers = [(i, kind) for i in range(dims.layers) for kind in ("key", "value")]
    empty = np.zeros((1, dims.kv_heads, 0, dims.head_dim), dtype)
    cache = {past_name(*layer): empty for layer in layers}
    names = ["logits", *(present_name(*layer) for layer in layers)]
    rows, total = [], 0
    steps: Sequence[NDArray[Any]] = [embeds, *following[:, None]]
    for step in steps:
        total += len(step)
        logits, *present = session.run(
            names,
            {
                "inputs_embeds": step[None].astype(dtype),
                "attention_mask": np.ones((1, total), np.int64),
                **turned,
                **cache,
            },
        )
        cache = {past_name(*layer): p for layer, p in zip(layers, present, strict=True)}
        rows.append(logits[0, -1].astype(np.float32))
    return np.stack(rows)
