"""What an export asks for, refused before anything heavy is imported or read."""

from __future__ import annotations

from pathlib import Path

from speechprune_ort.errors import ExportError
from speechprune_ort.export.atomic_folder import check_place
from speechprune_ort.export.checkpoint_config import Described
from speechprune_ort.export.families import Family, check_checkpoint
from speechprune_ort.export.precision import plan
from speechprune_ort.text import expand_home

__all__ = ["check_request"]


def check_request(
    model: str,
    out: Path | None,
    *,
    precision: str = "fp32",
    target: str = "cpu",
    revision: str | None = None,
    overwrite: bool = False,
    encoder_attention: bool = False,
    cut_after: int | None = None,
    base: str | None = None,
    allow_pickle: bool = False,
) -> tuple[Described, Family]:
    """Refuse options, a place or a checkpoint that will not do; needs neither torch nor weights.

    Args:
        model: hub id or local folder.
        out: folder to write, or None where nothing is to be written.
        precision: as for ``export_bundle``.
        target: ``cpu`` or ``cuda``.
        revision: branch, tag or commit on the hub.
        overwrite: whether a bundle at ``out`` may be replaced.
        encoder_attention: whether the encoder's attention is wanted, too.
        cut_after: as for ``export_bundle``.
        base: as for ``export_bundle``.
        allow_pickle: as for ``export_bundle``.

    Returns:
        What was found, and the family that loads it.

    Raises:
        ExportError: options, checkpoint or folder do not allow it; the message says which.
    """
    plan(precision, target)
    _require_hub_client()
    if cut_after is not None and cut_after < 1:
        raise ExportError(
            f"--cut-after {cut_after} leaves no layer below the cut: give 1 or more, such as 2."
        )
    folder = expand_home(Path(model), "The checkpoint", ExportError)
    if out is not None:
        check_place(out, overwrite, folder if model and folder.is_dir() else None)
    found, family = check_checkpoint(model, revision, base=base, allow_pickle=allow_pickle)
    if encoder_attention and not family.encoder_attention:
        raise ExportError(
            f"The audio encoder of {family.module} has no attention that belongs to single "
            "tokens: leave out --encoder-attention."
        )
    return found, family


def _require_hub_client() -> None:
    """Import the hub's client, as transformers does even for a folder; it reads its settings."""
    try:
        from huggingface_hub import constants  # noqa: F401
    except Exception as error:
        raise ExportError(
            f"huggingface_hub cannot be loaded ({type(error).__name__}: {error}): correct "
            "HF_ENDPOINT and what else is set for the hub."
        ) from error
