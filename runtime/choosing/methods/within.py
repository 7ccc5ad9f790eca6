"""Dropping within the language model, by its own attention: FastV, arXiv:2403.06764.

"An Image is Worth 1/2 Tokens After Layer 2" (Chen et al.): the first K layers read every token; of
these, the tokens of the recording stay to which the prompt's last position attends the most in the
K-th layer, the mean over its heads, and the other layers read only what stays.

Our reading: the question's and the template's tokens always stay; ties go to the earlier token; K
is chosen when the bundle is exported. The paper keeps a share of a picture's tokens, here it is the
number that every method keeps.
"""

from __future__ import annotations

import numpy as np

from speechprune_ort.errors import OptionError
from speechprune_ort.runtime.choosing.methods.base import (
    MethodOptions,
    Request,
    Scores,
    Selection,
    method,
)

__all__ = ["fastv"]

RECEIVED = "attention of the prompt's end in the first layers, 1 = even"


@method("fastv", summary="what the first layers attend to; the others read only that",
        source="FastV, arXiv:2403.06764", decoder_attention=True)  # fmt: skip
def fastv(request: Request[MethodOptions]) -> Selection:
    """The tokens that the last position attends to the most."""
    scores = request.decoder_attention
    if scores is None:
        raise OptionError("fastv needs request.decoder_attention.")
    with request.measure("phase_1"):
        best = np.argsort(-scores, kind="stable")[: request.n_keep]
        shares = scores / (scores.sum() or 1)  # the prompt's own tokens have the rest
    return Selection(np.sort(best), (Scores(RECEIVED, shares, of_one=True),))
