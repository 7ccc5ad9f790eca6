"""``speechprune-ort export``: a checkpoint becomes a bundle."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from speechprune_ort.cli.options import ATTENDING, CUTTING
from speechprune_ort.cli.quiet import print_path
from speechprune_ort.contract.manifest import GraphEntry, Parity
from speechprune_ort.errors import ExportError
from speechprune_ort.progress import Steps

if TYPE_CHECKING:
    from speechprune_ort.export.pipeline import ExportedGraph

__all__ = ["export"]

NEEDED = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime", "onnxruntime_genai")


def export(
    model: Annotated[
        str,
        typer.Argument(help="Checkpoint: a hub id or a local folder; or the folder of a LoRA."),
    ],
    out: Annotated[
        Path | None, typer.Argument(help="Bundle: the folder to write; not with --dry-run.")
    ] = None,
    precision: Annotated[
        str, typer.Option(help="Precision of the weights: fp32, fp16, bf16, int8, w8a8 or int4.")
    ] = "fp32",
    target: Annotated[
        str, typer.Option(help="Device that the bundle is for: cpu or cuda.")
    ] = "cpu",
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the checkpoint on the hub.")
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            help="Let transformers run the checkpoint's own code, which may do anything.",
        ),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a bundle that is there already.")
    ] = False,
    encoder_attention: Annotated[
        bool,
        typer.Option(
            "--encoder-attention",
            help=f"Give the audio encoder an attention output, which the methods {ATTENDING} need.",
        ),
    ] = False,
    cut_after: Annotated[
        int | None,
        typer.Option(
            metavar="K",
            help=f"Cut the decoder behind its first K layers as well, which the method {CUTTING} "
            "needs; its authors take 2.",
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint to merge a LoRA into; by default the one that the LoRA names."
        ),
    ] = None,
    allow_pickle: Annotated[
        bool,
        typer.Option(
            "--allow-pickle",
            help="Also read weights from .bin files; only tensors are taken from them.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say from the config alone what would be written or refused, and write nothing.",
        ),
    ] = False,
) -> None:
    """Convert a Hugging Face checkpoint to a bundle, each graph checked against torch."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"Export needs {', '.join(missing)}: pip install 'speechprune-ort[export-cpu]' (or "
            "[export-gpu] with onnxruntime-gpu)."
        )
    if out is None and not dry_run:
        raise ExportError("Give the folder to write, or --dry-run.")
    if out is None and overwrite:
        raise ExportError("--overwrite is for the folder to write: give one, or leave it out.")
    from speechprune_ort.export.request import check_request

    found, family = check_request(
        model,
        out,
        precision=precision,
        target=target,
        revision=revision,
        overwrite=overwrite,
        encoder_attention=encoder_attention,
        cut_after=cut_after,
        base=base,
        allow_pickle=allow_pickle,
    )
    if out is None or dry_run:
        from speechprune_ort.cli.export_estimate import print_estimate

        print_estimate(found, family, precision, target, cut_after)
        return
    with Steps() as steps:
        steps("load torch and transformers", 0.0)
        from speechprune_ort.export.pipeline import export_bundle

        rows = export_bundle(
            model,
            out,
            precision=precision,
            target=target,
            revision=revision,
            trust_remote_code=trust_remote_code,
            overwrite=overwrite,
            encoder_attention=encoder_attention,
            cut_after=cut_after,
            base=base,
            allow_pickle=allow_pickle,
            report=steps,
        )
    Console(stderr=True, markup=False).print(_table(rows))
    print_path(out)


def _table(rows: list[ExportedGraph]) -> Table:
    table = Table("graph", "precision", "MB", "parity with torch", "seconds")
    for column in table.columns[2:5:2]:
        column.justify = "right"
    for row in rows:
        table.add_row(
            row.name,
            row.entry.precision,
            f"{row.bytes / 1e6:.1f}",
            _found(row.entry),
            f"{row.seconds:.1f}",
        )
    table.add_section()
    table.add_row(
        "bundle",
        "",
        f"{sum(row.bytes for row in rows) / 1e6:.1f}",
        "",
        f"{sum(row.seconds for row in rows):.1f}",
    )
    return table


def _found(entry: GraphEntry) -> str:
    words = [_worst(entry.parity)] if entry.parity else []
    return "; ".join([*words, *([entry.unverified] if entry.unverified else [])])


def _worst(parity: tuple[Parity, ...]) -> str:
    """The comparison that came closest to failing, per measure."""
    found: dict[str, float] = {}
    for figure in parity:
        worse = max if figure.measure == "max_relative_error" else min
        found[figure.measure] = worse(found.get(figure.measure, figure.value), figure.value)
    words = []
    if "max_relative_error" in found:
        words.append(f"error {found['max_relative_error']:.1e}")
    if "cosine" in found:
        words.append(f"cosine {found['cosine']:.6f}")
    if "first_token" in found:
        same = [f.value for f in parity if f.measure == "first_token"]
        words.append(f"first token {sum(same):.0f}/{len(same)}")
    return ", ".join(words)
