"""What a method has to beat: chance, a stretch, the beginning, everything."""

from __future__ import annotations

import numpy as np

from speechprune_ort.runtime.choosing.methods.base import MethodOptions, Request, Selection, method

__all__ = ["BEGINNING", "crop", "everything", "random", "truncate"]


BEGINNING = "truncate"


@method("random", summary="random tokens", random=True)
def random(request: Request[MethodOptions]) -> Selection:
    """Tokens drawn without replacement, by ``seed``."""
    generator = np.random.default_rng(request.seed)
    kept = generator.choice(request.tokens, request.n_keep, replace=False)
    return Selection(np.sort(kept).astype(np.int64))


@method("crop", summary="one random stretch", random=True)
def crop(request: Request[MethodOptions]) -> Selection:
    """Consecutive tokens from a place drawn by ``seed``."""
    generator = np.random.default_rng(request.seed)
    start = int(generator.integers(0, request.tokens - request.n_keep + 1))
    return Selection(np.arange(start, start + request.n_keep))


@method(BEGINNING, summary="the beginning, as today's stacks do it")
def truncate(request: Request[MethodOptions]) -> Selection:
    """The first tokens."""
    return Selection(np.arange(request.n_keep))


@method("none", summary="every token")
def everything(request: Request[MethodOptions]) -> Selection:
    """All tokens: ``n_keep`` is their number."""
    return Selection(np.arange(request.n_keep))
