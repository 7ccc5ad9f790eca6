"""The whole export: load, write each graph, verify it, and only then let it be a bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from speechprune_ort.contract.manifest import TOKENIZER_FILE
from speechprune_ort.contract.specs import graph_specs
from speechprune_ort.errors import ExportError
from speechprune_ort.export import (
    audio_encoder,
    cut_decoder,
    decoder,
    embed_tokens,
    first_layer_qk,
    pruning_graphs,
    rotary,
)
from speechprune_ort.export.atomic_folder import atomic_folder
from speechprune_ort.export.checkpoint_config import Described, check_cut, windows_of
from speechprune_ort.export.course import LOAD, SEAL, Course, Report, Sizes
from speechprune_ort.export.families import load_checkpoint
from speechprune_ort.export.families.base import AttentiveEncoder, Checkpoint
from speechprune_ort.export.graph_file import quiet
from speechprune_ort.export.memory import enough_memory, libraries_left_out
from speechprune_ort.export.precision import plan
from speechprune_ort.export.request import check_request
from speechprune_ort.export.seal import seal
from speechprune_ort.export.work import ExportedGraph, Graph, Work, export_graph

__all__ = ["GRAPHS", "ExportedGraph", "export_bundle"]

GRAPHS: tuple[Graph, ...] = (
    audio_encoder.GRAPH,  # first: its verification leaves real audio embeddings for the others
    first_layer_qk.BINARIZED,
    first_layer_qk.FLOAT,
    pruning_graphs.SIMILAR,
    pruning_graphs.RECEIVED,
    pruning_graphs.ASSEMBLED,
    rotary.GRAPH,
    decoder.GRAPH,
    embed_tokens.GRAPH,  # may read the decoder's output head
    cut_decoder.LOWER,  # read the decoder's weights, as well
    cut_decoder.UPPER,
)
"""Every graph that a bundle may have, in the order in which they are exported."""


def export_bundle(
    model: str,
    out: Path,
    *,
    precision: str = "fp32",
    target: str = "cpu",
    revision: str | None = None,
    trust_remote_code: bool = False,
    overwrite: bool = False,
    encoder_attention: bool = False,
    cut_after: int | None = None,
    base: str | None = None,
    allow_pickle: bool = False,
    report: Report = lambda _, __: None,
) -> list[ExportedGraph]:
    """Turn a checkpoint into a bundle.

    The bundle is written into a temporary folder beside ``out`` and renamed at the very end:
    whatever happens on the way, ``out`` is a whole bundle or what it was before.

    Args:
        model: hub id or local folder; for an adapter (LoRA), its folder, which peft merges.
        out: folder to write.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8``, ``w8a8`` or ``int4``; see ``precision``.
        target: ``cpu`` or ``cuda``.
        revision: branch, tag or commit on the hub.
        trust_remote_code: whether transformers may run code that comes with the checkpoint.
        overwrite: whether to replace ``out`` if it is there.
        encoder_attention: whether the audio encoder also returns the attention of its last layer,
            for the methods that need it; encoding then always takes a little longer.
        cut_after: number of the decoder's first layers behind which it is cut, for the methods
            that drop tokens there: two further graphs, which read the decoder's own weights.
        base: checkpoint that an adapter is merged into; None for the one that it names.
        allow_pickle: whether to take weights from ``.bin`` files where there are no safetensors.
            Only tensors are read (``torch.load`` with ``weights_only``).
        report: called with the words for each step and the share, 0 to 1, of the whole export that
            is done: as a step begins, and as it goes on.

    Returns:
        One row per graph, in order.

    Raises:
        ExportError: options, checkpoint, folder or disk do not allow it; the message says which.
        ParityError: a graph does not compute what torch computes.
    """
    found, _ = check_request(
        model,
        out,
        precision=precision,
        target=target,
        revision=revision,
        overwrite=overwrite,
        encoder_attention=encoder_attention,
        cut_after=cut_after,
        base=base,
        allow_pickle=allow_pickle,
    )
    chosen = plan(precision, target)
    with libraries_left_out(), enough_memory(), atomic_folder(out, overwrite) as folder:
        course = Course(report)
        course.begin(LOAD)
        with quiet():
            checkpoint = load_checkpoint(
                model, revision, trust_remote_code, base=base, allow_pickle=allow_pickle
            )
        checkpoint = _with_attention(checkpoint, encoder_attention)
        dims = checkpoint.dimensions
        if len(checkpoint.tokenizer) > dims.vocab:
            raise ExportError(
                f"The tokenizer has {len(checkpoint.tokenizer)} tokens and the embedding table "
                f"{dims.vocab} rows: resize the model's embeddings first."
            )
        text = checkpoint.language_model.config.to_dict()
        check_cut(cut_after, windows_of(found.location, text))
        specs = graph_specs(
            dims,
            chosen.float_dtype,
            checkpoint.short_windows,
            checkpoint.encoder_attention,
            chosen.cache_dtype,
            cut_after,
        )
        course.expect(_sizes(checkpoint), cut_after is not None)
        work = Work(checkpoint, chosen, "cuda" if target == "cuda" else "cpu", course=course)
        rows = [
            export_graph(graph, work, specs[graph.name], folder)
            for graph in GRAPHS
            if graph.name in specs
        ]
        checkpoint.tokenizer.backend_tokenizer.save(str(folder / TOKENIZER_FILE))
        course.begin(SEAL)
        seal(folder, work, rows, precision=precision, source=_source(model, found))
    return rows


def _with_attention(checkpoint: Checkpoint, wanted: bool) -> Checkpoint:
    """The checkpoint whose audio encoder gives its attention, or does not."""
    for module in checkpoint.audio_encoder.modules():  # it may stand within another
        if isinstance(module, AttentiveEncoder):
            module.attends = wanted
    return replace(checkpoint, encoder_attention=wanted and checkpoint.encoder_attention)


def _sizes(checkpoint: Checkpoint) -> Sizes:
    """Weights of a checkpoint, a tied head counted twice, as most plans write it twice."""
    table = checkpoint.language_model.get_input_embeddings().weight.numel()
    return Sizes(
        encoder=sum(p.numel() for p in checkpoint.audio_encoder.parameters()),
        table=table,
        decoder=decoder.parameters_of(checkpoint.language_model),
        window_seconds=checkpoint.audio.window_seconds,
    )


def _source(model: str, found: Described) -> str:
    """What the manifest names as the bundle's origin: folders by their names alone."""

    def named(location: str) -> str:
        return Path(location).resolve().name if Path(location).exists() else location

    if found.adapter is None or found.adapter.folder == found.folder:
        return named(model)
    return f"{named(model)} on {named(found.location)}"
