"""What a user calls a model, and the folder that its bundle lies in."""

from __future__ import annotations

import sys
from os import PathLike
from pathlib import Path

from speechprune_ort.errors import BundleError, OptionError
from speechprune_ort.models import hub, recipe
from speechprune_ort.models.store import cache_folder, is_kept, keep
from speechprune_ort.text import check_path

__all__ = ["DEFAULT", "bundle_folder", "get", "kept"]

DEFAULT = "default"
"""The model that comes with this package."""


def bundle_folder(model: str | PathLike[str]) -> Path:
    """The folder of a bundle: the one that is named, or that of a model by its name.

    A folder that is there comes first. A model that is wanted for the first time is fetched, which
    one line on stderr says; after that no network is needed.

    Args:
        model: a folder, ``default``, or ``owner/name`` (``owner/name@revision``) on the hub.

    Raises:
        BundleError: it is no path, or the model cannot be had; the message says why.
        OutputError: the cache cannot be written.
    """
    path = check_path(model, "The bundle's path", BundleError)
    name = str(path)
    if isinstance(model, str) and model.endswith("/"):
        return path.expanduser()
    if path.exists() or not _is_name(name):
        return path.expanduser()
    place = kept(name)
    if place is not None:
        return place
    place, fill = _place(name), _filler(name)
    sys.stderr.write(f"note: getting {name}, once; it is kept in {place}\n")
    return keep(place, fill)


def kept(name: str) -> Path | None:
    """The folder of a model that was fetched by its name, or None."""
    place = _place(name)
    return place if is_kept(place) else None


def get(name: str, to: Path | None = None) -> Path:
    """Bring a model here, so that it can be used without the network.

    Args:
        name: ``default``, or ``owner/name`` (``owner/name@revision``) on the hub.
        to: folder to make; None keeps it in the cache, where its name finds it.

    Returns:
        The folder of the bundle.

    Raises:
        OptionError: it is no such name, or something stands at ``to``.
        BundleError: the model cannot be had; the message says why.
        OutputError: the folder cannot be written.
    """
    if not _is_name(name):
        raise OptionError(
            f"{name!a:.200} is no model's name: give {DEFAULT}, or owner/name of one on the hub."
        )
    if to is None:
        return kept(name) or keep(_place(name), _filler(name))
    check_path(to, "The folder", OptionError)
    if to.exists():
        raise OptionError(f"{to} is already there: give the name of a new folder.")
    return keep(to.absolute(), _filler(name))


def _is_name(name: str) -> bool:
    return name == DEFAULT or hub.HUB_NAME.fullmatch(name) is not None


def _place(name: str) -> Path:
    return cache_folder() / "models" / name


def _filler(name: str) -> recipe.Fill:
    if name == DEFAULT:
        return recipe.make_default()
    return lambda folder: hub.fetch(name, folder)
