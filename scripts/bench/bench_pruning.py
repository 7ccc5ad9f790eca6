#!/usr/bin/env python3
"""What the pruning stage costs, side by side with the prefill that it shortens.

    python scripts/bench/bench_pruning.py [--repeats 7] [--threads 2] [--json FILE]

Everything is measured in one run, in turns, warmed up; medians and ratios, at the dimensions of
Qwen2-Audio-7B's language model:

- phase 1 by numpy and by the graph, beside one plain pass over the same embeddings, for 2,200 and
  90,000 tokens;
- phase 2 for 750 tokens: sign products in 8 bits (the graph), in float32 and bit-packed; received
  attention by numpy and by the graph;
- the whole stage beside the prefill of 2,200 tokens: one decoder layer of random weights, exported
  as any decoder is, times 32.

Needs ``pip install -e '.[export]'``: the graphs are made by export's own code.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from speechprune_ort.contract.specs import (
    EMBED_TOKENS,
    FIRST_LAYER_QK,
    RECEIVED_ATTENTION,
    ROTARY,
    SIMILARITY,
    Dimensions,
    graph_specs,
)
from speechprune_ort.export.decoder import export_decoder
from speechprune_ort.export.embed_tokens import export_embed_tokens
from speechprune_ort.export.first_layer_qk import BinaryProjection, export_binarized
from speechprune_ort.export.precision import plan
from speechprune_ort.export.pruning_graphs import export_received_attention, export_similarity
from speechprune_ort.export.rotary import export_rotary
from speechprune_ort.files import write_json
from speechprune_ort.runtime.answering.decoder import Decoder
from speechprune_ort.runtime.answering.runs import Graphs
from speechprune_ort.runtime.choosing.pruning import (
    binarize,
    keep_by_attention,
    keep_by_similarity,
    received_attention,
    similarity_scores,
    text_direction,
)
from speechprune_ort.runtime.ort.device import Device

VOCAB = 1000  # the head reads the last position alone: its width does not count
DIMS = Dimensions(128, 3000, 750, 4096, 1, 32, 32, 128, VOCAB, 8192)
LAYERS, INTERMEDIATE = 32, 11_008
LONG, SHORT, BUDGET, KEPT, QUERY = 90_000, 2_200, 750, 600, 12
HEADINGS = ("what", "ms", "ratio", "to")

console = Console(stderr=True)
Work = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        what: was measured.
        seconds: median.
        ratio: of it to another line.
        to: that line.
    """

    what: str
    seconds: float
    ratio: float | None = None
    to: str = ""


def measure(works: dict[str, Work], repeats: int) -> dict[str, float]:
    """Median seconds of each work, taking turns after one round of warming up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for turn in range(repeats + 1):
        for name, work in works.items():
            started = perf_counter()
            work()
            if turn:
                times[name].append(perf_counter() - started)
    return {name: statistics.median(values) for name, values in times.items()}


def rows_of(found: dict[str, float], base: str) -> list[Row]:
    """Lines with their ratio to one of them."""
    return [
        Row(name, seconds, None if name == base else seconds / found[base], base)
        for name, seconds in found.items()
    ]


def session_of(path: Path, threads: int) -> ort.InferenceSession:
    """A graph on the CPU, its threads asleep between runs: the others' turns are their own."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def phase_1(
    tokens: int, similarity: ort.InferenceSession, random: np.random.Generator, repeats: int
) -> list[Row]:
    """Scores of every token beside a plain pass over the same embeddings."""
    audio = random.standard_normal((tokens, DIMS.hidden), np.float32)
    text = random.standard_normal((QUERY, DIMS.hidden), np.float32)
    direction = text_direction(text)
    size = f"{tokens:,} tokens"
    plain = f"{size}: plain pass, sum of all values"
    works: dict[str, Work] = {
        plain: lambda: audio.sum(),
        f"{size}: product with one vector": lambda: audio @ direction,
        f"{size}: phase 1, numpy": lambda: similarity_scores(audio, text),
        f"{size}: phase 1, graph": lambda: similarity.run(
            ["scores"], {"audio_embeds": audio, "direction": direction}
        ),
    }
    return rows_of(measure(works, repeats), plain)


def bit_packed(signs: NDArray[np.int8]) -> NDArray[np.uint64]:
    """Signs (rows, width) as bits, (rows, width / 64)."""
    return np.packbits(signs > 0, axis=1).view(np.uint64)


def bit_product(left: NDArray[np.uint64], right: NDArray[np.uint64], width: int) -> Any:
    """Product of sign matrices (n, width) and (m, width) transposed, by counting unequal bits."""
    product = np.empty((len(left), len(right)), np.float32)
    for number, row in enumerate(left):
        unequal = np.bitwise_count(row ^ right).sum(axis=1, dtype=np.int32)
        product[number] = width - 2 * unequal
    return product


def phase_2(
    binarized: ort.InferenceSession,
    attention: ort.InferenceSession,
    weights: BinaryProjection,
    random: np.random.Generator,
    repeats: int,
) -> list[Row]:
    """Sign products three ways, and received attention two ways."""
    audio = random.standard_normal((BUDGET, DIMS.hidden), np.float32)
    wide = np.concatenate([weights.query, weights.key], axis=1).astype(np.float32)
    packed = bit_packed(np.concatenate([weights.query, weights.key], axis=1).T.copy())
    query, key = binarized.run(["query", "key"], {"audio_embeds": audio})
    flat = np.concatenate([a.reshape(BUDGET, -1) for a in (query, key)], axis=1)
    for found in (
        binarize(audio).astype(np.float32) @ wide,
        bit_product(bit_packed(binarize(audio)), packed, DIMS.hidden),
    ):
        np.testing.assert_array_equal(found, flat)
    int8 = f"{BUDGET} tokens: Q' and K', 8-bit graph"
    products: dict[str, Work] = {
        int8: lambda: binarized.run(["query", "key"], {"audio_embeds": audio}),
        f"{BUDGET} tokens: Q' and K', float32": lambda: binarize(audio).astype(np.float32) @ wide,
        f"{BUDGET} tokens: Q' and K', bit-packed": lambda: bit_product(
            bit_packed(binarize(audio)), packed, DIMS.hidden
        ),
    }
    by_numpy = f"{BUDGET} tokens: received attention, numpy"
    received: dict[str, Work] = {
        by_numpy: lambda: received_attention(query, key),
        f"{BUDGET} tokens: received attention, graph": lambda: attention.run(
            ["received"], {"query": query, "key": key}
        ),
    }
    found = measure(products | received, repeats)
    first = {name: found[name] for name in products}
    return rows_of(first, int8) + rows_of({name: found[name] for name in received}, by_numpy)


def language_model() -> Any:
    """One decoder layer of Qwen2-Audio-7B's dimensions with random weights."""
    torch.manual_seed(0)
    config = Qwen2Config(
        hidden_size=DIMS.hidden,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=1,
        num_attention_heads=DIMS.heads,
        num_key_value_heads=DIMS.kv_heads,
        vocab_size=VOCAB,
        max_position_embeddings=DIMS.context,
        tie_word_embeddings=False,
    )
    return Qwen2ForCausalLM(config).eval().requires_grad_(False)


def stage(
    decoder: Decoder,
    binarized: ort.InferenceSession,
    random: np.random.Generator,
    repeats: int,
) -> list[Row]:
    """The whole stage beside the prefill without pruning, and what the prefill is with it."""
    audio = random.standard_normal((SHORT, DIMS.hidden), np.float32)
    text = random.standard_normal((QUERY, DIMS.hidden), np.float32)

    def prune() -> Any:
        scores = similarity_scores(audio, text)
        first = keep_by_similarity(scores, BUDGET, 25, 1.0)
        query, key = binarized.run(["query", "key"], {"audio_embeds": audio[first]})
        return audio[first[keep_by_attention(received_attention(query, key), KEPT)]]

    def prefill(tokens: int) -> Work:
        embeds, positions = audio[:tokens], np.arange(tokens)
        return lambda: decoder.prefill(embeds, positions)

    layer = "one layer, prefill"
    found = measure({layer: prefill(SHORT), "kept": prefill(KEPT), "stage": prune}, repeats)
    whole = f"prefill of {SHORT:,} tokens, {LAYERS} layers"
    named = {
        whole: LAYERS * found[layer],
        f"prefill of {KEPT} tokens, {LAYERS} layers": LAYERS * found["kept"],
        f"pruning {SHORT:,} tokens to {KEPT}": found["stage"],
    }
    return rows_of(named, whole)


def make_graphs(folder: Path, threads: int) -> tuple[Any, Any, Any, Decoder, BinaryProjection]:
    """Sessions of the pruning graphs, the decoder layer, and the binarized weights."""
    specs = graph_specs(DIMS, "float32")
    paths = {name: folder / f"{name}.onnx" for name in (SIMILARITY, RECEIVED_ATTENTION)}
    export_similarity(specs[SIMILARITY], paths[SIMILARITY])
    export_received_attention(DIMS, specs[RECEIVED_ATTENTION], paths[RECEIVED_ATTENTION])
    model = language_model()
    weights = BinaryProjection.of(model)
    binarized = folder / "binarized.onnx"
    export_binarized(weights, DIMS, "cpu", specs[FIRST_LAYER_QK], binarized)
    vocab = {f"<{number}>": number for number in range(VOCAB)}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="<0>"))  # noqa: S106 - a token's text
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<1>")  # noqa: S106
    decoder = folder / "decoder.onnx"
    export_decoder(model, tokenizer, plan("fp32", "cpu"), "cpu", decoder, folder / "work")
    embed = folder / "embed_tokens.onnx"
    table = model.get_input_embeddings().weight
    export_embed_tokens(table, plan("fp32", "cpu"), specs[EMBED_TOKENS], embed)
    rotary = folder / "rotary.onnx"
    export_rotary(model, DIMS.context, specs[ROTARY], rotary)
    opened = (
        session_of(decoder, threads),
        session_of(embed, threads),
        session_of(rotary, threads),
    )
    return (
        session_of(paths[SIMILARITY], threads),
        session_of(paths[RECEIVED_ATTENTION], threads),
        session_of(binarized, threads),
        Decoder(Graphs(*opened, Device("cpu"), DIMS, np.dtype("float32")), SHORT),
        weights,
    )


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Rounds after warming up.")] = 7,
    threads: Annotated[int, typer.Option(min=1, help="Threads within an operator.")] = 2,
    long: Annotated[int, typer.Option(min=1, help="Tokens of the long recording.")] = LONG,
    out: Annotated[Path | None, typer.Option("--json", help="File for all figures.")] = None,
) -> None:
    """Print the table."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory(prefix="speechprune-bench-") as folder:
        with console.status("graphs"):
            graphs = make_graphs(Path(folder), threads)
        similarity, attention, binarized, decoder, weights = graphs
        rows: list[Row] = []
        for tokens in (SHORT, long):
            with console.status(f"phase 1, {tokens:,} tokens"):
                # Milliseconds need more rounds than seconds to settle.
                rounds = repeats * (10 if tokens == SHORT else 1)
                rows += phase_1(tokens, similarity, random, rounds)
        with console.status("phase 2"):
            rows += phase_2(binarized, attention, weights, random, repeats)
        with console.status("whole stage"):
            rows += stage(decoder, binarized, random, repeats)
    table = Table(*HEADINGS)
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.4g}"
        table.add_row(row.what, f"{1000 * row.seconds:,.2f}", ratio, row.to if ratio else "")
    Console(width=160).print(table)
    if out is not None:
        content = {"threads": threads, "repeats": repeats, "rows": [vars(row) for row in rows]}
        write_json(out, content)


if __name__ == "__main__":
    typer.run(main)
