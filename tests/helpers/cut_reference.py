"""Dropping tokens behind a language model's first layers, in torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def passed_through(
    model: Any, layers: nn.ModuleList, embeds: torch.Tensor, positions: NDArray[np.int64], last: Any
) -> torch.Tensor:
    """What some layers make of (tokens, hidden), and ``last`` in the place of the norm."""
    inner = model.model
    before = inner.layers, inner.norm
    inner.layers, inner.norm = layers, last
    try:
        return inner(
            inputs_embeds=embeds[None],
            attention_mask=torch.ones((1, len(embeds)), dtype=torch.long),
            position_ids=torch.from_numpy(positions)[None],
            use_cache=False,
        ).last_hidden_state[0]
    finally:
        inner.layers, inner.norm = before


def logits_behind_a_cut(
    model: Any,
    after: int,
    embeds: NDArray[np.float32],
    kept: NDArray[np.int64],
    positions: NDArray[np.int64],
    ids: list[int],
) -> NDArray[np.float32]:
    """(vocab,) logits: the first layers over all, the others over what is kept and the answer."""
    layers = model.model.layers
    stays = np.concatenate([kept, len(embeds) + np.arange(len(ids))])
    at = np.concatenate([positions, positions[-1] + 1 + np.arange(len(ids))])
    with torch.no_grad():
        tail = model.model.embed_tokens(torch.tensor(ids, dtype=torch.long))
        rows = torch.cat([torch.from_numpy(embeds), tail])
        hidden = passed_through(model, layers[:after], rows, np.arange(len(rows)), nn.Identity())
        top = passed_through(model, layers[after:], hidden[stays], at, model.model.norm)
        logits: NDArray[np.float32] = model.lm_head(top[-1]).numpy()
    return logits


def attended(model: Any, after: int, embeds: NDArray[np.float32]) -> NDArray[np.float32]:
    """Attention of the last position in the last layer below the cut, by transformers itself."""
    inner = model.model
    inner.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            out = inner(inputs_embeds=torch.from_numpy(embeds)[None], output_attentions=True)
    finally:
        inner.set_attn_implementation("sdpa")
    shares: NDArray[np.float32] = out.attentions[after - 1][0].mean(0)[-1].numpy()
    return shares
