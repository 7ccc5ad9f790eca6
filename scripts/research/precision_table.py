#!/usr/bin/env python3
"""How near to torch a checkpoint's bundles are at each precision, and what they still understand.

    python -m research.precision_table FOLDER [--out FILE]

FOLDER holds a bundle for each precision, named by it, as ``scripts/research/compare_precisions``
makes them, and the results of ``speechprune-ort eval`` in ``key-VOICE-PRECISION``, where there are
some. Cosines are the worst of all that export compared, which each bundle's manifest lists.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, get_args

import typer
from research.reproduce import Results
from rich.console import Console
from user_errors import one_sentence

from speechprune_ort.choices import EVERY_TOKEN
from speechprune_ort.contract.manifest import Manifest
from speechprune_ort.contract.manifest_entries import GraphEntry
from speechprune_ort.contract.specs import AUDIO_ENCODER, DECODER
from speechprune_ort.errors import DataError
from speechprune_ort.export.precision import Precision
from speechprune_ort.files import write_whole
from speechprune_ort.markdown import markdown_table

ALL = "all"
PRECISIONS = get_args(Precision)

console = Console(stderr=True, highlight=False, soft_wrap=True)


def worst_cosine(graph: GraphEntry) -> str:
    """The least cosine of a graph's comparisons with torch."""
    return f"{min(p.value for p in graph.parity if p.measure == 'cosine'):.6f}"


def first_tokens(graph: GraphEntry) -> str:
    """In how many of the prompts the first token was torch's."""
    same = [p.value == 1 for p in graph.parity if p.measure == "first_token"]
    return f"{sum(same)} of {len(same)}"


def page(folder: Path) -> str:
    """The table of all bundles that are there.

    Raises:
        DataError: there is none.
        BundleError: one cannot be read.
    """
    voices = sorted({path.name.split("-")[1] for path in folder.glob("key-*-*")})
    rows = []
    for precision in PRECISIONS:
        bundle = folder / precision
        if not bundle.is_dir():
            continue
        graphs = Manifest.read(bundle).graphs
        size = sum(path.stat().st_size for path in bundle.iterdir())
        found = (Results.read(folder / f"key-{voice}-{precision}") for voice in voices)
        rows.append(
            (
                precision,
                f"{size / 1e6:.0f}",
                worst_cosine(graphs[AUDIO_ENCODER]),
                worst_cosine(graphs[DECODER]),
                first_tokens(graphs[DECODER]),
                *(one.cell(ALL, EVERY_TOKEN) if one else "" for one in found),
            )
        )
    if not rows:
        raise DataError(f"{folder}: there is no bundle named {', '.join(PRECISIONS)}.")
    heads = ("precision", "MB", "encoder, cosine", "decoder, cosine", "same first token")
    right = (f"key sentences right, {voice}, %" for voice in voices)
    return "\n".join(markdown_table((*heads, *right), rows))


def main(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Bundles and results.")],
    out: Annotated[Path | None, typer.Option(help="File to write, beside printing it.")] = None,
) -> None:
    """Print the table of docs/results/precision.md."""
    with one_sentence(console, OSError):
        made = page(folder)
        if out:
            write_whole(out, made)
    print(made)


if __name__ == "__main__":
    typer.run(main)
