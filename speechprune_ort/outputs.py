"""Where results may be written: never over what is read, nor into a bundle, and known at once.

A command that writes a file or a folder asks here before its work begins.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from speechprune_ort.contract.bundle_folder import bundle_around, listed_files
from speechprune_ort.errors import OptionError
from speechprune_ort.files import cannot_write, make_folder, try_file
from speechprune_ort.text import check_path

__all__ = ["check_apart", "check_out", "check_out_folder"]


def check_out(path: Path, what: str, inputs: Iterable[Path] = (), *, device: bool = True) -> None:
    """Refuse a file that could not or must not be written, before the work whose result it holds.

    Args:
        path: the file; one that is there is replaced.
        what: how a message calls the path.
        inputs: files and folders that the same command reads, or writes elsewhere.
        device: whether a device or a pipe will do.

    Raises:
        OptionError: it is one of the inputs or lies in a bundle; it is a folder, or its folder is
            missing or takes no file.
    """
    check_path(path, what, OptionError)
    place = Path(os.path.realpath(path))  # a link stays, the file that it names is written
    if place.is_dir():
        raise OptionError(cannot_write(path, IsADirectoryError(errno.EISDIR, "")))
    if not place.parent.is_dir():
        raise OptionError(f"{place.parent} is not a folder: create it, or write elsewhere.")
    check_apart(path, what, inputs)
    if place.exists() and not place.is_file():
        if not device:
            raise OptionError(f"{path} is a device or a pipe: give {what} the name of a file.")
        return
    try:
        try_file(place)
    except OSError as error:
        raise OptionError(cannot_write(path, error)) from None


def check_out_folder(path: Path, what: str, inputs: Iterable[Path] = ()) -> None:
    """Make a folder for results, with those above it, unless it must not be one.

    Args:
        path: the folder; it may be there, and hold other files.
        what: how a message calls the path.
        inputs: files and folders that the same command reads.

    Raises:
        OptionError: it is one of the inputs, is a bundle or lies in one, or cannot be made.
    """
    check_path(path, what, OptionError)
    if listed_files(path):
        raise OptionError(
            f"{path} is a bundle, which holds no other files: give {what} another folder."
        )
    check_apart(path, what, inputs)
    make_folder(path)


def check_apart(path: Path, what: str, inputs: Iterable[Path]) -> None:
    """Refuse a place in a bundle, or at one of the inputs, whatever its name or link is.

    Args:
        path: file or folder to write.
        what: how a message calls the path.
        inputs: files and folders that are used otherwise, whether they are there or not.

    Raises:
        OptionError: it is such a place, or ``-``, which no command here writes to.
    """
    if str(path) == "-":
        raise OptionError(f"{what} cannot be standard output (-): give the name of a file.")
    place = Path(os.path.realpath(path))
    if bundle := bundle_around(place):
        raise OptionError(
            f"{path} lies in the bundle {bundle}, which holds no other files: give {what} another "
            "place."
        )
    for source in inputs:
        try:
            same = Path(os.path.realpath(source)) == place or (
                place.exists() and source.exists() and place.samefile(source)
            )
        except (OSError, ValueError):  # its reader has the sentence for it
            continue
        if same:
            raise OptionError(
                f"{what} would replace {source}, which the same command uses: give it another name."
            )
