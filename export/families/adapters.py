"""A LoRA merged into its base by peft, before a family takes the model apart.

What comes out is the model that ``merge_and_unload`` gives, its weights in the dtype in which the
base stores them.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from speechprune_ort.errors import ExportError
from speechprune_ort.export.source import Source

__all__ = ["merged", "require_its_tokenizer"]

NAME = "default"
TABLE = re.compile(r"(embed_tokens|lm_head)(\.base_layer|\.modules_to_save)?\.weight$")
"""Whole tables that an adapter with tokens of its own carries."""


def merged(source: Source, model: Any) -> Any:
    """The model with its adapter merged in; itself where there is none.

    Args:
        source: of the base, with its adapter.
        model: the base, in eval mode.

    Raises:
        ExportError: the adapter does not fit the base, or peft cannot merge it.
    """
    if source.adapter is None:
        return model
    from peft import LoraConfig, PeftModel

    label = f"The adapter {str(source.adapter.folder)!r}"
    try:
        shapes = _shapes(source.adapter.weights)
        _fit_vocabulary(label, model, shapes)
        config = LoraConfig.from_pretrained(str(source.adapter.folder))
        config.inference_mode = True
        wrapped = PeftModel(model, config, adapter_name=NAME)
        wanted = {name for name in wrapped.state_dict() if "lora_" in name}
        found = wrapped.load_adapter(str(source.adapter.folder), NAME, torch_device="cpu")
        left_over, missing = sorted(found.unexpected_keys), sorted(found.missing_keys)
        if left_over or missing or not wanted:
            what = (left_over or missing or ["no module of it"])[0]
            raise ExportError(
                f"{label} does not fit {source.location!r} ({len(left_over)} of its weights have "
                f"no place there, {len(missing)} are missing; first: {what}): give the checkpoint "
                "that it was made from by --base."
            )
        # The sum is rounded once; with safe_merge the difference would be rounded before it.
        whole = wrapped.merge_and_unload()
    except (ExportError, MemoryError):
        raise
    except Exception as error:  # peft raises its own, and torch's
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ExportError(
            f"{label} cannot be merged into {source.location!r} ({reason}): check that it was made "
            "from that checkpoint, or give another by --base."
        ) from error
    return whole.eval().requires_grad_(False)


def require_its_tokenizer(source: Source, tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse an adapter whose own tokenizer was left out because no processor lies beside it.

    Args:
        source: of the base, with its adapter.
        tokenizer: that was loaded.

    Raises:
        ExportError: the adapter's tokenizer has other tokens or another chat template.
    """
    adapter = source.adapter
    if adapter is None or not adapter.has_tokenizer or adapter.has_processor:
        return
    own = AutoTokenizer.from_pretrained(str(adapter.folder))
    same = own.get_vocab() == tokenizer.get_vocab()
    if not same or (own.chat_template or tokenizer.chat_template) != tokenizer.chat_template:
        raise ExportError(
            f"The adapter {str(adapter.folder)!r} has a tokenizer of its own and no "
            "preprocessor_config.json or processor_config.json beside it: save the processor "
            "there, too."
        )


def _shapes(path: Path) -> Mapping[str, tuple[int, ...]]:
    if path.suffix != ".safetensors":
        stored = torch.load(path, map_location="meta", weights_only=True)
        return {name: tuple(value.shape) for name, value in stored.items()}
    with safe_open(path, "pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


def _fit_vocabulary(label: str, model: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Give the base as many tokens as the adapter's whole tables have.

    Raises:
        ExportError: the tables that the adapter has would leave rows made up.
    """
    tables = {m[1]: shape[0] for name, shape in shapes.items() if (m := TABLE.search(name))}
    rows = model.get_input_embeddings().weight.shape[0]
    wanted = max(tables.values(), default=rows)
    if wanted == rows:
        return
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    needed = {"embed_tokens"} if head is table else {"embed_tokens", "lm_head"}
    if not needed <= tables.keys() or len(set(tables.values())) > 1:
        raise ExportError(
            f"{label} has {wanted} tokens in {' and '.join(sorted(tables))} and its base {rows}, "
            f"and the rest is not in it: save it with {' and '.join(sorted(needed))} in "
            "modules_to_save."
        )
    model.config = copy.deepcopy(model.config)
    model.resize_token_embeddings(wanted, mean_resizing=False)
