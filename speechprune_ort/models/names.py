"""What a user calls a model, and the folder that its bundle lies in."""

from __future__ import annotations

import os
import sys
from os import PathLike
from pathlib import Path

from speechprune_ort.errors import BundleError, OptionError
from speechprune_ort.models import hub, recipe
from speechprune_ort.models.store import Fill, cache_folder, forget_lock, is_kept, keep
from speechprune_ort.text import check_path, check_text, expand_home, printable

__all__ = ["DEFAULT", "bundle_folder", "get", "kept"]

DEFAULT = "default"
"""The model that comes with this package."""


def bundle_folder(model: str | PathLike[str]) -> Path:
    """The folder of a bundle: the one that is named, or that of a model by its name.

    A folder that exists comes first. A model is fetched on first use: a line on stderr says so, and
    on a terminal another shows the progress; from then on no network is needed.

    Args:
        model: a folder, ``default``, or ``owner/name`` (``owner/name@revision``) on the hub.

    Raises:
        BundleError: it is not a path, or the model cannot be fetched; the message says why.
        OutputError: the cache cannot be read or written.
    """
    path = check_path(model, "The bundle's path", BundleError)
    name = str(path)
    slash = isinstance(model, str) and model.endswith("/")
    if slash or not _is_name(name) or path.exists():
        return expand_home(path, "The bundle's path", BundleError)
    place = kept(name)
    if place is not None:
        return place
    place, fill = _place(name), _filler(name)
    sys.stderr.write(printable(f"note: getting {name}, once; it is kept in {place}") + "\n")
    return _keep(place, fill)


def kept(name: str) -> Path | None:
    """The folder of a model that was fetched by its name, or None."""
    place = _place(name)
    return place if is_kept(place) else None


def get(name: str, to: Path | None = None) -> Path:
    """Fetch a model, so that it can be used without the network.

    A line on stderr shows the progress, if that is a terminal.

    Args:
        name: ``default``, or ``owner/name`` (``owner/name@revision``) on the hub.
        to: folder to create; None keeps it in the cache, where its name finds it.

    Returns:
        The folder of the bundle.

    Raises:
        OptionError: ``name`` is not such a name, or something stands at ``to``.
        BundleError: the model cannot be fetched; the message says why.
        OutputError: the folder cannot be written, or the cache not be read.
    """
    check_text(name, "The name of a model", OptionError)
    if not _is_name(name):
        raise OptionError(
            f"{name!a:.200} is not the name of a model: give {DEFAULT}, or owner/name of one on "
            "the hub."
        )
    if to is None:
        return kept(name) or _keep(_place(name), _filler(name))
    place = check_path(to, "The folder", OptionError).absolute()
    if os.path.lexists(place):
        forget_lock(place)
        raise OptionError(f"{to} is already there: give the name of a new folder.")
    return _keep(place, _filler(name))


def _is_name(name: str) -> bool:
    return name == DEFAULT or hub.HUB_NAME.fullmatch(name) is not None


def _place(name: str) -> Path:
    return cache_folder() / "models" / name


def _filler(name: str) -> Fill:
    """A function that brings a model's files; one that cannot be had is refused at once."""
    if name == DEFAULT:
        return recipe.make_default()
    return lambda folder, report: hub.fetch(name, folder, report)


def _keep(place: Path, fill: Fill) -> Path:
    """``keep``, with a line on a terminal that shows the progress."""
    # rich takes longer to import than a bundle that is there takes to be found.
    from speechprune_ort.progress import Line

    with Line() as line:
        return keep(place, fill, line)
