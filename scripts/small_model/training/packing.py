"""What makes LoRA on recordings of a few hundred tokens fast on a CPU: packs, and fewer passes.

Recordings behind each other in one sequence (a pack) make the matrix products large, and LoRA's own
products are added in place; together 1.5 to 1.9 times the tokens a second of recordings one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its customary name
from peft.tuners.lora import Linear
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from small_model.training.encoder import SHORT

NAME = "packs"


def attend_in_packs(model: Any) -> None:
    """Let a causal model take ``lengths=``: how many positions each recording of a pack has."""
    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)


def attend(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    lengths: Sequence[int] | None = None,
    **rest: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each recording; without ``lengths`` that of transformers.

    Queries are (1, heads, positions, size), keys and values (1, key heads, positions, size); what
    comes of them is (1, positions, heads, size).
    """
    if lengths is None:
        whole: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **rest
        )
        return whole
    queries, keys, values = (torch.split(part, list(lengths), 2) for part in (query, key, value))
    said = [causal(q, k, v, scaling) for q, k, v in zip(queries, keys, values, strict=True)]
    return torch.cat(said, 2).transpose(1, 2), None


def causal(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Causal attention of one recording, shapes as :func:`attend`'s; (1, heads, positions, size).

    torch's own is slow backward on a CPU in bfloat16, so a long recording goes through it in
    float32 and a short one by products.
    """
    _, heads, count, size = query.shape
    if count > SHORT:
        wide = (query.float(), key.float(), value.float())
        said = F.scaled_dot_product_attention(*wide, is_causal=True, enable_gqa=True, scale=scaling)
        return said.to(query.dtype)
    groups = key.shape[1]
    rows = query.reshape(groups, -1, size)
    scores = torch.bmm(rows, key[0].transpose(1, 2)).float().view(groups, -1, count, count)
    later = torch.full((count, count), -torch.inf).triu(1)
    weights = (scores * scaling + later).softmax(-1).to(query.dtype).view(groups, -1, count)
    return torch.bmm(weights, value[0]).view(1, heads, count, size)


class Adapted(torch.autograd.Function):
    """A linear layer and its LoRA, ``x W' + b + s (x A') B'``, without a sum of its own."""

    @staticmethod
    def forward(ctx: Any, *tensors: Any) -> torch.Tensor:
        """Of x (..., in), W (out, in), b (out,) or None, A (rank, in), B (out, rank) and s."""
        x, weight, bias, down, up, scale = tensors
        rows = x.reshape(-1, x.shape[-1])
        low = (rows @ down.T) * scale
        result = F.linear(rows, weight, bias).addmm_(low, up.T)
        ctx.save_for_backward(rows, low, weight, down, up)
        ctx.scale = scale
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Of x, A and B; the layer itself stays as it is."""
        rows, low, weight, down, up = ctx.saved_tensors
        (gradient,) = gradients
        given = gradient.reshape(-1, gradient.shape[-1])
        below = (given @ up) * ctx.scale
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (given @ weight).addmm_(below, down).view(*gradient.shape[:-1], -1)
        return of_x, None, None, below.T @ rows, given.T @ low, None


def fuse(model: Any) -> None:
    """Let each linear layer that peft has adapted, without dropout, go through `Adapted`."""
    for module in model.modules():
        if isinstance(module, Linear):
            module.forward = partial(adapted, module)  # type: ignore[method-assign]


def adapted(module: Any, x: torch.Tensor) -> Any:
    """What one of peft's layers makes of ``x``."""
    base, name = module.base_layer, module.active_adapters[0]
    down, up = module.lora_A[name], module.lora_B[name]
    return Adapted.apply(  # type: ignore[no-untyped-call]
        x, base.weight, base.bias, down.weight, up.weight, module.scaling[name]
    )
