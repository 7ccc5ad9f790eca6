"""A second opinion on a bundle: optimum's graphs of the same checkpoint, side by side.

    scripts/research/second_opinion CHECKPOINT BUNDLE [--threads 2] [--repeats 5] [--json FILE]

CHECKPOINT is a Qwen2-Audio folder, BUNDLE its export with ``--precision fp32 --target cpu``.
transformers 4 loads the checkpoint and optimum's exporter (TorchScript, no fused operators)
writes encoder and language model into a temporary folder: nothing of our export has a hand in
it. Both sets of graphs then hear the same input, and are timed in turns, in one process, with
the same ONNX Runtime and the same session options.

Exit code 0: they agree; 1: some output differs by more than 1e-3 of its largest value; 2: the
arguments cannot be used.
"""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import platform
import statistics
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer
from numpy.typing import NDArray
from research.opinion.contenders import Contender, NumpyCache, SharedBuffer, open_session
from research.opinion.optimum_graphs import export_with_optimum, load_with_transformers_4
from rich.console import Console
from rich.table import Table
from tokenizers import Tokenizer

from speechprune_ort.contract.manifest import TOKENIZER_FILE, Manifest
from speechprune_ort.contract.specs import (
    AUDIO_ENCODER,
    DECODER,
    EMBED_TOKENS,
    ROTARY,
)
from speechprune_ort.errors import DeviceError, ExportError, OptionError, SpeechPruneError
from speechprune_ort.files import write_json
from speechprune_ort.machine import machine
from speechprune_ort.wheels import installed_version

USER_ERROR = 2
TOLERANCE = 1e-3  # of the largest value; float32 graphs that reorder sums stay far below
FORCED_STEPS = 8  # compared after the prefill
TIMED_STEPS = 16  # after each timed prefill
WARM_UP = 1
TABLE_WIDTH = 110
PREFILLS = (128, 750)  # tokens: a question alone; a window of Qwen2-Audio
SPEECH = Path(__file__).parents[2] / "speechprune_ort" / "speech.flac"
TEXT = (
    "The council met on Tuesday evening to settle the budget for the coming year. After two "
    "hours the members agreed on a smaller sum for the roads and a larger one for the schools."
)
OURS, RUNTIME, OPTIMUM = "ours, numpy cache", "ours, runtime", "optimum"

Samples = dict[str, dict[str, list[float]]]
"""Seconds by row of the table and contender."""


def compare(
    case: str, expected: NDArray[np.float32], found: NDArray[np.float32]
) -> dict[str, float | str]:
    """Largest error relative to the largest expected value, and cosine, of (rows, values)."""
    a, b = expected.astype(np.float64), found.astype(np.float64)
    same = float((a.argmax(-1) == b.argmax(-1)).mean())
    cosine = float((a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b)))
    error = float(np.abs(a - b).max() / np.abs(a).max())
    return {"case": case, "error": error, "cosine": cosine, "same_argmax": same}


def encoder_inputs(manifest: Manifest) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Speech, and noise that fills one window and a third of another."""
    from speechprune_ort.runtime.hearing.features import LogMel

    dims, audio = manifest.dimensions, manifest.audio
    samples, rate = soundfile.read(SPEECH, dtype="float32")
    mel = LogMel(rate, audio.n_fft, audio.hop_length, dims.mel_bins, audio.window_seconds)
    features, lengths = mel.windows([samples])
    yield "speech", {"input_features": features, "feature_lengths": lengths}
    noise = np.random.default_rng(0).standard_normal((2, dims.mel_bins, dims.frames))
    # Windows of one length in a run, as the runtime gives them to the encoder.
    for case, windows, frames in (("2 windows", 2, dims.frames), ("a third", 1, dims.frames // 3)):
        random: dict[str, NDArray[Any]] = {
            "input_features": noise[:windows].astype(np.float32),
            "feature_lengths": np.full(windows, frames, np.int64),
        }
        yield f"random, {case}", random


def check_parity(
    manifest: Manifest,
    encoders: Mapping[str, Any],
    contenders: Mapping[str, Contender],
    tokenizer: Tokenizer,
) -> list[dict[str, float | str]]:
    """Audio embeddings, then logits at prefill and at teacher-forced steps, against optimum's."""
    rows = []
    for case, inputs in encoder_inputs(manifest):
        kept = [manifest.audio.tokens(int(n)) for n in inputs["feature_lengths"]]
        found = {
            name: np.concatenate(
                [row[:n] for row, n in zip(session.run(None, inputs)[0], kept, strict=True)]
            )
            for name, session in encoders.items()
        }
        rows.append(compare(f"audio embeddings, {case}", found[OPTIMUM], found[OURS]))
    ids = np.array(tokenizer.encode(TEXT, add_special_tokens=False).ids, np.int64)
    logits = {}
    for name, contender in contenders.items():
        steps = [contender.prefill(ids[:-FORCED_STEPS])]
        steps += [contender.step(int(token)) for token in ids[-FORCED_STEPS:]]
        logits[name] = np.stack(steps)
    for name in (OURS, RUNTIME):
        expected, found_logits = logits[OPTIMUM], logits[name]
        rows.append(compare(f"logits, prefill: {name}", expected[:1], found_logits[:1]))
        case = f"logits, {FORCED_STEPS} forced steps: {name}"
        rows.append(compare(case, expected[1:], found_logits[1:]))
    return rows


def measure(
    manifest: Manifest,
    encoders: Mapping[str, Any],
    contenders: Mapping[str, Contender],
    repeats: int,
) -> Samples:
    """Time everything in turns: each repeat gives every contender its go, in rotating order."""
    random = np.random.default_rng(0)
    samples: Samples = {}

    def keep(row: str, name: str, repeat: int, started: float) -> None:
        taken = time.perf_counter() - started
        if repeat >= 0:
            samples.setdefault(row, {}).setdefault(name, []).append(taken)

    def turns(names: list[str]) -> Iterator[tuple[int, str]]:
        for repeat in range(-WARM_UP, repeats):
            for place in range(len(names)):
                yield repeat, names[(repeat + place) % len(names)]

    _, speech = next(encoder_inputs(manifest))
    for repeat, name in turns(list(encoders)):
        started = time.perf_counter()
        encoders[name].run(["audio_embeds"], speech)
        keep("encoder, 1 window", name, repeat, started)
    for count in PREFILLS:
        if count + TIMED_STEPS > manifest.dimensions.context:
            continue
        ids = random.integers(0, manifest.dimensions.vocab, count)
        following = random.integers(0, manifest.dimensions.vocab, TIMED_STEPS)
        for repeat, name in turns(list(contenders)):
            started = time.perf_counter()
            contenders[name].prefill(ids)
            keep(f"prefill, {count} tokens", name, repeat, started)
            for token in following.tolist():
                started = time.perf_counter()
                contenders[name].step(token)
                keep(f"decode a token after {count}", name, repeat, started)
    return samples


def environment(threads: int) -> dict[str, Any]:
    """Where and with what this was measured."""
    packages = ("onnxruntime", "optimum", "optimum-onnx", "transformers", "torch", "numpy")
    return {
        **machine(),
        "threads": threads,
        "load_average": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        **{name: installed_version(name) for name in packages},
    }


def parity_table(rows: list[dict[str, Any]]) -> Table:
    """Ours against optimum's, a row per comparison."""
    table = Table("ours against optimum's", title="Parity, float32")
    for heading in ("max error", "cosine", "same argmax"):
        table.add_column(heading, justify="right")
    for row in rows:
        figures = (f"{row['error']:.1e}", f"{row['cosine']:.9f}", f"{row['same_argmax']:.0%}")
        table.add_row(row["case"], *figures)
    return table


def speed_table(samples: Samples) -> Table:
    """Medians in milliseconds; a ratio above 1 says that ours is faster."""
    table = Table("median, ms", title="Speed, float32")
    for heading in ("n", OURS, RUNTIME, OPTIMUM, "optimum / numpy", "optimum / runtime"):
        table.add_column(heading, justify="right")
    for row, by_name in samples.items():
        medians = {name: 1000 * statistics.median(taken) for name, taken in by_name.items()}
        cells = [f"{medians[n]:.1f}" if n in medians else "" for n in (OURS, RUNTIME, OPTIMUM)]
        cells += [
            f"{medians[OPTIMUM] / medians[n]:.2f}" if n in medians else "" for n in (OURS, RUNTIME)
        ]
        table.add_row(row, str(len(by_name[OPTIMUM])), *cells)
    return table


def check_arguments(checkpoint: Path, bundle: Path) -> Manifest:
    """Refuse what cannot be compared, before anything slow.

    Raises:
        SpeechPruneError: no such checkpoint or bundle, or they do not belong together.
    """
    config = checkpoint / "config.json"
    if not config.is_file():
        raise ExportError(
            f"No checkpoint at {checkpoint} (it holds no config.json): give a Qwen2-Audio folder."
        )
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(f"{config} is not JSON ({error}): copy the checkpoint again.") from None
    if content.get("model_type") != "qwen2_audio":
        raise ExportError(
            f"{checkpoint} is of type {content.get('model_type')!r}: give a qwen2_audio checkpoint."
        )
    manifest = Manifest.read(bundle)
    if (manifest.precision, manifest.target) != ("fp32", "cpu"):
        raise ExportError(
            f"{bundle} is {manifest.precision} for {manifest.target}: parity is judged on float32, "
            "so export with --precision fp32 --target cpu."
        )
    try:
        from speechprune_ort.runtime.ort.bundle import verify_files

        importlib.metadata.version("optimum-onnx")
    except (ModuleNotFoundError, importlib.metadata.PackageNotFoundError) as error:
        raise DeviceError(
            f"{error.name} is not installed: run scripts/research/second_opinion."
        ) from None
    verify_files(bundle, manifest)
    return manifest


def compare_all(
    checkpoint: Path,
    bundle: Path,
    manifest: Manifest,
    threads: int,
    repeats: int,
    console: Console,
) -> tuple[list[dict[str, float | str]], Samples]:
    """Export with optimum, then parity, then speed."""
    dims = manifest.dimensions

    import torch
    import transformers
    from optimum.utils import logging

    transformers.logging.set_verbosity_error()
    logging.set_verbosity_error()
    torch.set_num_threads(threads)
    with (
        console.status("") as status,
        tempfile.TemporaryDirectory(prefix="second-opinion-") as temporary,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # a tracer warns of every Python number it meets

        def report(line: str) -> None:
            status.update(line)
            console.print(line, markup=False)

        report("load the checkpoint with transformers 4")
        model = load_with_transformers_4(checkpoint)
        text = model.config.text_config
        if (text.hidden_size, text.num_hidden_layers, text.vocab_size) != (
            dims.hidden,
            dims.layers,
            dims.vocab,
        ):
            raise ExportError(f"{bundle} was not exported from {checkpoint}: their sizes differ.")
        report("export with optimum")
        encoder, language_model = export_with_optimum(model, dims, Path(temporary))
        del model
        gc.collect()
        ours = {
            name: open_session(bundle / manifest.graphs[name].file, threads)
            for name in (AUDIO_ENCODER, EMBED_TOKENS, ROTARY, DECODER)
        }
        encoders = {OURS: ours[AUDIO_ENCODER], OPTIMUM: open_session(encoder, threads)}
        room = max(FORCED_STEPS, TIMED_STEPS)
        contenders: dict[str, Contender] = {
            OURS: NumpyCache(ours[DECODER], (ours[EMBED_TOKENS], ours[ROTARY]), dims),
            RUNTIME: SharedBuffer(ours[DECODER], ours[EMBED_TOKENS], ours[ROTARY], dims, room),
            OPTIMUM: NumpyCache(open_session(language_model, threads), None, dims),
        }
        report("compare")
        tokenizer = Tokenizer.from_file(str(bundle / TOKENIZER_FILE))
        parity = check_parity(manifest, encoders, contenders, tokenizer)
        report("measure")
        return parity, measure(manifest, encoders, contenders, repeats)


def main(
    checkpoint: Annotated[Path, typer.Argument(help="Qwen2-Audio checkpoint folder.")],
    bundle: Annotated[Path, typer.Argument(help="Its fp32 bundle for cpu.")],
    threads: Annotated[int, typer.Option(min=1, help="Threads within an operator.")] = 2,
    repeats: Annotated[int, typer.Option(min=1, help="Timed turns of each contender.")] = 5,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write every sample here.")
    ] = None,
) -> None:
    """Compare a bundle with optimum's export of the same checkpoint: parity and speed."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # optimum would look for a tokenizer online
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    try:
        if json_file is not None and not json_file.parent.is_dir():
            raise OptionError(f"No folder {json_file.parent} for --json: make it first.")
        manifest = check_arguments(checkpoint, bundle)
        where = environment(threads)
        parity, samples = compare_all(checkpoint, bundle, manifest, threads, repeats, console)
        if json_file is not None:
            content = {"environment": where, "parity": parity, "seconds": samples}
            write_json(json_file, content)
    except SpeechPruneError as error:
        console.print(f"Error: {error}", markup=False)
        raise typer.Exit(USER_ERROR) from error
    except OSError as error:
        console.print(f"Error: {error}: check the path and the free space.", markup=False)
        raise typer.Exit(USER_ERROR) from error
    out = Console(highlight=False)
    out.width = max(out.width, TABLE_WIDTH)
    out.print(parity_table(parity))
    out.print(speed_table(samples))
    out.print(", ".join(f"{name} {value}" for name, value in where.items()), soft_wrap=True)
    # Written so that an error which is no number counts as a disagreement.
    wrong = [row for row in parity if not float(row["error"]) <= TOLERANCE]
    if wrong:
        console.print(
            f"Error: {wrong[0]['case']} differs by {float(wrong[0]['error']):.1e} of the largest "
            f"value, {TOLERANCE:.0e} is allowed: one of the two exports is wrong.",
            markup=False,
        )
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
