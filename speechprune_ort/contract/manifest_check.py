"""Whether the entries of a manifest agree with each other: what a schema cannot say."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import product

from speechprune_ort.contract.manifest_entries import AudioSpec, GraphEntry, PromptForm, PromptPiece
from speechprune_ort.contract.specs import (
    DECODER_LOWER,
    DECODER_UPPER,
    Dimensions,
    GraphSpec,
    cached_layers,
    graph_specs,
)

__all__ = ["contradiction"]

WINDOW_SAMPLES = 1 << 22
"""Most samples of one window: 30 s at 96 kHz are fewer. A window is held in memory."""
OVERLAP = 8
"""Most log-mel frames that one sample may lie in; each is a copy in memory."""


def contradiction(
    audio: AudioSpec,
    dims: Dimensions,
    float_dtype: str,
    cache_dtype: str,
    prompt: Sequence[PromptPiece],
    further_turn: Sequence[PromptPiece],
    forms: Sequence[PromptForm],
    stop_token_ids: Sequence[int],
    graphs: Mapping[str, GraphEntry],
    files: Collection[str],
) -> str | None:
    """The first contradiction between entries that are each in range.

    Args:
        audio: how sound becomes tokens.
        dims: sizes that the checkpoint fixes.
        float_dtype: dtype of embeddings and logits.
        cache_dtype: dtype of keys and values.
        prompt: the chat template.
        further_turn: pieces between an answer and the next one.
        forms: other forms of the chat template.
        stop_token_ids: any of these ends an answer.
        graphs: the graphs, by name.
        files: names of every file but the manifest.

    Returns:
        A phrase that names the entries; None where all agree.
    """
    return (
        _audio(audio, dims)
        or _prompt("prompt", prompt, dims.vocab)
        or (further_turn and _prompt("further_turn", further_turn, dims.vocab, audio=0))
        or next(filter(None, (_form(form, dims.vocab) for form in forms)), None)
        or _beyond(stop_token_ids, dims.vocab)
        or _graphs(graphs, files, dims, (float_dtype, cache_dtype), audio.chunk_frames)
    )


def _audio(audio: AudioSpec, dims: Dimensions) -> str | None:
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
    if audio.chunk_frames is not None and dims.frames % audio.chunk_frames:
        return f"chunk_frames {audio.chunk_frames} do not divide its {dims.frames} frames"
    if (audio.log_mel.taper or audio.n_fft) > audio.n_fft:
        return f"taper {audio.log_mel.taper} is more than n_fft {audio.n_fft}"
    if dims.frames % audio.log_mel.stack:
        return f"stack {audio.log_mel.stack} does not divide its {dims.frames} frames"
    if dims.heads % dims.kv_heads:
        return f"{dims.heads} heads cannot share {dims.kv_heads} kv_heads"
    return None


def _form(form: PromptForm, vocab: int) -> str | None:
    return _prompt(
        "form of the prompt",
        form.pieces,
        vocab,
        audio=form.recordings,
        system=int(form.system),
        language=int(form.language),
    )


def _prompt(
    name: str,
    prompt: Sequence[PromptPiece],
    vocab: int,
    *,
    audio: int = 1,
    system: int = 0,
    language: int = 0,
) -> str | None:
    kinds: list[str] = [piece.kind for piece in prompt]
    wanted = {"audio": audio, "query": 1, "system": system, "language": language}
    for kind, count in wanted.items():
        if kinds.count(kind) != count:
            return f"the {name} has {kinds.count(kind)} {kind} pieces, not {count}"
    if any(piece.ids for piece in prompt if piece.kind != "ids"):
        return f"the {name} has ids in a piece of another kind"
    return _beyond([i for piece in prompt for i in piece.ids], vocab)


def _beyond(ids: Sequence[int], vocab: int) -> str | None:
    beyond = next((token for token in ids if token >= vocab), None)
    return None if beyond is None else f"token {beyond} is beyond the vocabulary of {vocab}"


def _graphs(
    graphs: Mapping[str, GraphEntry],
    files: Collection[str],
    dims: Dimensions,
    dtypes: tuple[str, str],
    chunk_frames: int | None,
) -> str | None:
    halves = [graphs.get(name) for name in (DECODER_LOWER, DECODER_UPPER)]
    lower = halves[0]
    if halves.count(None) == 1:
        return "there is one half of a cut decoder without the other"
    cut_after = None if lower is None else cached_layers(lower.spec)
    if cut_after is not None and not 1 <= cut_after < dims.layers:
        return f"a decoder of {dims.layers} layers is cut after {cut_after}"
    possible: dict[str, list[GraphSpec]] = {}
    float_dtype, cache_dtype = dtypes
    for short, attention in product((False, True), repeat=2):
        specs = graph_specs(dims, float_dtype, short, attention, cache_dtype, cut_after)
        for name, spec in specs.items():
            possible.setdefault(name, []).append(spec)
    for name, entry in graphs.items():
        if name not in possible:
            return f"there is no graph {name[:40]!r}"
        if entry.spec not in possible[name]:
            return f"inputs and outputs of {name} are not those of its dimensions"
        if entry.file not in files:
            return f"{entry.file} of {name} is not among the files"
    if "manifest.json" in files:
        return "it lists itself among the files"
    frames, tokens = dims.frames, dims.window_tokens
    encoder = graphs.get("audio_encoder")
    short = encoder is not None and encoder.spec.inputs[0].shape[-1] is None
    if short and chunk_frames is None and frames % tokens:
        return f"short windows need frames {frames} to be a multiple of window_tokens {tokens}"
    return None
