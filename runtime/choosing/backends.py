"""Where a question's tokens are scored and its prompt is laid out: on the host, or by graphs.

A question holds one backend, chosen once. What both compute is the same.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.choices import AttentionForm, Backend
from speechprune_ort.contract.specs import (
    ASSEMBLE,
    FIRST_LAYER_QK,
    FIRST_LAYER_QK_FLOAT,
    RECEIVED_ATTENTION,
    SIMILARITY,
)
from speechprune_ort.runtime.choosing.scoring import NumpyScorer, OrtScorer, Scorer, assemble
from speechprune_ort.runtime.hearing.embeddings import AudioEmbeds
from speechprune_ort.runtime.ort.engine import Engine
from speechprune_ort.runtime.ort.session import memory_errors

__all__ = ["PromptBackend", "open_backend"]

# The ablation's graph is opened when it is asked for.
PROJECTIONS: dict[AttentionForm, str] = {
    "binarized": FIRST_LAYER_QK,
    "float": FIRST_LAYER_QK_FLOAT,
}


class PromptBackend(Protocol):
    """Scores a recording's tokens and lays out a prompt."""

    @property
    def name(self) -> Literal["numpy", "ort"]:
        """The name that options give it."""
        ...

    def scorer(self, audio: AudioEmbeds, text: NDArray[Any]) -> Scorer:
        """Scores of a recording's tokens for a question.

        Args:
            audio: embeddings of the recording.
            text: (query, hidden) embeddings of the question's own tokens.
        """
        ...

    def lay_out(
        self,
        before: NDArray[Any],
        audio: AudioEmbeds,
        indices: NDArray[np.int64],
        after: NDArray[Any],
    ) -> NDArray[Any] | ort.OrtValue:
        """Kept audio tokens between the prompt's own.

        Returns:
            (prompt, hidden) on the host, or (1, prompt, hidden) on the device.
        """
        ...


class NumpyBackend:
    """On the host.

    Args:
        engine: the bundle, for its first layer's projections.
    """

    name: Literal["numpy"] = "numpy"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def scorer(self, audio: AudioEmbeds, text: NDArray[Any]) -> Scorer:
        """See ``PromptBackend``."""

        def project(
            part: NDArray[Any], form: AttentionForm
        ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
            session = self._engine.session(PROJECTIONS[form])
            query, key = session.run(["query", "key"], {"audio_embeds": part})
            return query, key

        return NumpyScorer(audio, text, project)

    def lay_out(
        self,
        before: NDArray[Any],
        audio: AudioEmbeds,
        indices: NDArray[np.int64],
        after: NDArray[Any],
    ) -> NDArray[Any]:
        """See ``PromptBackend``: (prompt, hidden)."""
        with memory_errors(ASSEMBLE):
            return np.concatenate([before, audio.take(indices), after])


class OrtBackend:
    """By the bundle's graphs, on its device.

    Args:
        engine: the bundle.
    """

    name: Literal["ort"] = "ort"

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def scorer(self, audio: AudioEmbeds, text: NDArray[Any]) -> Scorer:
        """See ``PromptBackend``."""
        engine, dims = self._engine, self._engine.manifest.dimensions
        names = (SIMILARITY, RECEIVED_ATTENTION, ASSEMBLE)
        sizes = (dims.heads, dims.kv_heads, dims.head_dim)
        return OrtScorer(engine.session, names, PROJECTIONS, audio, text, sizes, engine.device)

    def lay_out(
        self,
        before: NDArray[Any],
        audio: AudioEmbeds,
        indices: NDArray[np.int64],
        after: NDArray[Any],
    ) -> ort.OrtValue:
        """See ``PromptBackend``: (1, prompt, hidden)."""
        session, device = self._engine.session(ASSEMBLE), self._engine.device
        with memory_errors(ASSEMBLE):
            return assemble(session, device, before, audio, indices, after)


def open_backend(engine: Engine, asked: Backend) -> PromptBackend:
    """The backend that is asked for; ``auto`` takes the faster one of the bundle's device."""
    by_graphs = asked == "ort" or (asked == "auto" and engine.device.name == "cuda")
    return OrtBackend(engine) if by_graphs else NumpyBackend(engine)
