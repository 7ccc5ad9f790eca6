"""``speechprune-ort get``: a model by its name, for use without the network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from speechprune_ort.cli.quiet import print_path

__all__ = ["get"]


def get(
    name: Annotated[
        str,
        typer.Argument(
            help="default, or the name of a bundle on the hub: owner/name, or owner/name@revision."
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder to create; by default one in the cache, where the name finds it."
        ),
    ] = None,
) -> None:
    """Fetch a model by its name, check it, and print its folder; offline from then on."""
    from speechprune_ort.models.names import get as bring
    from speechprune_ort.outputs import check_apart

    if to is not None:
        check_apart(to, "--to", [])
    print_path(bring(name, to))
