"""``decoder.onnx``: input embeddings and KV cache to last-position logits and KV cache.

Written by onnxruntime-genai's model builder: grouped-query attention, fused norms, 4- and 8-bit
matrices. Four methods of it are replaced, so genai is pinned exactly. Rotary embedding is done
by the attention, which turns a token by the row of a table that its slot in the cache has; the
builder's table is that of consecutive positions and would be silently wrong for the true positions
of pruned audio, so the rows are inputs of the graph, and ``rotary.onnx`` gives them. And weights
are taken from the model at hand, put beside each other where queries, keys and values are one
matrix, and quantized one by one, because a large language model does not fit in memory in float32.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx_ir.tensor_adapters import TorchTensor, to_torch_dtype
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from speechprune_ort.contract.manifest import Parity, PromptPiece
from speechprune_ort.contract.specs import (
    BFLOAT16,
    DECODER,
    GraphSpec,
    past_name,
    present_name,
)
from speechprune_ort.errors import ExportError
from speechprune_ort.export.checkpoint_config import FULL, SLIDING, windows_of
from speechprune_ort.export.course import Advance, part
from speechprune_ort.export.graph_file import (
    in_float32_throughout,
    quiet,
    save,
    with_weights,
)
from speechprune_ort.export.last_position import for_last_position
from speechprune_ort.export.memory import MappedWeights, in_float32
from speechprune_ort.export.parity import Arrays, Checked, checked, compare, open_graph
from speechprune_ort.export.precision import WORDS, Plan, Target
from speechprune_ort.export.quantize import quantize_matmuls
from speechprune_ort.export.rotary import rotary_rows
from speechprune_ort.export.work import Graph, Work
from speechprune_ort.providers import cuda_problem, ort_type

__all__ = [
    "GRAPH",
    "Logits",
    "Part",
    "empty_cache",
    "export_decoder",
    "logits_of",
    "parameters_of",
    "prompt_cases",
    "require_windows",
    "run_parts",
    "runnable",
    "verify_logits",
]

_BUILDER_PRECISION = {
    "float32": "fp32",
    "half_stored": "fp32",
    "w8a8": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "int8": "int8",
    "int4": "int4",
}

PAST, PRESENT = (name(0, "").partition(".")[0] for name in (past_name, present_name))
QUESTION = "What is said in the recording?"
ANSWER = "The recording says that"
BUILT, STORED = 0.6, 0.9
"""Shares of a decoder's export: weights are built by then, and then in the dtype of the plan."""
TORCH = 0.6
"""Share of its verification that torch takes."""
DECODE_STEPS = 3  # tokens of it that follow the prefill, compared with torch
WIDEST = 2_000_000_000  # weights of a bfloat16 decoder that is compared in float32


def export_decoder(
    language_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    plan: Plan,
    target: Target,
    path: Path,
    work: Path,
    advance: Advance = lambda _: None,
) -> None:
    """Build the decoder graph.

    Args:
        language_model: causal language model of its own, head included.
        tokenizer: the builder wants one beside the weights.
        plan: how weights are stored.
        target: execution provider that the graph is built for.
        path: graph file to write.
        work: folder for temporary files, on the same disk as ``path``; emptied at the end.
        advance: told how much is done.

    Raises:
        ExportError: the builder refuses the language model.
    """
    described, built, cache = work / "language_model", work / "built", work / "cache"
    with quiet():
        # The builder reads settings and tokenizer from a folder; the weights it is handed.
        config = copy.deepcopy(language_model.config)
        config.architectures = [type(language_model).__name__]
        # Its rows are inputs of the graph, whatever scaling made them.
        theta = config.rope_parameters["rope_theta"]
        config.rope_parameters = {"rope_type": "default", "rope_theta": theta}
        windows = windows_of(str(described), config.to_dict())
        if any(windows):
            # Mistral's own config names no layers, and the builder looks for windows there alone.
            config.layer_types = [SLIDING if window else FULL for window in windows]
        config.save_pretrained(described)
        language_model.generation_config.save_pretrained(described)
        tokenizer.save_pretrained(described)
    options: dict[str, Any] = {
        "exclude_embeds": True,  # the audio goes in as embeddings
        "prune_lm_head": True,  # logits of the last position alone
        "fuse_qkv": True,  # one matrix for queries, keys and values
        # A conversation may be taken back: what a window has left behind stays in the cache.
        "windowed_kv_cache": False,
    }
    if plan.decoder == "int4":
        options["matmul_mixed_precision"] = "last_matmul:int8"
    where = (
        "speechprune-ort",
        str(described),
        str(built),
        _BUILDER_PRECISION[plan.decoder],
        target,
        str(cache),
    )
    try:
        with _builder(language_model, part(advance, 0.0, BUILT)) as builder, quiet():
            builder.check_extra_options(*where, options)
            builder.create_model(*where, **options)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the builder asserts, looks up and divides without asking
        raise ExportError(
            "onnxruntime-genai's builder refuses this language model "
            f"({type(error).__name__}: {error}): it may use a feature that the builder does not "
            "know; report the checkpoint."
        ) from error
    model = ir.load(built / "model.onnx")
    require_windows(model, windows)
    model = for_last_position(model)
    # What the builder quantizes itself comes out as planned.
    if plan.decoder == BFLOAT16:
        model = with_float32_sides(model)
    elif plan.decoder not in ("int8", "int4"):
        model = with_weights(model, plan.decoder, part(advance, BUILT, STORED))
    save(model, path, part(advance, STORED, 1.0))
    shutil.rmtree(work)


def with_float32_sides(model: ir.Model) -> ir.Model:
    """Let a bfloat16 graph take float32 for everything but its cache, in place.

    numpy has no bfloat16, and what passes between graphs is looked at on the host.
    """
    graph, narrow = model.graph, ir.DataType.BFLOAT16
    for value in graph.inputs:
        if value.dtype != narrow or (value.name or "").startswith(PAST):
            continue
        cast = ir.node("Cast", [value], {"to": narrow.value}, name=f"{value.name}.narrow")
        made = cast.outputs[0]
        made.name, made.type, made.shape = f"{value.name}.bfloat16", value.type, value.shape
        ir.convenience.replace_all_uses_with(value, made)
        cast.replace_input_with(0, value)
        value.type = ir.TensorType(ir.DataType.FLOAT)
        graph.insert_before(graph[0], cast)
    return model


def require_windows(model: ir.Model, windows: Sequence[int | None]) -> None:
    """Refuse a graph whose attention does not slide as it must.

    The prompts of a verification are shorter than the windows of published checkpoints, so that it
    would not see one that is missing.

    Args:
        model: the decoder.
        windows: of each layer, in slots, a token's own included; None where there is none.

    Raises:
        ExportError: a layer has another window.
    """
    nodes = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    sizes = [node.attributes.get_int("local_window_size", -1) for node in nodes]
    if sizes != [window or -1 for window in windows]:
        raise ExportError(
            f"onnxruntime-genai's builder gave the layers sliding windows of {sizes} (-1 is none) "
            f"instead of {[window or -1 for window in windows]}: this is a defect of export, "
            "report it."
        )


@contextlib.contextmanager
def _builder(language_model: PreTrainedModel, advance: Advance) -> Iterator[Any]:
    """Genai's builder with four of its methods replaced.

    The rows of rotary embedding are inputs; weights are those of a model that is there; and they
    are joined and quantized one by one, as all of them in float32 need not fit in memory.
    """
    search_path = list(sys.path)
    import onnxruntime_genai.models.builder as builder

    mapped = MappedWeights(language_model)

    def after_each(share: float) -> None:
        mapped.let_go(language_model)
        advance(share)

    def to_nbits(made: Any) -> ir.Model:
        attributes = made.quant_attrs
        custom = made.int4_customized_weight_config or {}
        return quantize_matmuls(
            made.model,
            attributes["bits"],
            block_size=attributes["matmul_block_size"],
            accuracy_level=attributes["accuracy_level"],
            is_symmetric=attributes["is_symmetric"],
            bits_of={name: wanted["bits"] for name, wanted in custom.items()},
            leave=attributes["nodes_to_exclude"],
            after_each=after_each,
        )

    def rotary_rows(made: Any) -> tuple[str, str]:
        inputs = made.model.graph.inputs
        for name in ("cos", "sin"):
            rows = made.make_value(name, made.io_dtype, shape=["slots", made.head_size // 2])
            if rows not in inputs:
                inputs.append(rows)
        return "cos", "sin"

    def packed(made: Any, *parts: Any) -> str:
        *projections, name, source = parts
        weights = [projection.weight for projection in projections]
        rows = sum(len(weight) for weight in weights)
        joined = torch.empty((rows, weights[0].shape[1]), dtype=weights[0].dtype, device="meta")
        node: str = made.make_matmul(SimpleNamespace(weight=joined), name, source)
        value = made.model.graph.initializers[f"{name[1:].replace('/', '.')}.weight"]
        dtype = to_torch_dtype(value.dtype)
        value.const_value = ir.LazyTensor(
            lambda: TorchTensor(torch.cat(weights).T.to(dtype), name=value.name),
            dtype=value.dtype,
            shape=value.shape,
            name=value.name,
        )
        return node

    replaced = {
        "make_packed_matmul": packed,
        "make_rotary_embedding_caches": rotary_rows,
        "load_weights": lambda _, __: language_model,
        "to_nbits": to_nbits,
    }
    original = {name: getattr(builder.Model, name) for name in replaced}
    for name, method in replaced.items():
        setattr(builder.Model, name, method)
    try:
        yield builder
    finally:
        for name, method in original.items():
            setattr(builder.Model, name, method)
        # Importing the builder appends its own folder, whose modules have everyday names.
        sys.path[:] = search_path


def _write(work: Work, spec: GraphSpec, path: Path) -> None:  # noqa: ARG001 - the builder's own
    checkpoint = work.checkpoint
    own = Path(tempfile.mkdtemp(prefix="decoder-", dir=path.parent))
    export_decoder(
        checkpoint.language_model,
        checkpoint.tokenizer,
        work.plan,
        work.target,
        path,
        own,
        work.course.advance,
    )


def _verify(work: Work, spec: GraphSpec, path: Path) -> Checked:
    def opened(stack: ExitStack) -> tuple[Logits, str | None]:
        file, shown = stack.enter_context(runnable(path, spec, work))
        session, problem = open_graph(file, shown, work.target)
        return partial(logits_of, [Part(session, shown)]), problem

    return verify_logits(work, path, spec, opened)


@dataclass(frozen=True, slots=True)
class Part:
    """A graph that a token passes through.

    Attributes:
        session: the graph, opened.
        spec: its inputs and outputs.
    """

    session: ort.InferenceSession
    spec: GraphSpec


Logits = Callable[[NDArray[Any], Arrays, NDArray[np.float32]], NDArray[np.float32]]
"""Logits (1 + steps, vocab) from a prompt's embeddings, the angles of its positions and those of
the answer, and the answer's embeddings."""


def prompt_cases(
    work: Work, steps: int
) -> dict[str, tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Prompts to verify on, each at consecutive positions and at positions with a gap.

    Pruned audio has gaps with ``positions="original"``.

    Args:
        work: the export.
        steps: tokens that follow.

    Returns:
        By name, embeddings (tokens, hidden), and positions (tokens + steps,).
    """
    cases = {}
    for case, embeds in _prompts(work).items():
        count = len(embeds)
        gap = np.arange(count) + np.where(np.arange(count) >= count // 2, 7, 0)
        for name, at in ((case, np.arange(count)), (f"{case}, gapped positions", gap)):
            cases[name] = embeds, np.append(at, at[-1] + 1 + np.arange(steps))
    return cases


def verify_logits(
    work: Work,
    path: Path,
    spec: GraphSpec,
    opened: Callable[[ExitStack], tuple[Logits, str | None]],
) -> Checked:
    """Prefill and a few teacher-forced steps, compared with torch at every step.

    Args:
        work: the export.
        path: the graph, for messages.
        spec: its inputs and outputs.
        opened: opens what is compared, for as long as the stack is open; with what keeps it from
            running on the target, as ``open_graph`` says.
    """
    language_model = work.checkpoint.language_model
    following = work.checkpoint.tokenizer.encode(ANSWER, add_special_tokens=False)[:DECODE_STEPS]
    answer = work.rows(np.array(following, np.int64))
    cases = prompt_cases(work, len(answer))
    # All of torch before the session opens: both at once need not fit in memory.
    read = part(work.course.advance, 0.0, TORCH)
    expected = _torch_logits(language_model, list(cases.values()), answer, read)
    dtype = next(t.dtype for t in spec.inputs if t.name == "cos")
    with ExitStack() as stack:
        logits_from, problem = opened(stack)

        def figures() -> list[Parity]:
            found: list[Parity] = []
            run = part(work.course.advance, TORCH, 1.0)
            compared = enumerate(zip(cases.items(), expected, strict=True))
            for number, ((name, (embeds, positions)), wanted) in compared:
                run(number / len(cases))
                turned = rotary_rows(language_model, positions, dtype)
                logits = logits_from(embeds, turned, answer)
                found += compare(path.stem, name, "logits", wanted, logits, work.plan.min_cosine)
                same = float(wanted[0].argmax() == logits[0].argmax())
                found.append(Parity(f"{name}: logits", "first_token", same, 0.0))
            return found

        return checked(path.name, problem, figures)


@contextlib.contextmanager
def runnable(path: Path, spec: GraphSpec, work: Work) -> Iterator[tuple[Path, GraphSpec]]:
    """The decoder as this machine can run it: bfloat16 in float32, where there is no CUDA.

    The CPU's attention has no bfloat16 kernel. One that is too large for that stays as it is, and
    is not compared.
    """
    too_large = parameters_of(work.checkpoint.language_model) > WIDEST
    if work.plan.decoder != BFLOAT16 or cuda_problem() is None or too_large:
        yield path, spec
        return
    with tempfile.TemporaryDirectory(prefix="decoder-", dir=path.parent) as folder:
        wide = Path(folder) / path.name
        save(in_float32_throughout(ir.load(path)), wide)
        yield wide, spec.in_float32()


def _prompts(work: Work) -> dict[str, NDArray[np.float32]]:
    """Input embeddings (tokens, hidden) of prompts with noise and with speech.

    Both within the template: a model that was trained with it need not be stable without.
    """
    checkpoint = work.checkpoint

    def piece(piece: PromptPiece, audio: NDArray[np.float32]) -> NDArray[np.float32]:
        if piece.kind == "audio":
            return audio
        text = piece.before + QUESTION + piece.after
        ids = piece.ids or checkpoint.tokenizer.encode(text, add_special_tokens=False)
        return work.rows(np.array(ids, np.int64))

    audio = {
        "random ids": work.rows(work.random.integers(0, checkpoint.dimensions.vocab, 40)),
        "speech": work.embeds["speech"],
    }
    return {
        f"prompt with {name}": np.concatenate([piece(one, heard) for one in checkpoint.prompt])
        for name, heard in audio.items()
    }


def _torch_logits(
    language_model: PreTrainedModel,
    cases: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]],
    answer: NDArray[np.float32],
    advance: Advance = lambda _: None,
) -> list[NDArray[np.float32]]:
    """Logits (1 + steps, vocab) of each case, from one pass over all of them.

    The layers of a large model are read from disk and widened one after the other: once for all
    cases and steps, which is what a verification costs.

    Args:
        language_model: causal, so that what fills up a shorter case changes nothing ahead of it.
        cases: embeddings (tokens, hidden) of prompts, and positions of prompt and answer.
        answer: (steps, hidden) embeddings of the tokens that follow each prompt.
        advance: told how much is done.
    """
    steps = len(answer)
    lengths = [len(embeds) + steps for embeds, _ in cases]
    hidden = answer.shape[1]
    rows = np.zeros((len(cases), max(lengths), hidden), np.float32)
    at = np.zeros((len(cases), max(lengths)), np.int64)
    for row, (embeds, positions) in enumerate(cases):
        rows[row, : lengths[row]] = np.concatenate([embeds, answer])
        at[row] = np.append(positions, np.repeat(positions[-1], max(lengths) - lengths[row]))
    wanted = [range(length - steps - 1, length) for length in lengths]
    places = sorted(set().union(*wanted))
    with torch.no_grad(), in_float32(language_model, advance):
        out = language_model(
            inputs_embeds=torch.from_numpy(rows),
            # Without one, positions with a gap would be taken for texts that were packed together.
            attention_mask=torch.ones(at.shape, dtype=torch.long),
            position_ids=torch.from_numpy(at),
            use_cache=False,
            logits_to_keep=torch.tensor(places),
        )
    logits = out.logits.float().numpy()
    return [logits[row, [places.index(place) for place in own]] for row, own in enumerate(wanted)]


def empty_cache(parts: Sequence[Part]) -> dict[str, ort.OrtValue]:
    """The cache before the first token, by the names of the inputs that take it."""
    found = {}
    for tensor in (tensor for one in parts for tensor in one.spec.inputs):
        if tensor.name.startswith(PAST):
            shape = [1, tensor.shape[1], 0, tensor.shape[3]]
            kind, _ = ort_type(tensor.dtype)
            found[tensor.name] = ort.OrtValue.ortvalue_from_shape_and_type(shape, kind)
    return found


def run_parts(
    parts: Sequence[Part],
    embeds: NDArray[Any],
    total: int,
    turned: Arrays,
    cache: dict[str, ort.OrtValue],
) -> dict[str, ort.OrtValue]:
    """Run graphs one behind the other, cache by copies: slow, and independent of the runtime.

    Args:
        parts: the graphs.
        embeds: (tokens, hidden).
        total: positions in the cache afterwards.
        turned: ``cos`` and ``sin`` of all positions.
        cache: what each graph takes of it; brought up to date.

    Returns:
        Every output, by name.
    """
    dtype = parts[0].spec.inputs[0].dtype
    given = {
        "inputs_embeds": embeds[None].astype(dtype),
        "attention_mask": np.ones((1, total), np.int64),
        **turned,
    }
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in given.items()}
    for one in parts:
        names = [tensor.name for tensor in one.spec.outputs]
        known = {**values, **cache}
        fed = {tensor.name: known[tensor.name] for tensor in one.spec.inputs}
        values.update(zip(names, one.session.run_with_ort_values(names, fed), strict=True))
    for name in cache:
        cache[name] = values[name.replace(PAST, PRESENT)]
    return values


def logits_of(
    parts: Sequence[Part], embeds: NDArray[Any], turned: Arrays, answer: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Logits (1 + steps, vocab) of graphs that follow each other; see ``Logits``."""
    cache, rows, total = empty_cache(parts), [], 0
    steps: Sequence[NDArray[Any]] = [embeds, *answer[:, None]]
    for step in steps:
        total += len(step)
        made = run_parts(parts, step, total, turned, cache)
        rows.append(made["logits"].numpy()[0, -1].astype(np.float32))
    return np.stack(rows)


def parameters_of(language_model: PreTrainedModel) -> int:
    """Weights of the layers and the output head; tied ones count here, too."""
    table = language_model.get_input_embeddings().weight
    head = language_model.get_output_embeddings().weight
    count = sum(p.numel() for p in language_model.parameters())
    return int(count if head is table else count - table.numel())


GRAPH = Graph(
    DECODER,
    lambda work: WORDS[work.plan.decoder],
    _write,
    _verify,
    parameters=lambda checkpoint: parameters_of(checkpoint.language_model),
    slow=True,
)
