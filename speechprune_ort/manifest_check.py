"""Whether the entries of a manifest agree with each other: what a schema cannot say."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from speechprune_ort.specs import GraphSpec, graph_specs

if TYPE_CHECKING:
    from speechprune_ort.manifest import Manifest

__all__ = ["contradiction"]

WINDOW_SAMPLES = 1 << 22
"""Of one window at most: 30 s at 96 kHz are fewer. What is heard at once lies in memory."""
OVERLAP = 8
"""Log-mel frames that one sample may lie in at most; each is a copy in memory."""


def contradiction(manifest: Manifest) -> str | None:
    """The first contradiction between entries that are each in range.

    Args:
        manifest: whose entries have the types and ranges of the schema.

    Returns:
        A phrase that names the entries; None where all agree.
    """
    return _audio(manifest) or _prompt(manifest) or _graphs(manifest)


def _audio(manifest: Manifest) -> str | None:
    audio, dims = manifest.audio, manifest.dimensions
    samples = audio.window_samples
    if not 1 <= samples <= WINDOW_SAMPLES:
        return f"a window of {samples} samples, where 1 to {WINDOW_SAMPLES} are possible"
    if audio.n_fft > OVERLAP * audio.hop_length:
        return f"n_fft {audio.n_fft} is more than {OVERLAP} times hop_length {audio.hop_length}"
    if samples // audio.hop_length != dims.frames:
        return f"a window has {samples // audio.hop_length} frames and dimensions say {dims.frames}"
    tokens = audio.tokens(dims.frames)
    if tokens != dims.window_tokens:
        return f"length_steps give {tokens} tokens and window_tokens is {dims.window_tokens}"
    if dims.window_tokens > dims.frames:
        return f"window_tokens {dims.window_tokens} is more than its {dims.frames} frames"
    if audio.span_tokens > dims.window_tokens:
        return f"span_tokens {audio.span_tokens} is more than window_tokens {dims.window_tokens}"
    if dims.heads % dims.kv_heads:
        return f"{dims.heads} heads cannot share {dims.kv_heads} kv_heads"
    return None


def _prompt(manifest: Manifest) -> str | None:
    kinds = [piece.kind for piece in manifest.prompt]
    for kind in ("audio", "query"):
        if kinds.count(kind) != 1:
            return f"the prompt has {kinds.count(kind)} {kind} pieces, not one"
    if any(piece.ids for piece in manifest.prompt if piece.kind != "ids"):
        return "the prompt has ids in a piece of another kind"
    vocab = manifest.dimensions.vocab
    used = [*manifest.stop_token_ids, *(i for piece in manifest.prompt for i in piece.ids)]
    beyond = next((token for token in used if token >= vocab), None)
    if beyond is not None:
        return f"token {beyond} is beyond the vocabulary of {vocab}"
    return None


def _graphs(manifest: Manifest) -> str | None:
    possible: dict[str, list[GraphSpec]] = {}
    for short, attention in product((False, True), repeat=2):
        specs = graph_specs(manifest.dimensions, manifest.float_dtype, short, attention)
        for name, spec in specs.items():
            possible.setdefault(name, []).append(spec)
    for name, entry in manifest.graphs.items():
        if name not in possible:
            return f"there is no graph {name[:40]!r}"
        if entry.spec not in possible[name]:
            return f"inputs and outputs of {name} are not those of its dimensions"
        if entry.file not in manifest.files:
            return f"{entry.file} of {name} is not among the files"
    if "manifest.json" in manifest.files:
        return "it lists itself among the files"
    frames, tokens = manifest.dimensions.frames, manifest.dimensions.window_tokens
    encoder = manifest.graphs.get("audio_encoder")
    if encoder is not None and encoder.spec.inputs[0].shape[-1] is None and frames % tokens:
        return f"short windows need frames {frames} to be a multiple of window_tokens {tokens}"
    return None
