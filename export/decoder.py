"""``decoder.onnx``: input embeddings and KV cache to last-position logits and KV cache.

Written by onnxruntime-genai's model builder: grouped-query attention, fused norms, 4- and 8-bit
matrices. Three methods of it are replaced, so genai is pinned exactly. Rotary embedding stays
outside the attention, because fused it honours only a contiguous range of positions and would
be silently wrong for the true positions of pruned audio. And weights are taken from the model at
hand and quantized one by one, because a large language model does not fit in memory in float32.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from speechprune_ort.errors import ExportError
from speechprune_ort.export.graph_file import quiet, save, with_weights
from speechprune_ort.export.memory import MappedWeights
from speechprune_ort.export.precision import Plan, Target
from speechprune_ort.export.quantize import quantize_matmuls

__all__ = ["export_decoder"]

_BUILDER_PRECISION = {
    "float32": "fp32",
    "half_stored": "fp32",
    "w8a8": "fp32",
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
    described, built, cache = work / "language_model", work / "built", work / "cache"
    with quiet():
        # The builder reads settings and tokenizer from a folder; the weights it is handed.
        config = copy.deepcopy(language_model.config)
        config.architectures = [type(language_model).__name__]
        config.save_pretrained(described)
        language_model.generation_config.save_pretrained(described)
        tokenizer.save_pretrained(described)
    options: dict[str, Any] = {
        "exclude_embeds": True,  # the audio goes in as embeddings
        "prune_lm_head": True,  # logits of the last position alone
        "fuse_qkv": False,  # rotary embedding outside attention needs Q and K apart
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
        with _builder(language_model) as builder, quiet():
            builder.check_extra_options(*where, options)
            builder.create_model(*where, **options)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # the builder asserts, looks up and divides without asking
        raise ExportError(
            "onnxruntime-genai's builder refuses this language model "
            f"({type(error).__name__}: {error}): "
            "it may use a feature, such as a rotary scaling, that the builder does not know."
        ) from error
    model = ir.load(built / "model.onnx")
    # What the builder quantizes itself comes out as planned.
    save(model if plan.decoder in ("int8", "int4") else with_weights(model, plan.decoder), path)
    shutil.rmtree(work)


@contextlib.contextmanager
def _builder(language_model: PreTrainedModel) -> Iterator[Any]:
    """Genai's builder with three of its methods replaced.

    Rotary embedding stays outside the attention; weights are those of a model that is there; and
    they are quantized one by one, as all of them in float32 need not fit in memory.
    """
    search_path = list(sys.path)
    import onnxruntime_genai.models.builder as builder

    mapped = MappedWeights(language_model)

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
            after_each=lambda: mapped.let_go(language_model),
        )

    replaced = {
        "is_fused_rope_supported": lambda _: False,
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
