"""``decoder.onnx``: input embeddings and KV cache to last-position logits and KV cache.

Written by onnxruntime-genai's model builder: grouped-query attention, fused norms, 4- and 8-bit
matrices. One hook of it is overridden, so genai is pinned exactly: rotary embedding stays
outside the attention, because fused it honours only a contiguous range of positions and would
be silently wrong for the true positions of pruned audio.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from speechprune_ort.errors import ExportError
from speechprune_ort.export.graph_file import quiet, save, store_half
from speechprune_ort.export.precision import Plan, Target

__all__ = ["export_decoder"]

_BUILDER_PRECISION = {
    "float32": "fp32",
    "half_stored": "fp32",
    "float16": "fp16",
    "int8": "int8",
    "int4": "int4",
}


def export_decoder(
    language_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    plan: Plan,
    target: Target,
    path: Path,
    work: Path,
) -> None:
    """Build the decoder graph.

    Args:
        language_model: causal language model of its own, head included.
        tokenizer: the builder wants one beside the weights.
        plan: how weights are stored.
        target: execution provider that the graph is built for.
        path: graph file to write.
        work: folder for temporary files, on the same disk as ``path``; emptied at the end.

    Raises:
        ExportError: the builder refuses the language model.
    """
    checkpoint, built, cache = work / "language_model", work / "built", work / "cache"
    with quiet():
        language_model.save_pretrained(checkpoint)
        tokenizer.save_pretrained(checkpoint)
    options: dict[str, Any] = {
        "exclude_embeds": True,  # the audio goes in as embeddings
        "prune_lm_head": True,  # logits of the last position alone
        "fuse_qkv": False,  # rotary embedding outside attention needs Q and K apart
    }
    if plan.decoder == "int4":
        options["matmul_mixed_precision"] = "last_matmul:int8"
    where = (
        "speechprune-ort",
        str(checkpoint),
        str(built),
        _BUILDER_PRECISION[plan.decoder],
        target,
        str(cache),
    )
    try:
        with _builder() as builder, quiet():
            builder.check_extra_options(*where, options)
            builder.create_model(*where, **options)
    except (NotImplementedError, ValueError, KeyError) as error:
        raise ExportError(
            f"onnxruntime-genai's builder refuses this language model ({error}): "
            "it may use a feature, such as a rotary scaling, that the builder does not know."
        ) from error
    shutil.rmtree(checkpoint)
    model = ir.load(built / "model.onnx")
    save(store_half(model) if plan.decoder == "half_stored" else model, path)
    shutil.rmtree(work)


@contextlib.contextmanager
def _builder() -> Iterator[Any]:
    """Genai's builder with rotary embedding kept outside the attention."""
    search_path = list(sys.path)
    import onnxruntime_genai.models.builder as builder

    fused = builder.Model.is_fused_rope_supported
    builder.Model.is_fused_rope_supported = lambda _: False
    try:
        yield builder
    finally:
        builder.Model.is_fused_rope_supported = fused
        # Importing the builder appends its own folder, whose modules have everyday names.
        sys.path[:] = search_path
