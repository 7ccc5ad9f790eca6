"""One audio token a text token: what the audio side says, and where it says nothing.

Where every audio token repeats the word under it, one in four chosen at random says all that the
recording says, and no pruning can be better than chance. Large Speech LLMs are not like that: the
paper measures 42 % for random tokens at the rate where its own selection reaches 89
(arXiv:2412.12009, table I). So each text token is written once, anywhere in the time in which it
is spoken, and every other audio token is the blank, as a CTC model writes.
"""

from __future__ import annotations

import random

import numpy as np
import torch

from small_model.training.pieces import Labels

DROP_NOISE = 0.15


def with_blank(embeddings: torch.Tensor, silence: int) -> torch.Tensor:
    """The targets of the audio side: ``silence`` becomes the blank.

    The blank is minus the mean of all token embeddings: far from every word, so that it looks like
    none of a question's.

    Args:
        embeddings: The language model's, (vocabulary, hidden).
        silence: Label of audio tokens that say nothing.

    Returns:
        A copy, (vocabulary, hidden).
    """
    targets = embeddings.clone()
    targets[silence] = -embeddings.mean(0)
    return targets


def runs(labels: torch.Tensor) -> torch.Tensor:
    """Number of the run of equal labels that each audio token is in; rows do not run on.

    >>> runs(torch.tensor([[5, 5, 7], [7, 7, 1]])).tolist()
    [[0, 0, 1], [2, 2, 3]]
    """
    new = torch.ones_like(labels, dtype=torch.bool)
    new[:, 1:] = labels[:, 1:] != labels[:, :-1]
    return new.flatten().cumsum(0).view_as(labels) - 1


def one_each(
    scores: torch.Tensor, blank: torch.Tensor, run: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Likelihood that each run is written by exactly one of its tokens, the others being blank.

    For a run R it is the sum over t in R of p_t(label) and all p_s(blank), s != t: CTC where the
    time of each label is known within bounds.

    Args:
        scores: Log-probability of the own label, (n,), of tokens inside runs.
        blank: Log-probability of the blank, (n,).
        run: Run of each, (n,), non-decreasing.

    Returns:
        Log-likelihood of each run, (runs,), and the share of each token in having written it,
        (n,), which adds up to 1 over a run and carries no gradient.
    """
    _, place = torch.unique_consecutive(run, return_inverse=True)
    count = int(place[-1]) + 1 if len(place) else 0
    gain = scores - blank
    highest = gain.new_full((count,), -torch.inf).scatter_reduce(
        0, place, gain.detach(), "amax", include_self=True
    )
    weight = (gain - highest[place]).exp()
    total = gain.new_zeros(count).index_add(0, place, weight)
    silent = gain.new_zeros(count).index_add(0, place, blank)
    return highest + total.log() + silent, (weight / total[place]).detach()


def spike(labels: Labels, silence: int, rng: random.Random) -> Labels:
    """Labels (n,) with one random token of each run left and silence in place of the others."""
    out = np.full_like(labels, silence)
    edges = np.flatnonzero(np.diff(labels)) + 1
    for start, end in zip([0, *edges], [*edges, len(labels)], strict=True):
        if start < end:
            out[rng.randrange(start, end)] = labels[start]
    return out


def drop_blanks(tokens: torch.Tensor, blank: torch.Tensor, share: float) -> torch.Tensor:
    """Audio tokens (n, hidden) without ``share`` of them: those nearest to the blank, by cosine.

    The cosines are noisy, so that a word is lost here and there, as by any pruning.
    """
    near = torch.cosine_similarity(tokens.float(), blank.float()[None], dim=-1)
    near += DROP_NOISE * torch.randn(len(near))
    keep = near.argsort()[: max(1, round(len(near) * (1 - share)))]
    return tokens[keep.sort().values]
