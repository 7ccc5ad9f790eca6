"""Scores of audio tokens, computed by numpy on the host or by the bundle's graphs on its device.

Both compute the same: ``runtime/choosing/pruning.py`` is the reference. What differs is where
embeddings have to be. The graphs leave them on the device; scores, one float per token, come to the
host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from typing import Any, Protocol

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from speechprune_ort.cancel import checkpoint
from speechprune_ort.choices import AttentionForm
from speechprune_ort.errors import OptionError
from speechprune_ort.runtime.choosing.pruning import (
    ROWS_AT_ONCE,
    THREADS_FROM,
    cosine_matrix,
    lengths,
    received_attention,
    similarity_scores,
    text_direction,
    unit_rows,
)
from speechprune_ort.runtime.hearing.embeddings import AudioEmbeds, DeviceEmbeds
from speechprune_ort.runtime.ort.device import Device
from speechprune_ort.runtime.ort.threads import numpy_threads

__all__ = ["NumpyScorer", "OrtScorer", "Projection", "Scorer", "assemble"]

Projection = Callable[
    [NDArray[Any], AttentionForm], tuple[NDArray[np.float32], NDArray[np.float32]]
]
"""(tokens, hidden), form: to Q' (tokens, heads, head_dim) and K' (tokens, kv_heads, head_dim)."""

Scores = NDArray[np.float32]

ATTENTION_AT_ONCE = 1 << 26  # values of the attention matrix at a time: 256 MB of float32


class Scorer(Protocol):
    """Scores the audio tokens of a recording for a question."""

    @property
    def tokens(self) -> int:
        """Audio tokens of the recording."""
        ...

    @property
    def embeds(self) -> NDArray[Any]:
        """Audio embeddings (tokens, hidden), on the host."""
        ...

    @property
    def text(self) -> NDArray[Any]:
        """Embeddings (query, hidden) of the question's own tokens, on the host."""
        ...

    def similarity(self) -> Scores:
        """Phase 1 score of every token, (tokens,)."""
        ...

    def cosines(self) -> Scores:
        """Cosine of every token to every token of the question, (tokens, query)."""
        ...

    def commonness(self) -> Scores:
        """Cosine of every token to the mean of all tokens' unit vectors, (tokens,)."""
        ...

    def attention(
        self, candidates: NDArray[np.int64], form: AttentionForm, single_head: bool
    ) -> Scores:
        """Phase 2 score of each candidate among them, (candidates,).

        Args:
            candidates: indices of tokens.
            form: form of the first layer's projections.
            single_head: whether to compute over the whole width instead of head by head.
        """
        ...


class _Scored:
    """What both scorers know of the recording and the question."""

    def __init__(self, audio: AudioEmbeds, text: NDArray[Any]) -> None:
        self._audio, self._text = audio, text

    @property
    def tokens(self) -> int:
        """See ``Scorer``."""
        return self._audio.tokens

    @property
    def embeds(self) -> NDArray[Any]:
        """See ``Scorer``."""
        return self._audio.host

    @property
    def text(self) -> NDArray[Any]:
        """See ``Scorer``."""
        return self._text

    def _mean_direction(self) -> NDArray[np.float32]:
        """Mean of all tokens' unit vectors, (1, hidden); computed some rows at a time."""
        total = np.zeros(self._audio.hidden)
        with numpy_threads(1):
            for block in self._audio.blocks():
                for start in range(0, len(block), ROWS_AT_ONCE):
                    checkpoint()
                    rows = block[start : start + ROWS_AT_ONCE].astype(np.float32, copy=False)
                    norms = lengths(rows, "audio embeddings")
                    weights = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)
                    total += weights @ rows
        mean: NDArray[np.float32] = (total[None] / self.tokens).astype(np.float32)
        return mean


class NumpyScorer(_Scored):
    """On the host.

    Args:
        audio: embeddings of the recording.
        text: (query, hidden) embeddings of the question's own tokens.
        project: computes first-layer Q' and K'; only phase 2 calls it.
    """

    def __init__(self, audio: AudioEmbeds, text: NDArray[Any], project: Projection) -> None:
        super().__init__(audio, text)
        self._project = project

    def similarity(self) -> Scores:
        """See ``Scorer``."""
        return self._similarity_to(self._text)

    def commonness(self) -> Scores:
        """See ``Scorer``."""
        return self._similarity_to(self._mean_direction())

    def _similarity_to(self, vectors: NDArray[Any]) -> Scores:
        with numpy_threads(1):
            return np.concatenate([similarity_scores(b, vectors) for b in self._audio.blocks()])

    def cosines(self) -> Scores:
        """See ``Scorer``."""
        with numpy_threads(1):
            return np.concatenate([cosine_matrix(b, self._text) for b in self._audio.blocks()])

    def attention(
        self, candidates: NDArray[np.int64], form: AttentionForm, single_head: bool
    ) -> Scores:
        """See ``Scorer``."""
        query, key = self._project(self._audio.take(candidates), form)
        with numpy_threads(1) if len(candidates) < THREADS_FROM else nullcontext():
            return received_attention(query, key, single_head=single_head)


class OrtScorer(_Scored):
    """By graphs, on the device on which the embeddings lie.

    Args:
        session: opens a graph by name.
        names: names of the graphs: similarity, received attention, assemble.
        projections: names of the graphs that project, by the form that they give.
        audio: audio embeddings.
        text: (query, hidden) embeddings of the question's own tokens, on the host.
        sizes: (heads, kv_heads, head_dim).
        device: where the graphs run.
    """

    def __init__(
        self,
        session: Callable[[str], ort.InferenceSession],
        names: tuple[str, str, str],
        projections: Mapping[AttentionForm, str],
        audio: AudioEmbeds,
        text: NDArray[Any],
        sizes: tuple[int, int, int],
        device: Device,
    ) -> None:
        super().__init__(audio, text)
        self._session = session
        self._similarity, self._received, self._assemble = names
        self._projections = projections
        self._sizes, self._device = sizes, device

    def similarity(self) -> Scores:
        """See ``Scorer``."""
        return self._products(text_direction(self._text))

    def cosines(self) -> Scores:
        """See ``Scorer``: one run for each token of the question gives one column of floats."""
        return np.stack(
            [self._products(row) for row in unit_rows(self._text, "text embeddings")], axis=1
        )

    def commonness(self) -> Scores:
        """See ``Scorer``; the mean is computed on the host, the cosines on the device."""
        return self._products(text_direction(self._mean_direction()))

    def _products(self, vector: NDArray[np.float32]) -> Scores:
        """Product of every token's unit vector with a vector (hidden,)."""
        session = self._session(self._similarity)
        direction = self._device.put(vector)
        scores = np.empty(self.tokens, np.float32)
        start = 0
        for block in self._on_device():
            binding = session.io_binding()
            block.bind(binding, "audio_embeds")
            binding.bind_ortvalue_input("direction", direction)
            _run(session, binding, "scores", scores[start : start + block.tokens])
            start += block.tokens
        return scores

    def _on_device(self) -> Iterator[DeviceEmbeds]:
        """All embeddings on the device: as they lie there, or block by block."""
        if isinstance(self._audio, DeviceEmbeds):
            yield self._audio
            return
        for block in self._audio.blocks():
            yield DeviceEmbeds.of(block, self._device)

    def attention(
        self, candidates: NDArray[np.int64], form: AttentionForm, single_head: bool
    ) -> Scores:
        """See ``Scorer``.

        Raises:
            OptionError: ``single_head``, which the graph does not compute.
        """
        if single_head:
            raise OptionError(
                "single_head needs backend='numpy': set that, or leave out single_head."
            )
        heads, kv_heads, head_dim = self._sizes
        count, device = len(candidates), self._device
        # Gathered on the device by the graph that assembles the prompt, with no prompt around.
        empty = np.zeros((0, self._audio.hidden), self._audio.dtype)
        rows = assemble(
            self._session(self._assemble), device, empty, self._audio, candidates, empty
        )
        query = device.empty((count, heads, head_dim), np.float32)
        key = device.empty((count, kv_heads, head_dim), np.float32)
        session = self._session(self._projections[form])
        binding = session.io_binding()
        _bind(binding.bind_input, "audio_embeds", rows, self._audio.dtype, (count, rows.shape()[2]),
              device)  # fmt: skip
        binding.bind_ortvalue_output("query", query)
        binding.bind_ortvalue_output("key", key)
        session.run_with_iobinding(binding)
        return self._received_attention(query, key, count)

    def _received_attention(self, query: ort.OrtValue, key: ort.OrtValue, count: int) -> Scores:
        """Mean over queries and heads, blocks of queries at a time."""
        heads, _, head_dim = self._sizes
        session = self._session(self._received)
        total = np.zeros(count, np.float64)
        at_once = max(1, ATTENTION_AT_ONCE // (heads * count))
        part = np.empty(count, np.float32)
        for start in range(0, count, at_once):
            rows = min(at_once, count - start)
            binding = session.io_binding()
            offset = start * heads * head_dim * 4
            _bind(binding.bind_input, "query", query, np.dtype(np.float32),
                  (rows, heads, head_dim), self._device, offset)  # fmt: skip
            binding.bind_ortvalue_input("key", key)
            total += _run(session, binding, "received", part)
        mean: Scores = (total / (count * heads)).astype(np.float32)
        return mean


def assemble(
    session: ort.InferenceSession,
    device: Device,
    before: NDArray[Any],
    audio: AudioEmbeds,
    indices: NDArray[np.int64],
    after: NDArray[Any],
) -> ort.OrtValue:
    """Kept audio tokens between a prompt's own, on the device.

    Args:
        session: ``assemble``.
        device: where it runs.
        before: (tokens, hidden) on the host, may be empty.
        audio: audio embeddings.
        indices: (kept,) of the audio tokens that are kept.
        after: (tokens, hidden) on the host, may be empty.

    Returns:
        (1, prompt, hidden).
    """
    binding = session.io_binding()
    if not isinstance(audio, DeviceEmbeds):  # from elsewhere only the kept rows are copied
        audio = DeviceEmbeds.of(audio.take(indices), device)
        indices = np.arange(audio.tokens)
    held = [device.put(array) for array in (before, indices, after)]
    for name, value in zip(("before_embeds", "indices", "after_embeds"), held, strict=True):
        binding.bind_ortvalue_input(name, value)
    audio.bind(binding, "audio_embeds")
    prompt = device.empty((1, len(before) + len(indices) + len(after), audio.hidden), audio.dtype)
    binding.bind_ortvalue_output("inputs_embeds", prompt)
    session.run_with_iobinding(binding)
    return prompt


def _bind(
    bind: Callable[..., None],
    name: str,
    value: ort.OrtValue,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    device: Device,
    offset: int = 0,
) -> None:
    """Bind part of a value, or all of it in another shape; it must live until the run ends."""
    address = value.data_ptr() + offset
    bind(name, device.name, device.index, dtype.type, list(shape), address)


def _run(session: ort.InferenceSession, binding: ort.IOBinding, name: str, out: Scores) -> Scores:
    """Run, with one small output written to host memory."""
    value = ort.OrtValue.ortvalue_from_numpy(out)
    binding.bind_ortvalue_output(name, value)
    session.run_with_iobinding(binding)
    return out
